//! Counters and states as OpenMetrics text (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
//!
//! Series are bounded: each port has one for each reason, whether it counted or not, and only the first [`RULES`] rules have
//! series of their own.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::atomic::AtomicU64, time::Duration};

use dataplane_common::{Reason, steer::SteerCounter};
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    control::{
        flow::FlowCounts,
        row::{LinkRow, MirrorRow, MirrorState, PortRow, RuleRow},
    },
    sflow::SflowCounts,
};

/// So many rules have series, in the order of `rule list`.
pub const RULES: usize = 1000;

type Labels = Vec<(&'static str, String)>;
/// One counter of a link.
type LinkCounter = fn(&LinkRow) -> u64;

/// What is told at one moment.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// Each port with its packets by name of the reason.
    pub ports: Vec<(PortRow, BTreeMap<&'static str, u64>)>,
    /// What the kernel counts at them.
    pub links: Vec<LinkRow>,
    /// The first [`RULES`] rules.
    pub rules: Vec<RuleRow>,
    /// How many rules there are.
    pub all_rules: u64,
    /// How many neighbours are known.
    pub neighbours: u64,
    /// How well the kernel is followed.
    pub mirror: MirrorRow,
    /// Connections; none while none is carried.
    pub flows: Option<FlowCounts>,
    /// What went to a collector of sFlow; none while there is none.
    pub sflow: Option<SflowCounts>,
    /// Entries for steered sockets, by number.
    pub steer: Vec<(u32, SteerCounter)>,
    /// Packets for which the ring of `trace` had no room.
    pub missed: u64,
    /// Since the daemon started.
    pub uptime: Duration,
    /// Seconds until a config is rolled back that waits for confirmation.
    pub pending: Option<u64>,
}

impl Scrape {
    /// The exposition, with its `# EOF`.
    pub fn text(&self) -> String {
        let mut registry = Registry::with_prefix("dataplane");
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "What is running", Info::new(version));
        let uptime = Gauge::<f64, AtomicU64>::default();
        uptime.set(self.uptime.as_secs_f64());
        registry.register_with_unit("uptime", "Since the daemon started", Unit::Seconds, uptime);
        if let Some(pending) = self.pending {
            let seconds: Gauge = Gauge::default();
            seconds.set(pending.cast_signed());
            let help = "Until a config is rolled back that waits for confirmation; absent while none waits";
            registry.register_with_unit("config_pending", help, Unit::Seconds, seconds);
        }
        self.ports(&mut registry);
        self.links(&mut registry);
        self.rules(&mut registry);
        self.mirror(&mut registry);
        self.flows(&mut registry);
        self.sflow(&mut registry);
        self.steer(&mut registry);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut text, &registry);
        sorted(&text)
    }

    fn links(&self, registry: &mut Registry) {
        let bytes: [(_, _, LinkCounter); 2] = [
            ("link_rx", "Bytes received, as the kernel counts them at the interface", |link| link.rx_bytes),
            ("link_tx", "Bytes transmitted, as the kernel counts them at the interface", |link| link.tx_bytes),
        ];
        for (name, help, value) in bytes {
            registry.register_with_unit(name, help, Unit::Bytes, self.of_links(value));
        }
        let others: [(_, _, LinkCounter); 6] = [
            ("link_rx_packets", "Frames received", |link| link.rx_packets),
            ("link_tx_packets", "Frames transmitted", |link| link.tx_packets),
            ("link_rx_errors", "Frames received broken", |link| link.rx_errors),
            ("link_tx_errors", "Frames that the device failed to transmit", |link| link.tx_errors),
            ("link_rx_dropped", "Frames received that the kernel or the device gave up", |link| link.rx_dropped),
            ("link_tx_dropped", "Frames for which there was no room", |link| link.tx_dropped),
        ];
        for (name, help, value) in others {
            registry.register(name, help, self.of_links(value));
        }
    }

    fn of_links(&self, value: LinkCounter) -> Family<Labels, Counter> {
        let family = Family::<Labels, Counter>::default();
        for link in &self.links {
            family.get_or_create(&vec![("port", escaped(&link.name))]).inc_by(value(link));
        }
        family
    }

    fn ports(&self, registry: &mut Registry) {
        let packets = Family::<Labels, Counter>::default();
        let (up, attached) = (Family::<Labels, Gauge>::default(), Family::<Labels, Gauge>::default());
        for (port, reasons) in &self.ports {
            let name = || ("port", escaped(&port.name));
            up.get_or_create(&vec![name()]).set(i64::from(port.state == "up"));
            attached.get_or_create(&vec![name(), ("mode", port.mode.clone())]).set(i64::from(!reasons.is_empty()));
            for reason in Reason::ALL {
                if let Some(count) = reasons.get(reason.name()) {
                    let verdict = reason.verdict().name().to_owned();
                    let labels = vec![name(), ("verdict", verdict), ("reason", reason.name().to_owned())];
                    packets.get_or_create(&labels).inc_by(*count);
                }
            }
        }
        registry.register("port_packets", "Packets by port and reason; withheld ones are this machine's own", packets);
        registry.register("port_up", "Whether the link is up", up);
        registry.register("port_attached", "Whether the port is attached, and how", attached);
        let meanings = Family::<Labels, Gauge>::default();
        for reason in Reason::ALL {
            let labels = vec![
                ("reason", reason.name().to_owned()),
                ("verdict", reason.verdict().name().to_owned()),
                ("meaning", escaped(reason.meaning())),
                ("advice", escaped(reason.advice())),
            ];
            meanings.get_or_create(&labels).set(1);
        }
        registry.register("reason_meaning", "Each reason, its meaning, and what to do about it", meanings);
    }

    fn rules(&self, registry: &mut Registry) {
        let (packets, bytes) = (Family::<Labels, Counter>::default(), Family::<Labels, Counter>::default());
        for rule in self.rules.iter().take(RULES) {
            let labels = vec![("chain", rule.chain.to_string()), ("handle", rule.handle.to_string())];
            packets.get_or_create(&labels).inc_by(rule.packets);
            bytes.get_or_create(&labels).inc_by(rule.bytes);
        }
        registry.register("rule_packets", "Packets that matched; of the first 1000 rules", packets);
        registry.register_with_unit(
            "rule",
            "Bytes of frames that matched; of the first 1000 rules",
            Unit::Bytes,
            bytes,
        );
        gauge(registry, "rules", "Rules of all chains, those without series too", self.all_rules);
    }

    fn mirror(&self, registry: &mut Registry) {
        let routes = Family::<Labels, Gauge>::default();
        for (family, count) in [("ipv4", self.mirror.routes4), ("ipv6", self.mirror.routes6)] {
            routes.get_or_create(&vec![("family", family.to_owned())]).set(count.cast_signed());
        }
        registry.register("routes", "Mirrored routes of all tables", routes);
        gauge(registry, "neighbours", "Mirrored neighbours", self.neighbours);
        let live = u64::from(self.mirror.state == MirrorState::Live);
        gauge(registry, "mirror_live", "Whether the kernel's tables are followed; 0 while they are first read", live);
        for (name, help, count) in [
            ("mirror_resyncs", "Comparisons of the mirror with the kernel", self.mirror.resyncs),
            ("mirror_mended", "Things that comparisons had to mend", self.mirror.mended),
            ("mirror_probes", "Neighbours that the kernel was asked to look after", self.mirror.probes),
            ("trace_missed", "Watched packets for which the ring had no room", self.missed),
        ] {
            counter(registry, name, help, count);
        }
    }
}

impl Scrape {
    fn sflow(&self, registry: &mut Registry) {
        let Some(sflow) = self.sflow else { return };
        for (name, help, count) in [
            ("sflow_samples", "Packets exported to the sFlow collector", sflow.samples),
            ("sflow_lost", "Packets that were picked for the sFlow collector and not exported", sflow.lost),
            ("sflow_datagrams", "Datagrams sent to the sFlow collector", sflow.datagrams),
            ("sflow_unsent", "Datagrams that could not be sent to the sFlow collector", sflow.unsent),
        ] {
            counter(registry, name, help, count);
        }
    }

    fn steer(&self, registry: &mut Registry) {
        let lookups = Family::<Labels, Counter>::default();
        for (id, counter) in self.steer.iter().take(RULES) {
            for (outcome, count) in
                [("steered", counter.steered), ("passed", counter.passed), ("dropped", counter.dropped)]
            {
                let labels = vec![("entry", id.to_string()), ("outcome", outcome.to_owned())];
                lookups.get_or_create(&labels).inc_by(count);
            }
        }
        let help = "New connections and datagrams that entries of steer matched; of the first 1000 entries";
        registry.register("steer_lookups", help, lookups);
    }

    fn flows(&self, registry: &mut Registry) {
        let Some(flows) = self.flows else { return };
        for (name, help, value) in [
            ("flow_rows", "Rows of connections, two for each", flows.rows),
            ("flow_max", "Connections that may have rows", flows.max),
            ("flow_armed", "Rows that carry packets past netfilter", flows.armed),
            ("flow_asked", "Connections that have not announced yet that the kernel does not mind", flows.asked),
        ] {
            gauge(registry, name, help, value);
        }
        for (name, help, count) in [
            ("flow_full", "Connections that found no room", flows.full),
            ("flow_silent", "Connections that announce nothing", flows.silent),
            ("flow_renewed", "Packets that went through the kernel since the lease was over", flows.renewed),
            ("flow_epochs", "Times that all rows ceased to count, as with each change of rules", flows.epochs),
            ("flow_overruns", "Times that announcements of connections were lost", flows.overruns),
            ("flow_resyncs", "Times that all connections were listed", flows.resyncs),
            ("flow_events", "Announcements of connections", flows.events),
            ("flow_carried", "Packets that rows carried", flows.carried),
        ] {
            counter(registry, name, help, count);
        }
    }
}

/// The samples of each family in the order of their labels: two expositions can be compared line by line.
fn sorted(text: &str) -> String {
    let mut lines: Vec<_> = text.lines().collect();
    for samples in lines.split_mut(|line| line.starts_with('#')) {
        samples.sort_by_key(|line| line.rsplit_once(' ').map_or(*line, |(series, _)| series));
    }
    lines.join("\n") + "\n"
}

/// A label's value as the format has it: the encoder takes it as it is, and an interface's name may have quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn counter(registry: &mut Registry, name: &str, help: &str, count: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(count);
    registry.register(name, help, counter);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value.cast_signed());
    registry.register(name, help, gauge);
}
