//! Routing policy: the rules that say which table is asked for a packet.

use super::{Family as _, IpVersion};

/// `FR_ACT_TO_TBL`: ask a table.
pub const ACTION_TABLE: u8 = 1;

/// A routing rule, as far as it decides whether the mirror may answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingRule {
    /// Of which family.
    pub version: IpVersion,
    /// Lower ones are asked first.
    pub priority: u32,
    /// Which table it asks.
    pub table: u32,
    /// `FR_ACT_*`.
    pub action: u8,
    /// For packets of VRF devices only: the kernel adds such a rule with the first VRF.
    pub l3mdev: bool,
    /// Whatever else it asks for, as the kernel encodes it; empty: it takes every packet.
    pub selector: Vec<u8>,
}

impl RoutingRule {
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
            selector: Vec::new(),
        })
    }
}
