//! A packet that was sampled, and what became of it.

use std::net::IpAddr;

use dataplane_common::{Reason, Verdict};

use super::{HEADER, LAST_INTERFACE, word::Words};

/// `flow_format`: the beginning of a frame, and how a router forwarded it.
const SAMPLED_HEADER: u32 = 1;
const EXTENDED_ROUTER: u32 = 1002;
/// `header_protocol` of Ethernet.
const ETHERNET: u32 = 1;
/// The checksum of an Ethernet frame, which belongs to its length and is not there any more.
const CHECKSUM: u32 = 4;

/// A packet.
#[derive(Clone, Copy, Debug)]
pub struct PacketSample<'a> {
    /// The interface it came in through.
    pub input: u32,
    /// Where it went.
    pub output: Output,
    /// Bytes of its frame, without checksum.
    pub length: u32,
    /// The beginning of the frame; more than [`HEADER`] bytes are not exported.
    pub header: &'a [u8],
    /// How it was routed; none if it was not.
    pub route: Option<Route>,
}

/// How a router forwarded a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The next hop; the destination itself on a link that it is on.
    pub via: IpAddr,
    /// Length of the prefix of the route back to the source; 0 where there is none.
    pub source: u32,
    /// Length of the prefix of the route.
    pub destination: u32,
}

/// Where a packet went: `interface` of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The kernel decides.
    Unknown,
    /// Out through an interface.
    Interface(u32),
    /// To this machine itself.
    Internal,
    /// Nowhere.
    Discarded(Discard),
}

/// Why a packet was discarded, as the specification numbers it: below 256 a code of ICMP's "destination unreachable".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// `ttl exceeded`.
    TimeToLive,
    /// `ACL`: a rule or a policy.
    Rule,
    /// `unknown`: everything else.
    Unknown,
}

impl Output {
    /// Where a packet went that ended for a reason; if it went out through an interface, through which.
    pub fn of(reason: Reason, oif: u32) -> Self {
        match (reason.verdict(), reason) {
            (Verdict::Forward, _) => Self::Interface(oif),
            (Verdict::Deliver, _) => Self::Internal,
            (
                Verdict::Drop,
                Reason::FilterPrerouting | Reason::FilterInput | Reason::FilterForward | Reason::Unreadable,
            ) => Self::Discarded(Discard::Rule),
            (Verdict::Drop, Reason::TtlExpired) => Self::Discarded(Discard::TimeToLive),
            (Verdict::Drop, _) => Self::Discarded(Discard::Unknown),
            _ => Self::Unknown,
        }
    }

    fn word(self) -> u32 {
        match self {
            Self::Interface(ifindex) if ifindex <= LAST_INTERFACE => ifindex,
            Self::Unknown | Self::Interface(_) => 0,
            Self::Internal => 0x3fff_ffff,
            Self::Discarded(discard) => 1 << 30 | discard.code(),
        }
    }
}

impl Discard {
    const fn code(self) -> u32 {
        match self {
            Self::Unknown => 256,
            Self::TimeToLive => 257,
            Self::Rule => 258,
        }
    }
}

impl PacketSample<'_> {
    /// The way out and the records, behind the way in.
    pub(super) fn write(&self, body: &mut Vec<u8>) {
        body.words(&[self.output.word(), 1 + u32::from(self.route.is_some())]);
        let mut record = Vec::new();
        record.words(&[ETHERNET, self.length.saturating_add(CHECKSUM), CHECKSUM]);
        record.opaque(&self.header[..self.header.len().min(HEADER)]);
        body.words(&[SAMPLED_HEADER]);
        body.opaque(&record);
        if let Some(route) = &self.route {
            record.clear();
            record.address(route.via);
            record.words(&[route.source, route.destination]);
            body.words(&[EXTENDED_ROUTER]);
            body.opaque(&record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_packet_went_is_a_word() {
        for (output, word) in [
            (Output::Unknown, 0),
            (Output::Interface(7), 7),
            (Output::Interface(1 << 24), 0),
            (Output::Internal, 0x3fff_ffff),
            (Output::Discarded(Discard::Unknown), 0x4000_0100),
            (Output::Discarded(Discard::TimeToLive), 0x4000_0101),
            (Output::Discarded(Discard::Rule), 0x4000_0102),
        ] {
            assert_eq!(output.word(), word, "{output:?}");
        }
    }

    #[test]
    fn each_reason_goes_somewhere() {
        assert_eq!(Output::of(Reason::Forwarded, 4), Output::Interface(4));
        assert_eq!(Output::of(Reason::Local, 0), Output::Internal);
        assert_eq!(Output::of(Reason::FilterForward, 4), Output::Discarded(Discard::Rule));
        // A rule drops it, for what cannot be read of it.
        assert_eq!(Output::of(Reason::Unreadable, 0), Output::Discarded(Discard::Rule));
        assert_eq!(Output::of(Reason::BadChecksum, 0), Output::Discarded(Discard::Unknown));
        assert_eq!(Output::of(Reason::NeighbourUnresolved, 4), Output::Unknown);
    }

    #[test]
    fn a_route_is_a_record_of_its_own() {
        let route = Route { via: "198.51.100.1".parse().expect("an address"), source: 24, destination: 16 };
        let sample =
            PacketSample { input: 1, output: Output::Interface(2), length: 64, header: &[1, 2, 3], route: Some(route) };
        let mut body = Vec::new();
        sample.write(&mut body);
        let mut want = Vec::new();
        want.words(&[2, 2, SAMPLED_HEADER, 20, ETHERNET, 68, 4, 3, 0x0102_0300]);
        want.words(&[EXTENDED_ROUTER, 16, 1, 0xc633_6401, 24, 16]);
        assert_eq!(body, want);
    }
}
