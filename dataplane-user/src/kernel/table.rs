//! Map contents.

use std::{
    collections::BTreeMap,
    io,
    mem::offset_of,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{Array, DevMapHash, HashMap, Map, MapData, MapError, PerCpuArray, xdp::XdpMapError};
use dataplane_common::abi::{
    ADJACENCIES, Adjacency, Control, Counter, EgressClasses, EgressLink, Ifindex, Limit, NeighbourKey,
    PACKET_EVENT_RING, PORTS, PacketEvent, Policies, Port, PortCounters, TRACE_RING, TraceConfig, TraceContext,
    TraceRecord, VlanKey, map,
};
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    BridgedHosts, Events, GrowableMaps, Object, ObjectError, SwitchedHosts, growable::memory, mmap::Mapping, object,
    policy::Shields,
};
use crate::fib::{Memory as _, TableSizes};

/// Why a map could not be read or written.
#[derive(Debug, Error)]
pub enum TableError {
    /// The object lacks the map.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The kernel refused.
    #[error("map {name}: {error}")]
    Map {
        /// Which map.
        name: &'static str,
        /// The error.
        error: MapError,
    },
    /// The map is no memory.
    #[error("map {name}: cannot map {bytes} bytes of it: {error}; see `ulimit -v`")]
    Memory {
        /// Which map.
        name: &'static str,
        /// The requested size.
        bytes: usize,
        /// The error of the kernel.
        error: io::Error,
    },
    /// The kernel refused a device map entry.
    #[error("map {name}: interface {ifindex}: {error}", name = map::EGRESS)]
    Egress {
        /// Which interface.
        ifindex: Ifindex,
        /// The error.
        error: XdpMapError,
    },
}

/// An array map of `T`, whose `SIZE` bytes are what the kernel half sees.
pub(super) struct Rows<const SIZE: usize> {
    name: &'static str,
    array: Array<MapData, [u8; SIZE]>,
}

impl<const SIZE: usize> Rows<SIZE> {
    pub(super) fn take(object: &mut Object, name: &'static str) -> Result<Self, TableError> {
        let array = object.take_map(name)?.try_into().map_err(|error| TableError::Map { name, error })?;
        Ok(Self { name, array })
    }

    pub(super) fn write<T: IntoBytes + Immutable>(&mut self, index: u32, value: &T) -> Result<(), TableError> {
        let failed = |error| TableError::Map { name: self.name, error };
        let bytes: &[u8; SIZE] = value
            .as_bytes()
            .try_into()
            .map_err(|_| failed(MapError::InvalidValueSize { size: size_of::<T>(), expected: SIZE }))?;
        self.array.set(index, bytes, 0).map_err(failed)
    }
}

impl<const SIZE: usize> Rows<SIZE> {
    fn read<T: FromBytes>(&self, index: u32) -> Result<T, TableError> {
        let failed = |error| TableError::Map { name: self.name, error };
        let bytes = self.array.get(&index, 0).map_err(failed)?;
        T::read_from_bytes(&bytes)
            .map_err(|_| failed(MapError::InvalidValueSize { size: size_of::<T>(), expected: SIZE }))
    }
}

/// Per-CPU array map of counters.
struct Sums<const SIZE: usize> {
    name: &'static str,
    array: PerCpuArray<MapData, [u8; SIZE]>,
    cpus: usize,
}

impl<const SIZE: usize> Sums<SIZE> {
    fn take(object: &mut Object, name: &'static str) -> Result<Self, TableError> {
        let failed = |error| TableError::Map { name, error };
        let array = object.take_map(name)?.try_into().map_err(failed)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| failed(MapError::IoError(error)))?;
        Ok(Self { name, array, cpus })
    }

    /// The sum over all CPUs, element by element.
    fn read<T: FromBytes + KnownLayout + Immutable>(
        &self,
        index: u32,
        mut add: impl FnMut(&T),
    ) -> Result<(), TableError> {
        let failed = |error| TableError::Map { name: self.name, error };
        for bytes in self.array.get(&index, 0).map_err(failed)?.iter() {
            let value = T::read_from_bytes(bytes)
                .map_err(|_| failed(MapError::InvalidValueSize { size: size_of::<T>(), expected: SIZE }))?;
            add(&value);
        }
        Ok(())
    }

    fn clear(&mut self, index: u32) -> Result<(), TableError> {
        let failed = |error| TableError::Map { name: self.name, error };
        let zeros = aya::maps::PerCpuValues::try_from(vec![[0; SIZE]; self.cpus])
            .map_err(|error| failed(MapError::IoError(error)))?;
        self.array.set(index, zeros, 0).map_err(failed)
    }
}

/// The rings of events and of sightings.
pub type Rings = (Events<PacketEvent>, Events<TraceRecord>);

/// The buckets of the rules with limits.
pub(super) type Limits = HashMap<MapData, u32, [u8; size_of::<Limit>()]>;

/// Takes them out of an object.
pub(super) fn limits(object: &mut Object) -> Result<Limits, TableError> {
    object.take_map(map::LIMITS)?.try_into().map_err(|error| TableError::Map { name: map::LIMITS, error })
}

/// All maps of one daemon.
pub struct Tables {
    /// Routes, and what is live.
    pub routing: GrowableMaps,
    /// Hosts behind members of bridges.
    pub bridged: BridgedHosts,
    /// The members that hosts are behind.
    pub switched: SwitchedHosts,
    ports: Mapping<AtomicU64>,
    adjacencies: Mapping<AtomicU64>,
    heartbeat: Rows<8>,
    counters: Sums<{ size_of::<PortCounters>() }>,
    rule_counters: Sums<{ size_of::<Counter>() }>,
    egress: DevMapHash<MapData>,
    vlans: HashMap<MapData, [u8; size_of::<VlanKey>()], [u8; size_of::<Port>()]>,
    neighbours: HashMap<MapData, [u8; size_of::<NeighbourKey>()], u32>,
    policies: Shields,
    limits: Limits,
    egress_classes: Rows<{ size_of::<EgressClasses>() }>,
    egress_links: HashMap<MapData, u32, [u8; size_of::<EgressLink>()]>,
    watch: Rows<{ size_of::<TraceConfig>() }>,
    trace_context: Sums<{ size_of::<TraceContext>() }>,
    /// Until they are taken.
    rings: Option<(Map, Map)>,
}

impl Tables {
    /// Takes the maps out of a loaded object, which was loaded with these sizes. Nothing is live yet.
    pub fn take(object: &mut Object, sizes: TableSizes) -> Result<Self, TableError> {
        let egress = object.take_map(map::EGRESS)?;
        let egress = egress.try_into().map_err(|error| TableError::Map { name: map::EGRESS, error })?;
        let limits = limits(object)?;
        let vlans = object.take_map(map::VLANS)?;
        let vlans = vlans.try_into().map_err(|error| TableError::Map { name: map::VLANS, error })?;
        let neighbours = object.take_map(map::NEIGHBOURS)?;
        let neighbours = neighbours.try_into().map_err(|error| TableError::Map { name: map::NEIGHBOURS, error })?;
        let egress_links = object.take_map(map::EGRESS_LINKS)?;
        let egress_links =
            egress_links.try_into().map_err(|error| TableError::Map { name: map::EGRESS_LINKS, error })?;
        let tables = Self {
            routing: GrowableMaps::take(object, sizes)?,
            bridged: BridgedHosts::take(object)?,
            switched: SwitchedHosts::take(object)?,
            ports: memory(object, map::PORTS, PORTS as usize * words::<Port>())?,
            adjacencies: memory(object, map::ADJACENCIES, ADJACENCIES as usize * words::<Adjacency>())?,
            heartbeat: Rows::take(object, map::HEARTBEAT)?,
            counters: Sums::take(object, map::COUNTERS)?,
            rule_counters: Sums::take(object, map::RULE_COUNTERS)?,
            egress,
            vlans,
            neighbours,
            policies: Shields::take(object)?,
            limits,
            egress_classes: Rows::take(object, map::EGRESS_CLASSES)?,
            egress_links,
            watch: Rows::take(object, map::TRACE_CONFIG)?,
            trace_context: Sums::take(object, map::TRACE_CONTEXT)?,
            rings: Some((object.take_map(map::PACKET_EVENTS)?, object.take_map(map::TRACE_RECORDS)?)),
        };
        Ok(tables)
    }

    /// Writes a port; [`Port::FREE`] frees the slot.
    pub fn write_port(&mut self, slot: u32, port: &Port) {
        put(&mut self.ports, slot, port);
    }

    /// Writes a VLAN device.
    pub fn write_vlan(&mut self, key: VlanKey, port: &Port) -> Result<(), TableError> {
        let (key, port): ([u8; size_of::<VlanKey>()], [u8; size_of::<Port>()]) =
            (zerocopy::transmute!(key), zerocopy::transmute!(*port));
        self.vlans.insert(key, port, 0).map_err(|error| TableError::Map { name: map::VLANS, error })
    }

    /// Takes out all VLAN devices but these.
    pub fn keep_vlans(&mut self, kept: &BTreeMap<VlanKey, Port>) -> Result<(), TableError> {
        let failed = |error| TableError::Map { name: map::VLANS, error };
        let known = self.vlans.keys().collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let known = known.into_iter().map(|key| zerocopy::transmute!(key));
        known.filter(|key| !kept.contains_key(key)).try_for_each(|key| self.remove_vlan(key))
    }

    /// Takes a VLAN device out.
    pub fn remove_vlan(&mut self, key: VlanKey) -> Result<(), TableError> {
        match self.vlans.remove(&zerocopy::transmute!(key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(TableError::Map { name: map::VLANS, error }),
        }
    }

    /// Writes which adjacency a neighbour is.
    pub fn write_neighbour(&mut self, key: NeighbourKey, index: u32) -> Result<(), TableError> {
        let key: [u8; size_of::<NeighbourKey>()] = zerocopy::transmute!(key);
        self.neighbours.insert(key, index, 0).map_err(|error| TableError::Map { name: map::NEIGHBOURS, error })
    }

    /// Takes out all neighbours but these.
    pub fn keep_neighbours(&mut self, kept: &BTreeMap<NeighbourKey, u32>) -> Result<(), TableError> {
        let failed = |error| TableError::Map { name: map::NEIGHBOURS, error };
        let known = self.neighbours.keys().collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let known = known.into_iter().map(|key| zerocopy::transmute!(key));
        known.filter(|key| !kept.contains_key(key)).try_for_each(|key| self.remove_neighbour(key))
    }

    /// Takes a neighbour out.
    pub fn remove_neighbour(&mut self, key: NeighbourKey) -> Result<(), TableError> {
        match self.neighbours.remove(&zerocopy::transmute!(key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(TableError::Map { name: map::NEIGHBOURS, error }),
        }
    }

    /// Writes what policies may cover of IPv4 (0) or IPv6 (1), where `before` is what was written last.
    pub fn write_policies(&mut self, family: u32, before: &Policies, after: &Policies) -> Result<(), TableError> {
        self.policies.write(family, before, after)
    }

    /// The rings of packet events and of trace records; a second call gets none.
    pub fn rings(&mut self) -> Result<Option<Rings>, TableError> {
        let Some((events, trace_records)) = self.rings.take() else { return Ok(None) };
        let events = Events::new(events, map::PACKET_EVENTS, PACKET_EVENT_RING)?;
        Ok(Some((events, Events::new(trace_records, map::TRACE_RECORDS, TRACE_RING)?)))
    }

    /// Says which packets are watched for.
    pub fn write_watch(&mut self, watch: &TraceConfig) -> Result<(), TableError> {
        self.watch.write(0, watch)
    }

    /// How many packets that subscribers wanted have no record.
    pub fn missed(&self) -> Result<u64, TableError> {
        let mut sum = 0;
        self.trace_context.read(0, |cpu: &TraceContext| sum += cpu.missed)?;
        Ok(sum)
    }

    /// Gives the rule with a counter a limit, whose bucket is full.
    pub fn write_limit(&mut self, counter: u32, limit: &Limit) -> Result<(), TableError> {
        let limit: [u8; size_of::<Limit>()] = zerocopy::transmute!(*limit);
        self.limits.insert(counter, limit, 0).map_err(|error| TableError::Map { name: map::LIMITS, error })
    }

    /// Takes the limit of a rule away.
    pub fn remove_limit(&mut self, counter: u32) -> Result<(), TableError> {
        self.limits.remove(&counter).map_err(|error| TableError::Map { name: map::LIMITS, error })
    }

    /// Writes an adjacency.
    pub fn write_adjacency(&mut self, index: u32, adjacency: &Adjacency) {
        // The entry is disabled before it is written, so that no packet uses a half-written MAC address.
        let silent = Adjacency { flags: 0, ..*adjacency };
        let at = offset_of!(Adjacency, flags) / size_of::<u64>();
        let word = self.adjacencies.word(index as usize * words::<Adjacency>() + at);
        word.store(u64::from_ne_bytes(chunks(&silent)[at]), Ordering::Release);
        put(&mut self.adjacencies, index, adjacency);
    }

    /// Whether packets were sent to an adjacency since the last time.
    pub fn take_used(&mut self, index: u32) -> bool {
        if index >= ADJACENCIES {
            return false;
        }
        let at = offset_of!(Adjacency, used) / size_of::<u64>();
        let mark = u64::from_ne_bytes(chunks(&Adjacency { used: u16::MAX, ..Adjacency::NONE })[at]);
        let word = self.adjacencies.word(index as usize * words::<Adjacency>() + at);
        // Most are as they were: the line is not taken from the CPUs that read it.
        word.load(Ordering::Relaxed) & mark != 0 && word.fetch_and(!mark, Ordering::Relaxed) & mark != 0
    }

    /// Until when the controller is taken to be there: nanoseconds of `CLOCK_MONOTONIC`, 0 for ever.
    pub fn write_heartbeat(&mut self, until: u64) -> Result<(), TableError> {
        self.heartbeat.write(0, &until)
    }

    /// Lets XDP transmit on a device.
    pub fn add_egress(&mut self, ifindex: Ifindex) -> Result<(), TableError> {
        self.egress.insert(ifindex, ifindex, None, 0).map_err(|error| TableError::Egress { ifindex, error })
    }

    /// Takes a device out; the kernel has done so already when it is gone.
    pub fn remove_egress(&mut self, ifindex: Ifindex) -> Result<(), TableError> {
        match self.egress.remove(ifindex) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(TableError::Map { name: map::EGRESS, error }),
        }
    }

    /// The classes of ways out, as this daemon or one before it left them.
    pub fn egress_classes(&self) -> Result<EgressClasses, TableError> {
        self.egress_classes.read(0)
    }

    /// Writes the classes of ways out.
    pub fn write_egress_classes(&mut self, classes: &EgressClasses) -> Result<(), TableError> {
        self.egress_classes.write(0, classes)
    }

    /// The links that are known as ways out.
    pub fn egress_links(&self) -> Result<BTreeMap<Ifindex, EgressLink>, TableError> {
        let failed = |error| TableError::Map { name: map::EGRESS_LINKS, error };
        let rows = self.egress_links.iter().map(|row| row.map(|(ifindex, link)| (ifindex, zerocopy::transmute!(link))));
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// Writes a link as a way out.
    pub fn write_egress_link(&mut self, ifindex: Ifindex, link: &EgressLink) -> Result<(), TableError> {
        let link: [u8; size_of::<EgressLink>()] = zerocopy::transmute!(*link);
        self.egress_links.insert(ifindex, link, 0).map_err(|error| TableError::Map { name: map::EGRESS_LINKS, error })
    }

    /// Takes a link out.
    pub fn remove_egress_link(&mut self, ifindex: Ifindex) -> Result<(), TableError> {
        match self.egress_links.remove(&ifindex) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(TableError::Map { name: map::EGRESS_LINKS, error }),
        }
    }

    /// The families whose mirror decides.
    pub fn mirror(&self) -> u32 {
        self.routing.live().mirror
    }

    /// Sets the families whose mirror decides.
    pub fn set_mirror(&mut self, mirror: u32) -> Result<(), TableError> {
        self.routing.go_live(Control { mirror, ..self.routing.live() })
    }

    /// The counters of a port slot, summed over all CPUs.
    pub fn port_counters(&self, slot: u32) -> Result<PortCounters, TableError> {
        let mut sum = PortCounters { reasons: [Counter::default(); 64] };
        self.counters.read(slot, |cpu: &PortCounters| {
            for (total, counter) in sum.reasons.iter_mut().zip(cpu.reasons) {
                *total += counter;
            }
        })?;
        Ok(sum)
    }

    /// Sets the counters of a port slot to zero.
    pub fn clear_port_counters(&mut self, slot: u32) -> Result<(), TableError> {
        self.counters.clear(slot)
    }

    /// The counter of a rule, summed over all CPUs.
    pub fn rule_counter(&self, index: u32) -> Result<Counter, TableError> {
        let mut sum = Counter::default();
        self.rule_counters.read(index, |cpu: &Counter| sum += *cpu)?;
        Ok(sum)
    }

    /// Sets the counter of a rule to zero.
    pub fn clear_rule_counter(&mut self, index: u32) -> Result<(), TableError> {
        self.rule_counters.clear(index)
    }
}

/// The slots that ports had with an earlier daemon, read from the maps it left in `directory`; empty when there are none.
pub fn earlier_slots(directory: &Path) -> BTreeMap<Ifindex, u32> {
    let words = object::words(&object::pinned(directory, map::PORTS), PORTS as usize * words::<Port>());
    let ports = <[Port]>::ref_from_bytes(words.as_deref().unwrap_or_default().as_bytes()).unwrap_or_default().iter();
    (0..).zip(ports).filter(|(_, port)| port.ifindex != 0).map(|(slot, port)| (port.ifindex, slot)).collect()
}

/// How many words a row has.
const fn words<T>() -> usize {
    size_of::<T>() / size_of::<u64>()
}

/// The words of a row.
fn chunks<T: IntoBytes + Immutable>(row: &T) -> &[[u8; size_of::<u64>()]] {
    const { assert!(size_of::<T>().is_multiple_of(size_of::<u64>())) };
    row.as_bytes().as_chunks().0
}

/// Writes a row of a map that programs read meanwhile. Its first word is the key: it comes last, except when it marks the row
/// as unused.
fn put<T: IntoBytes + Immutable>(rows: &mut Mapping<AtomicU64>, index: u32, row: &T) {
    let values = chunks(row);
    let first = index as usize * values.len();
    let write = |at: usize| rows.word(first + at).store(u64::from_ne_bytes(values[at]), Ordering::Release);
    if values[0] == [0; size_of::<u64>()] {
        (0..values.len()).for_each(write);
    } else {
        (0..values.len()).rev().for_each(write);
    }
}
