//! Sockets in answers. The daemon knows sockets by number; which processes have them open is for the command line to find out,
//! since the daemon may not look into the processes of other users.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// A row of `socket list`: sockets that are bound alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketRow {
    /// `tcp`, `udp` or `raw`.
    pub proto: String,
    /// The address that they are bound to, or the wildcard.
    pub address: IpAddr,
    /// The port; none for raw sockets.
    pub port: Option<u16>,
    /// The protocol number whose packets they get.
    pub protocol: u8,
    /// The device that they are bound to; none: all.
    pub dev: Option<String>,
    /// `ipv4`, `ipv6` or both: which packets they take.
    pub families: Vec<String>,
    /// How many they are: more than one share the packets (`SO_REUSEPORT`); of raw sockets, each gets a copy.
    pub sockets: u64,
    /// Whether all of them may take packets to foreign addresses (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// The user that made the first one.
    pub uid: u32,
    /// Their numbers, as in `/proc/PID/fd`.
    pub inodes: Vec<u32>,
    /// For each attached port whether the filter lets in packets to them: `yes`, `no` or `some`; none where packets of that port
    /// do not reach them.
    pub filter: BTreeMap<String, Option<String>>,
    /// The processes that have them open, as far as the user of the command line may see them.
    #[serde(default)]
    pub processes: Vec<ProcessRow>,
}

/// A process that has a socket open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessRow {
    /// Its number.
    pub pid: u32,
    /// Its name, as in `/proc/PID/comm`.
    pub name: String,
    /// The unit of systemd that it belongs to.
    pub unit: Option<String>,
}

/// What takes a packet that is delivered to this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientRow {
    /// The socket that gets it; none where the kernel has none for it.
    pub socket: Option<SocketEnd>,
    /// Raw sockets that get a copy.
    pub copies: Vec<SocketEnd>,
    /// The entry of `steer` that decided: its socket is the one above, or it has none and lets no other take the packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steer: Option<SteerEnd>,
    /// What answers the packet: `socket`; `rst` or `port_unreachable`, from the kernel, because no socket takes it; `nothing`;
    /// `kernel`, where that is not a matter of sockets.
    pub answer: String,
}

/// An entry of `steer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteerEnd {
    /// Its number.
    pub id: u32,
    /// What it matches.
    pub matches: String,
    /// It has no socket.
    pub closed: bool,
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketEnd {
    /// `tcp`, `udp` or `raw`.
    pub proto: String,
    /// The address that it is bound to, or the wildcard.
    pub address: IpAddr,
    /// The port; none for raw sockets.
    pub port: Option<u16>,
    /// The other end; none where it is not connected.
    pub peer: Option<SocketAddr>,
    /// The device that it is bound to; none: all.
    pub dev: Option<String>,
    /// `listen`, `established`, `unconnected`, ...: as ss(8) calls them.
    pub state: String,
    /// Whether it may take packets to foreign addresses (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// The user that made it.
    pub uid: u32,
    /// Its number, as in `/proc/PID/fd`.
    pub inode: u32,
    /// The processes that have it open, as far as the user of the command line may see them.
    #[serde(default)]
    pub processes: Vec<ProcessRow>,
}

impl SocketEnd {
    /// Address and port.
    pub fn at(&self) -> String {
        match (self.address, self.port) {
            (address, None) => address.to_string(),
            (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
            (address, Some(port)) => format!("{address}:{port}"),
        }
    }

    /// Address and port, device and state.
    pub fn words(&self) -> String {
        let at = self.at();
        let dev = self.dev.as_ref().map(|dev| format!(" dev {dev}")).unwrap_or_default();
        let peer = self.peer.map(|peer| format!(" from {peer}")).unwrap_or_default();
        format!("{} {at}{dev}{peer} {}", self.proto, self.state)
    }
}
