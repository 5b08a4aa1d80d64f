//! Extensions of iptables: `-m NAME`.

use crate::rule::foreign::STATEFUL;

/// Extensions whose options are known.
pub(super) const MODULES: [&str; 28] = [
    "set",
    "tcp",
    "udp",
    "udplite",
    "sctp",
    "dccp",
    "icmp",
    "icmp6",
    "ipv6-icmp",
    "multiport",
    "iprange",
    "comment",
    "limit",
    "pkttype",
    "mac",
    "dscp",
    "ttl",
    "hl",
    "length",
    "standard",
    "state",
    "conntrack",
    "connmark",
    "mark",
    "socket",
    "addrtype",
    "owner",
    "rt",
];

/// Extensions that count for each address.
pub(super) const PER_ADDRESS: [&str; 3] = ["connlimit", "hashlimit", "recent"];

/// Extensions that cannot be translated, and what is said about them.
pub(super) const FOREIGN: &[(&str, &str)] = &[
    ("ctstate", STATEFUL),
    ("connbytes", STATEFUL),
    ("connlabel", STATEFUL),
    ("helper", STATEFUL),
    ("quota", "what one packet did is not kept for the next one here: take it out, or use `-m limit`"),
    ("statistic", "a rule fits or does not, without chance: take it out"),
    ("time", "rules have no clock: change them when it is time"),
    (
        "rpfilter",
        "rules do not ask the routes: for IPv4 set net.ipv4.conf.all.rp_filter=1 (with `--loose` 2) instead; for IPv6 there is \
         no such setting: let each way in have the prefixes behind it, such as `-i eth1 ! -s 2001:db8:1::/48 -j DROP`",
    ),
    ("tcpmss", "options of TCP can not be asked: take the rule out"),
    ("frag", "extension headers can not be asked for: take the rule out"),
    ("hbh", "extension headers can not be asked for: take the rule out"),
    ("dst", "extension headers can not be asked for: take the rule out"),
    ("ipv6header", "extension headers can not be asked for: take the rule out"),
    ("ah", "what AH says can not be asked: take `-p ah` alone"),
    ("esp", "what ESP says can not be asked: take `-p esp` alone"),
    ("physdev", "bridged packets are not filtered here: take the rule out"),
    ("string", "rules do not look into what packets carry: take the rule out"),
    ("u32", "only fields with a name can be asked: take the rule out"),
    ("bpf", "only fields with a name can be asked: take the rule out"),
    ("policy", "what IPsec did to a packet is not known here: take it out"),
    ("tos", "take `-m dscp`"),
];
