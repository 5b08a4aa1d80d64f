//! Routing policy: the rules that choose the table for a packet.

use super::{Family as _, IpVersion, Link};

/// `FR_ACT_TO_TBL`: look up a table.
pub const ACTION_TABLE: u8 = 1;

/// A routing rule, as far as it decides whether the mirror may answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingRule {
    /// Of which family.
    pub version: IpVersion,
    /// Lower ones come first.
    pub priority: u32,
    /// The table to look up.
    pub table: u32,
    /// `FR_ACT_*`.
    pub action: u8,
    /// For packets of VRF devices only: the kernel adds such a rule with the first VRF.
    pub l3mdev: bool,
    /// For packets that come in through this interface only.
    pub iif: Option<String>,
    /// For packets of this machine only: it matches the egress link that a socket is bound to.
    pub own: bool,
    /// It may not take what it finds (`suppress_prefixlength`, `suppress_ifgroup`).
    pub suppresses: bool,
    /// All its other matches, as the kernel encodes them; empty: it matches every packet.
    pub selector: Vec<u8>,
}

/// Where the routes of a port's packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteSource {
    /// The mirrored tables.
    Mirror,
    /// The kernel, by a lookup in the programs.
    Kernel,
    /// The kernel, which gets the packets.
    Stack,
}

impl RouteSource {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Kernel => "kernel",
            Self::Stack => "stack",
        }
    }
}

impl RoutingRule {
    /// Whether packets that come in through a link meet it.
    pub fn meets(&self, link: &Link) -> bool {
        self.iif.as_ref().is_none_or(|iif| *iif == link.name)
    }

    /// What a new namespace has: local, main, and for IPv4 default.
    pub fn defaults(version: IpVersion) -> impl Iterator<Item = Self> {
        let tables = match version {
            IpVersion::V4 => u32::TABLES,
            IpVersion::V6 => u128::TABLES,
        };
        [0, 32766, 32767].into_iter().zip(tables.iter().copied()).map(move |(priority, table)| Self {
            version,
            priority,
            table,
            action: ACTION_TABLE,
            l3mdev: false,
            iif: None,
            own: false,
            suppresses: false,
            selector: Vec::new(),
        })
    }
}
