//! Pictures with routing rules: those that the kernel looks up itself, and those that the mirror follows.

use super::Picture;

/// Routing rules: by source, destination, port of arrival and type of service.
///
/// ```text
///   p0 --- router --- p1: table main, 192.0.2.0/24 and default
///             `------ p2: table 100, for some
/// ```
pub const RULES: Picture = Picture {
    name: "rules",
    lines: "
        sysctl net.ipv4.conf.p2.rp_filter=1
        route add 192.0.2.0/24 via 198.18.1.2
        route add default via 198.18.1.3
        route add default via 198.18.2.2 table 100
        route add 203.0.113.0/25 via 198.18.1.2 mtu 1400 table 100
        rule add from 198.51.100.0/24 lookup 100
        rule add to 203.0.113.0/24 lookup 100
        rule add iif p2 to 192.0.2.0/25 lookup 100
        rule add to 192.0.2.128/26 prohibit
        rule add to 192.0.2.192/26 blackhole
        -6 route add 2001:db8:800::/48 via 2001:db8:1::2
        -6 route add default via 2001:db8:1::3
        -6 route add default via 2001:db8:2::2 table 100
        -6 rule add from 2001:db8:801::/48 lookup 100
        -6 rule add to 2001:db8:802::/48 lookup 100
        -6 rule add to 2001:db8:803::/48 unreachable
    ",
    prefixes: &[
        "192.0.2.0/25",
        "192.0.2.128/26",
        "192.0.2.192/26",
        "198.51.100.0/24",
        "203.0.113.0/25",
        "203.0.113.128/25",
        "2001:db8:800::/48",
        "2001:db8:801::/48",
        "2001:db8:802::/48",
        "2001:db8:803::/48",
    ],
    equal: &[],
};

/// Routing rules by transport protocol, ports and type of service; equal paths, tunnels and addresses in their tables.
///
/// ```text
///   p0 --- router --- p1: table main, default via host 2
///             `------ p2: table 100 for UDP, 101 for some ports, 102 behind main's longer prefixes
/// ```
pub const POLICY: Picture = Picture {
    name: "policy",
    lines: "
        link set p2 mtu 1500
        sysctl net.ipv4.conf.p1.rp_filter=2
        route add default via 198.18.1.2
        route add 192.0.2.0/24 via 198.18.1.3
        route add default via 198.18.2.2 table 100
        route add blackhole 203.0.113.0/26 table 100
        route add unreachable 203.0.113.64/26 table 100
        route add throw 203.0.113.128/26 table 100
        route add local 203.0.113.192/26 dev lo table 100
        route add default table 101 nexthop via 198.18.1.2 nexthop via 198.18.2.2 weight 3
        route add 198.51.100.0/24 via inet6 2001:db8:2::2 dev p2 table 102
        route add 240.1.0.0/16 via 198.18.1.77 table 102
        rule add ipproto udp to 203.0.113.0/24 lookup 100
        rule add ipproto tcp dport 1-1023 lookup 101
        rule add tos 0x10 lookup 100
        rule add from 192.0.2.0/25 ipproto icmp prohibit
        rule add to 192.0.2.128/25 sport 1000-60000 unreachable
        rule add priority 30000 lookup main suppress_prefixlength 0
        rule add priority 30001 to 128.0.0.0/1 lookup 102
        -6 route add default via 2001:db8:1::2
        -6 route add 2001:db8:b00::/48 via 2001:db8:1::3
        -6 route add default via 2001:db8:2::2 table 100
        -6 route add blackhole 2001:db8:b01::/48 table 100
        -6 route add unreachable 2001:db8:b02::/48 table 100
        -6 route add throw 2001:db8:b03::/48 table 100
        -6 route add default table 101 nexthop via 2001:db8:1::2 nexthop via 2001:db8:2::2 weight 3
        -6 route add 2001:db8:b04::/48 via 2001:db8:1::2 mtu 1300 table 100
        -6 rule add ipproto udp to 2001:db8:b00::/40 lookup 100
        -6 rule add ipproto tcp dport 1-1023 lookup 101
        -6 rule add tos 0x10 lookup 100
        -6 rule add from 2001:db8:b05::/48 ipproto ipv6-icmp prohibit
        -6 rule add to 2001:db8:b06::/48 sport 1000-60000 blackhole
    ",
    prefixes: &[
        "192.0.2.0/25",
        "192.0.2.128/25",
        "203.0.113.0/26",
        "203.0.113.64/26",
        "203.0.113.128/26",
        "203.0.113.192/26",
        "198.51.100.0/24",
        "240.1.0.0/16",
        "2001:db8:b00::/48",
        "2001:db8:b01::/48",
        "2001:db8:b02::/48",
        "2001:db8:b03::/48",
        "2001:db8:b04::/48",
        "2001:db8:b05::/48",
        "2001:db8:b06::/48",
    ],
    equal: &[],
};

/// What a rule of IPv6 finds and must not take, of which the kernel's lookup for programs knows nothing; and a rule for one
/// port, which is nothing to the others.
///
/// ```text
///   p0 --- router --- p1: table main, default
///             `------ p2: table 100, for what is not in main by more than the default
/// ```
pub const SUPPRESSED: Picture = Picture {
    name: "suppressed",
    lines: "
        route add default via 198.18.1.2
        route add 192.0.2.0/24 via 198.18.1.3
        route add default via 198.18.2.2 table 100
        rule add iif p1 lookup 100
        -6 route add default via 2001:db8:1::2
        -6 route add 2001:db8:c00::/48 via 2001:db8:1::3
        -6 route add default via 2001:db8:2::2 table 100
        -6 rule add priority 30000 lookup main suppress_prefixlength 0
        -6 rule add priority 30001 lookup 100
    ",
    prefixes: &["192.0.2.0/24", "198.51.100.0/24", "2001:db8:c00::/48", "2001:db8:c01::/48"],
    equal: &[],
};

/// The rules of a VPN, of a proxy, and of networks with a table of their own, composed into one table.
///
/// ```text
///   p0 --- router --- p1: table main, default via host 2
///             `------ p2: table 51820, for what is not in main by more than the default; its sources are checked
/// ```
pub const COMPOSED: Picture = Picture {
    name: "composed",
    lines: "
        sysctl net.ipv4.conf.p2.rp_filter=1
        route add default via 198.18.1.2
        route add 192.0.2.0/25 via 198.18.1.3
        route add default via 198.18.2.2 table 51820
        route add throw 203.0.113.0/26 table 51820
        route add unreachable 203.0.113.64/26 table 51820
        route add blackhole 203.0.113.128/26 table 51820
        route add local 203.0.113.192/26 dev lo table 51820
        route add local default dev lo table 100
        route add default via 198.18.1.3 table 200
        rule add not fwmark 51820 table 51820
        rule add table main suppress_prefixlength 0
        rule add fwmark 1 lookup 100
        rule add to 198.51.100.0/25 lookup 200
        rule add to 198.51.100.128/26 prohibit
        rule add to 198.51.100.192/26 lookup 200 suppress_prefixlength 0
        -6 route add default via 2001:db8:1::2
        -6 route add 2001:db8:d00::/48 via 2001:db8:1::3
        -6 route add default via 2001:db8:2::2 table 51820
        -6 route add throw 2001:db8:d02::/48 table 51820
        -6 route add unreachable 2001:db8:d03::/48 table 51820
        -6 route add blackhole 2001:db8:d04::/48 table 51820
        -6 route add local default dev lo table 100
        -6 route add default via 2001:db8:1::3 table 200
        -6 rule add not fwmark 51820 table 51820
        -6 rule add table main suppress_prefixlength 0
        -6 rule add fwmark 1 lookup 100
        -6 rule add to 2001:db8:d05::/48 lookup 200
        -6 rule add to 2001:db8:d06::/48 prohibit
        -6 rule add to 2001:db8:d07::/48 lookup 200 suppress_prefixlength 0
    ",
    prefixes: &[
        "192.0.2.0/25",
        "192.0.2.128/25",
        "203.0.113.0/26",
        "203.0.113.64/26",
        "203.0.113.128/26",
        "203.0.113.192/26",
        "198.51.100.0/25",
        "198.51.100.128/26",
        "198.51.100.192/26",
        "2001:db8:d00::/48",
        "2001:db8:d01::/48",
        "2001:db8:d02::/48",
        "2001:db8:d03::/48",
        "2001:db8:d04::/48",
        "2001:db8:d05::/48",
        "2001:db8:d06::/48",
        "2001:db8:d07::/48",
    ],
    equal: &[],
};
