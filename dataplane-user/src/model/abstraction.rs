//! What is known of the registers while a packet of an established connection goes through a rule.

use std::collections::BTreeMap;

use super::extension::ESTABLISHED;
use super::{Comparison, ObstacleKind, Register, Source};

/// Whether a comparison comes out true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Always,
    Never,
    Maybe,
}

impl Outcome {
    /// Of several possible packets.
    pub(super) fn of(mut each: impl Iterator<Item = bool>) -> Self {
        let Some(first) = each.next() else { return Self::Maybe };
        match (each.all(|one| one == first), first) {
            (true, true) => Self::Always,
            (true, false) => Self::Never,
            (false, _) => Self::Maybe,
        }
    }
}

/// What a register may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Value {
    /// All that it may be; none: anything.
    values: Option<Vec<Vec<u8>>>,
    /// Whether it may differ between packets of one connection.
    differs: bool,
}

/// Flags of TCP that packets at the driver may have: always ACK, neither FIN, SYN nor RST.
fn tcp_flags() -> Vec<Vec<u8>> {
    (0..=u8::MAX).filter(|flags| flags & 0x17 == 0x10).map(|flags| vec![flags]).collect()
}

impl Value {
    const FIXED: Self = Self { values: None, differs: false };
    const DIFFERS: Self = Self { values: None, differs: true };

    fn one_of(values: Vec<Vec<u8>>, differs: bool) -> Self {
        Self { values: Some(values), differs }
    }

    pub(super) fn known(&self) -> Option<&Vec<Vec<u8>>> {
        self.values.as_ref()
    }

    pub(super) const fn differs(&self) -> bool {
        self.differs
    }

    /// What a map gives for it, or a function makes of it.
    pub(super) const fn made_from(&self) -> Self {
        Self { values: None, differs: self.differs }
    }

    /// How a comparison with the first bytes comes out.
    pub(super) fn compare(&self, comparison: Comparison, with: &[u8]) -> Outcome {
        let equal = match comparison {
            Comparison::Equal => true,
            Comparison::Unequal => false,
            Comparison::Order => return Outcome::Maybe,
        };
        match &self.values {
            Some(values) if values.iter().all(|value| value.len() >= with.len()) => {
                Outcome::of(values.iter().map(|value| value.starts_with(with) == equal))
            }
            _ => Outcome::Maybe,
        }
    }
}

/// The registers of a rule.
pub(super) struct Registers {
    tracked: bool,
    held: BTreeMap<Register, Value>,
}

impl Registers {
    pub(super) const fn new(tracked: bool) -> Self {
        Self { tracked, held: BTreeMap::new() }
    }

    pub(super) fn get(&self, register: Register) -> Value {
        self.held.get(&register).cloned().unwrap_or(Value::FIXED)
    }

    /// What may be made of all that was read so far. A set is looked up by several registers side by side, and says only which is
    /// the first.
    pub(super) fn combined(&self) -> Value {
        Value { values: None, differs: self.held.values().any(Value::differs) }
    }

    pub(super) fn put(&mut self, register: Register, value: Value) {
        self.held.insert(register, value);
    }

    /// Reads something. Returns whether there is something to read: else the rule does not match.
    pub(super) fn load(&mut self, to: Register, source: Source) -> bool {
        let value = match source {
            Source::Ct(key) => self.ct(key),
            Source::Meta(key) => meta(key),
            Source::Payload(base, offset, length) => payload(base, offset, length),
            Source::Exthdr(operation, header, presence) => match exthdr(operation, header, presence) {
                Some(value) => value,
                None => return false,
            },
            Source::Random | Source::Fixed => Value::FIXED,
            Source::Derived(from) => self.get(from).made_from(),
        };
        self.put(to, value);
        true
    }

    /// `(from & mask) ^ xor`.
    pub(super) fn bitwise(&mut self, from: Register, to: Register, mask: Option<&(Vec<u8>, Vec<u8>)>) {
        let value = self.get(from);
        let result = match (mask, &value.values) {
            (Some((mask, xor)), Some(values)) => {
                let one = |value: &Vec<u8>| -> Vec<u8> {
                    value.iter().zip(mask).zip(xor).map(|((value, mask), xor)| value & mask ^ xor).collect()
                };
                let mut values: Vec<_> = values.iter().map(one).collect();
                values.sort();
                values.dedup();
                let differs = value.differs && values.len() > 1;
                Value::one_of(values, differs)
            }
            _ => value.made_from(),
        };
        self.put(to, result);
    }

    /// `NFT_CT_*`: in front of conntrack nothing is known.
    fn ct(&self, key: u32) -> Value {
        match key {
            0 if self.tracked => Value::one_of(vec![ESTABLISHED.to_ne_bytes().to_vec()], false),
            // The time left, packets, bytes and their quotient.
            5 | 14 | 15 | 16 => Value::DIFFERS,
            _ => Value::FIXED,
        }
    }
}

/// `NFT_META_*`.
fn meta(key: u32) -> Value {
    match key {
        // The length, the CPU.
        0 | 20 => Value::DIFFERS,
        16 => Value::one_of(vec![vec![6], vec![17]], false),
        _ => Value::FIXED,
    }
}

impl Source {
    /// What to read it means, where that alone is an obstacle.
    pub(super) const fn obstacle(self) -> Option<ObstacleKind> {
        match self {
            Self::Random | Self::Meta(24) => Some(ObstacleKind::Random),
            Self::Meta(30..=32) => Some(ObstacleKind::Time),
            _ => None,
        }
    }
}

/// Bytes of the packet. Which version of IP it is, is not known, so what is the same for all packets of a connection in one of
/// the two is taken for that only where the other cannot be meant.
fn payload(base: u32, offset: u32, length: u32) -> Value {
    const LINK: u32 = 0;
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    match (base, offset, length) {
        // The protocol of either version.
        (NETWORK, 9 | 6, 1) => Value::one_of(vec![vec![6], vec![17]], false),
        // What the sender says of fragments, of which no packet at the driver is one.
        (NETWORK, 6, 2) => Value::one_of(vec![vec![0, 0], vec![0x40, 0], vec![0x80, 0], vec![0xc0, 0]], true),
        // The frame's type and destination. Its source may be any: a row does not compare it.
        (LINK, offset, length) if offset.saturating_add(length) <= 6 || offset >= 12 => Value::FIXED,
        // The version; addresses: of IPv4, and of IPv6, where the first four bytes of the source are meant at least.
        (NETWORK, 12.., length) if offset.saturating_add(length) <= 20 => Value::FIXED,
        (NETWORK, 0, 1) | (NETWORK, 8, 4..=32) => Value::FIXED,
        (NETWORK, 24.., length) if offset.saturating_add(length) <= 40 => Value::FIXED,
        (TRANSPORT, 13, 1) => Value::one_of(tcp_flags(), true),
        (TRANSPORT, 0..=3, length) if offset + length <= 4 => Value::FIXED,
        _ => Value::DIFFERS,
    }
}

/// Headers and options; none where there is no such header. Packets with options, with a routing or a fragment header are not
/// carried at the driver.
fn exthdr(operation: u32, header: u8, presence: bool) -> Option<Value> {
    const IPV6: u32 = 0;
    const TCP_OPTION: u32 = 1;
    let absent = match operation {
        IPV6 => [43, 44].contains(&header),
        // Only a SYN should have MSS, but a sender may put it anywhere.
        TCP_OPTION => false,
        _ => true,
    };
    match (absent, presence) {
        (true, true) => Some(Value::one_of(vec![vec![0]], false)),
        (true, false) => None,
        (false, _) => Some(Value::DIFFERS),
    }
}
