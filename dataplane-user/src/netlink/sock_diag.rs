//! Sockets of this network namespace, by `sock_diag(7)`: lists of them, and the kernel's own lookup for one packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane_common::abi::Ifindex;

use super::{
    Error,
    attribute::{Attributes, u8_at, u32_at},
    dump::is_foreign,
    raw_socket::raw_sockets,
    socket::{Message, Requester, messages},
};
use crate::model::{Family, OpenSocket, STATE_CLOSE, STATE_LISTEN};

/// `NETLINK_SOCK_DIAG`.
const PROTOCOL: isize = libc::NETLINK_SOCK_DIAG as isize;
/// `SOCK_DIAG_BY_FAMILY` (`include/uapi/linux/sock_diag.h`).
const BY_FAMILY: u16 = 20;
/// Length of `struct inet_diag_req_v2` (`include/uapi/linux/inet_diag.h`).
const REQUEST: usize = 56;
/// Where its states and its `struct inet_diag_sockid` begin.
const STATES: usize = 4;
const ID: usize = 8;
/// Length of `struct inet_diag_msg`.
const HEADER: usize = 72;
/// `INET_DIAG_SKV6ONLY`.
const ONLY_IPV6: u16 = 11;
/// `INET_DIAG_SOCKOPT`, and `transparent` in its first byte (`struct inet_diag_sockopt`).
const OPTIONS: u16 = 22;
const TRANSPARENT: u8 = 1 << 5;
/// The protocols whose sockets are looked up by port.
const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;

/// The sockets that packets of any sender may be for: those of TCP that listen, those of UDP that are not connected, and raw
/// ones.
///
/// # Errors
/// The kernel does not list them.
pub fn open_sockets() -> Result<Vec<OpenSocket>, Error> {
    let mut requester = Requester::open(PROTOCOL)?;
    let mut found = Vec::new();
    for (protocol, state) in [(TCP, STATE_LISTEN), (UDP, STATE_CLOSE)] {
        for family in [u32::NUMBER, u128::NUMBER] {
            let request = request(family, protocol, 1 << state);
            let parse = |message: &Message<'_>| parse(message.payload, protocol);
            match requester.dump("sockets", BY_FAMILY, &request, parse) {
                // The kernel has no IPv6.
                Err(error) if family == u128::NUMBER && (is_foreign(&error) || is_absent(&error)) => {}
                other => found.extend(other?),
            }
        }
    }
    // One that is not bound gets nothing.
    found.retain(|socket| socket.local.port() != 0);
    found.extend(raw_sockets());
    Ok(found)
}

/// Whether the kernel has no such list.
fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Refused { source, .. } if source.raw_os_error() == Some(libc::ENOENT))
}

/// Has the kernel look up the socket that a packet is for.
pub struct SocketLookup {
    requester: Requester,
    raw: Option<Vec<OpenSocket>>,
}

impl SocketLookup {
    /// A lookup in the network namespace of the caller.
    ///
    /// # Errors
    /// The kernel has no `sock_diag`.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { requester: Requester::open(PROTOCOL)?, raw: None })
    }

    /// The socket that a packet of TCP (6) or UDP (17) from `source` to `destination`, which came in through `iif`, is for: what
    /// `__inet_lookup`, `__inet6_lookup` and `__udp4_lib_lookup` return to the stack, connected sockets first.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub fn find(
        &mut self,
        protocol: u8,
        source: SocketAddr,
        destination: SocketAddr,
        iif: Ifindex,
    ) -> Result<Option<OpenSocket>, Error> {
        let family = if source.is_ipv4() { u32::NUMBER } else { u128::NUMBER };
        let mut request = request(family, protocol, u32::MAX);
        // The id names the socket's own end first, but for UDP the packet's sender (`udp_dump_one` in `net/ipv4/udp_diag.c`).
        let (first, second) = if protocol == UDP { (source, destination) } else { (destination, source) };
        request[ID..ID + 2].copy_from_slice(&first.port().to_be_bytes());
        request[ID + 2..ID + 4].copy_from_slice(&second.port().to_be_bytes());
        put_address(&mut request[ID + 4..ID + 20], first.ip());
        put_address(&mut request[ID + 20..ID + 36], second.ip());
        request[ID + 36..ID + 40].copy_from_slice(&iif.to_ne_bytes());
        // `INET_DIAG_NOCOOKIE`: whichever socket it is.
        request[ID + 40..].fill(0xff);
        self.requester.get("a socket", BY_FAMILY, &request, |message| parse(message.payload, protocol))
    }

    /// The raw sockets that get a copy of a packet, as they were when this was called first.
    pub fn copies(&mut self, protocol: u8, source: IpAddr, destination: IpAddr) -> Vec<OpenSocket> {
        let raw = self.raw.get_or_insert_with(raw_sockets);
        let fits = |own: IpAddr, address: IpAddr| own.is_unspecified() || own == address;
        let gets = |socket: &&OpenSocket| {
            socket.protocol == protocol
                && socket.local.is_ipv4() == destination.is_ipv4()
                && fits(socket.local.ip(), destination)
                && socket.peer.is_none_or(|peer| fits(peer.ip(), source))
        };
        raw.iter().filter(gets).cloned().collect()
    }
}

/// `struct inet_diag_req_v2` without an id.
fn request(family: u8, protocol: u8, states: u32) -> Vec<u8> {
    let mut request = vec![0; REQUEST];
    request[0] = family;
    request[1] = protocol;
    request[STATES..ID].copy_from_slice(&states.to_ne_bytes());
    request
}

fn put_address(place: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(address) => place[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => place.copy_from_slice(&address.octets()),
    }
}

/// `struct inet_diag_msg`; none of another family.
fn parse(payload: &[u8], protocol: u8) -> Option<OpenSocket> {
    let family = u8_at(payload, 0)?;
    let end = |port: usize, address: usize| {
        let port = u16::from_be_bytes(*payload.get(port..)?.first_chunk()?);
        let bytes: [u8; 16] = *payload.get(address..)?.first_chunk()?;
        let ip = match family {
            u32::NUMBER => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
            u128::NUMBER => Ipv6Addr::from(bytes).into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    };
    let peer = end(6, 24)?;
    let mut socket = OpenSocket {
        protocol,
        raw: false,
        local: end(4, 8)?,
        peer: (peer.port() != 0 || !peer.ip().is_unspecified()).then_some(peer),
        device: u32_at(payload, 40)?,
        state: u8_at(payload, 1)?,
        only_ipv6: false,
        transparent: false,
        uid: u32_at(payload, 64)?,
        cookie: u64::from(u32_at(payload, 44)?) | u64::from(u32_at(payload, 48)?) << 32,
        inode: u32_at(payload, 68)?,
    };
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            ONLY_IPV6 => socket.only_ipv6 = u8_at(value, 0)? != 0,
            OPTIONS => socket.transparent = u8_at(value, 0)? & TRANSPARENT != 0,
            _ => {}
        }
    }
    Some(socket)
}

/// How many sockets can be read in a datagram: for `cargo xtask fuzz`.
pub fn listed(datagram: &[u8]) -> usize {
    messages(datagram)
        .filter(|message| message.kind == BY_FAMILY)
        .filter_map(|message| parse(message.payload, TCP))
        .count()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// Which port the socket has that the kernel finds, and whether that is connected.
    fn found(protocol: u8, source: SocketAddr, destination: SocketAddr) -> Option<(u16, bool)> {
        let mut lookup = SocketLookup::open().expect("sock_diag");
        let socket = lookup.find(protocol, source, destination, 0).expect("the kernel answers");
        socket.map(|socket| (socket.local.port(), socket.peer.is_some()))
    }

    #[test]
    fn the_kernel_looks_up() {
        for (host, any) in [("127.0.0.1", "0.0.0.0:0"), ("[::1]", "[::]:0"), ("127.0.0.1", "[::]:0")] {
            let stranger = address(&format!("{host}:1"));
            let listener = TcpListener::bind(any).expect("a listener");
            let port = listener.local_addr().expect("an address").port();
            let here = address(&format!("{host}:{port}"));
            assert_eq!(found(TCP, stranger, here), Some((port, false)), "{any}");
            let client = TcpStream::connect(here).expect("a connection");
            let client = client.local_addr().expect("an address");
            assert_eq!(found(TCP, client, here), Some((port, true)), "{any}: the connection comes first");
            drop(listener);

            let open = UdpSocket::bind(any).expect("a socket");
            let port = open.local_addr().expect("an address").port();
            let here = address(&format!("{host}:{port}"));
            assert_eq!(found(UDP, stranger, here), Some((port, false)), "{any}");
            let listed = open_sockets().expect("a list");
            let row = listed.iter().find(|socket| socket.protocol == UDP && socket.local.port() == port);
            let row = row.unwrap_or_else(|| panic!("{any} is not listed"));
            assert!(row.takes_family(here.is_ipv4()) && !row.transparent && row.inode != 0, "{row:?}");
            drop(open);
            assert_eq!(found(UDP, stranger, here), None, "{any}");
        }
    }

    #[test]
    fn an_only_ipv6_socket_says_so() {
        let mut payload = vec![0; HEADER];
        payload[0] = u128::NUMBER;
        payload[1] = STATE_LISTEN;
        payload[4..6].copy_from_slice(&22_u16.to_be_bytes());
        super::super::attribute::put(&mut payload, ONLY_IPV6, &[1]);
        super::super::attribute::put(&mut payload, OPTIONS, &[TRANSPARENT, 0]);
        let socket = parse(&payload, TCP).expect("a socket");
        assert!(socket.only_ipv6 && socket.transparent && socket.peer.is_none());
        assert_eq!(socket.local, address("[::]:22"));
        for cut in 0..HEADER {
            assert_eq!(parse(&payload[..cut], TCP), None, "cut at {cut}");
        }
        payload[0] = 1;
        assert_eq!(parse(&payload, TCP), None, "another family");
    }
}
