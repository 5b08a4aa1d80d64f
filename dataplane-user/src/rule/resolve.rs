//! Sets in rules: what they must hold that a match may ask them.

use super::ast::Match;
use super::set::{ItemKind, SetType};

impl Match {
    /// What a set must hold that this match may ask; none when there are no such sets.
    pub fn set_type(&self) -> Option<SetType> {
        let kind = match self {
            Self::Ipv4(..) => ItemKind::Ipv4,
            Self::Ipv6(..) => ItemKind::Ipv6,
            Self::Ether(..) => ItemKind::Ether,
            Self::Protocol(..) => ItemKind::Protocol,
            Self::Port(..) => ItemKind::Service,
            Self::Link(..) => ItemKind::Link,
            Self::Concatenation(asked) => return asked.set_type(),
            _ => return None,
        };
        SetType::new(vec![kind])
    }
}
