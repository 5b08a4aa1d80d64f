//! What the kernel half tells of single packets, in the operator's words.

use std::net::IpAddr;

use dataplane_common::{
    Reason, Verdict,
    abi::{TraceRecord, chain_trace},
};

use super::{Daemon, chains::InstalledRule, query::longest};
use crate::{
    control::row::VerdictRow,
    event::{Interfaces, Packet, line},
    model::{Family, Model},
    rule::ChainName,
};

/// What a chain said of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainTrace<'a> {
    pub chain: ChainName,
    /// The rule that decided; none where the policy did, or a rule that has gone meanwhile.
    pub rule: Option<&'a InstalledRule>,
    /// Whether a rule decided.
    pub by_rule: bool,
}

/// The bytes of a frame that are here.
pub(super) fn bytes(record: &TraceRecord) -> &[u8] {
    record.bytes.get(..record.captured as usize).unwrap_or(&record.bytes)
}

/// What can be read of the packet; none when it is no IP packet.
pub(super) fn packet(record: &TraceRecord) -> Option<Packet<'_>> {
    Packet::within(bytes(record), record.offset as usize, record.length as usize)
}

/// The reason for which it ended.
pub(super) fn reason(record: &TraceRecord) -> Reason {
    Reason::ALL.get(record.reason as usize).copied().unwrap_or(Reason::NotIp)
}

impl Daemon {
    /// Finds out where rules stand, if that is not known.
    pub(super) fn index_rules(&mut self) {
        self.packets.index_rules(&self.desired);
    }

    /// The rule with a counter.
    fn rule_of(&self, counter: u32) -> Option<&InstalledRule> {
        let (chain, position) = self.packets.place_of(counter, &self.desired)?;
        self.desired.chains().rules(chain).get(position)
    }

    /// What the chains said that the packet met, in their order. [`Self::index_rules`] comes first.
    pub(super) fn chain_traces(&self, record: &TraceRecord) -> Vec<ChainTrace<'_>> {
        let evaluated =
            ChainName::ALL.into_iter().zip(record.chains).filter(|(_, trace)| trace & chain_trace::EVALUATED != 0);
        let trace = evaluated.map(|(chain, trace)| {
            let rule = (trace & chain_trace::RULE != 0).then(|| self.rule_of(trace & chain_trace::COUNTER)).flatten();
            ChainTrace { chain, rule, by_rule: trace & chain_trace::RULE != 0 }
        });
        trace.collect()
    }

    /// What became of the packet, and who said so.
    pub(super) fn verdict_row(&self, record: &TraceRecord) -> VerdictRow {
        let reason = reason(record);
        let trace = self.chain_traces(record);
        // The last chain decided, or let it pass.
        let last = trace.iter().rev().find(|trace| trace.rule.is_some()).or(trace.last());
        let decided = trace.last().filter(|_| reason.verdict() == Verdict::Drop).or(last);
        let destination = packet(record).map(|packet| packet.destination());
        let out = self.plane.want().adjacencies.get(&record.adjacency);
        let routed = record.target != chain_trace::NONE;
        let route =
            destination.filter(|_| routed).and_then(|address| self.matched(address, out.map(|out| out.ifindex)));
        VerdictRow {
            verdict: reason.verdict().name().to_owned(),
            reason: reason.name().to_owned(),
            chain: decided.map(|trace| trace.chain),
            handle: decided.and_then(|trace| trace.rule).map(|rule| rule.handle),
            rule: decided.and_then(|trace| trace.rule).map(|rule| rule.rule.to_string()),
            prefix: route.as_ref().map(|(prefix, _)| prefix.clone()),
            dev: out
                .map(|out| out.ifindex)
                .or((reason == Reason::Bridged).then_some(record.oif))
                .map(|out| self.name(out)),
            via: route.and_then(|(_, via)| via).filter(|_| out.is_some()),
            lladdr: out.and_then(|out| Some(out.link_address()?.to_string())),
            flow: self.packet_flow(record),
            recipient: None,
        }
    }

    /// The prefix of the route to an address, and the router on an interface, if there is one.
    fn matched(&self, address: IpAddr, out: Option<u32>) -> Option<(String, Option<IpAddr>)> {
        fn via<A: Family>(model: &Model, address: A, out: Option<u32>) -> Option<(String, Option<IpAddr>)> {
            let (prefix, route) = longest(model, address)?;
            let hop = route.next_hops.iter().find(|hop| Some(hop.dev) == out);
            Some((prefix.to_string(), hop.and_then(|hop| hop.via)))
        }
        match address {
            IpAddr::V4(v4) => via(self.observed.model(), u32::from(v4), out),
            IpAddr::V6(v6) => via(self.observed.model(), u128::from(v6), out),
        }
    }

    /// What can be read of the packet, in a line.
    pub(super) fn line(&self, record: &TraceRecord) -> String {
        let name = |ifindex: u32| if ifindex == 0 { String::new() } else { self.name(ifindex) };
        let (iif, oif) = (name(record.iif), name(record.oif));
        let interfaces = Interfaces { iif: &iif, oif: &oif };
        match packet(record) {
            Some(packet) => line(&packet, interfaces),
            None => format!("IN={iif} OUT={oif} LEN={} {}", record.length, link(bytes(record))),
        }
    }
}

/// What can be read of a frame that is no IP packet.
fn link(frame: &[u8]) -> String {
    let text = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    match frame.get(..14) {
        Some(header) => {
            let kind = u16::from_be_bytes([header[12], header[13]]);
            format!("{} > {} ethertype 0x{kind:04x}", text(&header[6..12]), text(&header[..6]))
        }
        None => format!("bytes {}", text(frame)),
    }
}
