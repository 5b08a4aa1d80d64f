//! Samples of packets and counters of ports, for a collector of sFlow.

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
    /// Lost ones that no sample has told of yet.
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
        Self { wanted, open: None, born: now, poll: now, counts }
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
        let (collector, error) = (self.wanted.collector?, self.open.as_ref()?.as_ref().err()?);
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
            Some(error) => (
                Status::Warn,
                format!("cannot send to {collector}: {error}; {unsent} datagrams were not sent"),
                format!("ip route get {}  # there must be a route, and a collector at that port", collector.ip()),
            ),
            None if lost > samples / 10 => (
                Status::Warn,
                format!("{sent}; {lost} more were picked and not sent: more than {MOST} in a second"),
                "raise `rate` in [sflow] of the config".to_owned(),
            ),
            None => (Status::Ok, sent, String::new()),
        };
        Some(Finding { check: "sflow".to_owned(), status, found, fix })
    }

    /// Exports a packet, unless there were too many in this second.
    fn packet(&mut self, sample: &PacketSample<'_>) {
        let (uptime, rate) = (self.born.elapsed(), self.wanted.rate);
        let Some(Ok(open)) = &mut self.open else { return };
        if open.second >= MOST {
            open.untold = open.untold.saturating_add(1);
            self.counts.lost += 1;
            return;
        }
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
            if let Err(error) = self.watch() {
                tracing::error!("the programs that sample packets could not be loaded: {error:#}");
            }
        }
    }

    /// What is done each second.
    pub(super) fn tick_sflow(&mut self) {
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
                rx_bytes: counters.rx_bytes,
                rx_packets: counters.rx_packets,
                rx_multicast: counters.rx_multicast,
                rx_dropped: counters.rx_dropped,
                rx_errors: counters.rx_errors,
                tx_bytes: counters.tx_bytes,
                tx_packets: counters.tx_packets,
                tx_dropped: counters.tx_dropped,
                tx_errors: counters.tx_errors,
            })
        });
        all.collect()
    }

    /// Exports a packet that was picked.
    pub(super) fn sample(&mut self, record: &TraceRecord) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PacketSample<'static> {
        PacketSample { input: 3, output: Output::Internal, length: 60, header: &[0; 60], route: None }
    }

    fn exporting(collector: &UdpSocket) -> SflowExporter {
        let mut exporter = SflowExporter::new(Instant::now());
        let collector = Some(collector.local_addr().expect("a bound socket"));
        assert!(exporter.want(SflowConfig { collector, rate: 10, ..SflowConfig::default() }, 5));
        exporter
    }

    fn collector() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        socket
    }

    fn word(datagram: &[u8], index: usize) -> u32 {
        u32::from_be_bytes(datagram[index * 4..index * 4 + 4].try_into().expect("four bytes"))
    }

    #[test]
    fn what_is_picked_is_sent_each_second_and_no_more_than_a_bound() {
        let (socket, mut bytes) = (collector(), [0; 2048]);
        let mut exporter = exporting(&socket);
        let (mut samples, mut number) = (0, 0);
        let mut read = |counts: SflowCounts| {
            for next in number + 1..=counts.datagrams {
                let length = socket.recv(&mut bytes).expect("a datagram");
                assert_eq!(u64::from(word(&bytes[..length], 4)), next);
                samples += word(&bytes, 6);
            }
            number = counts.datagrams;
        };
        for _ in 0..MOST + 7 {
            exporter.packet(&sample());
            read(exporter.counts);
        }
        // Three that the ring had no room for.
        exporter.tick(8);
        read(exporter.counts);
        let counts = exporter.counts().expect("a collector");
        assert_eq!((counts.samples, counts.lost, counts.unsent), (1000, 10, 0));
        assert_eq!(samples, MOST);
        // The next one tells what was lost before it.
        exporter.packet(&sample());
        exporter.tick(8);
        socket.recv(&mut bytes).expect("a datagram");
        assert_eq!(word(&bytes, 7 + 6), 10);
        assert_eq!(exporter.finding().map(|finding| finding.status), Some(Status::Ok));
    }

    #[test]
    fn a_collector_that_is_not_there_is_told() {
        let socket = collector();
        let mut exporter = exporting(&socket);
        drop(socket);
        for _ in 0..5 {
            exporter.packet(&sample());
            exporter.tick(5);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(exporter.counts().is_some_and(|counts| counts.unsent > 0));
        let finding = exporter.finding().expect("a collector");
        assert_eq!(finding.status, Status::Warn);
        assert!(finding.found.contains("refused"), "{}", finding.found);
    }

    #[test]
    fn packets_are_picked_otherwise_only_where_the_rate_changes() {
        let socket = collector();
        let mut exporter = exporting(&socket);
        let config = exporter.wanted;
        assert_eq!(exporter.rate(), Some(10));
        assert!(!exporter.want(config, 0));
        assert!(!exporter.want(SflowConfig { polling: 3, ..config }, 0));
        assert!(exporter.want(SflowConfig { rate: 11, ..config }, 0));
        assert!(exporter.want(SflowConfig::default(), 0));
        assert_eq!((exporter.rate(), exporter.counts(), exporter.finding()), (None, None, None));
    }
}
