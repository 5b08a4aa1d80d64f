//! The connection of a packet that was traced, or tried: its row, and why that does not carry it.

use dataplane_common::{
    Reason,
    abi::{Features, TraceRecord},
};

use super::{
    Daemon,
    flow_query::{tuple, way_row},
    trace_row,
    traced::Traced,
};
use crate::control::flow::PacketFlow;

impl Daemon {
    /// The row of a packet; none if it has none.
    pub(super) fn packet_flow(&self, record: &TraceRecord) -> Option<Box<PacketFlow>> {
        let seen = Traced::of(&record.flow, record.iif)?;
        let reason = trace_row::reason(record);
        Some(Box::new(PacketFlow {
            proto: seen.protocol.to_owned(),
            original: tuple(seen.original),
            reply: tuple(seen.reply),
            mark: seen.mark,
            direction: if seen.is_reply { "reply" } else { "original" }.to_owned(),
            way: way_row(&seen.way, |ifindex| self.name(ifindex)),
            translated: seen.leaves.filter(|_| reason == Reason::Forwarded).map(tuple),
            why: why(&seen, reason),
        }))
    }

    /// What `explain` says of the connection of a packet; none where connections have no part in it.
    pub(super) fn flow_stage(&self, record: &TraceRecord, flow: Option<&PacketFlow>) -> Option<String> {
        if let Some(flow) = flow {
            return Some(flow.to_string());
        }
        if trace_row::reason(record) != Reason::Netfilter {
            return None;
        }
        if self.plane.features().contains(Features::FLOWS) {
            return Some(
                "no row is for this packet; `dataplane flow list --why-not` says why of each connection".to_owned(),
            );
        }
        let link = self.observed.model().links.get(&record.port)?;
        Some(format!("no connection is carried: {}", self.flows_word(link)))
    }
}

/// Why a row does not carry a packet; none where it does, or something else ended its path.
fn why(seen: &Traced, reason: Reason) -> Option<String> {
    let why = match reason {
        Reason::FlowUnarmed if seen.held => "changed rules of netfilter are not judged yet".to_owned(),
        Reason::FlowUnarmed if seen.elsewhere => {
            "it came in through another interface than those that the kernel has let through".to_owned()
        }
        Reason::FlowUnarmed => {
            "the kernel has let no packet of this direction through under the rules in force".to_owned()
        }
        Reason::FlowRenew => {
            format!("the lease of {} ms is over: the kernel sees a packet again", seen.lease.as_millis())
        }
        Reason::FlowClosing => "FIN, RST or SYN was seen: the kernel has the rest".to_owned(),
        Reason::FlowMoved => "its route leads out through another interface now".to_owned(),
        _ => return None,
    };
    Some(why)
}

#[cfg(test)]
mod tests {
    use dataplane_common::abi::FlowTrace;

    use super::*;

    #[test]
    fn a_row_that_carries_has_no_excuse() {
        let mut trace = FlowTrace { family: 4, epoch: 6, ..FlowTrace::default() };
        trace.words[1] = 17 << 24;
        for (arming, reason, expected) in [
            (6, Reason::Forwarded, None),
            (6, Reason::FilterForward, None),
            (6, Reason::FlowUnarmed, Some("under the rules in force")),
            (0, Reason::FlowUnarmed, Some("not judged yet")),
            (6, Reason::FlowRenew, Some("lease of 0 ms")),
            (6, Reason::FlowClosing, Some("FIN")),
            (6, Reason::FlowMoved, Some("another interface")),
        ] {
            trace.arming = arming;
            let found = why(&Traced::of(&trace, 3).expect("a row"), reason);
            assert_eq!(found.is_some(), expected.is_some(), "{reason:?}: {found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{reason:?}");
        }
    }
}
