//! The language of rules: read without a panic; what was read is printed so that it reads as the same.

use std::path::Path;

use dataplane_user::rule::parse;

use super::{Target, WORDS};

const RULES: &[&str] = &[
    "ip saddr 192.0.2.0/24 ip daddr != { 198.51.100.1, 198.51.100.8-198.51.100.9 } tcp dport 22 drop",
    "ip6 saddr 2001:db8::/32 meta l4proto { tcp, udp } th sport 1024-65535 accept",
    "tcp flags & (syn | ack) == syn limit rate over 10/second burst 5 packets drop",
    "iif \"eth0\" oifname \"veth*\" vlan id 100 ether saddr 02:00:00:00:00:02 continue",
    "icmp type echo-request log prefix \"a b\" reject with icmp type host-unreachable comment \"why\"",
    "icmpv6 type { nd-neighbor-solicit, 1-4 } counter accept",
    "ip frag-off & 0x1fff != 0 ip ttl < 5 ip dscp cs1 meta length > 1400 drop",
    "ip saddr @blocked reject with tcp reset",
];

pub const TARGET: Target = Target { name: "rule", corpus, words: WORDS, feed };

#[expect(clippy::unnecessary_wraps, reason = "those of other targets are files")]
fn corpus(_: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    Ok(RULES.iter().map(|rule| rule.as_bytes().to_vec()).collect())
}

fn feed(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    match parse(text) {
        Ok(rule) => {
            let printed = rule.to_string();
            let again = parse(&printed).unwrap_or_else(|error| panic!("{error}: `{printed}` of `{text}`"));
            assert_eq!(again, rule, "`{printed}` of `{text}`");
            assert_eq!(again.to_string(), printed);
        }
        Err(error) => assert!(error.span.start <= error.span.end && error.span.end <= text.len(), "{error:?} `{text}`"),
    }
}
