//! What packets meet at tc on their way out beside our programs: queueing disciplines, and classifiers that were set up the
//! old way, with `tc filter` (rtnetlink(7)).

use std::collections::BTreeMap;

use dataplane_common::abi::Ifindex;

use super::{
    Error,
    attribute::{Attributes, text, u32_at},
    socket::Requester,
};
use crate::{kernel::is_ours, model::TcPlace};

/// `struct tcmsg`.
const HEADER: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;

/// The defaults of devices: packets leave as they come, or flow by flow, and a packet that bypasses the queue makes no
/// difference. And those that are not on the egress path.
const PLAIN: [&str; 8] = ["noqueue", "pfifo_fast", "fq", "fq_codel", "mq", "ingress", "clsact", ""];

/// Whether a discipline is one that a device has by default.
pub(super) fn is_plain(kind: &str) -> bool {
    PLAIN.contains(&kind)
}

/// What shapes, ranks, drops or changes what a device sends, by device: disciplines (`qdisc htb`) and classifiers of others
/// (`filter flower`).
pub(super) fn shaping(requester: &mut Requester) -> Result<BTreeMap<Ifindex, Vec<String>>, Error> {
    let all =
        requester.dump("queueing disciplines", libc::RTM_GETQDISC, &[0; HEADER], |message| parse(message.payload))?;
    let mut found: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for (ifindex, kind) in all {
        let kinds = found.entry(ifindex).or_default();
        // A class of a discipline that shapes may well end in one that does not.
        let new = match &*kind {
            "clsact" => listed(requester, ifindex, TcPlace::Egress)?,
            kind if is_plain(kind) => Vec::new(),
            kind => vec![format!("qdisc {kind}")],
        };
        for what in new {
            if !kinds.contains(&what) {
                kinds.push(what);
            }
        }
    }
    found.retain(|_, kinds| !kinds.is_empty());
    Ok(found)
}

fn parse(payload: &[u8]) -> Option<(Ifindex, String)> {
    let kind = Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == TCA_KIND)?.1;
    Some((u32_at(payload, 4)?, text(kind)))
}

/// The classifiers of others (`filter bpf`, `filter flower`, ...) at a place of an interface, as `tc filter show` lists them.
///
/// # Errors
///
/// The socket, or a dump that never settles.
pub fn classifiers(ifindex: Ifindex, place: TcPlace) -> Result<Vec<String>, Error> {
    let mut kinds = listed(&mut Requester::open(libc::NETLINK_ROUTE as isize)?, ifindex, place)?;
    kinds.dedup();
    Ok(kinds)
}

fn listed(requester: &mut Requester, ifindex: Ifindex, place: TcPlace) -> Result<Vec<String>, Error> {
    let mut request = vec![0; HEADER];
    request[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    // `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and `TC_H_MIN_EGRESS`.
    let parent: u32 = match place {
        TcPlace::Ingress => 0xffff_fff2,
        TcPlace::Egress => 0xffff_fff3,
    };
    request[12..16].copy_from_slice(&parent.to_ne_bytes());
    let found =
        requester.dump("classifiers", libc::RTM_GETTFILTER, &request, |message| foreign_classifier(message.payload));
    match found {
        // Without a clsact qdisc there is nothing to list.
        Err(Error::Refused { .. }) => Ok(Vec::new()),
        found => found,
    }
}

/// What a classifier is called, unless it is a program of ours, which are attached like this before Linux 6.6.
fn foreign_classifier(payload: &[u8]) -> Option<String> {
    let attribute =
        |wanted| Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    // Each is listed with its table, which is nothing, and with its rules.
    let options = attribute(TCA_OPTIONS)?;
    let program = Attributes::within(options).find(|(kind, _)| *kind == TCA_BPF_NAME);
    let is_ours = program.is_some_and(|(_, name)| is_ours(&text(name)));
    (!is_ours).then(|| format!("filter {}", attribute(TCA_KIND).map_or_else(String::new, text)))
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

    #[test]
    fn classifiers_are_those_of_others() {
        for (kind, program, expected) in [
            ("flower", None, Some("filter flower")),
            ("bpf", Some("limiter"), Some("filter bpf")),
            ("bpf", Some("tc_egress"), None),
        ] {
            let (mut message, mut options) = (vec![0; HEADER], Vec::new());
            put(&mut message, TCA_KIND, kind.as_bytes());
            assert_eq!(foreign_classifier(&message), None, "its table");
            if let Some(name) = program {
                put(&mut options, TCA_BPF_NAME, str::as_bytes(name));
            }
            put(&mut message, TCA_OPTIONS, &options);
            assert_eq!(foreign_classifier(&message).as_deref(), expected, "{kind} {program:?}");
        }
    }
}
