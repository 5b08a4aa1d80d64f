//! Which socket gets a packet that is delivered, and what the kernel answers where none does.

use std::{collections::HashMap, net::SocketAddr};

use dataplane_common::{
    Reason,
    abi::{Ifindex, TraceRecord},
};

use super::{Daemon, steer::Steering, trace_row};
use crate::{
    control::open_socket::{RecipientRow, SocketEnd},
    model::{OpenSocket, STATE_LISTEN},
    netlink::{Error, sock_diag::SocketLookup},
};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Flags of a TCP header (RFC 9293, section 3.1).
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// `TCP_TIME_WAIT`.
const STATE_TIME_WAIT: u8 = 6;

/// What of a packet decides who gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Delivered {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
    iif: Ifindex,
    flags: u8,
    /// It has a transport header: it is no later fragment.
    first: bool,
}

/// What answers a delivered packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Socket,
    Rst,
    PortUnreachable,
    Nothing,
    Kernel,
}

impl Answer {
    const fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Rst => "rst",
            Self::PortUnreachable => "port_unreachable",
            Self::Nothing => "nothing",
            Self::Kernel => "kernel",
        }
    }

    /// To a packet for which the kernel found a socket in a state, or none.
    fn to(packet: &Delivered, state: Option<u8>) -> Self {
        let has = |flags: u8| packet.flags & flags != 0;
        match (packet.protocol, state) {
            (TCP | UDP, _) if !packet.first => Self::Kernel,
            (TCP, None) => {
                if has(RST) {
                    Self::Nothing
                } else {
                    Self::Rst
                }
            }
            // `tcp_rcv_state_process`: a listener takes a SYN alone.
            (TCP, Some(STATE_LISTEN)) => match packet.flags {
                _ if has(RST) => Self::Nothing,
                _ if has(ACK) => Self::Rst,
                _ if has(SYN) && !has(FIN) => Self::Socket,
                _ => Self::Nothing,
            },
            (UDP, None) => Self::PortUnreachable,
            (TCP | UDP, Some(_)) => Self::Socket,
            _ => Self::Kernel,
        }
    }
}

/// Looks up sockets for packets, each kind of packet once.
#[derive(Default)]
pub(super) struct Recipients {
    lookup: Option<SocketLookup>,
    known: HashMap<Delivered, RecipientRow>,
}

impl Recipients {
    /// What takes a packet; none where the kernel looks up no sockets.
    fn of(&mut self, packet: Delivered, steering: &Steering, name: impl Fn(Ifindex) -> String) -> Option<RecipientRow> {
        if let Some(known) = self.known.get(&packet) {
            return Some(known.clone());
        }
        match self.look_up(&packet, steering, name) {
            Ok(found) => {
                self.known.insert(packet, found.clone());
                Some(found)
            }
            Err(error) => {
                tracing::debug!("no socket can be looked up: {error}");
                None
            }
        }
    }

    /// For looking up sockets in other ways.
    pub(super) fn sockets(&mut self) -> Result<&mut SocketLookup, Error> {
        match &mut self.lookup {
            Some(lookup) => Ok(lookup),
            none => Ok(none.insert(SocketLookup::open()?)),
        }
    }

    fn look_up(
        &mut self,
        packet: &Delivered,
        steering: &Steering,
        name: impl Fn(Ifindex) -> String,
    ) -> Result<RecipientRow, Error> {
        let Delivered { protocol, source, destination, iif, .. } = *packet;
        let lookup = self.sockets()?;
        let mut found = None;
        if matches!(protocol, TCP | UDP) && packet.first {
            found = lookup.find(protocol, source, destination, iif)?;
            if found.as_ref().is_some_and(|socket| socket.state == STATE_TIME_WAIT)
                && packet.flags & (SYN | ACK | RST) == SYN
            {
                // A new connection goes to the listener (`TCP_TW_SYN`): no connection has port 0.
                found = lookup.find(protocol, SocketAddr::new(source.ip(), 0), destination, iif)?;
            }
        }
        let answer = Answer::to(packet, found.as_ref().map(|socket| socket.state)).name().to_owned();
        let copies = lookup.copies(protocol, source.ip(), destination.ip());
        let steer = steering.decides(protocol, destination, found.as_ref()).filter(|_| packet.first);
        Ok(RecipientRow {
            steer,
            socket: found.map(|socket| end(&socket, &name)),
            copies: copies.iter().map(|socket| end(socket, &name)).collect(),
            answer,
        })
    }
}

/// How a socket's protocol is called.
pub(super) const fn protocol_word(socket: &OpenSocket) -> &'static str {
    match (socket.raw, socket.protocol) {
        (true, _) => "raw",
        (false, TCP) => "tcp",
        _ => "udp",
    }
}

pub(super) fn end(socket: &OpenSocket, name: impl Fn(Ifindex) -> String) -> SocketEnd {
    SocketEnd {
        proto: protocol_word(socket).to_owned(),
        address: socket.local.ip(),
        port: (!socket.raw).then_some(socket.local.port()),
        peer: socket.peer,
        dev: (socket.device != 0).then(|| name(socket.device)),
        state: socket.state_name().to_owned(),
        transparent: socket.transparent,
        uid: socket.uid,
        inode: socket.inode,
        processes: Vec::new(),
    }
}

impl Daemon {
    /// What takes the packet of a record; none where it is not delivered to this machine, or cannot be read.
    pub(super) fn recipient(&self, record: &TraceRecord, recipients: &mut Recipients) -> Option<Box<RecipientRow>> {
        if trace_row::reason(record) != Reason::Local {
            return None;
        }
        let packet = trace_row::packet(record)?;
        let (protocol, transport) = (packet.protocol?, packet.transport());
        let first = packet.fragment_offset() == 0 && transport.len() >= 4;
        let word = |at: usize| Some(u16::from_be_bytes(*transport.get(at..)?.first_chunk()?)).filter(|_| first);
        let port = |at: usize| word(at).filter(|_| matches!(protocol, TCP | UDP)).unwrap_or_default();
        let delivered = Delivered {
            protocol,
            source: SocketAddr::new(packet.source(), port(0)),
            destination: SocketAddr::new(packet.destination(), port(2)),
            iif: self.lookup_device(record.iif),
            flags: if protocol == TCP { word(12).unwrap_or_default() as u8 } else { 0 },
            first,
        };
        recipients.of(delivered, &self.steering, |ifindex| self.name(ifindex)).map(Box::new)
    }

    /// The device that sockets are bound to for packets of an interface: itself, or its VRF.
    fn lookup_device(&self, iif: Ifindex) -> Ifindex {
        let links = &self.observed.model().links;
        let master = links.get(&iif).and_then(|link| links.get(&link.master?));
        master.filter(|master| master.kind.as_deref() == Some("vrf")).map_or(iif, |vrf| vrf.ifindex)
    }
}

/// What becomes of a packet that is delivered, in words.
pub(super) fn in_words(row: &RecipientRow, record: &TraceRecord) -> String {
    let packet = trace_row::packet(record);
    let protocol = packet.and_then(|packet| packet.protocol).unwrap_or_default();
    let port = packet.and_then(|packet| Some(u16::from_be_bytes(*packet.transport().get(2..)?.first_chunk()?)));
    let port = port.unwrap_or_default();
    let said = match (row.answer.as_str(), &row.socket) {
        (answer, None) if row.steer.is_some() => {
            let reply = match answer {
                "rst" => "answers with RST",
                "port_unreachable" => "answers with ICMP port unreachable",
                _ => "answers nothing",
            };
            let id = row.steer.as_ref().map_or(0, |entry| entry.id);
            format!("steer entry {id} has no socket, and lets no other take it: the kernel {reply}")
        }
        ("rst", Some(socket)) => format!("{} has no such connection: the kernel answers with RST", socket.words()),
        ("nothing", Some(socket)) => format!("{} ignores it: the kernel answers nothing", socket.words()),
        (_, Some(socket)) => format!("a socket takes it: {}", socket.words()),
        ("rst", None) => format!("no socket listens on port {port}: the kernel answers with RST"),
        ("port_unreachable", None) => {
            format!("no socket listens on port {port}: the kernel answers with ICMP port unreachable")
        }
        ("nothing", None) => format!("no socket listens on port {port}, and an RST gets no answer"),
        _ => match protocol {
            ICMP | ICMPV6 => "the kernel answers, or a ping socket takes it".to_owned(),
            TCP | UDP => "a later fragment: the socket of its first fragment gets the datagram".to_owned(),
            _ => format!("the kernel takes protocol {protocol}, or answers that it is not known"),
        },
    };
    let said = match (&row.socket, &row.steer) {
        (Some(_), Some(entry)) => format!("{said}, by steer entry {} ({})", entry.id, entry.matches),
        _ => said,
    };
    match row.copies.len() {
        0 => said,
        copies => format!("{said}; {copies} raw socket(s) get a copy"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_answers() {
        const LISTENS: Option<u8> = Some(STATE_LISTEN);
        const OPEN: Option<u8> = Some(1);
        for (protocol, flags, state, want) in [
            (TCP, SYN, None, "rst"),
            (TCP, ACK, None, "rst"),
            (TCP, RST | ACK, None, "nothing"),
            (TCP, SYN, LISTENS, "socket"),
            (TCP, ACK, LISTENS, "rst"),
            (TCP, SYN | ACK, LISTENS, "rst"),
            (TCP, RST, LISTENS, "nothing"),
            (TCP, SYN | FIN, LISTENS, "nothing"),
            (TCP, FIN, LISTENS, "nothing"),
            (TCP, ACK, OPEN, "socket"),
            (UDP, 0, None, "port_unreachable"),
            (UDP, 0, Some(7), "socket"),
            (ICMP, 0, None, "kernel"),
            (47, 0, None, "kernel"),
        ] {
            let end = SocketAddr::new("192.0.2.1".parse().expect("an address"), 1);
            let packet = Delivered { protocol, source: end, destination: end, iif: 1, flags, first: true };
            assert_eq!(Answer::to(&packet, state).name(), want, "{protocol} {flags:#x} {state:?}");
            let later = Delivered { first: false, ..packet };
            if matches!(protocol, TCP | UDP) {
                assert_eq!(Answer::to(&later, state).name(), "kernel");
            }
        }
    }
}
