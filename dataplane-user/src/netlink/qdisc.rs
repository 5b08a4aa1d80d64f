//! What packets meet at tc on their way out beside our programs: queueing disciplines, and classifiers that were set up the
//! old way, with `tc filter` (rtnetlink(7)).

use std::collections::BTreeMap;

use dataplane_common::abi::Ifindex;

use super::{
    Error,
    attribute::{Attributes, text, u32_at},
    socket::Requester,
};

/// `struct tcmsg`.
const HEADER: usize = 20;
const TCA_KIND: u16 = 1;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and `TC_H_MIN_EGRESS`.
const PARENTS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];

/// The defaults of devices: packets leave as they come, or flow by flow, and a packet that bypasses the queue makes no
/// difference. And those that are not on the egress path.
const PLAIN: [&str; 8] = ["noqueue", "pfifo_fast", "fq", "fq_codel", "mq", "ingress", "clsact", ""];

/// Whether a discipline is one that a device has by default.
pub(super) fn is_plain(kind: &str) -> bool {
    PLAIN.contains(&kind)
}

/// The disciplines that shape, rank or drop what a device sends (`htb`, `cake`, ...), by device.
pub(super) fn shaping(requester: &mut Requester) -> Result<BTreeMap<Ifindex, Vec<String>>, Error> {
    let all =
        requester.dump("queueing disciplines", libc::RTM_GETQDISC, &[0; HEADER], |message| parse(message.payload))?;
    let mut found: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for (ifindex, kind) in all {
        let kinds = found.entry(ifindex).or_default();
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    // A class of a discipline that shapes may well end in one that does not.
    found.retain(|_, kinds| {
        kinds.retain(|kind| !is_plain(kind));
        !kinds.is_empty()
    });
    Ok(found)
}

fn parse(payload: &[u8]) -> Option<(Ifindex, String)> {
    let kind = Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == TCA_KIND)?.1;
    Some((u32_at(payload, 4)?, text(kind)))
}

/// Kinds of the classifiers (`bpf`, `flower`, ...) at ingress and egress of an interface, as `tc filter show` lists them.
///
/// # Errors
///
/// The socket, or a dump that never settles.
pub fn classifiers(ifindex: Ifindex) -> Result<Vec<String>, Error> {
    let mut requester = Requester::open(libc::NETLINK_ROUTE as isize)?;
    let mut kinds = Vec::new();
    for parent in PARENTS {
        let mut request = vec![0; HEADER];
        request[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        request[12..16].copy_from_slice(&parent.to_ne_bytes());
        match requester.dump("classifiers", libc::RTM_GETTFILTER, &request, |message| {
            let kind = Attributes::behind(message.payload, HEADER).find(|(kind, _)| *kind == TCA_KIND);
            kind.map(|(_, value)| text(value))
        }) {
            // Without a clsact qdisc there is nothing to list.
            Err(Error::Refused { .. }) => {}
            found => kinds.extend(found?),
        }
    }
    // Each classifier is listed with its table and with its rules.
    kinds.dedup();
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use super::{super::attribute::put, *};

    #[test]
    fn kinds_are_read() {
        for (kind, plain) in [("cake", false), ("htb", false), ("fq_codel", true), ("mq", true), ("pfifo", false)] {
            let mut message = vec![0; HEADER];
            message[4..8].copy_from_slice(&7_u32.to_ne_bytes());
            put(&mut message, TCA_KIND, kind.as_bytes());
            assert_eq!(parse(&message), Some((7, kind.to_owned())));
            assert_eq!(is_plain(kind), plain, "{kind}");
        }
    }
}
