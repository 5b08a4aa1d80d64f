//! Neighbours: the link addresses of IP addresses on a link.

use std::net::IpAddr;

use bitflags::bitflags;
use dataplane_common::abi::Ifindex;
use dataplane_common::wire::Mac;

/// An entry of the kernel's ARP or ND table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// On which interface.
    pub ifindex: Ifindex,
    /// Whose.
    pub address: IpAddr,
    /// How well it is known.
    pub state: NeighbourState,
    /// Its link address, if known and a 48-bit one.
    pub mac: Option<Mac>,
    /// Another program maintains it: a control plane that learned it, or the kernel by itself (`extern_learn`, `managed`).
    pub tended: bool,
}

impl Neighbour {
    /// The link address, when the kernel would send to it without a probe first.
    pub fn resolved(&self) -> Option<Mac> {
        self.mac.filter(|_| self.state.intersects(NeighbourState::VALID))
    }

    /// Whether it may be gone, and is not probed until it is used. Entries that are about to be probed, or need no probe, are
    /// not stale.
    pub fn is_stale(&self) -> bool {
        self.state == NeighbourState::STALE && !self.tended
    }
}

impl NeighbourState {
    /// As `ip neighbour` spells it.
    pub fn name(self) -> &'static str {
        let known = Self::all().iter_names().find(|(_, flag)| self.contains(*flag));
        known.map_or("NONE", |(name, _)| name)
    }
}

bitflags! {
    /// `NUD_*` of `include/uapi/linux/neighbour.h`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct NeighbourState: u16 {
        /// Probed, without an answer yet.
        const INCOMPLETE = 0x01;
        /// Known to be right.
        const REACHABLE = 0x02;
        /// Was right once.
        const STALE = 0x04;
        /// About to be probed again.
        const DELAY = 0x08;
        /// Being probed again.
        const PROBE = 0x10;
        /// Did not answer.
        const FAILED = 0x20;
        /// Needs no probe: the link has no addresses, or it is a group.
        const NOARP = 0x40;
        /// Set by the operator.
        const PERMANENT = 0x80;
        /// States in which the kernel sends at once.
        const VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;
    }
}
