//! The topologies, by name. All have a router with three ports; port `pN` is on network N, where the router is host 1 and
//! hosts 2 and 3 are known neighbours:
//!
//! ```text
//!             198.18.0.0/24           +--------+  198.18.1.0/24   p1, MTU 1500
//!   p0, MTU 2000  2001:db8:0::/64 ----| router |--- 2001:db8:1::/64
//!                                     |        |  198.18.2.0/24   p2, MTU 1280
//!                                     +--------+--- 2001:db8:2::/64
//! ```
//!
//! Behind host 2 of each port there is a network of its own, [`SOURCES`], from which most packets come: the kernel allows
//! each IPv4 source five ICMP errors about routes, and then one a second (`ip_error`, net/ipv4/route.c).
//!
//! What a picture adds is in its lines: `ip` commands without the word `ip`, or `sysctl NAME=VALUE`.

mod rules;

use rules::{COMPOSED, POLICY, RULES, SUPPRESSED};

/// Ports of each router.
pub const PORTS: u8 = 3;

/// The networks of the senders: 198.19.128.0/19 and the next ones, one for each port.
pub const SOURCES: ([u8; 3], u8) = ([198, 19, 128], 32);

/// A topology.
#[derive(Debug)]
pub struct Picture {
    /// What it is called.
    pub name: &'static str,
    /// What makes it, a command a line, in the router.
    pub lines: &'static str,
    /// Prefixes whose ends are interesting destinations and sources.
    pub prefixes: &'static [&'static str],
    /// Next hops (port, host) among which the router chooses by its own hash.
    pub equal: &'static [&'static [(u8, u8)]],
}

impl Picture {
    /// What makes the frames of one picture differ from another's.
    pub fn seed(&self) -> u64 {
        self.name.bytes().fold(0, |seed, byte| seed << 8 | u64::from(byte))
    }
}

/// What all have: forwarding, and nothing that depends on a clock.
pub const COMMON: &str = "
    sysctl net.ipv4.ip_forward=1
    sysctl net.ipv6.conf.all.forwarding=1
    sysctl net.ipv4.icmp_ratemask=0
    sysctl net.ipv6.icmp.ratelimit=0
    sysctl net.ipv6.icmp.ratemask=255
    sysctl net.ipv4.conf.all.rp_filter=0
    sysctl net.ipv4.conf.default.rp_filter=0
    sysctl net.ipv4.conf.all.send_redirects=0
    sysctl net.ipv4.conf.default.send_redirects=0
    sysctl net.ipv4.conf.all.accept_redirects=0
    sysctl net.ipv4.conf.default.accept_redirects=0
    sysctl net.ipv6.conf.all.accept_redirects=0
    sysctl net.ipv6.conf.default.accept_redirects=0
    sysctl net.ipv6.conf.all.accept_ra=0
    sysctl net.ipv6.conf.default.accept_ra=0
";

/// All pictures.
pub const PICTURES: &[Picture] =
    &[PLAIN, SPECIAL, MULTIPATH, REVERSE, LENIENT, RULES, POLICY, SUPPRESSED, COMPOSED, HAIRPIN, GUARDED];

/// Routes through neighbours, no default route.
///
/// ```text
///   p0 --- router --- p1: 192.0.2.0/24 and 2001:db8:100::/48 via host 2, host routes via host 3
///             `------ p2: 198.51.100.0/25 and 2001:db8:200::/40 via host 2
/// ```
pub const PLAIN: Picture = Picture {
    name: "plain",
    lines: "
        route add 192.0.2.0/24 via 198.18.1.2
        route add 192.0.2.7 via 198.18.1.3
        route add 198.51.100.0/25 via 198.18.2.2
        route add 203.0.113.64/26 via 198.18.1.2
        route add 203.0.113.65 via 198.18.1.77
        route add 203.0.113.128/25 dev p2
        route add 240.1.0.0/16 via 198.18.1.2
        route add 169.254.0.0/16 via 198.18.1.2
        -6 route add 2001:db8:100::/48 via 2001:db8:1::2
        -6 route add 2001:db8:100:0:1::7 via 2001:db8:1::3
        -6 route add 2001:db8:200::/40 via fe80::2 dev p2
        -6 route add 2001:db8:300::/64 via 2001:db8:1::77
        -6 route add 2001:db8:301::/64 dev p2
    ",
    prefixes: &[
        "192.0.2.0/24",
        "192.0.2.7/32",
        "198.51.100.0/25",
        "203.0.113.64/26",
        "203.0.113.65/32",
        "203.0.113.128/25",
        "240.1.0.0/16",
        "169.254.0.0/16",
        "2001:db8:100::/48",
        "2001:db8:100:0:1::7/128",
        "2001:db8:200::/40",
        "2001:db8:300::/64",
        "2001:db8:301::/64",
    ],
    equal: &[],
};

/// Every type of route, next hops of every kind, route MTUs, default routes.
///
/// ```text
///   p0 --- router --- p1: default of both families; onlink; IPv4 via IPv6; route MTU 1400, free and locked
///             `------ p2: smaller than both others; route MTU 1300, larger than the device's
/// ```
pub const SPECIAL: Picture = Picture {
    name: "special",
    lines: "
        route add default via 198.18.1.2
        -6 route add default via 2001:db8:1::2
        route add blackhole 192.0.2.0/26
        route add unreachable 192.0.2.64/26
        route add prohibit 192.0.2.128/26
        route add throw 192.0.2.192/26
        route add 198.51.100.0/27 via 198.19.127.1 dev p1 onlink
        neigh add 198.19.127.1 lladdr 02:00:00:00:01:02 dev p1 nud permanent
        route add 198.51.100.32/27 via inet6 2001:db8:1::3
        route add 198.51.100.64/27 via 198.18.1.2 mtu 1400
        route add 198.51.100.96/27 via 198.18.1.2 mtu lock 1400
        route add 198.51.100.128/27 via 198.18.2.2
        route add 198.51.100.160/27 via 198.18.2.2 mtu 1300
        route add 198.51.100.192/27 via inet6 fe80::2 dev p2
        route add local 198.19.126.0/24 dev lo
        route add broadcast 198.51.100.240/28 dev p1
        route add 203.0.113.0/24 tos 0x10 via 198.18.1.3
        -6 route add blackhole 2001:db8:400::/48
        -6 route add unreachable 2001:db8:401::/48
        -6 route add prohibit 2001:db8:402::/48
        -6 route add throw 2001:db8:403::/48
        -6 route add 2001:db8:404::/48 via 2001:db8:9::1 dev p1 onlink
        -6 neigh add 2001:db8:9::1 lladdr 02:00:00:00:01:02 dev p1 nud permanent
        -6 route add 2001:db8:405::/48 via 2001:db8:1::2 mtu 1400
        -6 route add 2001:db8:406::/48 via 2001:db8:1::2 mtu lock 1400
        -6 route add 2001:db8:407::/48 via 2001:db8:2::2
        -6 route add 2001:db8:408::/48 via 2001:db8:2::2 mtu 1300
        -6 route add local 2001:db8:409::/48 dev lo
        -6 route add 2001:db8:40a::/48 from 2001:db8:0::/64 via 2001:db8:2::2
        -6 route add anycast 2001:db8:40b::1 dev p1
    ",
    prefixes: &[
        "192.0.2.0/26",
        "192.0.2.64/26",
        "192.0.2.128/26",
        "192.0.2.192/26",
        "198.51.100.0/27",
        "198.51.100.32/27",
        "198.51.100.64/27",
        "198.51.100.96/27",
        "198.51.100.128/27",
        "198.51.100.160/27",
        "198.51.100.192/27",
        "198.19.126.0/24",
        "198.51.100.240/28",
        "203.0.113.0/24",
        "2001:db8:400::/48",
        "2001:db8:401::/48",
        "2001:db8:402::/48",
        "2001:db8:403::/48",
        "2001:db8:404::/48",
        "2001:db8:405::/48",
        "2001:db8:406::/48",
        "2001:db8:407::/48",
        "2001:db8:408::/48",
        "2001:db8:409::/48",
        "2001:db8:40a::/48",
        "2001:db8:40b::1/128",
    ],
    equal: &[],
};

/// Equal paths with weights, as routes and as nexthop objects; a group with a blackhole.
///
/// ```text
///   p0 --- router === p1 hosts 2, 3
///             ``===== p2 host 2; MTU 1500, so that every path answers the same
/// ```
pub const MULTIPATH: Picture = Picture {
    name: "multipath",
    lines: "
        link set p2 mtu 1500
        route add 192.0.2.0/24 nexthop via 198.18.1.2 weight 1 nexthop via 198.18.1.3 weight 3
        route add 198.51.100.0/24 nexthop via 198.18.1.2 nexthop via 198.18.2.2
        nexthop add id 1 via 198.18.1.2 dev p1
        nexthop add id 2 via 198.18.2.2 dev p2
        nexthop add id 3 group 1/2,5
        route add 203.0.113.0/25 nhid 1
        route add 203.0.113.128/25 nhid 3
        nexthop add id 9 blackhole
        route add 240.1.0.0/16 nhid 9
        -6 route add 2001:db8:500::/48 nexthop via 2001:db8:1::2 weight 1 nexthop via 2001:db8:1::3 weight 3
        -6 route add 2001:db8:501::/48 nexthop via 2001:db8:1::2 nexthop via 2001:db8:2::2
        nexthop add id 11 via 2001:db8:1::2 dev p1
        nexthop add id 12 via 2001:db8:2::2 dev p2
        nexthop add id 13 group 11/12,5
        -6 route add 2001:db8:502::/48 nhid 11
        -6 route add 2001:db8:503::/48 nhid 13
    ",
    prefixes: &[
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/25",
        "203.0.113.128/25",
        "240.1.0.0/16",
        "2001:db8:500::/48",
        "2001:db8:501::/48",
        "2001:db8:502::/48",
        "2001:db8:503::/48",
    ],
    equal: &[&[(1, 2), (1, 3), (2, 2)]],
};

/// Reverse path filtering, strict on p0, loose on p1, off on p2; the way back to some sources is another port's.
///
/// ```text
///   p0 (strict) --- router --- p1 (loose): 192.0.2.0/24
///                      `------ p2: 198.51.100.0/24
/// ```
pub const REVERSE: Picture = Picture {
    name: "reverse",
    lines: "
        sysctl net.ipv4.conf.p0.rp_filter=1
        sysctl net.ipv4.conf.p1.rp_filter=2
        route add 192.0.2.0/24 via 198.18.1.2
        route add 198.51.100.0/24 via 198.18.2.2
        route add 203.0.113.0/25 via 198.18.0.2
        route add 203.0.113.128/26 nexthop via 198.18.0.2 nexthop via 198.18.0.3
        route add blackhole 203.0.113.192/26
        -6 route add 2001:db8:600::/48 via 2001:db8:1::2
        -6 route add 2001:db8:601::/48 via 2001:db8:0::2
    ",
    prefixes: &[
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/25",
        "203.0.113.128/26",
        "203.0.113.192/26",
        "2001:db8:600::/48",
        "2001:db8:601::/48",
    ],
    equal: &[&[(0, 2), (0, 3)]],
};

/// Settings that differ from port to port: forwarding, `accept_local`, `route_localnet`, `all/rp_filter` against the port's.
///
/// ```text
///   p0 (accept_local) --- router --- p1 (route_localnet, IPv6 not forwarded): 192.0.2.0/24
///                            `------ p2 (IPv4 not forwarded, bc_forwarding): default
/// ```
pub const LENIENT: Picture = Picture {
    name: "lenient",
    lines: "
        sysctl net.ipv4.conf.all.rp_filter=2
        sysctl net.ipv4.conf.p0.accept_local=1
        sysctl net.ipv4.conf.p1.route_localnet=1
        sysctl net.ipv4.conf.p1.rp_filter=1
        sysctl net.ipv6.conf.p1.forwarding=0
        sysctl net.ipv4.conf.p2.forwarding=0
        route add 192.0.2.0/24 via 198.18.1.2
        route add default via 198.18.2.2
        -6 route add 2001:db8:700::/48 via 2001:db8:1::2
        -6 route add default via 2001:db8:2::2
    ",
    prefixes: &["192.0.2.0/24", "198.51.100.0/24", "127.0.0.0/8", "2001:db8:700::/48", "2001:db8:701::/48"],
    equal: &[],
};

/// Out of the port that it came from, with redirects.
///
/// ```text
///   p0: 198.19.0.0/17 and 2001:db8:900::/40 via host 2 --- router --- p1: 192.0.2.0/24 and 2001:db8:a00::/40
/// ```
pub const HAIRPIN: Picture = Picture {
    name: "hairpin",
    lines: "
        sysctl net.ipv4.conf.all.send_redirects=1
        sysctl net.ipv4.conf.p0.send_redirects=1
        route add 198.19.0.0/17 via 198.18.0.2
        route add 192.0.2.0/24 via 198.18.1.2
        -6 route add 2001:db8:900::/40 via 2001:db8:0::2
        -6 route add 2001:db8:a00::/40 via 2001:db8:1::2
    ",
    prefixes: &["198.19.0.0/17", "192.0.2.0/24", "2001:db8:900::/40", "2001:db8:a00::/40"],
    equal: &[],
};

/// What the kernel does besides routing: policies of `IPsec` that stop packets, an MTU of IPv6 alone, a port without IPv6,
/// proxied neighbours, and sources of our own from outside beside local routes.
///
/// ```text
///   p0 (accept_local, proxies 2001:db8:1::2) --- router --- p1 (IPv6 MTU 1300): 192.0.2.0/24 and 2001:db8:d00::/40
///                                                  `------ p2 (no IPv6): 198.51.100.0/24
/// ```
pub const GUARDED: Picture = Picture {
    name: "guarded",
    lines: "
        sysctl net.ipv4.conf.p0.accept_local=1
        sysctl net.ipv6.conf.all.proxy_ndp=1
        sysctl net.ipv6.conf.p1.mtu=1300
        sysctl net.ipv6.conf.p2.disable_ipv6=1
        route add 192.0.2.0/24 via 198.18.1.2
        route add 198.51.100.0/24 via 198.18.2.2
        route add local 198.19.126.0/24 dev lo
        -6 route add 2001:db8:d00::/40 via 2001:db8:1::2
        -6 neigh add proxy 2001:db8:1::2 dev p0
        xfrm policy add src 0.0.0.0/0 dst 192.0.2.128/26 dir fwd action block
        xfrm policy add src 198.19.128.0/19 dst 198.51.100.128/25 dir out action block
        xfrm policy add src 0.0.0.0/0 dst 192.0.2.192/26 proto udp dport 53 dir fwd action block
        xfrm policy add src ::/0 dst 2001:db8:d01::/48 dir fwd action block
        xfrm policy add src ::/0 dst 2001:db8:d02::/48 dir out action block
    ",
    prefixes: &[
        "192.0.2.0/25",
        "192.0.2.128/26",
        "192.0.2.192/26",
        "198.51.100.0/25",
        "198.51.100.128/25",
        "198.19.126.0/24",
        "2001:db8:d00::/48",
        "2001:db8:d01::/48",
        "2001:db8:d02::/48",
    ],
    equal: &[],
};
