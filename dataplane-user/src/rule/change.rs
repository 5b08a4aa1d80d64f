//! What rules write into a packet, or note of it and its connection. The kernel does it.

use std::fmt::{Display, Formatter, Result};

use dataplane_common::wire::protocol;

use super::ast::{Family, Match};
use super::connection::Connection;
use super::display::Named as _;
use super::value::{Dscp, HopLimit, Mark};

/// One thing that a rule changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// `meta mark set`, `ct mark set`.
    Mark(MarkOf, NewMark),
    /// `tcp option maxseg size set`: no larger than this, or than the route's MTU has room for.
    SegmentSize(Option<u16>),
    /// `ip dscp set`, `ip6 dscp set`.
    Dscp(Family, Dscp),
    /// `ip ttl set`, `ip6 hoplimit set`.
    HopLimit(Family, HopLimit),
    /// `ct helper set`: the connection is read for those that belong to it.
    Helper(Helper),
}

/// A helper of conntrack (`nf_conntrack_helper_register` and who calls it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Helper {
    /// FTP.
    Ftp,
    /// TFTP.
    Tftp,
    /// SIP over UDP.
    Sip,
    /// IRC.
    Irc,
    /// PPTP.
    Pptp,
    /// H.323, calls.
    Q931,
    /// H.323, registration.
    Ras,
    /// Amanda.
    Amanda,
    /// SANE.
    Sane,
    /// SNMP.
    Snmp,
    /// `NetBIOS` name service.
    NetbiosNs,
}

impl Helper {
    /// The protocol of the connections that it reads.
    pub const fn protocol(self) -> u8 {
        (match self {
            Self::Ftp | Self::Irc | Self::Pptp | Self::Q931 | Self::Sane => protocol::TCP,
            Self::Tftp | Self::Sip | Self::Ras | Self::Amanda | Self::Snmp | Self::NetbiosNs => protocol::UDP,
        }) as u8
    }
}

/// Whose mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MarkOf {
    /// `meta mark`.
    Packet,
    /// `ct mark`.
    Connection,
}

/// A mark made of another one: the bits of `keep` stay, then those of `flip` turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NewMark {
    from: MarkOf,
    keep: u32,
    flip: u32,
}

impl NewMark {
    /// A mark that is always the same.
    pub const fn value(value: u32) -> Self {
        Self::of(MarkOf::Packet, 0, value)
    }

    /// `(mark & keep) ^ flip`.
    pub const fn of(from: MarkOf, keep: u32, flip: u32) -> Self {
        // Of a mark of which nothing is kept it makes no difference whose it was.
        Self { from: if keep == 0 { MarkOf::Packet } else { from }, keep, flip }
    }

    /// Where the bits come from that are kept; none when none are.
    pub fn from(self) -> Option<MarkOf> {
        (self.keep != 0).then_some(self.from)
    }

    /// The bits that are kept.
    pub const fn keep(self) -> u32 {
        self.keep
    }

    /// The bits that turn then.
    pub const fn flip(self) -> u32 {
        self.flip
    }
}

impl Change {
    /// The family of the packets that have such a field, when that is one.
    pub const fn family(self) -> Option<Family> {
        match self {
            Self::Dscp(family, _) | Self::HopLimit(family, _) => Some(family),
            Self::Mark(..) | Self::SegmentSize(_) | Self::Helper(_) => None,
        }
    }

    /// The protocol of the packets that have such a field, when that is one.
    pub const fn protocol(self) -> Option<u8> {
        match self {
            Self::SegmentSize(_) => Some(protocol::TCP as u8),
            Self::Helper(helper) => Some(helper.protocol()),
            Self::Mark(..) | Self::Dscp(..) | Self::HopLimit(..) => None,
        }
    }

    /// Whether a match may hold before it and not after it, or the other way round.
    pub const fn concerns(self, asked: &Match) -> bool {
        match (self, asked) {
            (Self::Mark(MarkOf::Packet, _), Match::Connection(Connection::PacketMark(_)))
            | (Self::Mark(MarkOf::Connection, _), Match::Connection(Connection::Mark(_)))
            | (Self::Dscp(..), Match::Dscp(..))
            | (Self::HopLimit(..), Match::HopLimit(..)) => true,
            (Self::Mark(MarkOf::Packet, _), Match::Connection(Connection::Route(asked))) => asked.mark,
            _ => false,
        }
    }
}

impl MarkOf {
    const fn word(self) -> &'static str {
        match self {
            Self::Packet => "meta mark",
            Self::Connection => "ct mark",
        }
    }
}

impl Display for NewMark {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (from, keep, flip) = (self.from.word(), self.keep, self.flip);
        match (keep, flip) {
            (0, _) => Mark(flip).fmt(f),
            (u32::MAX, 0) => f.write_str(from),
            (u32::MAX, _) => write!(f, "{from} ^ {flip:#x}"),
            (_, 0) => write!(f, "{from} & {keep:#x}"),
            _ if keep == !flip => write!(f, "{from} | {flip:#x}"),
            _ => write!(f, "{from} & {keep:#x} ^ {flip:#x}"),
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Mark(of, mark) => write!(f, "{} set {mark}", of.word()),
            Self::SegmentSize(None) => f.write_str("tcp option maxseg size set rt mtu"),
            Self::SegmentSize(Some(size)) => write!(f, "tcp option maxseg size set {size}"),
            Self::Dscp(Family::V4, value) => write!(f, "ip dscp set {value}"),
            Self::Dscp(Family::V6, value) => write!(f, "ip6 dscp set {value}"),
            Self::HopLimit(Family::V4, value) => write!(f, "ip ttl set {value}"),
            Self::HopLimit(Family::V6, value) => write!(f, "ip6 hoplimit set {value}"),
            Self::Helper(helper) => write!(f, "ct helper set \"{}\"", helper.word()),
        }
    }
}
