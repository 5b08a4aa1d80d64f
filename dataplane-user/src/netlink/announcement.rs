//! What the kernel announces, and what changes with that without a word.

use std::collections::BTreeMap;

use dataplane_common::abi::Ifindex;

use super::attribute::{self, u32_at};
use super::expiry::{self, Lifetime};
use super::socket::Message;
use super::{Stale, address, bridge, link, neighbour, netconf, qdisc, route, rule};
use crate::model::{Event, FdbEntry, IpVersion};

/// A next-hop object changed (`include/uapi/linux/rtnetlink.h`).
const RTM_NEWNEXTHOP: u16 = 104;
/// A next-hop object is gone.
const RTM_DELNEXTHOP: u16 = 105;

/// What a message announces.
pub(super) fn parse(message: &Message<'_>) -> Option<Event> {
    let payload = message.payload;
    let ipv6 = attribute::version(payload) == Some(IpVersion::V6);
    Some(match message.kind {
        libc::RTM_NEWLINK => match bridge::news(payload) {
            Some((member, port)) => Event::BridgePort(member, port),
            None => Event::Link(link::parse(payload)?),
        },
        libc::RTM_DELLINK => Event::LinkGone(link::ifindex(payload)?),
        libc::RTM_NEWADDR => Event::Address(address::parse(payload)?),
        libc::RTM_DELADDR => Event::AddressGone(address::parse(payload)?),
        libc::RTM_NEWNEIGH => match bridge::entry(payload) {
            Some(entry) => Event::Fdb(entry),
            None => Event::Neighbour(neighbour::parse(payload)?),
        },
        libc::RTM_DELNEIGH => {
            if let Some(entry) = bridge::entry(payload) {
                return Some(Event::Fdb(FdbEntry { member: None, ..entry }));
            }
            let gone = neighbour::parse(payload)?;
            Event::NeighbourGone(gone.ifindex, gone.address)
        }
        libc::RTM_NEWRULE => Event::RoutingRule(rule::parse(payload)?),
        libc::RTM_DELRULE => Event::RoutingRuleGone(rule::parse(payload)?),
        // It is not used any more.
        libc::RTM_NEWROUTE if ipv6 && expiry::lifetime(payload) == Lifetime::Over => return None,
        libc::RTM_NEWROUTE if ipv6 => Event::Route6(route::parse(payload)?, route::placement(message.flags)),
        libc::RTM_DELROUTE if ipv6 => Event::Route6Gone(route::parse(payload)?),
        libc::RTM_NEWROUTE => Event::Route4(route::parse(payload)?, route::placement(message.flags)),
        libc::RTM_DELROUTE => Event::Route4Gone(route::parse(payload)?),
        netconf::NEW => Event::Netconf(netconf::parse(payload)?.0),
        netconf::DELETE => {
            let (gone, _) = netconf::parse(payload)?;
            Event::NetconfGone(gone.version, gone.scope)
        }
        _ => return None,
    })
}

/// What else changes with a message, without a word from the kernel.
pub(super) fn unannounced(message: &Message<'_>, links: &mut BTreeMap<Ifindex, u32>) -> Stale {
    let payload = message.payload;
    match message.kind {
        libc::RTM_NEWLINK => match link::ifindex(payload) {
            Some(ifindex) => {
                let changed = match links.insert(ifindex, usable(payload)) {
                    // A veth is announced before it has its peer.
                    None => Stale::ROUTES | Stale::LINKS,
                    Some(before) if before != usable(payload) => Stale::ROUTES,
                    Some(_) => Stale::empty(),
                };
                changed | shaped(payload)
            }
            None => Stale::empty(),
        },
        libc::RTM_DELLINK => match link::ifindex(payload) {
            Some(ifindex) => {
                links.remove(&ifindex);
                Stale::ROUTES
            }
            None => Stale::empty(),
        },
        libc::RTM_NEWQDISC | libc::RTM_DELQDISC | libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER => Stale::QDISCS,
        // An address revives dead next hops, and takes routes with it when it goes.
        libc::RTM_NEWADDR | libc::RTM_DELADDR if attribute::version(payload) == Some(IpVersion::V4) => Stale::ROUTES4,
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Stale::ROUTES,
        netconf::NEW if netconf::parse(payload).is_some_and(|(_, linkdown)| linkdown) => Stale::ROUTES,
        _ => Stale::empty(),
    }
}

/// A device gets its queueing discipline with its link, and the kernel announces only one that was chosen.
fn shaped(payload: &[u8]) -> Stale {
    if qdisc::is_plain(&link::discipline(payload)) { Stale::empty() } else { Stale::QDISCS }
}

/// The link flags that decide which routes are alive.
pub(super) fn usable(payload: &[u8]) -> u32 {
    u32_at(payload, 8).unwrap_or_default() & link::IFF_USABLE
}
