//! What the kernel half tells of single packets, in the operator's words.

use std::{collections::HashMap, net::IpAddr};

use dataplane_common::{
    Decision, Reason,
    abi::{AdjacencyFlags, Sighting, met},
};

use super::{Daemon, answer::longest, filter::Standing};
use crate::{
    control::row::Judgement,
    event::{Packet, Ways, line},
    model::{Family, Routes},
    rule::ChainName,
};

/// Where rules stand, by their counters: chain, and place in it. Not known after the chains have changed, until somebody
/// asks.
pub(super) type Places = Option<HashMap<u32, (ChainName, usize)>>;

/// What a chain said of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said<'a> {
    pub chain: ChainName,
    /// The rule that decided; none where the policy did, or a rule that has gone meanwhile.
    pub rule: Option<&'a Standing>,
    /// Whether a rule decided.
    pub by_rule: bool,
}

/// The bytes of a frame that are here.
pub(super) fn bytes(sighting: &Sighting) -> &[u8] {
    sighting.bytes.get(..sighting.captured as usize).unwrap_or(&sighting.bytes)
}

/// What can be read of the packet; none when it is no IP packet.
pub(super) fn packet(sighting: &Sighting) -> Option<Packet<'_>> {
    Packet::within(bytes(sighting), sighting.offset as usize, sighting.length as usize)
}

/// The reason for which it ended.
pub(super) fn reason(sighting: &Sighting) -> Reason {
    Reason::ALL.get(sighting.reason as usize).copied().unwrap_or(Reason::NotIp)
}

impl Daemon {
    /// Finds out where rules stand, if that is not known.
    pub(super) fn find_rules(&mut self) {
        let chains = &self.chains;
        self.places.get_or_insert_with(|| {
            let all = ChainName::ALL.into_iter();
            let places = all.flat_map(|chain| {
                chains.rules(chain).iter().enumerate().map(move |(place, one)| (one.counter, (chain, place)))
            });
            places.collect()
        });
    }

    /// The rule with a counter.
    fn rule_of(&self, counter: u32) -> Option<&Standing> {
        let (chain, place) = self.places.as_ref()?.get(&counter)?;
        self.chains.rules(*chain).get(*place)
    }

    /// What the chains said that the packet met, in their order. [`Self::find_rules`] comes first.
    pub(super) fn said(&self, sighting: &Sighting) -> Vec<Said<'_>> {
        let asked = ChainName::ALL.into_iter().zip(sighting.chains).filter(|(_, said)| said & met::ASKED != 0);
        let said = asked.map(|(chain, said)| {
            let rule = (said & met::RULE != 0).then(|| self.rule_of(said & met::COUNTER)).flatten();
            Said { chain, rule, by_rule: said & met::RULE != 0 }
        });
        said.collect()
    }

    /// What became of the packet, and who said so.
    pub(super) fn judgement(&self, sighting: &Sighting) -> Judgement {
        let reason = reason(sighting);
        let said = self.said(sighting);
        // The last chain decided, or let it pass.
        let last = said.iter().rev().find(|said| said.rule.is_some()).or(said.last());
        let decided = said.last().filter(|_| reason.decision() == Decision::Drop).or(last);
        let destination = packet(sighting).map(|packet| packet.destination());
        let out = self.lowering.want().adjacencies.get(&sighting.adjacency);
        let routed = sighting.target != met::NOTHING;
        let route =
            destination.filter(|_| routed).and_then(|address| self.matched(address, out.map(|out| out.ifindex)));
        Judgement {
            verdict: reason.decision().name().to_owned(),
            reason: reason.name().to_owned(),
            chain: decided.map(|said| said.chain),
            handle: decided.and_then(|said| said.rule).map(|rule| rule.handle),
            rule: decided.and_then(|said| said.rule).map(|rule| rule.rule.to_string()),
            prefix: route.as_ref().map(|(prefix, _)| prefix.clone()),
            dev: out.map(|out| self.name(out.ifindex)),
            via: route.and_then(|(_, via)| via).filter(|_| out.is_some()),
            lladdr: out
                .filter(|out| out.flags().contains(AdjacencyFlags::RESOLVED))
                .map(|out| out.destination.to_string()),
        }
    }

    /// The prefix of the route to an address, and the router on an interface, if there is one.
    fn matched(&self, address: IpAddr, out: Option<u32>) -> Option<(String, Option<IpAddr>)> {
        fn via<A: Family>(routes: &Routes<A>, address: A, out: Option<u32>) -> Option<(String, Option<IpAddr>)> {
            let (prefix, route) = longest(routes, address)?;
            let hop = route.next_hops.iter().find(|hop| Some(hop.dev) == out);
            Some((prefix.to_string(), hop.and_then(|hop| hop.via)))
        }
        match address {
            IpAddr::V4(v4) => via(&self.model.routes4, u32::from(v4), out),
            IpAddr::V6(v6) => via(&self.model.routes6, u128::from(v6), out),
        }
    }

    /// What can be read of the packet, in a line.
    pub(super) fn line(&self, sighting: &Sighting) -> String {
        let name = |ifindex: u32| if ifindex == 0 { String::new() } else { self.name(ifindex) };
        let (iif, oif) = (name(sighting.iif), name(sighting.oif));
        let ways = Ways { iif: &iif, oif: &oif };
        match packet(sighting) {
            Some(packet) => line(&packet, ways),
            None => format!("IN={iif} OUT={oif} LEN={} {}", sighting.length, link(bytes(sighting))),
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
