//! What rules match of the route of an address (`fib`). Only the kernel knows all of its routes.

use std::fmt::{Display, Formatter, Result};

use super::ast::Side;
use super::display::Named as _;

/// Types of addresses, with their numbers (`RTN_*` in `include/uapi/linux/rtnetlink.h`).
pub(super) const TYPES: [(&str, u8); 8] = [
    ("unicast", 1),
    ("local", 2),
    ("broadcast", 3),
    ("anycast", 4),
    ("multicast", 5),
    ("blackhole", 6),
    ("unreachable", 7),
    ("prohibit", 8),
];

/// One question about the route of an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reachability {
    /// Of which address.
    pub side: Side,
    /// By the packet's mark, too.
    pub mark: bool,
    /// Through the interface that it came in by.
    pub iif: bool,
    /// What is compared.
    pub found: Found,
}

/// What a route lookup is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// The type of the address is one of these, or none of them when negated; in order.
    Type(bool, Vec<u8>),
    /// Whether there is a route, or none.
    Route(bool),
}

impl Found {
    /// Holds for all that this does not hold for.
    #[must_use]
    pub fn opposite(&self) -> Self {
        match self {
            Self::Type(negated, types) => Self::Type(!negated, types.clone()),
            Self::Route(exists) => Self::Route(!exists),
        }
    }
}

impl Display for Reachability {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "fib {}", self.side.word())?;
        f.write_str(if self.mark { " . mark" } else { "" })?;
        f.write_str(if self.iif { " . iif" } else { "" })?;
        match &self.found {
            Found::Route(exists) => write!(f, " oif {}", if *exists { "exists" } else { "missing" }),
            Found::Type(negated, types) => {
                let names: Vec<_> =
                    TYPES.iter().filter(|(_, number)| types.contains(number)).map(|(name, _)| *name).collect();
                f.write_str(if *negated { " type != " } else { " type " })?;
                match &names[..] {
                    [one] => f.write_str(one),
                    _ => write!(f, "{{ {} }}", names.join(", ")),
                }
            }
        }
    }
}
