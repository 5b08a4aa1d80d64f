//! What is sent: options, and the frames that come of them.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use clap::{Args, ValueEnum};
use dataplane_common::{
    traffic::{STAMP4, STAMP6, TRAFFIC_HEADERS, TRAFFIC_PORT, TRAFFIC_SHORTEST, TrafficFrame},
    wire::Mac,
};
use etherparse::PacketBuilder;

use crate::{cli::units::interval, kernel::Generator};

/// Frames of the mix of sizes, by their places among twelve: 7 short ones, 4 of 590 bytes, 1 of 1514.
const IMIX: [u16; 12] = [60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 590, 60];
/// The longest frame of Ethernet, without its check sequence.
const LONGEST: u16 = 1514;
/// Flows that can be told apart by their ports alone.
const FLOWS: u32 = 60_000;
/// Prefixes that 198.19.0.0/16 and `2001:db8:1000::/36` are cut into.
const PREFIXES: u32 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Families {
    #[value(name = "4")]
    V4,
    #[value(name = "6")]
    V6,
    Both,
}

impl Families {
    pub(super) const fn has4(self) -> bool {
        !matches!(self, Self::V6)
    }

    pub(super) const fn has6(self) -> bool {
        !matches!(self, Self::V4)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::Both => "IPv4 and IPv6 in turn",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Fixed(u16),
    Imix,
}

fn size(text: &str) -> Result<Size, String> {
    let number = || text.parse().ok().filter(|size| (TRAFFIC_SHORTEST as u16..=LONGEST).contains(size));
    let size = if text == "imix" { Some(Size::Imix) } else { number().map(Size::Fixed) };
    size.ok_or_else(|| format!("take 60 to {LONGEST} bytes, without the check sequence, or imix"))
}

fn flows(text: &str) -> Result<u32, String> {
    within(text, FLOWS)
}

fn prefixes(text: &str) -> Result<u32, String> {
    within(text, PREFIXES)
}

fn cpus(text: &str) -> Result<u32, String> {
    within(text, Generator::CPUS as u32)
}

fn within(text: &str, most: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("take a whole number from 1 to {most}"))
}

/// Packets a second, as `250000`, `250k` or `1.5M`.
fn rate(text: &str) -> Result<u64, String> {
    let wrong = || "take packets a second from 1 to 100M, such as 50000, 250k or 1.5M".to_owned();
    let (number, factor) = match text.strip_suffix(['k', 'M']) {
        Some(number) if text.ends_with('k') => (number, 1e3),
        Some(number) => (number, 1e6),
        None => (text, 1.0),
    };
    let plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let rate = number.parse().ok().filter(|_| plain).map(|number: f64| number * factor);
    #[expect(clippy::cast_sign_loss, reason = "at least 1")]
    rate.filter(|rate| (1.0..=1e8).contains(rate)).map(|rate| rate as u64).ok_or_else(wrong)
}

/// What is sent, and for how long.
#[derive(Clone, Debug, Args)]
pub(super) struct Traffic {
    /// Which packets
    #[arg(long, value_enum, default_value_t = Families::Both, value_name = "4|6|both")]
    pub(super) family: Families,
    /// Bytes of a frame without its check sequence, or `imix`: 7 of 60 bytes, 4 of 590, 1 of 1514; those of IPv6 have 72 at least
    #[arg(long, default_value = "60", value_name = "BYTES|imix", value_parser = size)]
    pub(super) size: Size,
    /// Flows: addresses and ports that differ
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = flows)]
    pub(super) flows: u32,
    /// Prefixes of each family that the flows go to, each with a route
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = prefixes)]
    pub(super) prefixes: u32,
    /// Packets a second of all CPUs together; without it as many as get through
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(super) rate: Option<u64>,
    /// How long, each time
    #[arg(long, default_value = "0.5", value_name = "TIME", value_parser = interval)]
    pub(super) time: Duration,
    /// CPUs that send, from the first on
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = cpus)]
    pub(super) cpus: u32,
}

/// Where frames come from, and the router that they are for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) source: Mac,
    pub(super) gateway: Mac,
    pub(super) source4: Ipv4Addr,
    pub(super) source6: Ipv6Addr,
}

impl Traffic {
    /// Bits of the prefixes of IPv4.
    fn length4(&self) -> u32 {
        16 + self.prefixes.next_power_of_two().trailing_zeros()
    }

    fn base4(&self, prefix: u32) -> u32 {
        u32::from(Ipv4Addr::new(198, 19, 0, 0)) + (prefix << (32 - self.length4()))
    }

    const fn base6(prefix: u32) -> [u16; 3] {
        [0x2001, 0xdb8, 0x1000 + prefix as u16]
    }

    /// The prefixes, as `ip` reads them.
    pub(super) fn destinations4(&self) -> impl Iterator<Item = String> {
        let length = self.length4();
        (0..self.prefixes).map(move |prefix| format!("{}/{length}", Ipv4Addr::from(self.base4(prefix))))
    }

    /// The same of IPv6.
    pub(super) fn destinations6(&self) -> impl Iterator<Item = String> {
        (0..self.prefixes).map(|prefix| {
            let [a, b, c] = Self::base6(prefix);
            format!("{a:x}:{b:x}:{c:x}::/48")
        })
    }

    /// Where the flows of a family go: its prefixes in turn, then their hosts in turn.
    fn target4(&self, flow: u32) -> Ipv4Addr {
        let hosts = (1 << (32 - self.length4())) - 2;
        (self.base4(flow % self.prefixes) + 1 + flow / self.prefixes % hosts).into()
    }

    fn target6(&self, flow: u32) -> Ipv6Addr {
        let [a, b, c] = Self::base6(flow % self.prefixes);
        Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 1 + (flow / self.prefixes) as u16)
    }

    /// A destination of each family that is sent to.
    pub(super) fn targets(&self) -> Vec<std::net::IpAddr> {
        let v4 = self.family.has4().then(|| self.target4(0).into());
        v4.into_iter().chain(self.family.has6().then(|| self.target6(0).into())).collect()
    }

    /// The frames, in turn: so many that each flow has each size.
    pub(super) fn frames(&self, ends: &Ends) -> Vec<TrafficFrame> {
        let sizes: &[u16] = match &self.size {
            Size::Fixed(size) => std::slice::from_ref(size),
            Size::Imix => &IMIX,
        };
        let mut total = self.flows as usize;
        while !total.is_multiple_of(sizes.len()) {
            total += self.flows as usize;
        }
        (0..total).map(|number| self.frame(ends, number as u32 % self.flows, sizes[number % sizes.len()])).collect()
    }

    fn frame(&self, ends: &Ends, flow: u32, size: u16) -> TrafficFrame {
        let port = 1024 + flow as u16;
        let v6 = self.family == Families::V6 || self.family == Families::Both && flow % 2 == 1;
        let flow = if self.family == Families::Both { flow / 2 } else { flow };
        let frame = PacketBuilder::ethernet2(ends.source.0, ends.gateway.0);
        let (frame, stamp, size) = if v6 {
            let target = self.target6(flow).octets();
            (frame.ipv6(ends.source6.octets(), target, 64), STAMP6, size.max(TRAFFIC_HEADERS as u16))
        } else {
            (frame.ipv4(ends.source4.octets(), self.target4(flow).octets(), 64), STAMP4, size)
        };
        // No time yet, and its complement.
        let mut payload = vec![0; usize::from(size) - stamp];
        payload[4..8].fill(0xff);
        let mut bytes = Vec::with_capacity(usize::from(size));
        // Writing to memory cannot fail, and no frame is too long for its length fields.
        let _infallible = frame.udp(port, TRAFFIC_PORT).write(&mut bytes, &payload);
        bytes.resize(bytes.len().max(TRAFFIC_HEADERS), 0);
        let (words, _rest) = bytes.as_chunks::<8>();
        let words = std::array::from_fn(|index| words.get(index).map_or(0, |word| u64::from_ne_bytes(*word)));
        TrafficFrame { words, length: size.into(), stamp: stamp as u32 }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn traffic(family: Families, size: Size, flows: u32, prefixes: u32) -> Traffic {
        Traffic { family, size, flows, prefixes, rate: None, time: Duration::from_secs(1), cpus: 1 }
    }

    const ENDS: Ends = Ends {
        source: Mac([2, 0, 0, 0, 0, 1]),
        gateway: Mac([2, 0, 0, 0, 0, 2]),
        source4: Ipv4Addr::new(198, 18, 0, 2),
        source6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
    };

    fn bytes(frame: &TrafficFrame) -> Vec<u8> {
        frame.words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// The ones'-complement sum (RFC 1071).
    fn sum(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn checksums_hold_for_every_time() {
        for (family, size) in [(Families::V4, 60), (Families::V4, 777), (Families::V6, 60), (Families::V6, 1514)] {
            let frame = traffic(family, Size::Fixed(size), 1, 1).frames(&ENDS)[0];
            for time in [0_u32, 1, 0xffff, 0x1234_5678, u32::MAX] {
                let mut wire = bytes(&frame);
                wire.resize(frame.length as usize, 0);
                let at = frame.stamp as usize;
                wire[at..at + 4].copy_from_slice(&time.to_ne_bytes());
                wire[at + 4..at + 8].copy_from_slice(&(!time).to_ne_bytes());
                let (addresses, udp) = if family == Families::V4 { (26..34, 34) } else { (22..54, 54) };
                let length = (wire.len() - udp) as u16;
                let pseudo = [&wire[addresses], &[0, 17], &length.to_be_bytes(), &wire[udp..]].concat();
                assert_eq!(sum(&pseudo), 0xffff, "{family:?} {size} {time:#x}");
            }
        }
    }

    #[test]
    fn flows_differ_and_reach_every_prefix() {
        for (flows, prefixes) in [(1, 1), (4096, 256), (60_000, 4096), (100, 3)] {
            let all = traffic(Families::Both, Size::Fixed(60), flows, prefixes);
            let frames = all.frames(&ENDS);
            let distinct: HashSet<_> = frames.iter().map(|frame| frame.words).collect();
            assert_eq!((frames.len(), distinct.len()), (flows as usize, flows as usize), "{flows} over {prefixes}");
            let length = all.length4();
            let prefix = |flow| u32::from(all.target4(flow)) >> (32 - length);
            let reached: HashSet<_> = (0..flows).map(prefix).collect();
            assert_eq!(reached.len(), flows.min(prefixes) as usize);
            assert_eq!(all.destinations4().count(), prefixes as usize);
            assert!(all.destinations4().all(|text| text.starts_with("198.19.")), "{prefixes}");
            let distinct: HashSet<_> = all.destinations6().collect();
            assert_eq!(distinct.len(), prefixes as usize);
        }
    }

    #[test]
    fn the_mix_gives_each_flow_each_size() {
        let frames = traffic(Families::V4, Size::Imix, 5, 2).frames(&ENDS);
        assert_eq!(frames.len(), 60);
        let count = |length| frames.iter().filter(|frame| frame.length == length).count();
        assert_eq!([count(60), count(590), count(1514)], [35, 20, 5]);
    }

    #[test]
    fn options() {
        for (text, want) in [("50000", Some(50_000)), ("250k", Some(250_000)), ("1.5M", Some(1_500_000))] {
            assert_eq!(rate(text).ok(), want, "{text}");
        }
        for text in ["", "0", "-1", "1e9", "k", "1G", "nan", "inf", "200M", "1..2"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert_eq!(size("imix"), Ok(Size::Imix));
        assert_eq!(size("60"), Ok(Size::Fixed(60)));
        for text in ["59", "1515", "x", "-1"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
