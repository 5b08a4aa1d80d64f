//! `RTM_NEWNETCONF`, `RTM_DELNETCONF` (`include/uapi/linux/netconf.h`).

use super::attribute::{Attributes, u32_at, version};
use crate::model::{Netconf, NetconfScope};

/// `struct netconfmsg`, padded.
pub(super) const HEADER: usize = 4;

/// `RTM_NEWNETCONF`.
pub(super) const NEW: u16 = 80;
/// `RTM_DELNETCONF`.
pub(super) const DELETE: u16 = 81;
/// `RTM_GETNETCONF`.
pub(super) const GET: u16 = 82;

const IFINDEX: u16 = 1;
const FORWARDING: u16 = 2;
const RP_FILTER: u16 = 3;
const PROXY_NEIGH: u16 = 5;
const IGNORE_ROUTES_WITH_LINKDOWN: u16 = 6;
const FORCE_FORWARDING: u16 = 9;
/// `NETCONFA_IFINDEX_ALL`.
const ALL: u32 = u32::MAX;
/// `NETCONFA_IFINDEX_DEFAULT`.
const DEFAULT: u32 = u32::MAX - 1;

/// The settings of a message, and whether it also changes which routes count as dead.
pub(super) fn parse(payload: &[u8]) -> Option<(Netconf, bool)> {
    let mut netconf = Netconf {
        version: version(payload)?,
        scope: NetconfScope::Default,
        forwarding: None,
        rp_filter: None,
        force_forwarding: None,
        proxy_ndp: None,
    };
    let mut scope = None;
    let mut linkdown = false;
    for (kind, value) in Attributes::behind(payload, HEADER) {
        let number = u32_at(value, 0)?;
        match kind {
            IFINDEX => scope = Some(number),
            FORWARDING => netconf.forwarding = Some(number != 0),
            RP_FILTER => netconf.rp_filter = Some(number as u8),
            IGNORE_ROUTES_WITH_LINKDOWN => linkdown = true,
            PROXY_NEIGH => netconf.proxy_ndp = Some(number != 0),
            FORCE_FORWARDING => netconf.force_forwarding = Some(number != 0),
            _ => {}
        }
    }
    netconf.scope = match scope? {
        ALL => NetconfScope::All,
        DEFAULT => NetconfScope::Default,
        ifindex => NetconfScope::Interface(ifindex),
    };
    Some((netconf, linkdown))
}
