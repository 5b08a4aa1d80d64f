use std::path::PathBuf;

use super::*;
use crate::{
    control::row::{Counts, PortRow, RoutesRow},
    kernel::BPFFS,
    lower::sample,
    model::{
        Address, Event, IpVersion, Link, Model, Netconf, NetconfScope, Placement, Prefix, RouteType, RoutingRule,
        XdpFeatures,
    },
};

fn netconf(version: IpVersion, scope: NetconfScope, forwarding: bool, rp_filter: u8) -> Event {
    Event::Netconf(Netconf {
        version,
        scope,
        forwarding: Some(forwarding),
        rp_filter: Some(rp_filter),
        force_forwarding: None,
        proxy_ndp: None,
    })
}

/// A machine with one native port where nothing is wrong.
fn healthy() -> Facts {
    let link = Link { ifindex: 2, name: "eth0".to_owned(), mtu: 1500, up: true, ethernet: true, ..Link::default() };
    let mut model = Model::default();
    for event in [
        Event::Link(link.clone()),
        Event::Features(2, XdpFeatures::BASIC | XdpFeatures::REDIRECT | XdpFeatures::NDO_XMIT),
        netconf(IpVersion::V4, NetconfScope::All, true, 0),
        netconf(IpVersion::V4, NetconfScope::Interface(2), true, 0),
        netconf(IpVersion::V6, NetconfScope::All, true, 0),
    ] {
        model.apply(event);
    }
    let row = PortRow {
        name: "eth0".to_owned(),
        ifindex: 2,
        mode: "native".to_owned(),
        state: "up".to_owned(),
        mac: None,
        mtu: 1500,
        vlan: None,
        routes: RoutesRow::default(),
        taken: None,
        ipsec: false,
        netfilter: "none".to_owned(),
        flows: "none".to_owned(),
        header: "ethernet".to_owned(),
        layer3: None,
        switching: None,
        peer: "none".to_owned(),
        counts: Counts::default(),
    };
    Facts {
        release: "6.18.5-cloud".to_owned(),
        btf: true,
        jit: Some(1),
        bpffs: Some((PathBuf::from(BPFFS), true)),
        elsewhere: None,
        capabilities: u64::MAX,
        memlock: Some(8 << 20),
        unit: false,
        daemon: Ok(()),
        model,
        netfilter: Vec::new(),
        conntrack: Conntrack { events: Some(2), count: Some(95), max: Some(100) },
        source_marks: Vec::new(),
        ports: vec![PortFacts { link, row: Some(row), ..PortFacts::default() }],
    }
}

fn row(facts: &mut Facts) -> &mut PortRow {
    facts.ports[0].row.as_mut().expect("a port")
}

fn offload(facts: &mut Facts, name: &str) {
    facts.ports[0].offloads.insert(name.to_owned());
}

/// What is seeded, how, the check that finds it, how bad it is, and a part of its cure.
type Row = (&'static str, fn(&mut Facts), &'static str, Status, &'static str);

const ROWS: &[Row] = &[
    (
        "events",
        |facts| row(facts).netfilter = "follow".to_owned(),
        "conntrack events",
        Status::Warn,
        "sysctl -w net.netfilter.nf_conntrack_events=1",
    ),
    (
        "a full table",
        |facts| row(facts).netfilter = "follow".to_owned(),
        "conntrack table",
        Status::Warn,
        "net.netfilter.nf_conntrack_max=200",
    ),
    ("no daemon", |facts| facts.daemon = Err("no answer".to_owned()), "daemon", Status::Warn, "dataplane run"),
    (
        "a service that is stopped",
        |facts| (facts.daemon, facts.unit) = (Err("no answer".to_owned()), true),
        "daemon",
        Status::Warn,
        "systemctl start dataplane",
    ),
    (
        "no port, no forwarding",
        |facts| {
            facts.ports.clear();
            facts.model.apply(netconf(IpVersion::V4, NetconfScope::All, false, 0));
        },
        "forwarding ipv4",
        Status::Fail,
        "sysctl -w net.ipv4.ip_forward=1",
    ),
    (
        "no port, no forwarding of IPv6",
        |facts| {
            facts.ports.clear();
            facts.model.apply(netconf(IpVersion::V6, NetconfScope::All, false, 0));
            facts.model.apply(Event::Address(Address {
                ifindex: 2,
                address: "2001:db8::1".parse().expect("an address"),
                length: 64,
                peer: None,
            }));
        },
        "forwarding ipv6",
        Status::Fail,
        "sysctl -w net.ipv6.conf.all.forwarding=1",
    ),
    ("an old kernel", |facts| facts.release = "5.15.0-91".to_owned(), "kernel", Status::Fail, "6.6"),
    ("the oldest kernel", |facts| facts.release = "6.1.0-28".to_owned(), "kernel", Status::Warn, "6.6"),
    ("a kernel of a name", |facts| facts.release = "mine".to_owned(), "kernel", Status::Warn, "uname"),
    ("no BTF", |facts| facts.btf = false, "btf", Status::Warn, "CONFIG_DEBUG_INFO_BTF"),
    ("no JIT", |facts| facts.jit = Some(0), "jit", Status::Fail, "sysctl -w net.core.bpf_jit_enable=1"),
    (
        "no bpffs",
        |facts| facts.bpffs = Some((BPFFS.into(), false)),
        "bpffs",
        Status::Fail,
        "mount -t bpf bpf /sys/fs/bpf",
    ),
    (
        "bpffs elsewhere",
        |facts| facts.bpffs = Some(("/run/pins".into(), false)),
        "bpffs",
        Status::Fail,
        "mkdir -p /run/pins && mount -t bpf bpf /run/pins",
    ),
    (
        "a daemon elsewhere",
        |facts| facts.elsewhere = Some((7, "cannot open /proc/7/ns/net".to_owned())),
        "namespace",
        Status::Warn,
        "nsenter --net=/proc/7/ns/net",
    ),
    (
        "nobody",
        |facts| (facts.daemon, facts.capabilities) = (Err(String::new()), 0),
        "capabilities",
        Status::Fail,
        "sudo",
    ),
    (
        "locked memory",
        |facts| (facts.release, facts.memlock) = ("5.10.0".to_owned(), Some(1 << 16)),
        "memlock",
        Status::Fail,
        "ulimit -l unlimited",
    ),
    (
        "no forwarding",
        |facts| {
            facts.model.apply(netconf(IpVersion::V4, NetconfScope::All, false, 0));
            facts.model.apply(netconf(IpVersion::V4, NetconfScope::Interface(2), false, 0));
        },
        "forwarding ipv4",
        Status::Fail,
        "net.ipv4.ip_forward=1",
    ),
    (
        "no forwarding at one",
        |facts| facts.model.apply(netconf(IpVersion::V4, NetconfScope::Interface(2), false, 0)),
        "forwarding ipv4",
        Status::Warn,
        "net.ipv4.conf.eth0.forwarding=1",
    ),
    (
        "strict and seen to drop",
        |facts| {
            facts.model.apply(netconf(IpVersion::V4, NetconfScope::All, true, 1));
            facts.ports[0].reverse_path = 3;
        },
        "rp_filter",
        Status::Warn,
        "net.ipv4.conf.eth0.rp_filter=2",
    ),
    (
        "netfilter",
        |facts| {
            facts.daemon = Err("no answer".to_owned());
            facts.netfilter.push("ip filter fwd".to_owned());
        },
        "netfilter",
        Status::Warn,
        "nft list ruleset",
    ),
    (
        "a rule that only the stack follows",
        |facts| {
            facts.model.apply(Event::RoutingRule(RoutingRule {
                suppresses_group: Some(1),
                ..RoutingRule::new(IpVersion::V6, 100, 7)
            }));
        },
        "rules IPv6",
        Status::Warn,
        "ip -6 rule list",
    ),
    (
        "a rule that only the kernel follows",
        |facts| {
            let from = Some(("198.18.7.0".parse().expect("an address"), 24));
            facts.model.apply(Event::RoutingRule(RoutingRule { from, ..RoutingRule::new(IpVersion::V4, 100, 7) }));
        },
        "rules IPv4",
        Status::Warn,
        "ip rule list",
    ),
    (
        "marks of sources",
        |facts| {
            facts.source_marks.push("all".to_owned());
            let mark = Some((1, u32::MAX));
            facts.model.apply(Event::RoutingRule(RoutingRule { mark, ..RoutingRule::new(IpVersion::V4, 100, 100) }));
            let local = sample::plain::<u32>(100, Prefix::all(), RouteType::Local);
            facts.model.apply(Event::Route4(local, Placement::First));
        },
        "src_valid_mark",
        Status::Warn,
        "iif NAME",
    ),
    ("generic", |facts| row(facts).mode = "generic".to_owned(), "mode: eth0", Status::Warn, "--mode auto"),
    (
        "not attached",
        |facts| row(facts).state = "failed: because".to_owned(),
        "attached: eth0",
        Status::Fail,
        "dataplane attach eth0",
    ),
    ("down", |facts| row(facts).state = "down".to_owned(), "link: eth0", Status::Warn, "ip link set eth0 up"),
    (
        "no carrier",
        |facts| {
            row(facts).state = "down".to_owned();
            facts.ports[0].link.enabled = true;
        },
        "link: eth0",
        Status::Warn,
        "look at cable and peer of eth0",
    ),
    ("rxvlan", |facts| offload(facts, "rx-vlan-hw-parse"), "rxvlan: eth0", Status::Fail, "ethtool -K eth0 rxvlan off"),
    ("LRO", |facts| offload(facts, "rx-lro"), "lro: eth0", Status::Fail, "ethtool -K eth0 lro off"),
    ("a large MTU", |facts| facts.ports[0].link.mtu = 9000, "mtu: eth0", Status::Fail, "ip link set eth0 mtu"),
    (
        "no XDP frames",
        |facts| facts.model.apply(Event::Features(2, XdpFeatures::BASIC)),
        "egress: eth0",
        Status::Warn,
        "ethtool -i eth0",
    ),
    (
        "a peer without NAPI",
        |facts| {
            facts.model.apply(Event::Features(2, XdpFeatures::BASIC));
            facts.ports[0].link.kind = Some("veth".to_owned());
        },
        "egress: eth0",
        Status::Warn,
        "ethtool -K PEER gro on",
    ),
    (
        "foreign XDP",
        |facts| facts.ports[0].foreign_xdp.push("other (id 7)".to_owned()),
        "foreign xdp: eth0",
        Status::Fail,
        "ip link set eth0 xdp off",
    ),
    (
        "foreign tc",
        |facts| facts.ports[0].foreign_tc.push("other (id 7)".to_owned()),
        "foreign tc: eth0",
        Status::Warn,
        "bpftool net show dev eth0",
    ),
];

#[test]
fn nothing_is_wrong_with_a_healthy_machine() {
    let findings = judge(&healthy());
    assert_eq!(worst(&findings), Status::Ok, "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.fix.is_empty()), "{findings:#?}");
    assert!(findings.len() >= 11, "{findings:#?}");
}

#[test]
fn each_fault_is_found_and_has_its_cure() {
    for (what, seed, check, status, cure) in ROWS {
        let mut facts = healthy();
        seed(&mut facts);
        let findings = judge(&facts);
        let found = findings.iter().find(|finding| finding.check == *check);
        let found = found.unwrap_or_else(|| panic!("{what}: no check {check}: {findings:#?}"));
        assert_eq!(found.status, *status, "{what}: {found:?}");
        assert!(found.fix.contains(cure), "{what}: {found:?}");
    }
}

#[test]
fn releases() {
    for (text, version) in
        [("6.18.5-cloud", Some((6, 18))), ("6.1.0-18-amd64", Some((6, 1))), ("6", None), ("", None), ("x.y", None)]
    {
        assert_eq!(crate::release::version(text), version, "{text}");
    }
}
