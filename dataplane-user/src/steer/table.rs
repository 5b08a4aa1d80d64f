//! Entries as the tables of the program: of overlapping entries the longest prefix decides, then the narrowest range of ports,
//! then the oldest entry.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use dataplane_common::steer::{
    NO_ENTRY, STEER_CLASSES, STEER_PORTS, SteerPorts, SteerRange, SteerShape, SteerTable, find, first_step,
};
use thiserror::Error;

use super::{Entry, entry::halves};

/// There is no room for so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the entries overlap in more than {STEER_PORTS} ranges of ports; take fewer, or longer prefixes")]
pub struct TooManyPorts;

/// An entry, and where it is in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexed {
    /// The index.
    pub index: u32,
    /// Its number: the older, the lower.
    pub id: u32,
    /// What it matches.
    pub entry: Entry,
}

/// What a program searches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteerTables {
    /// Where is what.
    pub shape: SteerShape,
    /// All ranges of addresses.
    pub ranges: Vec<SteerRange>,
    /// All ranges of ports.
    pub ports: Vec<SteerPorts>,
}

impl SteerTable for SteerTables {
    fn range(&self, index: u32) -> Option<&SteerRange> {
        self.ranges.get(index as usize)
    }

    fn ports(&self, index: u32) -> Option<&SteerPorts> {
        self.ports.get(index as usize)
    }
}

impl SteerTables {
    /// The tables of entries.
    ///
    /// # Errors
    /// There are too many ranges of ports.
    pub fn new(entries: &[Indexed]) -> Result<Self, TooManyPorts> {
        let mut tables = Self::default();
        // Ranges that have the same ports share them.
        let mut known = HashMap::new();
        let mut most = [0, 0];
        for class in 0..STEER_CLASSES {
            let mut own: Vec<_> =
                entries.iter().filter(|indexed| usize::from(indexed.entry.class()) == class).collect();
            own.sort_by_key(|indexed| indexed.entry.span().0);
            let begin = tables.ranges.len() as u32;
            tables.put_class(&own, &mut known, &mut most[1])?;
            let end = tables.ranges.len() as u32;
            tables.shape.ranges[class] = [begin, end];
            most[0] = most[0].max(end - begin);
        }
        (tables.shape.range_step, tables.shape.port_step) = (first_step(most[0]), first_step(most[1]));
        Ok(tables)
    }

    /// The ranges of one class, whose entries come sorted.
    fn put_class(
        &mut self,
        entries: &[&Indexed],
        known: &mut HashMap<Vec<(u32, u32)>, u32>,
        most: &mut u32,
    ) -> Result<(), TooManyPorts> {
        if entries.is_empty() {
            return Ok(());
        }
        let spans = entries.iter().map(|indexed| indexed.entry.span());
        let ends = spans.clone().filter_map(|(_, last)| last.checked_add(1));
        let begins: BTreeSet<u128> = spans.map(|(first, _)| first).chain(ends).chain([0]).collect();
        let (mut open, mut waiting): (Vec<&Indexed>, _) = (Vec::new(), entries.iter().copied().peekable());
        let mut before = None;
        for begin in begins {
            open.retain(|indexed| indexed.entry.span().1 >= begin);
            open.extend(std::iter::from_fn(|| waiting.next_if(|indexed| indexed.entry.span().0 <= begin)));
            let ports = port_ranges(&mut open);
            if before.as_ref() == Some(&ports) {
                continue;
            }
            before = Some(ports.clone());
            let count = ports.len() as u32;
            *most = count.max(*most);
            let first = if let Some(first) = known.get(&ports) {
                *first
            } else {
                let first = self.ports.len() as u32;
                if count > STEER_PORTS - first {
                    return Err(TooManyPorts);
                }
                self.ports.extend(ports.iter().map(|&(first, entry)| SteerPorts { first, entry }));
                known.insert(ports, first);
                first
            };
            self.ranges.push(SteerRange { address: halves(begin), first, count });
        }
        Ok(())
    }

    /// The index of the entry for an address of a class, and a port.
    pub fn find(&self, class: u8, address: u128, port: u16) -> Option<u32> {
        let steps = [self.shape.range_step, self.shape.port_step];
        let found = find(self, self.shape.ranges[usize::from(class)], steps, halves(address), port.into());
        (found != NO_ENTRY).then_some(found)
    }
}

/// The ports of entries with a common address, each range from its first port on, with the entry that decides; nothing where
/// there are no entries.
fn port_ranges(entries: &mut [&Indexed]) -> Vec<(u32, u32)> {
    // The entry that decides comes last, and covers the others.
    entries.sort_by_key(|Indexed { id, entry, .. }| {
        (entry.length, Reverse(entry.ports[1] - entry.ports[0]), Reverse(*id))
    });
    let mut ranges = BTreeMap::from([(0_u32, NO_ENTRY)]);
    for Indexed { index, entry, .. } in entries.iter() {
        let [first, last] = entry.ports.map(u32::from);
        let behind = ranges.range(..=last + 1).next_back().map_or(NO_ENTRY, |(_, entry)| *entry);
        ranges.entry(last + 1).or_insert(behind);
        let covered: Vec<_> = ranges.range(first..=last).map(|(port, _)| *port).collect();
        for port in covered {
            ranges.remove(&port);
        }
        ranges.insert(first, *index);
    }
    let mut list: Vec<_> = ranges.into_iter().collect();
    list.dedup_by_key(|(_, entry)| *entry);
    if list.iter().all(|(_, entry)| *entry == NO_ENTRY) { Vec::new() } else { list }
}
