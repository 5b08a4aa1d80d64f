//! `RTM_NEWROUTE`, `RTM_DELROUTE` (rtnetlink(7)).

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE};

use super::attribute::{Attributes, ip, u8_at, u16_at, u32_at};
use crate::model::{Family, NextHop, NextHopFlags, Placement, Prefix, Route, RouteInfo};

/// `struct rtmsg`.
pub(super) const HEADER: usize = 12;
/// `struct rtnexthop`.
const NEXTHOP_HEADER: usize = 8;

pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_SRC: u16 = 2;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTAX_LOCK: u16 = 1;
const RTAX_MTU: u16 = 2;
const RTA_MULTIPATH: u16 = 9;
pub(super) const RTA_TABLE: u16 = 15;
pub(super) const RTA_VIA: u16 = 18;
const RTA_ENCAP_TYPE: u16 = 21;
const RTA_NH_ID: u16 = 30;
/// `RTM_F_CLONED`: a cached result, not a route.
const RTM_F_CLONED: u32 = 0x200;

/// Where the kernel put the route of an announcement.
pub(super) fn placement(flags: u16) -> Placement {
    if flags & NLM_F_REPLACE != 0 {
        Placement::Replace
    } else if flags & NLM_F_APPEND != 0 {
        Placement::Last
    } else {
        Placement::First
    }
}

/// The route of a message; `None` for another family's, and for cached results.
pub(super) fn parse<A: Family>(payload: &[u8]) -> Option<Route<A>> {
    let flags = u32_at(payload, 8)?;
    if u8_at(payload, 0)? != A::NUMBER || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let (mut destination, mut source) = (A::default(), A::default());
    let mut info = RouteInfo {
        source: Prefix::all(),
        tos: u8_at(payload, 3)?,
        priority: 0,
        kind: u8_at(payload, 7)?.into(),
        scope: u8_at(payload, 6)?,
        protocol: u8_at(payload, 5)?,
        preferred_source: None,
        mtu: None,
        mtu_locked: false,
        nexthop_id: None,
        next_hops: Vec::new(),
    };
    let mut table = u32::from(u8_at(payload, 4)?);
    let attributes = Attributes::behind(payload, HEADER);
    for (kind, value) in attributes.clone() {
        match kind {
            RTA_DST => destination = A::from_bytes(value)?,
            RTA_SRC => source = A::from_bytes(value)?,
            RTA_PRIORITY => info.priority = u32_at(value, 0)?,
            RTA_PREFSRC => info.preferred_source = ip(value),
            RTA_METRICS => {
                let metric = |wanted| {
                    Attributes::within(value)
                        .find(|(kind, _)| *kind == wanted)
                        .and_then(|(_, metric)| u32_at(metric, 0))
                };
                info.mtu = metric(RTAX_MTU);
                info.mtu_locked = metric(RTAX_LOCK).is_some_and(|locks| locks & 1 << RTAX_MTU != 0);
            }
            RTA_TABLE => table = u32_at(value, 0)?,
            RTA_NH_ID => info.nexthop_id = u32_at(value, 0),
            RTA_MULTIPATH => info.next_hops = multipath(value),
            _ => {}
        }
    }
    let destination = Prefix::new(destination, u8_at(payload, 1)?);
    info.source = Prefix::new(source, u8_at(payload, 2)?);
    if info.next_hops.is_empty() {
        let hop = next_hop(attributes, 0, 1, NextHopFlags::from_bits_truncate(flags as u8));
        info.next_hops.extend((hop.dev != 0 || hop.via.is_some()).then_some(hop));
    }
    Some(Route { table, destination, info })
}

/// The members of `RTA_MULTIPATH`: each a header with its own attributes.
fn multipath(mut value: &[u8]) -> Vec<NextHop> {
    let mut hops = Vec::new();
    while let (Some(length), Some(flags), Some(less_one), Some(dev)) =
        (u16_at(value, 0), u8_at(value, 2), u8_at(value, 3), u32_at(value, 4))
    {
        let length = usize::from(length);
        let Some(member) = value.get(..length).filter(|member| member.len() >= NEXTHOP_HEADER) else { break };
        let attributes = Attributes::behind(member, NEXTHOP_HEADER);
        hops.push(next_hop(attributes, dev, u32::from(less_one) + 1, NextHopFlags::from_bits_truncate(flags)));
        value = value.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

fn next_hop(attributes: Attributes<'_>, dev: u32, weight: u32, flags: NextHopFlags) -> NextHop {
    let mut hop = NextHop { via: None, dev, weight, flags, encap: false };
    for (kind, value) in attributes {
        match kind {
            RTA_OIF => hop.dev = u32_at(value, 0).unwrap_or_default(),
            RTA_GATEWAY => hop.via = ip(value),
            RTA_VIA => hop.via = via(value),
            RTA_ENCAP_TYPE => hop.encap = true,
            _ => {}
        }
    }
    hop
}

/// `struct rtvia`: a family, then an address of it.
pub(super) fn via(value: &[u8]) -> Option<IpAddr> {
    ip(value.get(2..)?)
}
