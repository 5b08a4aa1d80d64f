//! sFlow version 5: samples of packets and counters of interfaces, as collectors read them.
//!
//! The structures are those of <https://sflow.org/sflow_version_5.txt>, written as XDR (RFC 4506): big-endian words of four
//! bytes. Nothing here knows a socket or a clock.

mod interface;
mod packet;
mod word;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

pub use interface::InterfaceCounters;
pub use packet::{Discard, Output, PacketSample, Route};
use word::Words;

/// A datagram is sent before it would be longer than this: it must pass an Ethernet link whole, in a tunnel, too.
const MOST: usize = 1372;
/// Bytes of a sampled frame that are exported (`DEFAULT_FLOW_HEADER_SIZE`).
pub const HEADER: usize = 128;

/// `sample_type`: a packet, or counters, both in their compact form, in which an interface is a number below 2^24.
const FLOW_SAMPLE: u32 = 1;
const COUNTERS_SAMPLE: u32 = 2;
/// The highest interface index of that form.
const LAST_INTERFACE: u32 = 0xff_ffff;

/// What was exported, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SflowCounts {
    /// Packets.
    pub samples: u64,
    /// Packets that were picked, but not exported: too many in a second, or the ring had no room.
    pub lost: u64,
    /// Datagrams.
    pub datagrams: u64,
    /// Datagrams that could not be sent.
    pub unsent: u64,
}

/// What the samples of one interface are numbered by.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    /// Packets sampled.
    packets: u32,
    /// Packets that could have been sampled, as the rate says; it wraps.
    pool: u32,
    /// Packets that were picked and not exported.
    lost: u32,
    /// Times that counters were exported.
    counters: u32,
}

/// The datagrams of this machine, one after the other.
#[derive(Debug)]
pub struct Exporter {
    agent: IpAddr,
    sources: BTreeMap<u32, Source>,
    /// Datagrams finished.
    sequence: u32,
    /// The samples of the next datagram.
    samples: Vec<u8>,
    count: u32,
}

impl Exporter {
    /// Of the machine that has this address.
    pub fn new(agent: IpAddr) -> Self {
        Self { agent, sources: BTreeMap::new(), sequence: 0, samples: Vec::new(), count: 0 }
    }

    /// Adds a packet, one in `rate`, after so many that were picked and not exported. Returns a datagram where it found no room
    /// in it.
    #[must_use]
    pub fn packet(&mut self, sample: &PacketSample<'_>, rate: u32, lost: u32, uptime: Duration) -> Option<Vec<u8>> {
        if sample.input > LAST_INTERFACE {
            return None;
        }
        let source = self.sources.entry(sample.input).or_default();
        source.packets = source.packets.wrapping_add(1);
        source.pool = source.pool.wrapping_add(rate);
        source.lost = source.lost.wrapping_add(lost);
        let mut body = Vec::new();
        // A source of class 0 is an interface.
        body.words(&[source.packets, sample.input, rate, source.pool, source.lost, sample.input]);
        sample.write(&mut body);
        self.add(FLOW_SAMPLE, &body, uptime)
    }

    /// Adds the counters of an interface. Returns a datagram where they found no room in it.
    #[must_use]
    pub fn counters(&mut self, counters: &InterfaceCounters, uptime: Duration) -> Option<Vec<u8>> {
        if counters.ifindex > LAST_INTERFACE {
            return None;
        }
        let source = self.sources.entry(counters.ifindex).or_default();
        source.counters = source.counters.wrapping_add(1);
        let mut body = Vec::new();
        body.words(&[source.counters, counters.ifindex]);
        counters.write(&mut body);
        self.add(COUNTERS_SAMPLE, &body, uptime)
    }

    /// Forgets interfaces that are no ports any more: one that comes has another number.
    pub fn keep(&mut self, is_port: impl Fn(u32) -> bool) {
        self.sources.retain(|ifindex, _| is_port(*ifindex));
    }

    /// Ends the datagram at hand, if anything is in it.
    pub fn finish(&mut self, uptime: Duration) -> Option<Vec<u8>> {
        if self.count == 0 {
            return None;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(MOST);
        datagram.words(&[5]);
        datagram.address(self.agent);
        let uptime = uptime.as_millis() as u32;
        // One agent for the whole machine: its number is 0.
        datagram.words(&[0, self.sequence, uptime, self.count]);
        datagram.append(&mut self.samples);
        self.count = 0;
        Some(datagram)
    }

    fn add(&mut self, kind: u32, body: &[u8], uptime: Duration) -> Option<Vec<u8>> {
        // The head has 7 words, or with an address of IPv6 10.
        let full = 40 + self.samples.len() + 8 + body.len() > MOST;
        let datagram = if full { self.finish(uptime) } else { None };
        self.samples.words(&[kind, body.len() as u32]);
        self.samples.extend_from_slice(body);
        self.count += 1;
        datagram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::LinkCounters;

    const UPTIME: Duration = Duration::from_millis(0x0102_0304);

    fn words(bytes: &[u8]) -> Vec<u32> {
        let (words, rest) = bytes.as_chunks();
        assert!(rest.is_empty(), "{} bytes are no words", bytes.len());
        words.iter().map(|word| u32::from_be_bytes(*word)).collect()
    }

    fn sample(header: &[u8]) -> PacketSample<'_> {
        PacketSample { input: 3, output: Output::Interface(4), length: 1514, header, route: None }
    }

    fn exporter() -> Exporter {
        Exporter::new("192.0.2.1".parse().expect("an address"))
    }

    #[test]
    fn a_packet_is_written_as_the_specification_says() {
        let mut exporter = exporter();
        assert_eq!(exporter.packet(&sample(&[0xaa; 14]), 1000, 2, UPTIME), None);
        let datagram = words(&exporter.finish(UPTIME).expect("a datagram"));
        let head = [5, 1, 0xc000_0201, 0, 1, 0x0102_0304, 1];
        assert_eq!(datagram[..7], head);
        // The sample, its length, its number, source, rate, pool, lost ones, the way in and out, and one record.
        assert_eq!(datagram[7..17], [1, 72, 1, 3, 1000, 1000, 2, 3, 4, 1]);
        // A header: its length, Ethernet, the frame with its checksum, which was taken off, and the bytes in whole words.
        assert_eq!(datagram[17..23], [1, 32, 1, 1518, 4, 14]);
        assert_eq!(datagram[23..], [0xaaaa_aaaa, 0xaaaa_aaaa, 0xaaaa_aaaa, 0xaaaa_0000]);
        assert_eq!(exporter.finish(UPTIME), None);
    }

    #[test]
    fn samples_of_each_interface_are_numbered() {
        let mut exporter = exporter();
        for input in [3, 4, 3] {
            let sample = PacketSample { input, ..sample(&[0; 16]) };
            assert_eq!(exporter.packet(&sample, 10, 0, UPTIME), None);
        }
        let datagram = words(&exporter.finish(UPTIME).expect("a datagram"));
        let numbers = datagram[7..].chunks(20).map(|sample| [sample[2], sample[3], sample[5]]);
        assert_eq!(numbers.collect::<Vec<_>>(), [[1, 3, 10], [1, 4, 10], [2, 3, 20]]);
        exporter.keep(|ifindex| ifindex == 4);
        assert_eq!(exporter.sources.keys().copied().collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn no_datagram_is_too_long() {
        let mut exporter = Exporter::new("2001:db8::1".parse().expect("an address"));
        let route = Route { via: "2001:db8::2".parse().expect("an address"), source: 64, destination: 48 };
        let long = PacketSample { route: Some(route), ..sample(&[0x55; HEADER]) };
        let mut datagrams = Vec::new();
        for _ in 0..100 {
            datagrams.extend(exporter.packet(&long, 1, 0, UPTIME));
        }
        datagrams.extend(exporter.finish(UPTIME));
        let samples: u32 = datagrams.iter().map(|datagram| words(datagram)[9]).sum();
        assert_eq!(samples, 100);
        let sequence: Vec<_> = datagrams.iter().map(|datagram| words(datagram)[7]).collect();
        assert_eq!(sequence, (1..=datagrams.len() as u32).collect::<Vec<_>>());
        assert!(datagrams.iter().all(|datagram| datagram.len() <= MOST), "{}", datagrams[0].len());
        assert!(datagrams.len() < 25, "{} datagrams", datagrams.len());
    }

    #[test]
    fn an_interface_that_the_form_cannot_name_is_left_out() {
        let mut exporter = exporter();
        let sample = PacketSample { input: LAST_INTERFACE + 1, ..sample(&[0; 16]) };
        assert_eq!(exporter.packet(&sample, 1, 0, UPTIME), None);
        assert_eq!(exporter.finish(UPTIME), None);
    }

    #[test]
    fn counters_are_written_as_the_specification_says() {
        let counters = LinkCounters {
            rx_bytes: 0x1_0000_0002,
            rx_packets: 10,
            rx_multicast: 4,
            rx_dropped: 2,
            rx_errors: 3,
            tx_bytes: 5,
            tx_packets: 6,
            tx_dropped: 7,
            tx_errors: 8,
        };
        let counters = InterfaceCounters { ifindex: 3, up: true, enabled: true, promiscuous: false, counters };
        let mut exporter = exporter();
        assert_eq!(exporter.counters(&counters, UPTIME), None);
        let datagram = words(&exporter.finish(UPTIME).expect("a datagram"));
        assert_eq!(datagram[7..14], [2, 108, 1, 3, 1, 1, 88]);
        let unknown = u32::MAX;
        let received = [1, 2, 6, 4, unknown, 2, 3, unknown];
        let sent = [0, 5, 6, unknown, unknown, 7, 8, 2];
        assert_eq!(datagram[14..20], [3, 6, 0, 0, 1, 3]);
        assert_eq!(datagram[20..28], received);
        assert_eq!(datagram[28..], sent);
    }
}
