//! Connections, as the frames that both ends of each send. What the far end sends depends on what came out of the router: it
//! answers the address and port that it saw.

use std::net::IpAddr;

use fastrand::Rng;

use super::tree::Shot;
use crate::fixture::{
    packet::{Packet, ip, sum},
    plan::{host_mac, port_mac},
};

/// An address and a port.
pub type End = (IpAddr, u16);

/// How the packets of a connection leave a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The port.
    pub exit: u8,
    /// Source.
    pub from: End,
    /// Destination.
    pub to: End,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing, or only its first packet, was sent so many times.
    New(u8),
    /// TCP: the far end has answered.
    Answered,
    /// Both may send.
    Open,
    /// It has ended, or nothing of it comes through.
    Over,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Connection {
    id: u16,
    tcp: bool,
    /// The port that it begins at.
    port: u8,
    /// Source, as it comes in.
    pub from: End,
    to: End,
    /// How it leaves each of both routers.
    pub outside: [Option<Outside>; 2],
    stage: Stage,
    /// What each end has sent, in bytes.
    sent: [u16; 2],
    /// TCP: which end has said that it sends no more.
    closed: [bool; 2],
}

/// What goes into both routers, and in a word why.
pub type Act = (&'static str, [Vec<Shot>; 2]);

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
/// Bytes that an end may send: below the window that the other one announces.
const MOST: u16 = 40_000;
/// Begins the payload of datagrams.
const MARK: [u8; 2] = *b"DP";

impl Connection {
    /// One that begins with its next act.
    pub fn new(id: u16, tcp: bool, port: u8, from: End, to: End) -> Self {
        let stage = Stage::New(0);
        Self { id, tcp, port, from, to, outside: [None; 2], stage, sent: [0; 2], closed: [false; 2] }
    }

    /// Whether nothing more is to be sent.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Another one between the same ends.
    pub fn again(&self, id: u16) -> Self {
        Self { outside: self.outside, ..Self::new(id, self.tcp, self.port, self.from, self.to) }
    }

    /// Whether another one is between the same ends, or would be taken for it behind translation to one address.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.tcp, self.from, self.to) == (other.tcp, other.from, other.to)
    }

    /// TCP, or UDP.
    pub const fn is_tcp(&self) -> bool {
        self.tcp
    }

    /// Where it goes to, as it comes in.
    pub const fn to(&self) -> End {
        self.to
    }

    /// The port that it begins at.
    pub const fn port(&self) -> u8 {
        self.port
    }

    /// The number that the first end's packets bear.
    const fn mark(&self, side: usize) -> u16 {
        self.id << 1 | side as u16
    }

    /// Takes note of how a packet of the first end left a router.
    pub fn learn(&mut self, tree: usize, seen: Outside) {
        self.outside[tree] = Some(seen);
    }

    /// The connections whose first end sent a packet, by what it bears: the transport header and what is behind.
    pub fn is_of(&self, protocol: u8, transport: &[u8]) -> bool {
        let mark = match (protocol, self.tcp) {
            (6, true) => transport.get(4..6),
            (17, false) if transport.get(8..10) == Some(&MARK) => transport.get(10..12),
            _ => None,
        };
        mark == Some(&self.mark(0).to_be_bytes())
    }

    /// What is sent next; nothing where it is over.
    pub fn act(&mut self, rng: &mut Rng) -> Option<Act> {
        let through = self.outside.iter().all(Option::is_some);
        match self.stage {
            Stage::Over => None,
            Stage::New(3..) if !through => {
                self.stage = Stage::Over;
                None
            }
            Stage::New(times) if !through || times == 0 => {
                self.stage = Stage::New(times + 1);
                self.sent = [u16::from(self.tcp); 2];
                Some(if self.tcp {
                    ("SYN", self.segment(0, SYN, 0, 0))
                } else {
                    ("first datagram", self.datagram(0, 20))
                })
            }
            Stage::New(_) if self.tcp => {
                self.stage = Stage::Answered;
                Some(("SYN and ACK", self.segment(1, SYN | ACK, 0, 0)))
            }
            Stage::Answered => {
                self.stage = Stage::Open;
                Some(("ACK", self.segment(0, ACK, self.sent[0], 0)))
            }
            Stage::New(_) | Stage::Open => {
                self.stage = Stage::Open;
                Some(if self.tcp { self.tcp_act(rng) } else { self.udp_act(rng) })
            }
        }
    }

    fn tcp_act(&mut self, rng: &mut Rng) -> Act {
        let side = rng.usize(..2);
        let seq = self.sent[side];
        if self.closed == [true; 2] || self.sent.iter().any(|sent| *sent > MOST) {
            self.stage = Stage::Over;
            return ("last ACK", self.segment(side, ACK, seq, 0));
        }
        match rng.u8(..100) {
            0..3 if !self.closed[side] => {
                self.closed[side] = true;
                self.sent[side] += 1;
                ("FIN", self.segment(side, FIN | ACK, seq, 0))
            }
            3 => {
                self.stage = Stage::Over;
                ("RST", self.segment(side, RST | ACK, seq, 0))
            }
            4 => ("SYN again", self.segment(side, SYN, 0, 0)),
            5 => ("SYN and ACK again", self.segment(1, SYN | ACK, 0, 0)),
            6 => ("strange flags", self.segment(side, [0, FIN, SYN | FIN, 0x3f][rng.usize(..4)], seq, 0)),
            7 => ("TTL 1", self.with(side, |packet| packet.ttl(1), 6, &self.header(side, ACK | PSH, seq, 9))),
            8..11 => ("error", self.error(side, rng)),
            11..14 => (
                "too big",
                self.with(side, |packet| packet.fragment(0x4000), 6, &self.header(side, ACK, seq, self.big(side))),
            ),
            _ if self.closed[side] => ("ACK", self.segment(side, ACK, seq, 0)),
            14..40 => ("ACK", self.segment(side, ACK, seq, 0)),
            _ => {
                let length = rng.u16(1..900);
                self.sent[side] += length;
                ("data", self.segment(side, ACK | PSH, seq, length))
            }
        }
    }

    fn udp_act(&mut self, rng: &mut Rng) -> Act {
        let side = rng.usize(..2);
        match rng.u8(..100) {
            0 => {
                self.stage = Stage::Over;
                ("last datagram", self.datagram(side, 30))
            }
            1..3 => ("TTL 1", self.with(side, |packet| packet.ttl(1), 17, &self.payload(side, 12))),
            3..6 => ("error", self.error(side, rng)),
            6..8 => {
                ("too big", self.with(side, |packet| packet.fragment(0x4000), 17, &self.payload(side, self.big(side))))
            }
            8..10 => ("to be fragmented", self.datagram(side, self.big(side))),
            10..15 if self.from.0.is_ipv4() => ("fragments", self.fragments(side)),
            15..20 if self.from.0.is_ipv4() => {
                ("no checksum", self.with(side, |packet| packet.patch(26, &[0, 0]), 17, &self.payload(side, 40)))
            }
            _ => ("datagram", self.datagram(side, rng.u16(4..1000))),
        }
    }

    /// More than the next link takes.
    fn big(&self, side: usize) -> u16 {
        match (side, self.port) {
            (0, 0) => 1700,
            _ => 1400,
        }
    }

    fn segment(&self, side: usize, flags: u8, seq: u16, length: u16) -> [Vec<Shot>; 2] {
        self.with(side, |packet| packet, 6, &self.header(side, flags, seq, length))
    }

    fn datagram(&self, side: usize, length: u16) -> [Vec<Shot>; 2] {
        self.with(side, |packet| packet, 17, &self.payload(side, length))
    }

    /// A TCP header and data, but for the ports.
    fn header(&self, side: usize, flags: u8, seq: u16, length: u16) -> Vec<u8> {
        let word = |side: usize, low: u16| [self.mark(side).to_be_bytes(), low.to_be_bytes()].concat();
        let ack = if flags & ACK == 0 { vec![0; 4] } else { word(side ^ 1, self.sent[side ^ 1]) };
        let head = [vec![0; 4], word(side, seq), ack, vec![5 << 4, flags, 0xf0, 0, 0, 0, 0, 0]].concat();
        [head, (0..length).map(|at| (at + seq) as u8).collect()].concat()
    }

    /// A UDP header and data, but for the ports.
    fn payload(&self, side: usize, length: u16) -> Vec<u8> {
        let length = length.max(4);
        let mut bytes = [vec![0; 4], (length + 8).to_be_bytes().to_vec(), vec![0; 2]].concat();
        bytes.extend(MARK);
        bytes.extend(self.mark(side).to_be_bytes());
        bytes.extend((4..length).map(|at| at as u8));
        bytes
    }

    /// The ends as a side of it sends, in each router; none where that is not known.
    fn ends(&self, side: usize) -> [Option<(u8, End, End)>; 2] {
        if side == 0 {
            return [Some((self.port, self.from, self.to)); 2];
        }
        self.outside.map(|outside| outside.map(|seen| (seen.exit, seen.to, seen.from)))
    }

    /// A packet of one side, for both routers.
    fn with(&self, side: usize, change: impl Fn(Packet) -> Packet, protocol: u8, transport: &[u8]) -> [Vec<Shot>; 2] {
        self.ends(side).map(|ends| {
            let Some((port, from, to)) = ends else { return Vec::new() };
            vec![shot(port, change(packet(from, to, protocol, transport)))]
        })
    }

    /// A datagram in two pieces.
    fn fragments(&self, side: usize) -> [Vec<Shot>; 2] {
        let transport = self.payload(side, 800);
        self.ends(side).map(|ends| {
            let Some((port, from, to)) = ends else { return Vec::new() };
            let whole = packet(from, to, 17, &transport);
            let (first, second) = whole.payload().split_at(400);
            let piece = |bytes: &[u8], word| {
                ip(from.0, to.0).identification(self.mark(side)).carrying(17, bytes.to_vec()).fragment(word)
            };
            vec![shot(port, piece(first, 0x2000)), shot(port, piece(second, 400 / 8))]
        })
    }

    /// What a router behind one side says of a packet that the other side sent.
    fn error(&self, side: usize, rng: &mut Rng) -> [Vec<Shot>; 2] {
        let kind = rng.usize(..3);
        let protocol = if self.tcp { 6 } else { 17 };
        let transport =
            if self.tcp { self.header(side ^ 1, ACK, self.sent[side ^ 1], 0) } else { self.payload(side ^ 1, 4) };
        self.ends(side).map(|ends| {
            let Some((port, from, to)) = ends else { return Vec::new() };
            let quoted = packet(to, from, protocol, &transport).ttl(63).bare();
            let rest = |mtu: u16| [vec![0; 4], mtu.to_be_bytes().to_vec()].concat();
            let (number, mut message) = if from.0.is_ipv4() {
                (1, [[vec![3, 3], rest(0)], [vec![3, 4], rest(1300)], [vec![11, 0], rest(0)]][kind].concat())
            } else {
                (58, [[vec![1, 4], rest(0)], [vec![2, 0], rest(1280)], [vec![3, 0], rest(0)]][kind].concat())
            };
            message.extend(quoted);
            let error = ip(from.0, to.0).carrying(number, message.clone());
            if number == 58 {
                return vec![shot(port, error.summed(2))];
            }
            let checksum = !sum(&message);
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
            vec![shot(port, error.carrying(number, message))]
        })
    }
}

/// A packet with its ports and a finished checksum.
fn packet(from: End, to: End, protocol: u8, transport: &[u8]) -> Packet {
    let mut transport = transport.to_vec();
    transport[..2].copy_from_slice(&from.1.to_be_bytes());
    transport[2..4].copy_from_slice(&to.1.to_be_bytes());
    ip(from.0, to.0).carrying(protocol, transport).summed(if protocol == 6 { 16 } else { 6 })
}

/// Into a port, from its host 2.
fn shot(port: u8, packet: Packet) -> Shot {
    let mut frame = packet.to(port_mac(port)).frame();
    frame[6..12].copy_from_slice(&host_mac(port, 2).0);
    Shot { port, frame, class: "connection" }
}
