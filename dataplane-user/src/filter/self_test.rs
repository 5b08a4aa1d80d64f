//! Packets that a commit tries on its tables, before any other packet meets them.

use dataplane_common::abi::{ActionCode, Acts, CHAINS, Key, KeyFlags, Span, field, mixed, seek};
use fastrand::Rng;

use crate::lower::filter::{Entry, LoweredFilter, Membership, key};

/// Packets at most.
const MOST: usize = 64;
/// Comparisons for all of them together, about: a commit of many rules tries fewer packets.
const WORK: usize = 1 << 20;
/// Protocols for rules that match any.
const PROTOCOLS: [u8; 4] = [6, 17, 1, 58];
/// Of these, with ports.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// A packet, and the rule that must decide on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfTest {
    /// The chain to test, by its place in [`crate::rule::ChainName::ALL`].
    pub chain: usize,
    /// The packet.
    pub key: Key,
    /// Order and counter of the rule; none leaves it to the policy.
    pub rule: Option<(u32, u32)>,
}

impl LoweredFilter {
    /// Packets that meet some of the rules, or miss them narrowly. Buckets of limits are taken to be empty.
    pub fn self_tests(&self, random: &mut Rng) -> Vec<SelfTest> {
        let total: usize = self.entries.iter().map(Vec::len).sum();
        let count = (WORK / total.max(1)).clamp(8, MOST);
        let filled: Vec<_> = (0..CHAINS).filter(|chain| !self.entries[*chain].is_empty()).collect();
        let mut cases = Vec::new();
        for _ in 0..if filled.is_empty() { 0 } else { count } {
            let chain = filled[random.usize(..filled.len())];
            let entries = &self.entries[chain];
            let key = drawn(&entries[random.usize(..entries.len())], random);
            cases.push(SelfTest { chain, key, rule: self.decides(chain, &key) });
        }
        cases
    }

    /// The first rule that matches a packet, by comparing one after the other.
    fn decides(&self, chain: usize, packet: &Key) -> Option<(u32, u32)> {
        let holds = |asked: Membership| {
            let mut key = *packet;
            seek(&mut key, asked.selectors);
            self.sets[asked.set as usize].hold(&std::array::from_fn(|at| key.sought[at]))
        };
        self.entries[chain].iter().filter(|entry| entry.is_for(packet.family())).find_map(|entry| {
            let entry = if packet.class().is_unreadable() { entry.for_unreadable()? } else { *entry };
            let decides = entry.action_code != ActionCode::Continue && !entry.acts.contains(Acts::LIMIT);
            (decides && entry.fits(packet, holds)).then_some((entry.order, entry.counter))
        })
    }
}

/// A packet that fits an entry as far as it can be known, most of the time.
fn drawn(entry: &Entry, random: &mut Rng) -> Key {
    let mut words: [u32; key::FIELDS + 8] = std::array::from_fn(|at| {
        let other = if random.bool() { 0 } else { random.u32(..) };
        entry.value[at] | other & !entry.mask[at]
    });
    let [version, protocol, dscp, ttl] = words[key::NETWORK].to_be_bytes();
    let [of_family, of_protocol, ..] = entry.mask[key::NETWORK].to_be_bytes();
    let family = if of_family == 0 { [4, 6][usize::from(random.bool())] } else { version };
    let protocol = if of_protocol == 0 { PROTOCOLS[random.usize(..PROTOCOLS.len())] } else { protocol };
    words[key::NETWORK] = u32::from_be_bytes([family, protocol, dscp, ttl]);
    for at in [key::IIF, key::OIF] {
        words[at] = if entry.mask[at] == 0 { random.u32(..4) } else { words[at] };
    }
    let mut packet = Key { length: within(entry.length, random).into(), ..Key::default() };
    packet.flags.set(KeyFlags::ETHERNET, entry.needs.contains(KeyFlags::ETHERNET) || random.bool());
    let (mut source, mut destination) = (0, 0);
    if random.u8(..8) == 0 {
        packet.flags |= KeyFlags::UNREADABLE;
        words[key::TRANSPORT] = 0;
    } else {
        packet.flags |= KeyFlags::TRANSPORT;
        if WITH_PORTS.contains(&protocol) {
            packet.flags |= KeyFlags::PORTS;
            (source, destination) = (within(entry.source_port, random), within(entry.destination_port, random));
        }
    }
    packet.fields = key::fields_of(&words);
    let both = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    packet.address = if family == 4 {
        [both(words[key::DESTINATION], words[key::SOURCE]), 0, 0, 0]
    } else {
        std::array::from_fn(|at| both(words[2 * at], words[2 * at + 1]))
    };
    let (iif, oif) = (packet.fields[field::IIF], packet.fields[field::OIF]);
    packet.mixed = mixed::of(source.into(), destination.into(), protocol.into(), iif, oif);
    packet
}

/// An end of a span, or what lies beside it or inside.
fn within(span: Span, random: &mut Rng) -> u16 {
    match random.u8(..8) {
        0 => span.low.wrapping_sub(1),
        1 => span.high.wrapping_add(1),
        2..=4 => span.low,
        5 => span.high,
        _ => random.u16(span.low..=span.high),
    }
}
