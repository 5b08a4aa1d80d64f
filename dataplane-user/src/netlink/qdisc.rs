//! Classifiers at tc that were set up the old way, with `tc filter` (rtnetlink(7)).

use dataplane_common::abi::Ifindex;

use super::{
    Error,
    attribute::{Attributes, text},
    socket::Asker,
};

/// `struct tcmsg`.
const HEADER: usize = 20;
const TCA_KIND: u16 = 1;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and `TC_H_MIN_EGRESS`.
const PARENTS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];

/// Kinds of the classifiers (`bpf`, `flower`, ...) at ingress and egress of an interface, as `tc filter show` lists them.
///
/// # Errors
///
/// The socket, or a dump that never settles.
pub fn classifiers(ifindex: Ifindex) -> Result<Vec<String>, Error> {
    let mut asker = Asker::open(libc::NETLINK_ROUTE as isize)?;
    let mut kinds = Vec::new();
    for parent in PARENTS {
        let mut request = vec![0; HEADER];
        request[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        request[12..16].copy_from_slice(&parent.to_ne_bytes());
        match asker.dump("classifiers", libc::RTM_GETTFILTER, &request, |message| {
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
