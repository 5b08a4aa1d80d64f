//! `socket list`: sockets of the daemon's network namespace, and whether the filter lets packets in to them. Answered in a
//! thread of its own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use dataplane_common::abi::Ifindex;

use super::{Daemon, recipient::protocol_word, running::RunningConfig};
use crate::{
    config::{Admission, Config, ExpectedPacket, WayIn},
    control::{
        open_socket::SocketRow,
        protocol::{Data, Failure, FailureKind, Reply},
    },
    model::OpenSocket,
    netlink::sock_diag::open_sockets,
    rule::{Family, NEW},
};

/// The flags of a first segment.
const SYN: u8 = 2;

/// A port at which packets come in.
#[derive(Debug)]
struct Entrance {
    ifindex: Ifindex,
    /// What rules may call it.
    way: WayIn,
    /// Packets to 127.0.0.0/8 are let in (`route_localnet`).
    loopback: bool,
}

/// What it takes to answer elsewhere.
pub(super) struct SocketQuery {
    running: RunningConfig,
    ports: Vec<Entrance>,
    names: BTreeMap<Ifindex, String>,
}

impl Daemon {
    /// What it takes to answer elsewhere.
    pub(super) fn socket_query(&self) -> SocketQuery {
        let links = self.plane.attached().keys().filter_map(|port| self.observed.model().links.get(port));
        let entrance = |link: &crate::model::Link| Entrance {
            ifindex: link.ifindex,
            way: self.way_through(link),
            loopback: link.route_localnet,
        };
        SocketQuery {
            running: self.desired.running().clone(),
            ports: links.map(entrance).collect(),
            names: self.link_names(),
        }
    }
}

impl SocketQuery {
    /// Answers.
    pub(super) fn run(&self) -> Result<Reply, Failure> {
        let sockets = open_sockets().map_err(|error| {
            Failure::new(
                FailureKind::Failed,
                format!("{error}; does the kernel have CONFIG_INET_DIAG and its UDP part?"),
            )
        })?;
        let rows = self.rows(sockets);
        Ok(Data::Sockets(rows).into())
    }

    /// A row for sockets that are bound alike.
    fn rows(&self, sockets: Vec<OpenSocket>) -> Vec<SocketRow> {
        let mut groups: BTreeMap<_, Vec<OpenSocket>> = BTreeMap::new();
        for socket in sockets {
            let proto = match protocol_word(&socket) {
                "tcp" => 0,
                "udp" => 1,
                _ => 2,
            };
            let key = (proto, socket.protocol, socket.local.port(), socket.local.ip(), socket.device, socket.only_ipv6);
            groups.entry(key).or_default().push(socket);
        }
        let config = self.running.config();
        groups.into_values().filter_map(|group| self.row(&group, &config)).collect()
    }

    fn row(&self, group: &[OpenSocket], config: &Config) -> Option<SocketRow> {
        let first = group.first()?;
        let name = |ifindex: Ifindex| self.names.get(&ifindex).cloned().unwrap_or_else(|| format!("if{ifindex}"));
        let families = families(first);
        let port = |port: &Entrance| {
            let admission = admission(first, port, &families, config);
            (port.way.link.clone(), admission.map(|admission| admission.name().to_owned()))
        };
        Some(SocketRow {
            proto: protocol_word(first).to_owned(),
            address: first.local.ip(),
            port: (!first.raw).then_some(first.local.port()),
            protocol: first.protocol,
            dev: (first.device != 0).then(|| name(first.device)),
            families: families.iter().map(|family| word(*family).to_owned()).collect(),
            sockets: group.len() as u64,
            transparent: group.iter().all(|socket| socket.transparent),
            uid: first.uid,
            inodes: group.iter().map(|socket| socket.inode).collect(),
            filter: self.ports.iter().map(port).collect(),
            processes: Vec::new(),
        })
    }
}

/// The families whose packets a socket takes.
fn families(socket: &OpenSocket) -> Vec<Family> {
    let all = [(Family::V4, true), (Family::V6, false)];
    all.into_iter().filter(|(_, ipv4)| socket.takes_family(*ipv4)).map(|(family, _)| family).collect()
}

const fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// Whether the filter lets in packets of a new sender that come in on a port; none where no packet of that port is for the
/// socket.
fn admission(socket: &OpenSocket, port: &Entrance, families: &[Family], config: &Config) -> Option<Admission> {
    let local = match socket.local {
        SocketAddr::V6(local) => local.ip().to_ipv4_mapped().map_or(IpAddr::V6(*local.ip()), IpAddr::V4),
        SocketAddr::V4(local) => IpAddr::V4(*local.ip()),
    };
    let elsewhere = socket.device != 0 && socket.device != port.ifindex;
    let inner = local.is_loopback() && !(local.is_ipv4() && port.loopback);
    if elsewhere || inner {
        return None;
    }
    let each = families.iter().map(|family| {
        config.admits(&ExpectedPacket {
            family: *family,
            protocol: socket.protocol,
            addresses: [None, Some(local).filter(|local| !local.is_unspecified())],
            ports: [None, Some(socket.local.port()).filter(|_| !socket.raw)],
            flags: SYN,
            state: NEW,
            iif: Some(&port.way),
        })
    });
    each.reduce(Admission::either)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::state::RuleHandles, model::STATE_LISTEN};

    fn socket(protocol: u8, local: &str, inode: u32) -> OpenSocket {
        OpenSocket {
            protocol,
            raw: false,
            local: local.parse().expect("an address"),
            peer: None,
            device: 0,
            state: STATE_LISTEN,
            only_ipv6: false,
            transparent: false,
            uid: 7,
            cookie: 0,
            inode,
        }
    }

    fn rows(chain: &str, sockets: Vec<OpenSocket>) -> Vec<(String, u64, String)> {
        let config = crate::config::parse(&format!("[chains.input]\n{chain}\n"), "some.toml").expect(chain);
        let way = |name: &str| WayIn { link: name.to_owned(), ..WayIn::default() };
        let port = |ifindex, name: &str| Entrance { ifindex, way: way(name), loopback: false };
        let query = SocketQuery {
            running: RunningConfig::new(&config, &RuleHandles::default()),
            ports: vec![port(1, "eth0"), port(2, "eth1")],
            names: BTreeMap::new(),
        };
        let filter = |row: &SocketRow| {
            let word = |admission: &Option<String>| admission.clone().unwrap_or_else(|| "-".to_owned());
            row.filter.values().map(word).collect::<Vec<_>>().join(" ")
        };
        query.rows(sockets).iter().map(|row| (row.address.to_string(), row.sockets, filter(row))).collect()
    }

    #[test]
    fn what_the_filter_lets_in() {
        let bound = OpenSocket { device: 2, ..socket(6, "0.0.0.0:23", 5) };
        let raw = OpenSocket { raw: true, ..socket(1, "0.0.0.0:0", 6) };
        let sockets = vec![
            socket(6, "[::]:22", 1),
            socket(6, "0.0.0.0:80", 2),
            socket(6, "0.0.0.0:80", 3),
            socket(6, "127.0.0.1:22", 4),
            bound,
            socket(17, "192.0.2.1:53", 5),
            raw,
        ];
        let chain = "policy = 'drop'\nrules = ['ip saddr 192.0.2.0/24 tcp dport 22 accept', 'ip6 daddr ::/0 tcp dport 22 accept', \
                     'iifname eth1 tcp dport { 23, 80 } accept', 'ip daddr 192.0.2.1 udp dport 53 accept', \
                     'icmp type echo-request accept']";
        let want = [
            ("127.0.0.1", 1, "- -"),
            ("::", 1, "some some"),
            ("0.0.0.0", 1, "- yes"),
            ("0.0.0.0", 2, "no yes"),
            ("192.0.2.1", 1, "yes yes"),
            ("0.0.0.0", 1, "some some"),
        ];
        assert_eq!(
            rows(chain, sockets),
            want.map(|(address, count, filter)| (address.to_owned(), count, filter.to_owned()))
        );
    }
}
