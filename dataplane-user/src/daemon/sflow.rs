//! Samples of packets and counters of ports, for a collector of sFlow.

#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use dataplane_common::{
    Verdict,
    abi::{TraceRecord, chain_trace},
};

use super::{Daemon, query::longest, trace_row};
use crate::{
    config::SflowConfig,
    control::row::{Finding, Status},
    model::{Family, Model, Prefix},
    netlink::link_counters,
    sflow::{Exporter, InterfaceCounters, Output, PacketSample, Route, SflowCounts},
};

/// How many samples are exported in a second at most. What is beyond is counted as lost, and the collector is told.
const MOST: u32 = 1_000;

/// What is exported.
pub(super) struct SflowExporter {
    /// What the config says.
    wanted: SflowConfig,
    /// The way to the collector; or why there is none, and then it is tried again each second.
    open: Option<Result<Open, String>>,
    /// Why no packets are picked; it is tried again each second.
    refused: Option<String>,
    /// When this began; samples carry times since then.
    born: Instant,
    /// When counters are exported next.
    poll: Instant,
    counts: SflowCounts,
}

struct Open {
    socket: UdpSocket,
    exporter: Exporter,
    /// Samples of this second.
    second: u32,
    /// Packets not exported that the collector has not been told of.
    untold: u32,
    /// What the ring had no room for until now.
    missed: u64,
    /// Why one of the last datagrams could not be sent.
    error: Option<String>,
    /// Datagrams sent since. The answer that the port is closed comes behind a datagram that went well, and before the next one.
    well: u32,
}

impl SflowExporter {
    /// To nowhere yet.
    pub(super) fn new(now: Instant) -> Self {
        let (wanted, counts) = (SflowConfig::default(), SflowCounts::default());
        Self { wanted, open: None, refused: None, born: now, poll: now, counts }
    }

    /// Takes what a config says, after so many packets that the ring had no room for; whether packets are picked otherwise now.
    pub(super) fn want(&mut self, wanted: SflowConfig, missed: u64) -> bool {
        if wanted == self.wanted {
            return false;
        }
        let rate = |config: SflowConfig| config.collector.map(|_| config.rate);
        let changed = rate(wanted) != rate(self.wanted);
        self.wanted = wanted;
        self.poll = Instant::now();
        self.open = wanted.collector.map(|collector| open(collector, &wanted, missed));
        match (&self.open, wanted.collector) {
            (Some(Ok(_)), Some(collector)) => tracing::info!("samples are sent to the sFlow collector {collector}"),
            (Some(Err(error)), Some(collector)) => {
                tracing::warn!(
                    "cannot send to the sFlow collector {collector}: {error}; the daemon retries each second"
                );
            }
            _ => {}
        }
        changed
    }

    /// One packet in so many is picked; none while there is no collector.
    pub(super) fn rate(&self) -> Option<u32> {
        self.wanted.collector.map(|_| self.wanted.rate)
    }

    /// What was exported.
    pub(super) fn counts(&self) -> Option<SflowCounts> {
        self.wanted.collector.map(|_| self.counts)
    }

    /// What the operator should know at once.
    pub(super) fn trouble(&self) -> Option<String> {
        let collector = self.wanted.collector?;
        if let Some(error) = &self.refused {
            return Some(format!("no packets are sampled: {error}; the daemon retries each second"));
        }
        let error = self.open.as_ref()?.as_ref().err()?;
        Some(format!("cannot send to the sFlow collector {collector} now: {error}; the daemon retries each second"))
    }

    /// Whether the collector can be reached.
    pub(super) fn finding(&self) -> Option<Finding> {
        let collector = self.wanted.collector?;
        let SflowCounts { samples, lost, datagrams, unsent } = self.counts;
        let error = match self.open.as_ref()? {
            Ok(open) => open.error.as_ref(),
            Err(error) => Some(error),
        };
        let sent = format!("{samples} packets in {datagrams} datagrams to {collector}");
        let (status, found, fix) = match error {
            _ if self.refused.is_some() => (
                Status::Warn,
                self.trouble().unwrap_or_default(),
                "the log says why the programs could not be loaded".to_owned(),
            ),
            Some(error) => (
                Status::Warn,
                format!("cannot send to {collector}: {error}; {unsent} datagrams were not sent"),
                format!("ip route get {}  # there must be a route, and a collector at that port", collector.ip()),
            ),
            None if lost > samples / 10 => (
                Status::Warn,
                format!(
                    "{sent}; {lost} more were picked and not sent: more than {MOST} in a second, or more than the ring holds"
                ),
                "raise `rate` in [sflow] of the config".to_owned(),
            ),
            None => (Status::Ok, sent, String::new()),
        };
        Some(Finding { check: "sflow".to_owned(), status, found, fix })
    }

    /// Whether one more packet may be exported in this second; counts it as lost if not.
    fn has_room(&mut self) -> bool {
        let Some(Ok(open)) = &mut self.open else { return false };
        let room = open.second < MOST;
        if !room {
            open.untold = open.untold.saturating_add(1);
            self.counts.lost += 1;
        }
        room
    }

    /// Exports a packet; [`Self::has_room`] comes first.
    fn packet(&mut self, sample: &PacketSample<'_>) {
        let (uptime, rate) = (self.born.elapsed(), self.wanted.rate);
        let Some(Ok(open)) = &mut self.open else { return };
        open.second += 1;
        self.counts.samples += 1;
        let lost = std::mem::take(&mut open.untold);
        if let Some(datagram) = open.exporter.packet(sample, rate, lost, uptime) {
            open.send(&datagram, &mut self.counts);
        }
    }

    /// What is done each second: sends what has come together. `missed` is what the ring had no room for so far.
    fn tick(&mut self, missed: u64) {
        if let (Some(collector), Some(Err(_))) = (self.wanted.collector, &self.open) {
            let opened = open(collector, &self.wanted, missed);
            if opened.is_ok() {
                tracing::info!("samples are sent to the sFlow collector {collector}");
            }
            self.open = Some(opened);
        }
        let uptime = self.born.elapsed();
        let Some(Ok(open)) = &mut self.open else { return };
        open.second = 0;
        let more = missed.saturating_sub(open.missed);
        open.missed = missed;
        open.untold = open.untold.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        self.counts.lost += more;
        if let Some(datagram) = open.exporter.finish(uptime) {
            open.send(&datagram, &mut self.counts);
        }
    }

    /// Whether counters are due; if so, the next time begins.
    fn is_poll(&mut self, now: Instant) -> bool {
        let due = self.wanted.polling > 0 && now >= self.poll && matches!(self.open, Some(Ok(_)));
        if due {
            self.poll = now + Duration::from_secs(self.wanted.polling.into());
        }
        due
    }

    /// Exports the counters of ports.
    fn interfaces(&mut self, all: &[InterfaceCounters]) {
        let uptime = self.born.elapsed();
        let Some(Ok(open)) = &mut self.open else { return };
        open.exporter.keep(|ifindex| all.iter().any(|one| one.ifindex == ifindex));
        for counters in all {
            if let Some(datagram) = open.exporter.counters(counters, uptime) {
                open.send(&datagram, &mut self.counts);
            }
        }
    }
}

impl Open {
    fn send(&mut self, datagram: &[u8], counts: &mut SflowCounts) {
        match self.socket.send(datagram) {
            Ok(_) => {
                counts.datagrams += 1;
                self.well = self.well.saturating_add(1);
                if self.well > 1 {
                    self.error = None;
                }
            }
            Err(error) => {
                counts.unsent += 1;
                self.error = Some(error.to_string());
                self.well = 0;
            }
        }
    }
}

/// The way to a collector. Connected, so that a collector that is not there is noticed, and the kernel says which address is
/// ours on that way.
fn open(collector: SocketAddr, wanted: &SflowConfig, missed: u64) -> Result<Open, String> {
    let any: IpAddr = if collector.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let connect = || -> io::Result<_> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(collector)?;
        let own = socket.local_addr()?.ip();
        Ok((socket, own))
    };
    let (socket, own) = connect().map_err(|error| error.to_string())?;
    let exporter = Exporter::new(wanted.agent.unwrap_or(own));
    Ok(Open { socket, exporter, second: 0, untold: 0, missed, error: None, well: 0 })
}

impl Daemon {
    /// Takes what the config in force says of sFlow.
    pub(super) fn follow_sflow(&mut self) {
        let missed = self.plane.missed().unwrap_or_default();
        if self.sflow.want(self.desired.running().sflow(), missed) {
            self.packets.trace_subscribers_mut().set_sampling(self.sflow.rate());
            self.sample_packets();
        }
    }

    /// Loads programs that pick packets, or that do not.
    fn sample_packets(&mut self) {
        let done = self.watch();
        if let Err(error) = &done {
            tracing::error!("the programs that sample packets could not be loaded: {error:#}");
        }
        self.sflow.refused = done.err().map(|error| format!("{error:#}"));
    }

    /// What is done each second.
    pub(super) fn tick_sflow(&mut self) {
        if self.sflow.refused.is_some() {
            self.sample_packets();
        }
        if self.sflow.rate().is_none() {
            return;
        }
        let now = Instant::now();
        if self.sflow.is_poll(now) {
            let all = self.interfaces();
            self.sflow.interfaces(&all);
        }
        self.sflow.tick(self.plane.missed().unwrap_or_default());
    }

    /// What the kernel counts at ports.
    fn interfaces(&self) -> Vec<InterfaceCounters> {
        let counters = match link_counters() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::warn!("the counters of links cannot be read: {error}");
                return Vec::new();
            }
        };
        let ports = self.plane.attached().keys();
        let all = ports.filter_map(|ifindex| {
            let (link, counters) = (self.observed.model().links.get(ifindex)?, counters.get(ifindex)?);
            Some(InterfaceCounters {
                ifindex: *ifindex,
                up: link.up,
                enabled: link.enabled,
                promiscuous: link.promiscuity > 0,
                counters: *counters,
            })
        });
        all.collect()
    }

    /// Exports a packet that was picked.
    pub(super) fn sample(&mut self, record: &TraceRecord) {
        if !self.sflow.has_room() {
            return;
        }
        let reason = trace_row::reason(record);
        let output = Output::of(reason, record.oif);
        let route = if reason.verdict() == Verdict::Forward { self.sampled_route(record) } else { None };
        let header = trace_row::bytes(record);
        self.sflow.packet(&PacketSample { input: record.port, output, length: record.length, header, route });
    }

    /// How a packet that was forwarded was routed.
    fn sampled_route(&self, record: &TraceRecord) -> Option<Route> {
        fn of<A: Family>(model: &Model, [source, destination]: [IpAddr; 2], out: u32) -> Option<Route> {
            let found = |address| longest(model, A::from_ip(address)?);
            let length = |prefix: Prefix<A>| u32::from(prefix.length());
            let (prefix, route) = found(destination)?;
            let hop = route.next_hops.iter().find(|hop| hop.dev == out);
            Some(Route {
                via: hop.and_then(|hop| hop.via).unwrap_or(destination),
                source: found(source).map_or(0, |(prefix, _)| length(prefix)),
                destination: length(prefix),
            })
        }
        let packet = trace_row::packet(record).filter(|_| record.target != chain_trace::NONE)?;
        let (model, addresses) = (self.observed.model(), [packet.source(), packet.destination()]);
        of::<u32>(model, addresses, record.oif).or_else(|| of::<u128>(model, addresses, record.oif))
    }
}
