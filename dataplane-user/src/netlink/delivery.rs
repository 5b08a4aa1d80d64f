//! The routing rules and the route by which packets with the mark of delivery are for this machine, whatever their destination
//! is: `ip rule add fwmark M/M iif PORT lookup 218 protocol 218`, `ip route add local default dev lo table 218 protocol 218`.
//!
//! A rule for each interface, because rules without one also meet the lookup that validates sources where
//! `net.ipv4.conf.all.src_valid_mark` is set, as wg-quick does, and then every source is this machine's.

use std::collections::BTreeSet;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};

use super::{
    Error,
    attribute::{Attributes, put, text, u8_at, u32_at},
    dump::is_foreign,
    route::{self, RTA_OIF},
    rule::{self, FRA_FWMARK, FRA_FWMASK, FRA_IIFNAME, FRA_PRIORITY, FRA_PROTOCOL, FRA_TABLE},
    socket::Requester,
};
use crate::model::{ACTION_TABLE, DELIVERY_MARK, Family, TABLE_DELIVERY};

/// The table, the priority of the rules, and the protocol that marks both as ours.
const TABLE: u8 = TABLE_DELIVERY as u8;
/// The index of the loopback device.
const LOOPBACK: u32 = 1;
/// `RTM_F_CLONED`: what the kernel remembers of a path.
const CLONED: u32 = 0x200;
/// `RTN_LOCAL`.
const LOCAL: u8 = 2;
/// `RT_SCOPE_HOST`.
const SCOPE_HOST: u8 = 254;

/// Makes the rules for these interfaces and the route, as far as they are missing, and removes the rules for others; without an
/// interface, all of it. Says whether something was changed.
///
/// # Errors
/// The kernel refused something.
pub fn deliver(interfaces: &BTreeSet<String>) -> Result<bool, Error> {
    let mut requester = Requester::open(libc::NETLINK_ROUTE as isize)?;
    let mut changed = false;
    for family in [u32::NUMBER, u128::NUMBER] {
        match in_family(&mut requester, family, interfaces) {
            // The kernel has no IPv6.
            Err(error) if family == u128::NUMBER && is_foreign(&error) => {}
            done => changed |= done?,
        }
    }
    Ok(changed)
}

fn in_family(requester: &mut Requester, family: u8, interfaces: &BTreeSet<String>) -> Result<bool, Error> {
    let mut header = vec![0; rule::HEADER];
    header[0] = family;
    let leading: Vec<_> =
        requester.dump("routing rules", libc::RTM_GETRULE, &header, |message| leads(message.payload, family))?;
    let routes = routes(requester, family)?;
    if !interfaces.is_empty() && (leading.contains(&None) || routes.contains(&Origin::Other)) {
        // Theirs would send elsewhere what is for a proxy, and ours would deliver here what is for others.
        return Err(Error::TableInUse(TABLE.into()));
    }
    let there: Vec<_> = leading.into_iter().flatten().collect();
    let has_route = routes.contains(&Origin::Own);
    let mut changed = false;
    if !interfaces.is_empty() && !has_route {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        requester.tell("the route of delivery", libc::RTM_NEWROUTE, flags, &local_route(family))?;
        changed = true;
    }
    for interface in interfaces.iter().filter(|interface| !there.contains(interface)) {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        requester.tell("a rule of delivery", libc::RTM_NEWRULE, flags, &fwmark_rule(family, interface))?;
        changed = true;
    }
    for interface in there.iter().filter(|interface| !interfaces.contains(*interface)) {
        requester.tell("a rule of delivery", libc::RTM_DELRULE, NLM_F_ACK, &fwmark_rule(family, interface))?;
        changed = true;
    }
    if interfaces.is_empty() && has_route {
        requester.tell("the route of delivery", libc::RTM_DELROUTE, NLM_F_ACK, &local_route(family))?;
        changed = true;
    }
    Ok(changed)
}

/// Whether a rule leads to the table: with the interface of one that is ours.
#[expect(clippy::option_option, reason = "rules that lead elsewhere are none at all")]
fn leads(payload: &[u8], family: u8) -> Option<Option<String>> {
    let table = Attributes::behind(payload, rule::HEADER).find(|(kind, _)| *kind == FRA_TABLE);
    let table = table.and_then(|(_, value)| u32_at(value, 0)).unwrap_or(u8_at(payload, 4)?.into());
    (u8_at(payload, 0)? == family && table == u32::from(TABLE)).then(|| ours(payload, family))
}

/// The interface of a rule that is one of ours.
fn ours(payload: &[u8], family: u8) -> Option<String> {
    let find =
        |wanted| Attributes::behind(payload, rule::HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let number = |wanted| find(wanted).and_then(|value| u32_at(value, 0));
    let same = u8_at(payload, 0)? == family
        && find(FRA_PROTOCOL).and_then(|value| u8_at(value, 0)) == Some(TABLE)
        && number(FRA_PRIORITY) == Some(TABLE.into())
        && number(FRA_TABLE).unwrap_or(u8_at(payload, 4)?.into()) == u32::from(TABLE)
        && number(FRA_FWMARK) == Some(DELIVERY_MARK)
        && number(FRA_FWMASK) == Some(DELIVERY_MARK);
    find(FRA_IIFNAME).filter(|_| same).map(text)
}

/// `struct fib_rule_hdr` with its attributes.
fn fwmark_rule(family: u8, interface: &str) -> Vec<u8> {
    let mut request = vec![family, 0, 0, 0, TABLE, 0, 0, ACTION_TABLE, 0, 0, 0, 0];
    put(&mut request, FRA_PRIORITY, &u32::from(TABLE).to_ne_bytes());
    put(&mut request, FRA_FWMARK, &DELIVERY_MARK.to_ne_bytes());
    put(&mut request, FRA_FWMASK, &DELIVERY_MARK.to_ne_bytes());
    put(&mut request, FRA_TABLE, &u32::from(TABLE).to_ne_bytes());
    put(&mut request, FRA_PROTOCOL, &[TABLE]);
    put(&mut request, FRA_IIFNAME, &[interface.as_bytes(), &[0]].concat());
    request
}

/// `struct rtmsg` with its attributes.
fn local_route(family: u8) -> Vec<u8> {
    let scope = if family == u32::NUMBER { SCOPE_HOST } else { 0 };
    let mut request = vec![family, 0, 0, 0, TABLE, TABLE, scope, LOCAL, 0, 0, 0, 0];
    put(&mut request, RTA_OIF, &LOOPBACK.to_ne_bytes());
    request
}

/// Whose a route is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Own,
    Other,
}

/// The routes of the table.
fn routes(requester: &mut Requester, family: u8) -> Result<Vec<Origin>, Error> {
    let mut request = vec![0; route::HEADER];
    request[0] = family;
    request[4] = TABLE;
    put(&mut request, route::RTA_TABLE, &u32::from(TABLE).to_ne_bytes());
    match requester.dump("routes", libc::RTM_GETROUTE, &request, |message| origin(message.payload, family)) {
        // A kernel that lists tables one by one knows none of this number.
        Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        found => found,
    }
}

/// Whose a route of the table is; none for one of another table.
fn origin(payload: &[u8], family: u8) -> Option<Origin> {
    let number = u32_at(payload, 8)? & CLONED;
    let same = u8_at(payload, 0)? == family && u8_at(payload, 4)? == TABLE && number == 0;
    let own = u8_at(payload, 1)? == 0 && u8_at(payload, 5)? == TABLE && u8_at(payload, 7)? == LOCAL;
    same.then_some(if own { Origin::Own } else { Origin::Other })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_rules_are_known_again() {
        for family in [u32::NUMBER, u128::NUMBER] {
            let mut message = fwmark_rule(family, "eth0");
            assert_eq!(ours(&message, family).as_deref(), Some("eth0"));
            assert_eq!(ours(&message, 1), None, "another family");
            // Behind the name are three bytes of padding.
            for cut in 0..message.len() - 3 {
                assert_eq!(ours(&message[..cut], family), None, "cut at {cut}");
            }
            put(&mut message, FRA_PROTOCOL, &[2]);
            message[4] = 0;
            assert_eq!(ours(&message, family).as_deref(), Some("eth0"), "the first of each counts");
        }
    }

    #[test]
    fn what_others_have_in_the_table_is_known() {
        for family in [u32::NUMBER, u128::NUMBER] {
            let own = fwmark_rule(family, "eth0");
            assert_eq!(leads(&own, family), Some(Some("eth0".to_owned())));
            let mut other = vec![family, 0, 0, 0, TABLE, 0, 0, ACTION_TABLE, 0, 0, 0, 0];
            assert_eq!(leads(&other, family), Some(None), "of another program");
            other[4] = 254;
            assert_eq!(leads(&other, family), None, "to another table");
            put(&mut other, FRA_TABLE, &218_u32.to_ne_bytes());
            assert_eq!(leads(&other, family), Some(None));

            let route = local_route(family);
            assert_eq!(origin(&route, family), Some(Origin::Own));
            for (at, value, wanted) in [
                (0, 1, None),
                (1, 24, Some(Origin::Other)),
                (4, 254, None),
                (5, 3, Some(Origin::Other)),
                (7, 1, Some(Origin::Other)),
                (9, 2, None),
            ] {
                let mut changed = route.clone();
                changed[at] = value;
                assert_eq!(origin(&changed, family), wanted, "byte {at} is {value}");
            }
        }
    }
}
