//! Rows for the verbs that only read.

use std::collections::BTreeMap;

use dataplane_common::{
    Reason, Verdict,
    abi::{Control, ELSEWHERE, PortCounters, PortFlags},
};

use super::{Daemon, chains::InstalledRule};
use crate::{
    config::NetfilterChoice,
    control::{
        protocol::{Failure, FailureKind},
        row::{Counts, LinkRow, NextHopRow, PortRow, RouteRow, RoutesRow, RuleRow, Stats},
    },
    kernel::TableError,
    lower::Shielded,
    model::{
        Action, Family, IpVersion, Link, Model, OwnCount, Prefix, RouteInfo, RouteSource, RouteType, protocol_name,
    },
    netlink::{LinkCounters, link_counters},
    rule::ChainName,
};

/// The state of a port whose programs an earlier daemon attached, and this one leaves as they are.
const QUARANTINED: &str = "held";

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        Self::new(FailureKind::Failed, error.to_string())
    }
}

/// The counters of a port by decision and by reason.
pub(super) fn digest(counters: &PortCounters) -> (Counts, BTreeMap<&'static str, u64>) {
    let mut sums = [0; 4];
    let mut reasons = BTreeMap::new();
    for (reason, counter) in Reason::ALL.iter().zip(counters.reasons) {
        reasons.insert(reason.name(), counter.packets);
        match reason.verdict() {
            Verdict::Forward => sums[0] += counter.packets,
            Verdict::Deliver => sums[1] += counter.packets,
            Verdict::Drop => sums[2] += counter.packets,
            Verdict::Kernel => sums[3] += counter.packets,
            // Not received on the port.
            Verdict::Withhold => {}
        }
    }
    (Counts::new(sums[0], sums[1], sums[2], sums[3]), reasons)
}

impl Daemon {
    /// Ports that are attached, that failed, and that are waited for by name.
    pub(super) fn port_rows(&self, only: Option<&str>) -> Result<Vec<PortRow>, Failure> {
        let mut rows = Vec::new();
        let meant = only.and_then(|name| self.observed.link_called(name)).map(|link| link.ifindex);
        // `doctor` asks for each port: the rows of the others are not made.
        let is_meant = |link: &&Link| only.is_none_or(|name| link.name == name || Some(link.ifindex) == meant);
        let link_of = |ifindex| self.observed.model().links.get(ifindex).filter(is_meant);
        for (ifindex, port) in self.plane.attached() {
            let Some(link) = link_of(ifindex) else { continue };
            let counts = match self.plane.slot(*ifindex) {
                Some(slot) => digest(&self.plane.port_counters(slot)?).0,
                None => Counts::default(),
            };
            let state = if link.up { "up" } else { "down" };
            let (taken, ipsec) = (self.taker(link), Shielded::by(&self.observed.model().ipsec).is_some());
            let (routes, netfilter) = (self.routes_row(link), self.netfilter_word(link).to_owned());
            let (flows, peer) = (self.flows_word(link), self.peer_word(link).to_owned());
            let row = PortRow { switching: self.switching_word(link), ..row(link, port.mode.name(), state, counts) };
            rows.push(PortRow { routes, taken, ipsec, netfilter, flows, peer, ..row });
        }
        for (ifindex, slot) in self.quarantined_slots() {
            let Some(link) = link_of(ifindex) else { continue };
            let mode = self.plane.attached_mode(*ifindex);
            rows.push(row(link, mode, QUARANTINED, digest(&self.plane.port_counters(*slot)?).0));
        }
        for (ifindex, reason) in self.plane.ports().failed().iter().chain(self.plane.ports().postponed()) {
            let Some(link) = self.observed.model().links.get(ifindex) else { continue };
            let mode = self
                .desired
                .ports()
                .wanted_with_bridge(link, &self.observed)
                .map_or("auto", |wanted| wanted.mode.name());
            rows.push(row(link, mode, &format!("failed: {reason}"), Counts::default()));
        }
        for wanted in self.desired.ports().config() {
            let name = wanted.pattern.as_str();
            if !wanted.pattern.is_glob() && self.observed.link_called(name).is_none() {
                let link = Link { name: name.to_owned(), ..Link::default() };
                rows.push(row(&link, wanted.mode.name(), "absent", Counts::default()));
            }
        }
        rows.retain(|row| only.is_none_or(|name| row.name == name || Some(row.ifindex) == meant));
        if let (Some(name), true) = (only, rows.is_empty()) {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!("{name} is not a port; `dataplane port list` shows what is attached"),
            ));
        }
        Ok(rows)
    }

    /// The device that takes the frames of a port; none where those for a bridge are judged at its member.
    fn taker(&self, link: &Link) -> Option<String> {
        let mut devices = self.plane.want().vlans.iter().filter(|(key, _)| key.ifindex == link.ifindex);
        let bridged = devices.any(|(_, device)| device.flags().contains(PortFlags::BRIDGED));
        self.observed.model().taker(link).filter(|_| !bridged)
    }

    /// Whether a member of a bridge switches, or why not.
    fn switching_word(&self, link: &Link) -> Option<String> {
        let model = self.observed.model();
        let why = model.why_kernel_switches_at(link)?;
        let slot = self.plane.slot(link.ifindex);
        let port = slot.and_then(|slot| self.plane.want().ports.get(&slot));
        let on = port.is_some_and(|port| port.flags().contains(PortFlags::SWITCHES));
        Some(if on { "on" } else { why.unwrap_or("its bridge, or a member of that, is no port") }.to_owned())
    }

    fn routes_row(&self, link: &Link) -> RoutesRow {
        let name = |version| self.route_source(version, link).name().to_owned();
        RoutesRow { ipv4: name(IpVersion::V4), ipv6: name(IpVersion::V6) }
    }

    /// Who says where packets go that come in through a link.
    pub(super) fn route_source(&self, version: IpVersion, link: &Link) -> RouteSource {
        let bit = match version {
            IpVersion::V4 => Control::MIRROR_V4,
            IpVersion::V6 => Control::MIRROR_V6,
        };
        let model = self.observed.model();
        let follows = self.desired.flows().netfilter == NetfilterChoice::Follow && model.meets_netfilter(version, link);
        let mirrored = self.plane.want().mirror & bit != 0 && !follows;
        if mirrored { model.route_source(version, link) } else { RouteSource::Stack }
    }

    /// Totals, reasons and ports; of one port where one is named.
    pub(super) fn stats(&self, only: Option<&str>) -> Result<Stats, Failure> {
        let ports = self.port_rows(only)?;
        let mut totals = Counts::default();
        let mut sums: BTreeMap<&'static str, u64> = Reason::ALL.iter().map(|reason| (reason.name(), 0)).collect();
        let own = self.plane.want().ports.iter().map(|(slot, port)| (port.ifindex, *slot));
        let quarantine = self.quarantined_slots().iter().map(|(ifindex, slot)| (*ifindex, *slot));
        for (ifindex, slot) in own.chain(quarantine) {
            if !ports.iter().any(|row| row.ifindex == ifindex) {
                continue;
            }
            let (counts, reasons) = digest(&self.plane.port_counters(slot)?);
            totals += counts;
            for (name, packets) in reasons {
                *sums.entry(name).or_default() += packets;
            }
        }
        if only.is_none() {
            for (name, packets) in digest(&self.plane.port_counters(ELSEWHERE)?).1 {
                *sums.entry(name).or_default() += packets;
            }
            totals += self.plane.retired().counts;
            for (name, packets) in &self.plane.retired().reasons {
                *sums.entry(name).or_default() += packets;
            }
        }
        let renewed = sums.get("flow_renew").copied();
        let reasons = sums.into_iter().map(|(name, packets)| (name.to_owned(), packets)).collect();
        let links = link_rows(&ports);
        Ok(Stats {
            flows: self.flow_counts(renewed).map(Box::new),
            kernel_rules: self.kernel_rules_row().map(Box::new),
            totals,
            reasons,
            ports,
            links,
            mirror: self.observed.mirror_row(),
            heartbeat: self.desired.heartbeat().after,
        })
    }

    /// A rule with its counts.
    pub(super) fn rule_row(
        &self,
        chain: ChainName,
        installed: &InstalledRule,
        kernel: &BTreeMap<u64, OwnCount>,
    ) -> Result<RuleRow, Failure> {
        let counter = self.plane.rule_counter(installed.counter)?;
        // A packet counts at the driver or in the kernel.
        let there = kernel.get(&installed.handle).copied().unwrap_or_default();
        Ok(RuleRow {
            chain,
            handle: installed.handle,
            rule: installed.rule.to_string(),
            packets: counter.packets + there.packets,
            bytes: counter.bytes + there.bytes,
        })
    }

    pub(super) fn name(&self, ifindex: u32) -> String {
        self.observed.model().links.get(&ifindex).map_or_else(|| format!("if{ifindex}"), |link| link.name.clone())
    }

    pub(super) fn route_row<A: Family>(&self, table: u32, prefix: Prefix<A>, route: &RouteInfo<A>) -> RouteRow {
        RouteRow {
            dst: prefix.to_string(),
            kind: route.kind.name().to_owned(),
            nexthops: route
                .next_hops
                .iter()
                .map(|hop| NextHopRow {
                    via: hop.via,
                    dev: (hop.dev != 0).then(|| self.name(hop.dev)),
                    weight: hop.weight,
                })
                .collect(),
            mtu: route.mtu,
            packets: None,
            protocol: protocol_name(route.protocol),
            metric: route.priority,
            table,
        }
    }
}

/// The longest match in the first table that has one, for people: the decision itself comes from the targets.
pub(super) fn longest<A: Family>(model: &Model, address: A) -> Option<(Prefix<A>, &RouteInfo<A>)> {
    let host = Prefix::new(address, A::BITS as u8);
    for step in model.table_order::<A>().steps.iter().filter(|step| step.within.contains(address)) {
        let Action::Table { table, suppress } = step.action else { return None };
        let mut around = A::routes(model).around(table, host);
        let Some((prefix, route)) =
            around.find_map(|(prefix, all)| Some((prefix, all.iter().find(|one| one.is_alive())?)))
        else {
            continue;
        };
        let counts = route.kind.is_end() || suppress.is_none_or(|least| prefix.length() > least);
        if counts && route.kind != RouteType::Throw {
            return Some((prefix, route));
        }
    }
    None
}

/// What the kernel counts at ports.
pub(super) fn link_rows(ports: &[PortRow]) -> Vec<LinkRow> {
    let counters = link_counters().unwrap_or_else(|error| {
        tracing::warn!("the counters of links cannot be read: {error}");
        BTreeMap::new()
    });
    ports.iter().filter_map(|port| Some(link_row(port, counters.get(&port.ifindex)?))).collect()
}

/// The kernel's counters of a port, and ours where they are ahead: a driver may not count what XDP takes from it.
fn link_row(port: &PortRow, counters: &LinkCounters) -> LinkRow {
    // Without what was dropped: drivers that do not count that as received count it as dropped.
    let ours = port.counts.rx - port.counts.dropped;
    LinkRow {
        name: port.name.clone(),
        ifindex: port.ifindex,
        rx_packets: counters.rx_packets.max(ours),
        rx_bytes: counters.rx_bytes,
        rx_errors: counters.rx_errors,
        rx_dropped: counters.rx_dropped,
        tx_packets: counters.tx_packets,
        tx_bytes: counters.tx_bytes,
        tx_errors: counters.tx_errors,
        tx_dropped: counters.tx_dropped,
    }
}

fn row(link: &Link, mode: &str, state: &str, counts: Counts) -> PortRow {
    PortRow {
        name: link.name.clone(),
        ifindex: link.ifindex,
        mode: mode.to_owned(),
        state: state.to_owned(),
        mac: link.mac.map(|mac| mac.to_string()),
        mtu: link.mtu,
        vlan: link.vlan.map(|vlan| vlan.tag.id()),
        routes: RoutesRow::default(),
        taken: None,
        ipsec: false,
        netfilter: "none".to_owned(),
        flows: "none".to_owned(),
        header: header(link).to_owned(),
        layer3: Some(link)
            .filter(|link| header(link) == "none")
            .and_then(|link| link.layer3.why_kernel())
            .map(str::to_owned),
        switching: None,
        peer: "none".to_owned(),
        counts,
    }
}

/// What the packets of a link begin with; empty while it is not there.
const fn header(link: &Link) -> &'static str {
    // The loopback device writes an Ethernet header too.
    if link.ethernet || link.loopback {
        "ethernet"
    } else if link.ifindex == 0 {
        ""
    } else {
        "none"
    }
}
