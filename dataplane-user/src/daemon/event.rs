//! Packets that rules log or reject: lines in the daemon's log, and answers to senders.

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use dataplane_common::abi::{Event, told};
use rustix::net::{AddressFamily, Protocol, RawProtocol, SendFlags, SocketFlags, SocketType, sendto, socket_with};

use super::{
    Daemon,
    filter::Standing,
    reject::{Answer, answer},
};
use crate::rule::{ChainName, Rule, Statement, Verdict};

/// Lines that a rule may log at once, and in a second.
const LINES: (u32, u32) = (20, 10);
/// Answers to senders at once, and in a second.
const ANSWERS: (u32, u32) = (1000, 1000);

/// So many at once, so many in a second.
#[derive(Debug)]
struct Bucket {
    left: f64,
    filled: Instant,
    omitted: u64,
}

impl Bucket {
    fn new((most, _): (u32, u32)) -> Self {
        Self { left: most.into(), filled: Instant::now(), omitted: 0 }
    }

    /// Whether there is one more.
    fn take(&mut self, (most, rate): (u32, u32), now: Instant) -> bool {
        let passed = now.duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.left = (self.left + passed * f64::from(rate)).min(most.into());
        if self.left < 1.0 {
            self.omitted += 1;
            return false;
        }
        self.left -= 1.0;
        true
    }
}

/// What was logged and answered so far.
#[derive(Debug)]
pub(super) struct Told {
    /// The rules of events so far, by their counters, since the chains last changed.
    rules: HashMap<u32, Option<Standing>>,
    lines: HashMap<u32, Bucket>,
    answers: Bucket,
    sockets: Option<Sockets>,
    /// When something was last said of what was left out.
    said: Instant,
}

impl Default for Told {
    fn default() -> Self {
        let now = Instant::now();
        Self { rules: HashMap::new(), lines: HashMap::new(), answers: Bucket::new(ANSWERS), sockets: None, said: now }
    }
}

/// How often what was left out is told of.
const SUMMARY: Duration = Duration::from_secs(1);

impl Daemon {
    /// Logs and answers what the kernel half told of. Packets of rules that are gone meanwhile are nobody's.
    pub(super) fn tell(&mut self, events: &[Event]) {
        for event in events {
            let chain = ChainName::ALL[usize::from(event.chain) % ChainName::ALL.len()];
            // There may be many rules, and many events of one.
            let standing = self.told.rules.entry(event.counter).or_insert_with(|| {
                self.chains.rules(chain).iter().find(|standing| standing.counter == event.counter).cloned()
            });
            let Some(Standing { handle, rule, .. }) = standing.clone() else { continue };
            let frame = &event.bytes[..(event.captured as usize).min(event.bytes.len())];
            let packet = frame.get(event.offset as usize..).unwrap_or_default();
            if event.told & told::LOG != 0 {
                self.log(event, chain, handle, &rule, packet);
            }
            if event.told & told::REJECT != 0
                && let Verdict::Reject(with) = rule.verdict()
                && let Some(answer) = answer(packet, with)
            {
                self.told.answer(answer);
            }
        }
        self.told.summarize();
    }

    fn log(&mut self, event: &Event, chain: ChainName, handle: u64, rule: &Rule, packet: &[u8]) {
        let bucket = self.told.lines.entry(event.counter).or_insert_with(|| Bucket::new(LINES));
        if !bucket.take(LINES, Instant::now()) {
            return;
        }
        let prefix = rule.statements().iter().find_map(|statement| match statement {
            Statement::Log(log) => log.prefix.as_ref(),
            Statement::Limit(_) => None,
        });
        let name = |ifindex| self.model.links.get(&ifindex).map_or("", |link| link.name.as_str());
        let prefix = prefix.map_or("", |prefix| prefix.as_str());
        let line = line(packet);
        tracing::info!(
            target: "dataplane::log", %chain, handle,
            "{prefix}IN={} OUT={} {line}", name(event.iif), name(event.oif)
        );
    }
}

impl Told {
    /// The chains have changed: counters may belong to other rules.
    pub(super) fn forget_rules(&mut self) {
        self.rules.clear();
    }

    fn answer(&mut self, answer: Answer) {
        if !self.answers.take(ANSWERS, Instant::now()) {
            return;
        }
        let sockets = match &self.sockets {
            Some(sockets) => sockets,
            None => match Sockets::open() {
                Ok(sockets) => self.sockets.insert(sockets),
                Err(error) => {
                    self.answers.omitted += 1;
                    tracing::debug!("no socket for answers: {error}");
                    return;
                }
            },
        };
        if let Err(error) = sockets.send(answer) {
            tracing::debug!("an answer was not sent: {error}");
        }
    }

    /// Says what was left out since it was last said.
    fn summarize(&mut self) {
        if self.said.elapsed() < SUMMARY {
            return;
        }
        self.said = Instant::now();
        let lines: u64 = self.lines.values_mut().map(|bucket| std::mem::take(&mut bucket.omitted)).sum();
        if lines > 0 {
            tracing::info!(target: "dataplane::log", "{lines} lines were left out: a rule logs {} a second", LINES.1);
        }
        let answers = std::mem::take(&mut self.answers.omitted);
        if answers > 0 {
            let why = if self.sockets.is_some() {
                "1000 are sent a second"
            } else {
                "the daemon needs CAP_NET_RAW for them; the packets were dropped all the same"
            };
            tracing::warn!("{answers} rejected packets were not answered: {why}");
        }
    }
}

/// Raw sockets, one for each sort of answer.
#[derive(Debug)]
struct Sockets {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
    icmpv6: Option<OwnedFd>,
}

impl Sockets {
    fn open() -> rustix::io::Result<Self> {
        let raw = |family, number: u8| {
            let protocol = RawProtocol::new(number.into()).map(Protocol::from_raw);
            socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol)
        };
        // IPPROTO_RAW: the header comes with the packet (raw(7)).
        Ok(Self {
            v4: raw(AddressFamily::INET, 255)?,
            v6: raw(AddressFamily::INET6, 255).ok(),
            icmpv6: raw(AddressFamily::INET6, 58).ok(),
        })
    }

    fn send(&self, answer: Answer) -> rustix::io::Result<()> {
        let missing = rustix::io::Errno::AFNOSUPPORT;
        let (socket, bytes, to) = match answer {
            Answer::V4(bytes, to) => (&self.v4, bytes, IpAddr::V4(to)),
            Answer::V6(bytes, to) => (self.v6.as_ref().ok_or(missing)?, bytes, IpAddr::V6(to)),
            Answer::Icmpv6(bytes, to) => (self.icmpv6.as_ref().ok_or(missing)?, bytes, IpAddr::V6(to)),
        };
        sendto(socket, &bytes, SendFlags::empty(), &SocketAddr::new(to, 0)).map(drop)
    }
}

/// A packet, which begins with its IP header, in the words of netfilter's log.
fn line(packet: &[u8]) -> String {
    let byte = |at: usize| packet.get(at).copied();
    let word = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    let mut line = String::new();
    let described = match byte(0).map(|first| first >> 4) {
        Some(4) => (|| {
            let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
            let fragment = word(6)?;
            let _ = write!(line, "SRC={} DST={} LEN={} TTL={}", address(12)?, address(16)?, word(2)?, byte(8)?);
            if fragment & 0x3fff != 0 {
                let _ = write!(line, " FRAG:{}", fragment & 0x1fff);
            }
            let first = fragment.trailing_zeros() >= 13;
            Some((byte(9)?, usize::from(byte(0)? & 0xf) * 4, first))
        })(),
        Some(6) => (|| {
            let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
            let length = u32::from(word(4)?) + 40;
            let _ = write!(line, "SRC={} DST={} LEN={length} HOPLIMIT={}", address(8)?, address(24)?, byte(7)?);
            Some((byte(6)?, 40, true))
        })(),
        _ => None,
    };
    let Some((carries, at, first)) = described else { return line + "truncated" };
    let _ = write!(line, " PROTO={}", crate::rule::Protocol(carries).to_string().to_uppercase());
    match carries {
        _ if !first => {}
        6 | 17 | 33 | 132 | 136 => {
            if let (Some(source), Some(destination)) = (word(at), word(at + 2)) {
                let _ = write!(line, " SPT={source} DPT={destination}");
            }
            if let (6, Some(flags)) = (carries, byte(at + 13)) {
                for (bit, name) in ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"].iter().enumerate() {
                    if flags >> bit & 1 != 0 {
                        let _ = write!(line, " {name}");
                    }
                }
            }
        }
        1 | 58 => {
            if let (Some(kind), Some(code)) = (byte(at), byte(at + 1)) {
                let _ = write!(line, " TYPE={kind} CODE={code}");
            }
        }
        _ => {}
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_described_as_netfilter_does() {
        let mut v4 = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 63, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2];
        v4.extend([0x04, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12, 0, 0, 0, 0, 0, 0]);
        let mut later = v4.clone();
        later[6..8].copy_from_slice(&[0x20, 0x10]);
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
        v6.extend("2001:db8::1".parse::<Ipv6Addr>().expect("an address").octets());
        v6.extend("2001:db8::2".parse::<Ipv6Addr>().expect("an address").octets());
        v6.extend([128, 0, 0, 0, 0, 0, 0, 0]);
        let rows = [
            (&v4[..], "SRC=192.0.2.1 DST=198.51.100.2 LEN=40 TTL=63 PROTO=TCP SPT=1024 DPT=80 SYN ACK"),
            (&later[..], "SRC=192.0.2.1 DST=198.51.100.2 LEN=40 TTL=63 FRAG:16 PROTO=TCP"),
            (&v6[..], "SRC=2001:db8::1 DST=2001:db8::2 LEN=48 HOPLIMIT=64 PROTO=IPV6-ICMP TYPE=128 CODE=0"),
            (&v4[..21], "SRC=192.0.2.1 DST=198.51.100.2 LEN=40 TTL=63 PROTO=TCP"),
            (&v4[..8], "truncated"),
            (&[][..], "truncated"),
        ];
        for (packet, expected) in rows {
            assert_eq!(line(packet), expected);
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(LINES);
        let start = bucket.filled;
        let taken = |bucket: &mut Bucket, at: u64| {
            (0..100).filter(|_| bucket.take(LINES, start + Duration::from_secs(at))).count()
        };
        assert_eq!((taken(&mut bucket, 0), taken(&mut bucket, 1), taken(&mut bucket, 100)), (20, 10, 20));
        assert_eq!(bucket.omitted, 250);
    }
}
