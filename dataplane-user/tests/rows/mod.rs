//! Rows that a daemon may answer with.

use std::net::IpAddr;

use dataplane_user::control::{
    flow::{FlowRow, TupleRow, WayRow},
    open_socket::{ProcessRow, SocketEnd, SocketRow},
    steer::SteerRow,
};

pub fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[expect(clippy::unnecessary_wraps, reason = "every use is optional")]
pub fn owned(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Entries with a socket and without.
pub fn steered() -> Vec<SteerRow> {
    let socket = SocketEnd {
        proto: "tcp".to_owned(),
        address: addr("::"),
        port: Some(4000),
        peer: None,
        dev: None,
        state: "listen".to_owned(),
        transparent: false,
        uid: 33,
        inode: 0,
        processes: vec![],
    };
    let row = SteerRow {
        id: 1,
        matches: "tcp 198.18.7.0/24 port 1-1000".to_owned(),
        to: "listen :4000".to_owned(),
        or_drop: false,
        config: false,
        socket: Some(socket),
        process: None,
        packets: 1207,
        steered: 1204,
        passed: 3,
        dropped: 0,
    };
    let closed = SteerRow {
        id: 2,
        matches: "udp 2001:db8:7::/64 port 53".to_owned(),
        to: "pid 812 fd 4".to_owned(),
        or_drop: true,
        socket: None,
        packets: 310,
        steered: 300,
        passed: 0,
        dropped: 10,
        ..row.clone()
    };
    vec![row, closed]
}

/// Sockets of all sorts.
pub fn sockets() -> Vec<SocketRow> {
    let process = |pid, name: &str, unit| ProcessRow { pid, name: name.to_owned(), unit };
    let filter = |words: [Option<&str>; 2]| {
        ["eth0", "eth1"].into_iter().zip(words).map(|(port, word)| (port.to_owned(), word.map(str::to_owned))).collect()
    };
    let ssh = SocketRow {
        proto: "tcp".to_owned(),
        address: addr("::"),
        port: Some(22),
        protocol: 6,
        dev: None,
        families: vec!["ipv4".to_owned(), "ipv6".to_owned()],
        sockets: 1,
        transparent: false,
        uid: 0,
        inodes: vec![],
        filter: filter([Some("yes"), Some("some")]),
        processes: vec![process(812, "sshd", owned("ssh.service"))],
    };
    let web = SocketRow {
        address: addr("0.0.0.0"),
        port: Some(80),
        families: vec!["ipv4".to_owned()],
        sockets: 2,
        filter: filter([Some("no"), Some("no")]),
        processes: vec![
            process(901, "nginx", owned("nginx.service")),
            process(900, "nginx", owned("nginx.service")),
            process(77, "tool", None),
        ],
        ..ssh.clone()
    };
    let names = SocketRow {
        proto: "udp".to_owned(),
        protocol: 17,
        address: addr("2001:db8::1"),
        port: Some(53),
        dev: owned("eth1"),
        families: vec!["ipv6".to_owned()],
        filter: filter([None, Some("yes")]),
        processes: vec![],
        ..ssh.clone()
    };
    let raw = SocketRow {
        proto: "raw".to_owned(),
        address: addr("0.0.0.0"),
        port: None,
        protocol: 89,
        families: vec!["ipv4".to_owned()],
        processes: vec![],
        ..ssh.clone()
    };
    vec![ssh, web, names, raw]
}

/// One connection that is carried, and one that is not.
pub fn flows() -> Vec<FlowRow> {
    let tuple = |saddr, sport, daddr, dport| TupleRow { saddr: addr(saddr), sport, daddr: addr(daddr), dport };
    let way = |state: &str, iif: &str, oif: &str, packets| WayRow {
        state: state.to_owned(),
        iif: owned(iif),
        oif: owned(oif),
        lease_age_ms: Some(1200),
        packets,
    };
    let first = FlowRow {
        proto: "tcp".to_owned(),
        original: tuple("192.0.2.2", 40000, "198.51.100.2", 443),
        reply: tuple("198.51.100.2", 443, "198.51.100.1", 40000),
        zone: 0,
        mark: 0,
        status: vec!["seen-reply".to_owned(), "assured".to_owned(), "snat".to_owned()],
        state: "fast".to_owned(),
        reason: None,
        why: None,
        age_ms: Some(4000),
        packets: 1001,
        forth: Some(way("armed", "eth0", "eth1", 1000)),
        back: Some(WayRow { iif: None, oif: None, lease_age_ms: None, ..way("unarmed", "", "", 1) }),
    };
    let second = FlowRow {
        proto: "udp".to_owned(),
        original: tuple("2001:db8::2", 5060, "2001:db8:1::2", 5060),
        reply: tuple("2001:db8:1::2", 5060, "2001:db8::2", 5060),
        mark: 16,
        status: vec!["helper".to_owned()],
        state: "kernel".to_owned(),
        reason: owned("helper"),
        why: owned("a conntrack helper reads its packets"),
        age_ms: None,
        packets: 0,
        forth: None,
        back: None,
        ..first.clone()
    };
    vec![first, second]
}
