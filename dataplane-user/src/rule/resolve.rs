//! Sets in rules: what they must hold that a match may ask them.

use super::ast::Match;
use super::set::ItemKind;

impl Match {
    /// What a set must hold that this match may ask; none when there are no such sets.
    pub const fn set_kind(&self) -> Option<ItemKind> {
        match self {
            Self::Ipv4(..) => Some(ItemKind::Ipv4),
            Self::Ipv6(..) => Some(ItemKind::Ipv6),
            Self::Ether(..) => Some(ItemKind::Ether),
            Self::Protocol(..) => Some(ItemKind::Protocol),
            Self::Port(..) => Some(ItemKind::Service),
            Self::Link(..) => Some(ItemKind::Link),
            _ => None,
        }
    }
}
