//! Answers to the senders of rejected packets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::OwnedFd,
    time::Instant,
};

use dataplane_common::abi::{Ifindex, PacketEvent};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

use crate::{
    event::{Bucket, Packet, RejectReply, answer},
    rule::{ChainName, RejectWith},
};

/// Answers a second, to all senders together.
const RATE: u32 = 1000;
/// Answers at once.
const BURST: u32 = 1000;

/// Sends them: from raw sockets, so that the kernel routes them as its own.
#[derive(Debug)]
pub(super) struct Rejecter {
    /// `IPPROTO_RAW`, which takes whole packets. Opened with the first answer: as long as one is open, the kernel takes packets
    /// of protocol 255 for wanted, and does not answer them.
    sockets: [Result<Option<OwnedFd>, io::Error>; 2],
    bucket: Bucket,
    /// The operator has been told that there are no answers.
    told: bool,
    /// Answers that the rate did not allow.
    left_out: u64,
    /// How many of them the operator knows of, and since when.
    said: (u64, Instant),
}

impl Rejecter {
    /// Tries whether sockets can be opened; what is missing is told when it is needed.
    pub(super) fn open(now: Instant) -> Self {
        Self {
            sockets: FAMILIES.map(|family| open(family).map(|_| None)),
            bucket: Bucket::new(RATE, BURST, now),
            told: false,
            left_out: 0,
            said: (0, now),
        }
    }

    /// Why there are no answers in some family.
    pub(super) fn missing(&self) -> Option<&io::Error> {
        self.sockets.iter().find_map(|socket| socket.as_ref().err())
    }

    /// Answers to a packet, if it may be answered.
    pub(super) fn reject(&mut self, event: &PacketEvent, packet: &Packet<'_>, with: RejectWith, now: Instant) {
        let Some(answer) = answer(packet, with) else { return };
        if !self.bucket.take(now) {
            self.left_out += 1;
            return;
        }
        let family = usize::from(packet.source().is_ipv6());
        let place = &mut self.sockets[family];
        if let Ok(None) = place {
            *place = open(FAMILIES[family]).map(Some);
        }
        let socket = match place {
            Ok(Some(socket)) => &*socket,
            Ok(None) => return,
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!("rejected packets are dropped without an answer: {error}; answers need CAP_NET_RAW");
                }
                return;
            }
        };
        if let Err(error) = send(socket, event, packet, answer) {
            tracing::debug!("no answer to {}: {error}", packet.source());
        }
    }

    /// Says how many answers were left out, not more often than once a second.
    pub(super) fn report_suppressed(&mut self, now: Instant) {
        let (known, since) = self.said;
        if self.left_out > known && now.duration_since(since).as_secs() >= 1 {
            self.said = (self.left_out, now);
            tracing::warn!("{} rejected packets were not answered: more than {RATE} a second", self.left_out - known);
        }
    }

    /// Whether there is something to say.
    pub(super) fn has_suppressed(&self) -> bool {
        self.left_out > self.said.0
    }
}

const FAMILIES: [AddressFamily; 2] = [AddressFamily::INET, AddressFamily::INET6];

fn open(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW))?)
}

fn send(socket: &OwnedFd, event: &PacketEvent, packet: &Packet<'_>, answer: RejectReply) -> io::Result<()> {
    let to = address(packet.source(), event.iif);
    // To this machine's own packets, and to those for it, the answer comes from whom they were sent to.
    let ours = [ChainName::Input, ChainName::Output].iter().any(|chain| chain.index() == usize::from(event.chain));
    let source = match (answer, to) {
        (RejectReply::Reset, _) => packet.destination(),
        (RejectReply::Unreachable(_), _) if ours => packet.destination(),
        // The kernel fills it in.
        (RejectReply::Unreachable(_), SocketAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (RejectReply::Unreachable(_), SocketAddr::V6(_)) => source(to)?,
    };
    let Some(bytes) = answer.packet(packet, source) else { return Ok(()) };
    sendto(socket, &bytes, SendFlags::DONTWAIT, &to)?;
    Ok(())
}

fn address(address: IpAddr, iif: Ifindex) -> SocketAddr {
    match address {
        IpAddr::V4(address) => (address, 0).into(),
        IpAddr::V6(address) => {
            let scope = if address.is_unicast_link_local() { iif } else { 0 };
            SocketAddrV6::new(address, 0, 0, scope).into()
        }
    }
}

/// The address that the kernel takes towards another one.
fn source(mut to: SocketAddr) -> io::Result<IpAddr> {
    // Nothing is sent: the port is any.
    to.set_port(9);
    let probe = UdpSocket::bind("[::]:0")?;
    probe.connect(to)?;
    Ok(probe.local_addr()?.ip())
}
