//! The match of a rule as masked comparisons, and whether a packet matches: written plainly, as the reference for the engine.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use dataplane_common::abi::{ActionCode, Acts, Key, KeyFlags, RULE_SETS, Selector, Span, field};

/// Words of a packet's key that masks are for: the addresses, most significant first, then [`Key::fields`].
pub const KEY_WORDS: usize = 16;

/// Which of these words holds what.
pub mod key {
    use dataplane_common::abi::{FIELD_WORDS, field};

    /// The words behind the addresses as [`dataplane_common::abi::Key::fields`] has them.
    pub fn fields_of(words: &[u32; super::KEY_WORDS]) -> [u32; FIELD_WORDS] {
        std::array::from_fn(|at| field::key_order(at, words[FIELDS + at]))
    }

    /// Destination address: IPv4 in the first word, IPv6 in all four.
    pub const DESTINATION: usize = 0;
    /// Source address, likewise.
    pub const SOURCE: usize = 4;
    /// Where those of [`dataplane_common::abi::Key::fields`] begin; the next are some of them.
    pub const FIELDS: usize = 8;
    /// See [`field::NETWORK`].
    pub const NETWORK: usize = FIELDS + field::NETWORK;
    /// See [`field::IIF`].
    pub const IIF: usize = FIELDS + field::IIF;
    /// See [`field::OIF`].
    pub const OIF: usize = FIELDS + field::OIF;
    /// See [`field::VLAN_FRAGMENT`].
    pub const VLAN_FRAGMENT: usize = FIELDS + field::VLAN_FRAGMENT;
    /// See [`field::LINK_DESTINATION`].
    pub const LINK_DESTINATION: usize = FIELDS + field::LINK_DESTINATION;
    /// See [`field::LINK_MIDDLE`].
    pub const LINK_MIDDLE: usize = FIELDS + field::LINK_MIDDLE;
    /// See [`field::TRANSPORT`].
    pub const TRANSPORT: usize = FIELDS + field::TRANSPORT;
}

/// A set that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Its number in [`super::LoweredFilter::sets`].
    pub set: u32,
    /// Whether it must not hold the packet.
    pub negated: bool,
    /// [`Selector`]s, the first in the lowest byte.
    pub selectors: u64,
    /// The part that remains where ports cannot be read: the set without them, and its selectors. None where that is nothing.
    pub portless: Option<(u32, u64)>,
}

impl Membership {
    /// The same for packets whose ports cannot be read.
    fn for_unreadable(self) -> Option<Self> {
        if !asks_ports(self.selectors) {
            return Some(self);
        }
        let (set, selectors) = self.portless?;
        Some(Self { set, selectors, ..self })
    }
}

/// The sets that the entry matches.
pub type Memberships = [Option<Membership>; RULE_SETS];

/// One box of a rule. `value` is already masked; the masks of addresses are prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Which bits of each word count.
    pub mask: [u32; KEY_WORDS],
    /// What they must be.
    pub value: [u32; KEY_WORDS],
    /// Source ports.
    pub source_port: Span,
    /// Destination ports.
    pub destination_port: Span,
    /// Lengths of the IP packet.
    pub length: Span,
    /// What must be readable.
    pub needs: KeyFlags,
    /// Sets that must, or must not, hold the packet.
    pub sets: Memberships,
    /// Place of the rule in its chain: the lowest decides.
    pub order: u32,
    /// Index of the rule's counter.
    pub counter: u32,
    /// What the rule says.
    pub action_code: ActionCode,
    /// What it does besides.
    pub acts: Acts,
    /// Whether it drops packets that cannot be read, if it drops.
    pub strict: bool,
}

impl Entry {
    /// Fits every packet.
    pub const ANY: Self = Self {
        mask: [0; KEY_WORDS],
        value: [0; KEY_WORDS],
        source_port: Span::FULL,
        destination_port: Span::FULL,
        length: Span::FULL,
        needs: KeyFlags::empty(),
        sets: [None; RULE_SETS],
        order: 0,
        counter: 0,
        action_code: ActionCode::Accept,
        acts: Acts::empty(),
        strict: true,
    };

    /// Whether it can be met by packets of a family (4 or 6).
    pub fn is_for(&self, family: u32) -> bool {
        (self.value[key::NETWORK] >> 24 ^ family) & self.mask[key::NETWORK] >> 24 == 0
    }

    /// Whether it ends the chain for every packet of its family.
    pub fn is_catch_all(&self) -> bool {
        let mut mask = self.mask;
        mask[key::NETWORK] &= 0x00ff_ffff;
        let spans = [self.source_port, self.destination_port, self.length];
        mask == [0; KEY_WORDS]
            && spans == [Span::FULL; 3]
            && self.needs.is_empty()
            && self.sets == [None; RULE_SETS]
            && matches!(self.action_code, ActionCode::Accept | ActionCode::Drop)
            && !self.acts.contains(Acts::LIMIT)
    }

    /// The variant for packets whose transport header cannot be read: a strict rule that drops drops them too. None when such
    /// packets do not match it.
    pub fn for_unreadable(mut self) -> Option<Self> {
        let transport = KeyFlags::TRANSPORT | KeyFlags::PORTS;
        if !self.needs.intersects(transport) {
            return Some(self);
        }
        // What a limit lets by is not known here.
        if !self.strict || self.action_code != ActionCode::Drop || self.acts.contains(Acts::LIMIT) {
            return None;
        }
        self.acts = Acts::empty();
        self.needs -= transport;
        (self.source_port, self.destination_port) = (Span::FULL, Span::FULL);
        (self.mask[key::TRANSPORT], self.value[key::TRANSPORT]) = (0, 0);
        for set in &mut self.sets {
            *set = set.and_then(Membership::for_unreadable);
        }
        self.sets.sort_by_key(Option::is_none);
        self.action_code = ActionCode::Unreadable;
        Some(self)
    }

    /// Some bits, the same for entries that differ in nothing but order and counter. Others have others, mostly.
    pub fn bloom_bits(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Self { order: 0, counter: 0, ..*self }.hash(&mut hasher);
        let hash = hasher.finish();
        (0..4).fold(0, |bits, turn| bits | 1 << (hash >> (6 * turn) & 63))
    }

    /// Whether a packet fits; `holds` says which sets hold it.
    pub fn fits(&self, packet: &Key, holds: impl Fn(Membership) -> bool) -> bool {
        let words = words(packet);
        let masked = (0..KEY_WORDS).all(|word| (words[word] ^ self.value[word]) & self.mask[word] == 0);
        let length = u16::try_from(packet.length).unwrap_or(u16::MAX);
        masked
            && packet.flags.contains(self.needs)
            && self.length.contains(length)
            && self.source_port.contains((packet.mixed >> 48) as u16)
            && self.destination_port.contains((packet.mixed >> 32) as u16)
            && self.sets.iter().flatten().all(|set| holds(*set) != set.negated)
    }
}

/// Whether a port is among what selectors pick.
fn asks_ports(selectors: u64) -> bool {
    let ports = [Selector::SourcePort as u8, Selector::DestinationPort as u8];
    selectors.to_le_bytes().iter().any(|selector| ports.contains(selector))
}

/// The words of a packet's key that masks are for.
fn words(packet: &Key) -> [u32; KEY_WORDS] {
    let mut words = [0; KEY_WORDS];
    let halves = |word: u64| [(word >> 32) as u32, word as u32];
    if packet.family() == 4 {
        [words[key::DESTINATION], words[key::SOURCE]] = halves(packet.address[0]);
    } else {
        let addresses = packet.address.into_iter().flat_map(halves);
        words.iter_mut().zip(addresses).for_each(|(word, half)| *word = half);
    }
    for (at, (word, field)) in words[key::FIELDS..].iter_mut().zip(packet.fields).enumerate() {
        *word = field::key_order(at, field);
    }
    debug_assert_eq!(key::FIELDS + field::TRANSPORT + 1, KEY_WORDS);
    words
}
