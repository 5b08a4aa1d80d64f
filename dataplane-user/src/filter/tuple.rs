//! Which table an entry goes into.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use dataplane_common::abi::{ADDRESS_WORDS, Hash, TABLES, hash_ifindex, mask32, mask64, mixed};

use crate::lower::filter::{Entry, key};

/// Entries of one masked key from which on a finer table is looked for.
const CROWDED: u32 = 8;

/// What of an entry a table can hash by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// As in [`dataplane_common::abi::Key::address`].
    pub address: [u64; ADDRESS_WORDS],
    /// Prefix lengths of destination and source.
    pub lengths: [u8; 2],
    /// The protocol, when it is one.
    pub protocol: Option<u8>,
    /// As in [`dataplane_common::abi::Key::mixed`]: what is one value.
    mixed: u64,
    /// Which bits of it are.
    exact: u64,
}

impl Item {
    pub(super) fn new(entry: &Entry, ipv6: bool) -> Self {
        let words = |from: usize| if ipv6 { from..from + 4 } else { from..from + 1 };
        let length = |from| entry.mask[words(from)].iter().map(|mask| mask.count_ones() as u8).sum();
        let wide = |word: usize| u64::from(entry.value[word]);
        let pair = |word: usize| wide(word) << 32 | wide(word + 1);
        let (to, from) = (key::DESTINATION, key::SOURCE);
        let address = if ipv6 {
            [pair(to), pair(to + 2), pair(from), pair(from + 2)]
        } else {
            [wide(to) << 32 | wide(from), 0, 0, 0]
        };
        let whole = |word: usize| (entry.mask[word] == u32::MAX).then_some(entry.value[word]);
        let protocol =
            (entry.mask[key::NETWORK] >> 16 & 0xff == 0xff).then_some((entry.value[key::NETWORK] >> 16) as u8);
        let (iif, oif) = (whole(key::IIF), whole(key::OIF));
        let (source, destination) = (entry.source_port, entry.destination_port);
        let fields = [
            (source.low == source.high, mixed::SOURCE_PORT),
            (destination.low == destination.high, mixed::DESTINATION_PORT),
            (protocol.is_some(), mixed::PROTOCOL),
            (iif.is_some(), mixed::IIF),
            (oif.is_some(), mixed::OIF),
        ];
        let exact = fields.iter().filter(|(exact, _)| *exact).fold(0, |bits, (_, mask)| bits | mask);
        let ports = u64::from(source.low) << 48 | u64::from(destination.low) << 32;
        let links = u64::from(hash_ifindex(iif.unwrap_or(0))) << 12 | u64::from(hash_ifindex(oif.unwrap_or(0)));
        let mixed = (ports | u64::from(protocol.unwrap_or(0)) << 24 | links) & exact;
        Self { address, lengths: [length(to), length(from)], protocol, mixed, exact }
    }
}

/// What the entries of a table have in common: prefix lengths of at least these, and these bits exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tuple {
    lengths: [u8; 2],
    exact: u64,
}

impl Tuple {
    fn takes(&self, item: &Item) -> bool {
        self.lengths[0] <= item.lengths[0] && self.lengths[1] <= item.lengths[1] && self.exact & !item.exact == 0
    }

    /// How many bits it compares.
    fn weight(&self) -> u32 {
        u32::from(self.lengths[0]) + u32::from(self.lengths[1]) + self.exact.count_ones()
    }

    fn mask(&self, ipv6: bool) -> Mask {
        let [to, from] = self.lengths.map(u64::from);
        let address = if ipv6 {
            [to.min(64), to.saturating_sub(64), from.min(64), from.saturating_sub(64)].map(mask64)
        } else {
            [mask32(to) << 32 | mask32(from), 0, 0, 0]
        };
        Mask { address, mixed: self.exact }
    }
}

/// The masks of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mask {
    pub address: [u64; ADDRESS_WORDS],
    pub mixed: u64,
}

impl Mask {
    /// Whether a table with these masks can have an entry.
    pub(super) fn takes(&self, item: &Item, ipv6: bool) -> bool {
        let length = |masks: &[u64]| masks.iter().map(|mask| mask.count_ones()).sum::<u32>();
        let lengths = if ipv6 {
            [length(&self.address[..2]), length(&self.address[2..])]
        } else {
            [length(&[self.address[0] >> 32]), length(&[self.address[0] & 0xffff_ffff])]
        };
        lengths[0] <= item.lengths[0].into() && lengths[1] <= item.lengths[1].into() && self.mixed & !item.exact == 0
    }

    /// The tag of an item under this mask: what [`dataplane_common::abi::probe`] makes of a packet.
    pub(super) fn tag(&self, item: &Item, ipv6: bool) -> u32 {
        let mut hash = Hash::START.with(item.mixed & self.mixed).with(item.address[0] & self.address[0]);
        if ipv6 {
            for word in 1..ADDRESS_WORDS {
                hash = hash.with(item.address[word] & self.address[word]);
            }
        }
        hash.tag()
    }
}

/// Tags are mixed nearly enough.
#[derive(Default)]
pub(super) struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash << 8 | u64::from(*byte));
    }

    fn write_u32(&mut self, tag: u32) {
        // The table takes its home from the low bits and compares the high ones.
        let mixed = u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

/// How many entries there are with the same tag of their masked keys.
type Crowds = HashMap<u32, u32, BuildHasherDefault<Mixed>>;

struct Table {
    tuple: Tuple,
    mask: Mask,
    crowds: Crowds,
    /// Tags and numbers of its entries.
    members: Vec<(u32, u32)>,
}

impl Table {
    fn new(tuple: Tuple, ipv6: bool) -> Self {
        Self { tuple, mask: tuple.mask(ipv6), crowds: Crowds::default(), members: Vec::new() }
    }
}

/// A table with all its entries.
pub(super) struct Filled {
    pub mask: Mask,
    /// How many different tags its entries have.
    pub tags: usize,
    /// Tags and numbers of its entries, in the order of numbers.
    pub members: Vec<(u32, u32)>,
}

/// The tables of one class in the making.
#[derive(Default)]
pub(super) struct Tuples {
    /// Those that compare most bits first.
    tables: Vec<Table>,
}

impl Tuples {
    /// Puts an entry into the finest table that takes it. Where its run there is crowded, a finer one is made.
    pub(super) fn insert(&mut self, number: u32, item: &Item, ipv6: bool) {
        let mut finest = None;
        for (index, table) in self.tables.iter().enumerate() {
            if !table.tuple.takes(item) {
                continue;
            }
            let tag = table.mask.tag(item, ipv6);
            let crowd = table.crowds.get(&tag).copied().unwrap_or(0);
            if crowd < CROWDED {
                return self.push(index, tag, number);
            }
            finest = finest.or(Some((index, tag)));
        }
        let fresh =
            coarsened(item, ipv6).into_iter().find(|tuple| !self.tables.iter().any(|table| table.tuple == *tuple));
        match (fresh, finest) {
            (Some(tuple), _) if self.tables.len() < TABLES as usize => {
                let table = Table::new(tuple, ipv6);
                let index = self.tables.partition_point(|table| table.tuple.weight() >= tuple.weight());
                let tag = table.mask.tag(item, ipv6);
                self.tables.insert(index, table);
                self.push(index, tag, number);
            }
            (_, Some((index, tag))) => self.push(index, tag, number),
            // The coarsest tuple takes everything, and is made before there are too many.
            (_, None) => {
                let tuple = Tuple { lengths: [0, 0], exact: 0 };
                let table = Table::new(tuple, ipv6);
                let tag = table.mask.tag(item, ipv6);
                self.tables.push(table);
                self.push(self.tables.len() - 1, tag, number);
            }
        }
    }

    fn push(&mut self, index: usize, tag: u32, number: u32) {
        let table = &mut self.tables[index];
        *table.crowds.entry(tag).or_default() += 1;
        table.members.push((tag, number));
    }

    /// The tables, in no order that matters; none is empty.
    pub(super) fn into_tables(self) -> Vec<Filled> {
        let filled = |Table { mask, crowds, members, .. }| Filled { mask, tags: crowds.len(), members };
        self.tables.into_iter().map(filled).collect()
    }
}

/// The masks of a table that is not there yet, for this item to be the first of.
pub(super) fn fresh_mask(item: &Item, ipv6: bool, mut is_there: impl FnMut(&Mask) -> bool) -> Option<Mask> {
    coarsened(item, ipv6).into_iter().map(|tuple| tuple.mask(ipv6)).find(|mask| !is_there(mask))
}

/// Tuples for a table that this item is the first of, coarsest first: fewer tables take more entries, finer ones hold
/// shorter runs.
fn coarsened(item: &Item, ipv6: bool) -> [Tuple; 3] {
    let step = if ipv6 { 16 } else { 8 };
    let down = |length: u8, step: u8| length / step * step;
    let lengths = item.lengths.map(|length| down(length, step));
    let known = u32::from(lengths[0]) + u32::from(lengths[1]);
    // Where addresses have many bits, ports are not needed.
    let much = if ipv6 { 64 } else { 32 };
    let coarse = Tuple { lengths, exact: if known >= much { 0 } else { item.exact } };
    let fine = Tuple { lengths: item.lengths.map(|length| down(length, step / 2)), exact: item.exact };
    [coarse, fine, Tuple { lengths: item.lengths, exact: item.exact }]
}
