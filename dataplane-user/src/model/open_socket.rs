//! Sockets that take packets of this network namespace.

use std::net::SocketAddr;

use dataplane_common::abi::Ifindex;

/// One socket, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSocket {
    /// What it is for: `IPPROTO_TCP`, `IPPROTO_UDP`; for a raw socket, the protocol whose packets it gets.
    pub protocol: u8,
    /// A raw socket: it gets copies of all packets of its protocol.
    pub raw: bool,
    /// The address that it is bound to, which may be the wildcard; port 0 for a raw socket.
    pub local: SocketAddr,
    /// The other end; none where it is not connected.
    pub peer: Option<SocketAddr>,
    /// The device that it is bound to (`SO_BINDTODEVICE`); 0: all.
    pub device: Ifindex,
    /// `TCP_*` of `include/net/tcp_states.h`, also for UDP.
    pub state: u8,
    /// A socket of IPv6 that takes no IPv4 (`IPV6_V6ONLY`).
    pub only_ipv6: bool,
    /// `IP_TRANSPARENT`; not known of raw sockets.
    pub transparent: bool,
    /// The user that made it.
    pub uid: u32,
    /// By which the kernel knows it among all sockets of the machine; 0: not known of raw sockets.
    pub cookie: u64,
    /// The number by which processes have it open (`/proc/PID/fd`); 0: no process has it.
    pub inode: u32,
}

/// `TCP_LISTEN`.
pub const STATE_LISTEN: u8 = 10;
/// `TCP_CLOSE`: a socket of UDP that is not connected.
pub const STATE_CLOSE: u8 = 7;

/// By their number, as ss(8) calls them.
const STATES: [&str; 13] = [
    "unknown",
    "established",
    "syn-sent",
    "syn-recv",
    "fin-wait-1",
    "fin-wait-2",
    "time-wait",
    "close",
    "close-wait",
    "last-ack",
    "listen",
    "closing",
    "syn-recv",
];

impl OpenSocket {
    /// The name of its state.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            STATE_CLOSE => "unconnected",
            state => STATES.get(usize::from(state)).copied().unwrap_or(STATES[0]),
        }
    }

    /// Whether packets of a family may be for it: a wildcard of IPv6 takes both, unless it was told otherwise.
    pub fn takes_family(&self, ipv4: bool) -> bool {
        match self.local {
            SocketAddr::V4(_) => ipv4,
            SocketAddr::V6(local) => match local.ip().to_ipv4_mapped() {
                Some(_) => ipv4,
                None if local.ip().is_unspecified() => !(ipv4 && self.only_ipv6),
                None => !ipv4,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families() {
        for (local, only_ipv6, ipv4, ipv6) in [
            ("0.0.0.0:22", false, true, false),
            ("[::]:22", false, true, true),
            ("[::]:22", true, false, true),
            ("[::ffff:192.0.2.1]:22", false, true, false),
            ("[2001:db8::1]:22", false, false, true),
        ] {
            let socket = OpenSocket {
                protocol: 6,
                raw: false,
                local: local.parse().expect("an address"),
                peer: None,
                device: 0,
                state: STATE_LISTEN,
                only_ipv6,
                transparent: false,
                uid: 0,
                cookie: 2,
                inode: 1,
            };
            assert_eq!((socket.takes_family(true), socket.takes_family(false)), (ipv4, ipv6), "{local}");
            assert_eq!(socket.state_name(), "listen");
        }
    }
}
