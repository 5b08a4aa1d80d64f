//! What rules write into sets, and how many connections they count. The kernel does both.

use std::fmt::{Display, Formatter, Result};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::ast::Family;
use super::concatenation::Field;
use super::name::SetName;
use super::set::{ItemKind, SetType};
use super::statement::Limit;

/// `add @NAME { KEY ... }` and the like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetUpdate {
    /// What becomes of the element.
    pub verb: SetVerb,
    /// The set.
    pub set: SetName,
    key: Vec<KeyField>,
    /// How long the element stays, when not as long as the set says.
    pub timeout: Option<Timeout>,
    /// What the element must hold for, or the rule ends.
    pub condition: Option<ElementCondition>,
}

impl SetUpdate {
    /// None without a key, and for one of more than one family.
    pub fn new(
        (verb, set): (SetVerb, SetName),
        key: Vec<KeyField>,
        (timeout, condition): (Option<Timeout>, Option<ElementCondition>),
    ) -> Option<Self> {
        let mut families = key.iter().filter_map(|part| part.field.family());
        let first = families.next();
        let whole = !key.is_empty() && families.all(|family| Some(family) == first);
        whole.then_some(Self { verb, set, key, timeout, condition })
    }

    /// The fields that make the element, in their order; at least one.
    pub fn key(&self) -> &[KeyField] {
        &self.key
    }

    /// What a set must hold that can stand here.
    pub fn set_type(&self) -> Option<SetType> {
        SetType::new(self.key.iter().map(|part| part.field.kind()).collect())
    }

    /// The family of the packets that have such a key, when that is one.
    pub fn family(&self) -> Option<Family> {
        self.key.iter().find_map(|part| part.field.family())
    }

    /// The protocols of the packets that have such a key, when those are not all.
    pub fn protocols(&self) -> Option<Vec<u8>> {
        self.key.iter().find_map(|part| match part.field {
            Field::Port(transport, _) => Some(transport.numbers()),
            _ => None,
        })
    }
}

/// What becomes of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetVerb {
    /// It is there from now on; when it is there, it stays as it is.
    Add,
    /// The same, and its time begins anew.
    Update,
    /// It is not there any more.
    Delete,
}

/// A part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyField {
    /// Where its value stands.
    pub field: Field,
    /// The bits of an address that count.
    pub mask: Option<u128>,
}

impl KeyField {
    /// None for a mask of what is no address, or of more bits than that has.
    pub fn new(field: Field, mask: Option<u128>) -> Option<Self> {
        let fits = match (mask, field.kind()) {
            (None, _) | (Some(_), ItemKind::Ipv6) => true,
            (Some(mask), ItemKind::Ipv4) => mask <= u32::MAX.into(),
            (Some(_), _) => false,
        };
        fits.then_some(Self { field, mask })
    }
}

/// What an element must hold for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementCondition {
    /// A rate of its own.
    Limit(Limit),
    /// A number of connections of its own.
    Connections(ConnectionCount),
}

/// `ct count`: how many connections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionCount {
    /// Holds for more than the number, rather than for no more.
    pub over: bool,
    /// The number.
    pub count: u32,
}

/// How long something stays, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeout(u64);

/// nft's units, in milliseconds, largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Timeout {
    /// The kernel counts it in jiffies of 32 bits.
    const LONGEST: u64 = 365 * 86_400_000;

    /// None for nothing, and beyond a year.
    pub fn from_millis(millis: u64) -> Option<Self> {
        (1..=Self::LONGEST).contains(&millis).then_some(Self(millis))
    }

    /// In milliseconds.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// As nft spells it: `1h30m`, `90s`, or seconds without a unit.
    pub fn from_word(word: &str) -> Option<Self> {
        if let Ok(seconds) = word.parse::<u64>() {
            return Self::from_millis(seconds.checked_mul(1000)?);
        }
        let (mut rest, mut all, mut below) = (word, 0_u64, u64::MAX);
        while !rest.is_empty() {
            let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
            let (number, behind) = rest.split_at(digits);
            let unit = behind.find(|letter: char| letter.is_ascii_digit()).unwrap_or(behind.len());
            let (_, size) = UNITS.iter().find(|(name, _)| *name == &behind[..unit])?;
            if *size >= below {
                return None;
            }
            all = all.checked_add(number.parse::<u64>().ok()?.checked_mul(*size)?)?;
            (rest, below) = (&behind[unit..], *size);
        }
        Self::from_millis(all)
    }
}

/// A word that is no time.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no time up to a year: take one such as 30s, 10m or 1h30m")]
pub struct NoTimeout(String);

impl std::str::FromStr for Timeout {
    type Err = NoTimeout;

    fn from_str(word: &str) -> std::result::Result<Self, NoTimeout> {
        Self::from_word(word).ok_or_else(|| NoTimeout(word.to_owned()))
    }
}

impl Display for Timeout {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let mut rest = self.0;
        for (unit, size) in UNITS {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl SetVerb {
    /// As nft spells it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

impl Display for KeyField {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.field.fmt(f)?;
        match (self.mask, self.field.kind()) {
            (None, _) => Ok(()),
            (Some(mask), ItemKind::Ipv4) => write!(f, " & {}", Ipv4Addr::from(mask as u32)),
            (Some(mask), _) => write!(f, " & {}", Ipv6Addr::from(mask)),
        }
    }
}

impl Display for ConnectionCount {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "ct count {}{}", if self.over { "over " } else { "" }, self.count)
    }
}

impl Display for SetUpdate {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let key: Vec<_> = self.key.iter().map(KeyField::to_string).collect();
        write!(f, "{} {} {{ {}", self.verb.word(), self.set, key.join(" . "))?;
        if let Some(timeout) = self.timeout {
            write!(f, " timeout {timeout}")?;
        }
        match &self.condition {
            Some(ElementCondition::Limit(limit)) => write!(f, " {limit}")?,
            Some(ElementCondition::Connections(count)) => write!(f, " {count}")?,
            None => {}
        }
        f.write_str(" }")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_and_written_as_nft_does() {
        for (text, millis, written) in [
            ("60s", Some(60_000), "1m"),
            ("90", Some(90_000), "1m30s"),
            ("1h30m", Some(5_400_000), "1h30m"),
            ("1d2h3m4s5ms", Some(93_784_005), "1d2h3m4s5ms"),
            ("500ms", Some(500), "500ms"),
            ("0s", None, ""),
            ("366d", None, ""),
            ("1m1h", None, ""),
            ("1x", None, ""),
            ("m", None, ""),
            ("", None, ""),
            ("99999999999999999999d", None, ""),
        ] {
            let read = Timeout::from_word(text);
            assert_eq!(read.map(Timeout::millis), millis, "{text}");
            assert_eq!(read.map(|one| one.to_string()).unwrap_or_default(), written, "{text}");
        }
    }
}
