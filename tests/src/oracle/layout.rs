//! Routers as they are found, with connection tracking and translation: the rules of nft, and who may begin what.

use super::picture::Picture;

/// A router with rules.
#[derive(Debug)]
pub struct Layout {
    /// Ports and routes.
    pub picture: Picture,
    /// The rules, for nft.
    pub rules: &'static str,
    /// Who begins connections: the port, and the destination addresses and ports, of IPv4 and of IPv6, that it has them with.
    pub begins: &'static [(u8, [&'static str; 2], &'static [u16])],
}

/// A far network behind host 2 of each port. What a row carries is not checked for windows, in the other router as little.
const FAR: &str = "
    sysctl net.netfilter.nf_conntrack_tcp_be_liberal=1
    route add default via 198.18.1.2
    route add 203.0.113.0/24 via 198.18.2.2
    -6 route add default via 2001:db8:1::2
    -6 route add 2001:db8:200::/40 via 2001:db8:2::2
";

const fn picture(name: &'static str) -> Picture {
    Picture { name, lines: FAR, prefixes: &[], equal: &[] }
}

/// All layouts.
pub const LAYOUTS: &[Layout] = &[HOME, WEB, DOCKER, GATEWAY, UPLINKS];

/// A home router: the LAN on p0 hides behind p1; a DMZ on p2.
const HOME: Layout = Layout {
    picture: picture("home"),
    rules: r#"
table inet home {
  set blocked { type ipv4_addr; flags interval; elements = { 192.0.2.128/26 }; }
  chain input { type filter hook input priority 0; policy drop;
    ct state established,related accept
    icmp type echo-request accept
    icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept
    iifname "p0" udp dport { 53, 67 } accept
    iifname "p0" tcp dport 22 accept
  }
  chain forward { type filter hook forward priority 0; policy drop;
    tcp flags syn tcp option maxseg size set 1400
    ct state vmap { established : accept, related : accept, invalid : drop }
    ip daddr @blocked counter drop
    tcp dport { 25, 135-139, 445 } reject with tcp reset
    udp dport { 137, 138 } reject
    iifname "p0" oifname "p1" accept
    iifname "p0" oifname "p2" tcp dport { 80, 443 } accept
    iifname "p0" oifname "p2" udp dport 53 accept
    iifname "p2" oifname "p1" tcp dport 443 accept
    icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, echo-request } accept
  }
  chain leaving { type nat hook postrouting priority srcnat;
    oifname "p1" masquerade
  }
}
"#,
    begins: &[
        (0, ["192.0.2.7", "2001:db8:100::7"], &[80, 443, 53, 25, 4000]),
        (0, ["203.0.113.9", "2001:db8:200::9"], &[80, 53, 22]),
        (0, ["192.0.2.130", "2001:db8:100::8"], &[443]),
        (0, ["198.18.1.2", "2001:db8:1::2"], &[8080]),
        (2, ["192.0.2.9", "2001:db8:100::9"], &[443, 80]),
        (1, ["198.18.0.2", "2001:db8:0::2"], &[80]),
        (0, ["198.18.0.1", "2001:db8:0::1"], &[22, 53]),
    ],
};

/// A web host: published ports lead to a server on p0, whoever comes.
const WEB: Layout = Layout {
    picture: picture("web"),
    rules: r#"
table inet web {
  map services { type inet_service : verdict; elements = { 443 : accept, 8080 : accept, 5353 : accept }; }
  chain input { type filter hook input priority 0; policy drop;
    ct state established,related accept
    icmp type echo-request accept
    icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept
  }
  chain forward { type filter hook forward priority 0; policy drop;
    ct state established,related accept
    ct state invalid drop
    ct status dnat accept
    iifname "p0" accept
    tcp dport vmap @services
  }
  chain entering { type nat hook prerouting priority dstnat;
    meta nfproto ipv4 tcp dport 80 dnat ip to 198.18.0.2:8080
    meta nfproto ipv6 tcp dport 80 dnat ip6 to [2001:db8:0::2]:8080
    ip daddr 198.18.1.1 udp dport 53 dnat ip to 198.18.0.3:5353
    ip6 daddr 2001:db8:1::1 udp dport 53 dnat ip6 to [2001:db8:0::3]:5353
    ip daddr 198.18.1.1 tcp dport 8443 dnat ip to 198.18.0.3
    ip6 daddr 2001:db8:1::1 tcp dport 8443 dnat ip6 to 2001:db8:0::3
  }
  chain leaving { type nat hook postrouting priority srcnat;
    oifname "p0" ct status dnat ip saddr 198.18.2.0/24 masquerade
    iifname "p0" oifname "p1" masquerade
  }
}
"#,
    begins: &[
        (1, ["198.18.1.1", "2001:db8:1::1"], &[80, 53, 8443, 22]),
        (2, ["198.18.2.1", "2001:db8:2::1"], &[80]),
        (2, ["198.18.1.1", "2001:db8:1::1"], &[80, 53]),
        (1, ["198.18.0.3", "2001:db8:0::3"], &[443, 25]),
        (0, ["192.0.2.7", "2001:db8:100::7"], &[443, 53]),
    ],
};

/// What Docker writes for a network of containers on p0, with two published ports; IPv6 the same way.
const DOCKER: Layout = Layout {
    picture: picture("docker"),
    rules: r#"
table ip nat {
  chain DOCKER { iifname "p0" counter return
    iifname != "p0" tcp dport 8080 counter dnat to 198.18.0.2:80
    iifname != "p0" udp dport 5353 counter dnat to 198.18.0.3:53
  }
  chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local counter jump DOCKER; }
  chain POSTROUTING { type nat hook postrouting priority srcnat;
    oifname != "p0" ip saddr 198.18.0.0/24 counter masquerade
    ip saddr 198.18.0.2 ip daddr 198.18.0.2 tcp dport 80 counter masquerade
  }
}
table ip filter {
  chain DOCKER-USER { counter return; }
  chain DOCKER { iifname != "p0" oifname "p0" ip daddr 198.18.0.2 tcp dport 80 counter accept
    iifname != "p0" oifname "p0" ip daddr 198.18.0.3 udp dport 53 counter accept
    iifname != "p0" oifname "p0" counter drop
  }
  chain FORWARD { type filter hook forward priority filter; policy drop;
    counter jump DOCKER-USER
    oifname "p0" ct state related,established counter accept
    oifname "p0" counter jump DOCKER
    iifname "p0" oifname != "p0" counter accept
    iifname "p0" oifname "p0" counter accept
  }
}
table ip6 nat {
  chain PREROUTING { type nat hook prerouting priority dstnat;
    fib daddr type local tcp dport 8080 counter dnat to [2001:db8:0::2]:80
  }
  chain POSTROUTING { type nat hook postrouting priority srcnat;
    oifname != "p0" ip6 saddr 2001:db8:0::/64 counter masquerade
  }
}
table ip6 filter {
  chain FORWARD { type filter hook forward priority filter; policy drop;
    oifname "p0" ct state related,established counter accept
    iifname != "p0" oifname "p0" ip6 daddr 2001:db8:0::2 tcp dport 80 counter accept
    iifname "p0" oifname != "p0" counter accept
  }
}
"#,
    begins: &[
        (1, ["198.18.1.1", "2001:db8:1::1"], &[8080, 5353, 80]),
        (2, ["198.18.2.1", "2001:db8:2::1"], &[8080]),
        (0, ["192.0.2.7", "2001:db8:100::7"], &[80, 443, 53]),
        (0, ["203.0.113.9", "2001:db8:200::9"], &[443]),
        (1, ["198.18.0.2", "2001:db8:0::2"], &[80, 22]),
    ],
};

/// A gateway of tunnels, seen from outside: marks of clients, a fixed address for all, few ports.
const GATEWAY: Layout = Layout {
    picture: picture("gateway"),
    rules: r#"
table inet gateway {
  set peers { type ipv4_addr . inet_service; elements = { 192.0.2.7 . 51820, 192.0.2.9 . 51821 }; }
  chain forward { type filter hook forward priority 0; policy drop;
    ct state { established, related } accept
    ct state invalid counter drop
    ip daddr . udp dport @peers accept
    ip6 daddr 2001:db8:100::/64 udp dport 51820-51821 accept
    iifname "p2" oifname "p1" meta l4proto tcp accept
    iifname "p1" oifname "p0" ct status dnat accept
    iifname "p0" oifname "p2" accept
  }
  chain entering { type nat hook prerouting priority dstnat;
    iifname "p1" udp dport 51820 dnat ip to 198.18.0.2:51820
    iifname "p1" ip6 daddr 2001:db8:1::1 udp dport 51820 dnat ip6 to [2001:db8:0::2]:51820
  }
  chain leaving { type nat hook postrouting priority srcnat;
    oifname "p1" meta nfproto ipv4 meta l4proto tcp snat ip to 198.18.1.1:10000-20000
    oifname "p1" meta nfproto ipv4 meta l4proto udp snat ip to 198.18.1.1:10000-20000
    oifname "p1" ip6 saddr 2001:db8:2::/64 snat ip6 to 2001:db8:1::1
    oifname "p2" ip saddr 198.18.0.3 snat ip to 198.18.2.1
  }
}
"#,
    begins: &[
        (0, ["192.0.2.7", "2001:db8:100::7"], &[51820, 51821]),
        (0, ["192.0.2.9", "2001:db8:100::9"], &[51821]),
        (1, ["198.18.1.1", "2001:db8:1::1"], &[51820]),
        (2, ["192.0.2.7", "2001:db8:100::7"], &[80, 443]),
        (0, ["203.0.113.9", "2001:db8:200::9"], &[80, 53]),
    ],
};

/// Two uplinks, each with an address of its own; what comes in on one is published there.
const UPLINKS: Layout = Layout {
    picture: picture("uplinks"),
    rules: r#"
table ip up {
  chain forward { type filter hook forward priority 0; policy drop;
    ct state established,related accept
    ct state invalid drop
    ct status dnat accept
    iifname "p0" accept
  }
  chain entering { type nat hook prerouting priority dstnat;
    iifname { "p1", "p2" } tcp dport 443 dnat to 198.18.0.2
    iifname { "p1", "p2" } udp dport 443 dnat to 198.18.0.3:4433
  }
  chain leaving { type nat hook postrouting priority srcnat;
    oifname "p1" masquerade
    oifname "p2" snat to 198.18.2.1
  }
}
table ip6 up {
  chain forward { type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "p0" accept
    iifname "p2" tcp dport 443 accept
  }
  chain leaving { type nat hook postrouting priority srcnat;
    oifname { "p1", "p2" } masquerade
  }
}
"#,
    begins: &[
        (0, ["192.0.2.7", "2001:db8:100::7"], &[80, 443, 53]),
        (0, ["203.0.113.9", "2001:db8:200::9"], &[80, 443, 53]),
        (1, ["198.18.1.1", "2001:db8:1::1"], &[443]),
        (2, ["198.18.2.1", "2001:db8:2::1"], &[443]),
    ],
};
