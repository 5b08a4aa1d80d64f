//! Raw sockets that read packets: DHCP clients have them, and what they wait for may be for an address that is not there yet.

use std::collections::BTreeSet;

use dataplane_common::abi::Ifindex;

use super::observed::Observed;

/// Raw sockets of the daemon's network namespace.
const SOCKETS: &str = "/proc/thread-self/net/packet";

impl Observed {
    /// Looks for such sockets; whether that changes anything. Where they cannot be listed there may be some.
    pub(super) fn look_for_raw_readers(&mut self) -> bool {
        let readers = std::fs::read_to_string(SOCKETS).map_or(true, |text| reads(&text));
        self.set_raw_readers(readers)
    }
}

/// The links whose outgoing packets a socket sees, too, as captures do; 0: those of all links. `None` where the sockets cannot be
/// listed. The others see only what comes in.
pub(super) fn taps() -> Option<BTreeSet<Ifindex>> {
    std::fs::read_to_string(SOCKETS).ok().map(|text| tapped(&text))
}

fn tapped(text: &str) -> BTreeSet<Ifindex> {
    let link = |line: &str| {
        let mut fields = line.split_whitespace().skip(3);
        (fields.next()? == "0003").then(|| fields.next()?.parse().ok()).flatten()
    };
    text.lines().skip(1).filter_map(link).collect()
}

/// Whether a socket takes IPv4 packets, alone or among all.
fn reads(text: &str) -> bool {
    let protocols = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3));
    protocols.into_iter().any(|protocol| matches!(protocol, "0003" | "0800"))
}

#[cfg(test)]
mod tests {
    use super::{reads, tapped};

    #[test]
    fn sockets_are_told_apart_by_what_they_take() {
        const HEAD: &str = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n";
        let socket =
            |protocol: &str| format!("{HEAD}0000000000000000 3      3    {protocol}   2     1 0      0      36064 \n");
        assert!(!reads(HEAD) && !reads(""));
        for (protocol, takes) in [("0003", true), ("0800", true), ("88cc", false), ("888e", false), ("86dd", false)] {
            assert_eq!(reads(&socket(protocol)), takes, "{protocol}");
        }
        for (protocol, links) in [("0003", vec![2]), ("0800", vec![]), ("86dd", vec![])] {
            assert_eq!(tapped(&socket(protocol)).into_iter().collect::<Vec<_>>(), links, "{protocol}");
        }
    }
}
