//! What the kernel says of a connection that it tracks.

use std::{fmt, net::SocketAddr};

use bitflags::bitflags;

use crate::model::Family;

/// A protocol whose connections may be fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
}

impl Protocol {
    /// That with this number; others are never fast.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// In the IP header.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// How nft calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The packets of one direction, as they come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl<A: Family> Tuple<A> {
    /// The packets that answer.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }
}

impl<A: Family> fmt::Display for Tuple<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = SocketAddr::new(self.source.to_ip(), self.source_port);
        let destination = SocketAddr::new(self.destination.to_ip(), self.destination_port);
        write!(f, "{} {source} > {destination}", self.protocol.name())
    }
}

bitflags! {
    /// `enum ip_conntrack_status` (`include/uapi/linux/netfilter/nf_conntrack_common.h`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Status: u32 {
        /// Another connection announced this one.
        const EXPECTED = 1 << 0;
        /// Packets went both ways.
        const SEEN_REPLY = 1 << 1;
        /// It is not dropped early when the kernel's table is full.
        const ASSURED = 1 << 2;
        /// It is in the kernel's table.
        const CONFIRMED = 1 << 3;
        /// Its source is translated.
        const SRC_NAT = 1 << 4;
        /// Its destination is translated.
        const DST_NAT = 1 << 5;
        /// Its sequence numbers are shifted.
        const SEQ_ADJUST = 1 << 6;
        /// The kernel is about to forget it.
        const DYING = 1 << 9;
        /// Two connections with one tuple.
        const NAT_CLASH = 1 << 12;
        /// A helper reads its packets.
        const HELPER = 1 << 13;
        /// The kernel's own flow table carries it.
        const OFFLOAD = 1 << 14;
        const _ = !0;
    }
}

impl Status {
    /// How nft and conntrack call what is set, as far as an operator asks for it.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        const WORDS: [(Status, &str); 6] = [
            (Status::SEEN_REPLY, "seen-reply"),
            (Status::ASSURED, "assured"),
            (Status::SRC_NAT, "snat"),
            (Status::DST_NAT, "dnat"),
            (Status::HELPER, "helper"),
            (Status::OFFLOAD, "offload"),
        ];
        WORDS.into_iter().filter(move |(bit, _)| self.contains(*bit)).map(|(_, word)| word)
    }
}

/// `TCP_CONNTRACK_ESTABLISHED`.
pub const ESTABLISHED: u8 = 3;
/// `IP_CT_TCP_FLAG_BE_LIBERAL`: sequence numbers outside of the window do not matter.
pub const LIBERAL: u8 = 0x08;

/// What conntrack knows of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tcp {
    /// `enum tcp_conntrack`.
    pub state: u8,
    /// `IP_CT_TCP_FLAG_*` of both directions, where the message has them.
    pub flags: Option<[u8; 2]>,
}

impl Tcp {
    /// How conntrack calls the state.
    pub fn state_name(self) -> &'static str {
        const NAMES: [&str; 10] = [
            "NONE",
            "SYN_SENT",
            "SYN_RECV",
            "ESTABLISHED",
            "FIN_WAIT",
            "CLOSE_WAIT",
            "LAST_ACK",
            "TIME_WAIT",
            "CLOSE",
            "SYN_SENT2",
        ];
        NAMES.get(usize::from(self.state)).copied().unwrap_or("UNKNOWN")
    }

    /// Whether what passes the kernel by does not matter to it, in both directions.
    pub fn is_liberal(&self) -> bool {
        self.flags.is_some_and(|flags| flags.iter().all(|flags| flags & LIBERAL != 0))
    }
}

/// One message about a connection, or one entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<A> {
    /// The kernel's number of it; not of its tuple, so that a connection after it with the same tuple is another one.
    pub id: u32,
    /// Which of the kernel's tables.
    pub zone: u16,
    /// What became of it.
    pub status: Status,
    /// Its mark, where the message has it.
    pub mark: Option<u32>,
    /// Seconds until it is forgotten, where the message has them.
    pub timeout: Option<u32>,
    /// Where it is TCP and the message has it.
    pub tcp: Option<Tcp>,
    /// Its SYN was answered by the kernel, which goes on to translate sequence numbers.
    pub synproxy: bool,
    /// Packets of the side that began, as they come in.
    pub original: Tuple<A>,
    /// Packets of the other side, as they come in.
    pub reply: Tuple<A>,
}

/// Of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnySeen {
    /// IPv4.
    V4(Seen<u32>),
    /// IPv6.
    V6(Seen<u128>),
}

/// What the kernel announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// A connection is there, or changed.
    Update(AnySeen),
    /// It is gone.
    Destroy(AnySeen),
}

/// A connection as the kernel finds it: its zone, and its first tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Named {
    /// IPv4.
    V4(u16, Tuple<u32>),
    /// IPv6.
    V6(u16, Tuple<u128>),
}

/// What the kernel is to change about a connection before it may be fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub connection: Named,
    /// UDP: the seconds until it is forgotten. TCP: none; it is made indifferent to what passes the kernel by.
    pub timeout: Option<u32>,
}
