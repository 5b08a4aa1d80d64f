//! Several fields asked together: `ip saddr . tcp dport @services`.

use std::fmt;

use dataplane_common::abi::ELEMENT_WORDS;

use super::ast::{Family, LinkField, ProtocolField, Side, Test, Transport, Values};
use super::display::Named as _;
use super::name::SetName;
use super::set::{Element, ItemKind, SetType};

/// One of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `ip saddr`, `ip daddr`.
    Ipv4(Side),
    /// `ip6 saddr`, `ip6 daddr`.
    Ipv6(Side),
    /// `tcp dport` and the like.
    Port(Transport, Side),
    /// `ip protocol`, `meta l4proto`.
    Protocol(ProtocolField),
    /// `iif`, `oif`, `iifname`, `oifname`.
    Link(LinkField),
    /// `ether saddr`, `ether daddr`.
    Ether(Side),
}

impl Field {
    /// What its values are.
    pub const fn kind(self) -> ItemKind {
        match self {
            Self::Ipv4(_) => ItemKind::Ipv4,
            Self::Ipv6(_) => ItemKind::Ipv6,
            Self::Port(..) => ItemKind::Service,
            Self::Protocol(_) => ItemKind::Protocol,
            Self::Link(_) => ItemKind::Link,
            Self::Ether(_) => ItemKind::Ether,
        }
    }

    /// The family of packets that have it, when that is one.
    pub(super) const fn family(self) -> Option<Family> {
        match self {
            Self::Ipv4(_) | Self::Protocol(ProtocolField::Ip) => Some(Family::V4),
            Self::Ipv6(_) | Self::Protocol(ProtocolField::Ip6) => Some(Family::V6),
            _ => None,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(side) => write!(f, "ip {}", side.word()),
            Self::Ipv6(side) => write!(f, "ip6 {}", side.word()),
            Self::Port(transport, Side::Source) => write!(f, "{} sport", transport.word()),
            Self::Port(transport, Side::Destination) => write!(f, "{} dport", transport.word()),
            Self::Protocol(ProtocolField::Ip) => f.write_str("ip protocol"),
            Self::Protocol(ProtocolField::Ip6) => f.write_str("ip6 nexthdr"),
            Self::Protocol(ProtocolField::Meta) => f.write_str("meta l4proto"),
            Self::Link(link) => f.write_str(link.word()),
            Self::Ether(side) => write!(f, "ether {}", side.word()),
        }
    }
}

/// The fields, and what their values together are compared with. A packet that lacks one of the fields does not meet it,
/// negated or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Concatenation {
    fields: Vec<Field>,
    test: Test<Element>,
}

impl Concatenation {
    /// None unless there are two or more fields, of one family, of no more than [`ELEMENT_WORDS`] words, and each listed
    /// element has an item of each field's kind.
    pub fn new(fields: Vec<Field>, test: Test<Element>) -> Option<Self> {
        let words: usize = fields.iter().map(|field| if field.kind() == ItemKind::Ipv6 { 2 } else { 1 }).sum();
        let mut families = fields.iter().filter_map(|field| field.family());
        let first = families.next();
        let fits = |element: &Element| {
            element.0.len() == fields.len()
                && element.0.iter().zip(&fields).all(|(item, field)| item.kind() == field.kind())
        };
        let listed = match test.values() {
            Values::Listed(elements) => elements.iter().all(fits),
            Values::Set(_) => true,
        };
        let whole =
            fields.len() > 1 && words <= ELEMENT_WORDS && families.all(|family| Some(family) == first) && listed;
        whole.then_some(Self { fields, test })
    }

    /// The fields, in their order.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// What they are compared with.
    pub const fn test(&self) -> &Test<Element> {
        &self.test
    }

    /// The same fields, asked of the set `name`.
    pub(super) fn asking(&self, name: &SetName) -> Self {
        Self { fields: self.fields.clone(), test: self.test.asking(name) }
    }

    /// What a set must hold that can stand here.
    pub fn set_type(&self) -> Option<SetType> {
        SetType::new(self.fields.iter().map(|field| field.kind()).collect())
    }

    /// The family that it holds for, when that is one.
    pub(crate) fn family(&self) -> Option<Family> {
        self.fields.iter().find_map(|field| field.family())
    }

    /// The protocols that have all the fields, when those are not all protocols.
    pub(crate) fn protocols(&self) -> Option<Vec<u8>> {
        let numbers = self.fields.iter().filter_map(|field| match field {
            Field::Port(transport, _) => Some(transport.numbers()),
            _ => None,
        });
        numbers.reduce(|all, more| all.into_iter().filter(|number| more.contains(number)).collect())
    }

    /// Whether links that come and go change what it holds for.
    pub(super) fn names_links(&self) -> bool {
        self.fields.iter().any(|field| matches!(field, Field::Link(_)))
    }
}

impl fmt::Display for Concatenation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<_> = self.fields.iter().map(Field::to_string).collect();
        write!(f, "{} {}", fields.join(" . "), self.test)
    }
}
