//! The routing rules and the route by which packets with the mark of delivery are for this machine, whatever their destination
//! is: `ip rule add fwmark M/M iif PORT lookup 218 protocol 218`, `ip route add local default dev lo table 218 protocol 218`.
//!
//! A rule for each interface, because rules without one also meet the lookup that validates sources where
//! `net.ipv4.conf.all.src_valid_mark` is set, as wg-quick does, and then every source is this machine's.

use std::collections::BTreeSet;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

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
    let there: Vec<_> = requester
        .dump("routing rules", libc::RTM_GETRULE, &header, |message| ours(message.payload, family))?
        .into_iter()
        .collect();
    let mut changed = false;
    if !interfaces.is_empty() && !has_route(requester, family)? {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
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
    if interfaces.is_empty() && has_route(requester, family)? {
        requester.tell("the route of delivery", libc::RTM_DELROUTE, NLM_F_ACK, &local_route(family))?;
        changed = true;
    }
    Ok(changed)
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

/// Whether the route is there.
fn has_route(requester: &mut Requester, family: u8) -> Result<bool, Error> {
    let mut request = vec![0; route::HEADER];
    request[0] = family;
    request[4] = TABLE;
    put(&mut request, route::RTA_TABLE, &u32::from(TABLE).to_ne_bytes());
    let found = requester.dump("routes", libc::RTM_GETROUTE, &request, |message| {
        let payload = message.payload;
        let same = u8_at(payload, 0)? == family
            && u8_at(payload, 1)? == 0
            && u8_at(payload, 4)? == TABLE
            && u8_at(payload, 7)? == LOCAL;
        same.then_some(())
    });
    match found {
        // A kernel that lists tables one by one knows none of this number.
        Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        found => Ok(!found?.is_empty()),
    }
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
}
