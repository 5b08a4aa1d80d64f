//! `IPsec`: the policies that forwarded packets meet.

use std::collections::BTreeSet;

use super::Prefix;

/// Destinations and sources of a family.
pub type Pairs<A> = BTreeSet<(Prefix<A>, Prefix<A>)>;

/// What the policies of the kernel may cover on the way through this machine (directions `out` and `fwd`), by destination and
/// source. Those that let packets go as they are do not count, nor those of interfaces with an `if_id`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipsec {
    /// There are policies, be it of other directions: what comes out of a tunnel is theirs to judge.
    pub present: bool,
    /// What no policy covers is stopped, too (`ip xfrm policy setdefault`); or it is not known which policies there are.
    pub all: bool,
    /// Of IPv4.
    pub v4: Pairs<u32>,
    /// Of IPv6.
    pub v6: Pairs<u128>,
}

impl Ipsec {
    /// Where the kernel does not say which policies there are.
    pub fn unknown() -> Self {
        Self { present: true, all: true, ..Self::default() }
    }

    /// Whether no packet can meet a policy.
    pub fn is_empty(&self) -> bool {
        !self.present && !self.all
    }
}
