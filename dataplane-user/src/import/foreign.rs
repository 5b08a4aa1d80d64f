//! What nft can say and this filter can not, and what to do about it.

use super::problem::Position;

/// What is said about connection tracking; there is one answer to all of it.
pub(super) const STATEFUL: &str = "connection tracking is stateful, and this filter keeps no state: let answers in by rules of their own, such as \
     `tcp flags & (syn | ack) != syn accept` and `udp sport 53 accept`; where `new` is asked, take \
     `tcp flags & (syn | ack) == syn`; where `invalid` is dropped, take the rule out";
const ADDRESSES: &str = "address translation changes packets, and this filter only lets them pass or drops them: take the rule out, \
     and translate on another machine or in the kernel";
const CHANGES: &str = "this changes packets or what the kernel notes about them; this filter only lets them pass or drops them: take \
     it out";
const MARKS: &str = "packets have no mark before the kernel sees them: ask for what the mark stands for";
const SOCKETS: &str = "which program or socket a packet belongs to is not known at the driver: take it out";
const DYNAMIC: &str = "packets do not change sets here: `dataplane set add` and `set del` do";
const ELSEWHERE: &str = "packets are not sent elsewhere by rules here: take it out";
const KEPT: &str = "what one packet did is not kept for the next one here: take it out, or use `limit rate`";

/// What is said where the size of TCP's segments is written. `advmss` of a route is for this machine's own connections.
pub(super) const SEGMENTS: &str = "packets are not changed here: take the rule out, and announce the smaller MTU to the hosts (DHCP option 26, AdvLinkMTU \
     of router advertisements) or set it on their links";

/// The first words of a construct, and what is said about it.
const FOREIGN: &[(&[&str], &str)] = &[
    (&["ct"], STATEFUL),
    (&["notrack"], "there is no connection tracking to keep packets from: take it out"),
    (&["dnat"], ADDRESSES),
    (&["snat"], ADDRESSES),
    (&["masquerade"], ADDRESSES),
    (&["redirect"], ADDRESSES),
    (&["tproxy"], ADDRESSES),
    (&["queue"], "no packet is handed to a program here: take it out, or take `drop`"),
    (&["rt"], "rules do not ask the routes: ask for `oifname`, or take it out"),
    (&["meta", "mark"], MARKS),
    (&["mark"], MARKS),
    (&["meta", "skuid"], SOCKETS),
    (&["meta", "skgid"], SOCKETS),
    (&["skuid"], SOCKETS),
    (&["skgid"], SOCKETS),
    (&["meta", "cgroup"], SOCKETS),
    (&["socket"], SOCKETS),
    (&["meta", "iifkind"], "ask for the names: `iifname \"wg*\"`"),
    (&["meta", "oifkind"], "ask for the names: `oifname \"wg*\"`"),
    (&["meta", "iiftype"], "ask for the names: `iifname \"wg*\"`"),
    (&["meta", "oiftype"], "ask for the names: `oifname \"wg*\"`"),
    (&["meta", "priority"], CHANGES),
    (&["meta", "nftrace"], "take it out; `dataplane stats` shows what becomes of packets"),
    (&["meta", "time"], "rules have no clock: change them when it is time"),
    (&["meta", "day"], "rules have no clock: change them when it is time"),
    (&["meta", "hour"], "rules have no clock: change them when it is time"),
    (&["meta", "random"], "a rule fits or does not, without chance: take it out"),
    (&["numgen"], "a rule fits or does not, without chance: take it out"),
    (&["jhash"], "rules do not compute hashes: take it out"),
    (&["symhash"], "rules do not compute hashes: take it out"),
    (&["add", "@"], DYNAMIC),
    (&["update", "@"], DYNAMIC),
    (&["delete", "@"], DYNAMIC),
    (&["meter"], KEPT),
    (&["quota"], KEPT),
    (&["limit", "name"], "write the rate into the rule: `limit rate 10/second`"),
    (&["dup"], ELSEWHERE),
    (&["fwd"], ELSEWHERE),
    (&["flow"], "forwarding is fast without flow tables: take it out"),
    (&["synproxy"], ELSEWHERE),
    (&["xt"], "this belongs to iptables: import what `iptables-save` prints"),
    (&["osf"], "operating systems are not guessed here: take it out"),
    (&["ipsec"], "what IPsec did to a packet is not known here: take it out"),
    (&["exthdr"], "extension headers can not be asked for: take `meta l4proto` for what is behind them"),
    (&["dst"], "extension headers can not be asked for: take `meta l4proto` for what is behind them"),
    (&["hbh"], "extension headers can not be asked for: take `meta l4proto` for what is behind them"),
    (&["mh"], "extension headers can not be asked for: take `meta l4proto` for what is behind them"),
    (&["frag"], "extension headers can not be asked for: take `meta l4proto` for what is behind them"),
];

/// What is said about the construct that `rest` begins with, and its place; none when it is none of these.
pub(super) fn foreign(rest: &str, start: usize) -> Option<(Position, String)> {
    let begin = rest.len() - rest.trim_start().len();
    let mut words = words(rest);
    let first = words.next()?;
    let second = words.next();
    let place = |last: &(usize, &str)| start + begin..start + last.0 + last.1.len();
    if first.1 == "fib" {
        let end = rest.find(['{', ';']).unwrap_or(rest.len());
        let said = routes(&rest[..end]);
        return Some((place(&first), format!("`fib`: rules do not ask the routes: {said}")));
    }
    if let ("tcp", Some("option")) = (first.1, second.map(|word| word.1)) {
        let said = if rest.contains(" set ") { SEGMENTS } else { "options of TCP can not be asked: take the rule out" };
        return Some((place(&second.unwrap_or(first)), format!("`tcp option`: {said}")));
    }
    // `FIELD FIELD set VALUE` writes into the packet.
    if let (Some(_), Some(third)) = (second, words.next())
        && third.1 == "set"
    {
        let end = third.0 + third.1.len();
        return Some((place(&third), format!("`{}`: {CHANGES}", &rest[begin..end])));
    }
    let (names, said) = FOREIGN.iter().find(|(names, _)| match names {
        [one] => *one == first.1,
        [one, "@"] => *one == first.1 && second.is_some_and(|word| word.1.starts_with('@')),
        [one, two] => *one == first.1 && second.is_some_and(|word| word.1 == *two),
        _ => false,
    })?;
    // Of connection tracking and the like, what is asked belongs to it.
    let last = if names.len() > 1 || matches!(first.1, "ct" | "rt") { second.unwrap_or(first) } else { first };
    let end = last.0 + last.1.len();
    Some((place(&last), format!("`{}`: {said}", &rest[begin..end])))
}

/// What to do instead of asking the routes (nft(8), "FIB EXPRESSIONS").
fn routes(asked: &str) -> &'static str {
    let has = |word: &str| asked.split_whitespace().any(|other| other == word);
    match (has("type"), has("saddr")) {
        // What for: the type of the destination, of the source, or whether there is a way back.
        (true, false) if has("local") && !has("broadcast") && !has("multicast") => {
            "chain input meets what is for this machine, chain forward what is not: put the rule into one of them"
        }
        (true, false) => {
            "chain input meets what is for this machine, its broadcast addresses and groups, chain forward what is not; ask \
             for groups by `ip daddr 224.0.0.0/4`, `ip6 daddr ff00::/8` and the broadcast addresses"
        }
        (true, true) => {
            "IPv4 packets whose source is an address of this machine, a group or a broadcast address are dropped anyway \
             (`martian_source`): take the rule out"
        }
        (false, _) if has("iif") => {
            "for IPv4 set net.ipv4.conf.all.rp_filter=1 (strict) instead; for IPv6 there is no such setting: let each way in \
             have the prefixes behind it, such as `iifname \"eth1\" ip6 saddr != 2001:db8:1::/48 drop`"
        }
        (false, _) => {
            "for IPv4 set net.ipv4.conf.all.rp_filter=2 (any way back) instead; for IPv6 there is no such setting: let each \
             way in have the prefixes behind it, such as `iifname \"eth1\" ip6 saddr != 2001:db8:1::/48 drop`"
        }
    }
}

/// Words with their places.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_whitespace().map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}
