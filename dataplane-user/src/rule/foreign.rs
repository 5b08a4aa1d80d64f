//! What nft can express and this filter cannot, and what to do about it.

use std::ops::Range;

/// The text about connection tracking.
pub(crate) const STATEFUL: &str = "of connections, rules match only `ct state`, `ct direction`, `ct mark`, `ct status`, `ct original`, `ct reply` and `ct count`: remove it";
const CHANGES: &str = "rules can set `meta mark`, `ct mark`, `ip dscp`, `ip6 dscp`, `ip ttl`, `ip6 hoplimit` and `tcp option maxseg size`, to one value: \
     remove it";
const SOCKETS: &str = "the program or socket of a packet is not known at the driver: remove it";
const DYNAMIC: &str = "in the braces stand the fields of the key, then `timeout`, then `limit rate` or `ct count`: \
     `add @NAME { ip saddr timeout 1m limit rate over 10/minute }`";
const METER: &str =
    "a meter is a set here: write `add @NAME { ... }`, with a table [sets.NAME] that has `dynamic = true`";
const ELSEWHERE: &str = "rules cannot send packets elsewhere: remove it";
const KEPT: &str = "rules keep no state from one packet to the next: remove it, or use `limit rate`";

/// The first words of a construct, and the text about it.
const FOREIGN: &[(&[&str], &str)] = &[
    (&["ct"], STATEFUL),
    (&["notrack"], "rules cannot keep packets from connection tracking: remove it, or leave this rule in nft"),
    (&["queue"], "rules cannot hand packets to a program: remove it, or write `drop`"),
    (&["rt"], "rules cannot match the route, and of routing headers only `rt type 0`: match `oifname`, or remove it"),
    (&["meta", "cgroup"], SOCKETS),
    (&["socket"], "of sockets, rules match only `socket transparent`: remove it"),
    (&["meta", "iifkind"], "match the names: `iifname \"wg*\"`"),
    (&["meta", "oifkind"], "match the names: `oifname \"wg*\"`"),
    (&["meta", "iiftype"], "match the names: `iifname \"wg*\"`"),
    (&["meta", "oiftype"], "match the names: `oifname \"wg*\"`"),
    (&["meta", "priority"], CHANGES),
    (&["meta", "nftrace"], "remove it; `dataplane trace` shows packets with their rules"),
    (&["meta", "time"], "rules have no clock: change them at that time"),
    (&["meta", "day"], "rules have no clock: change them at that time"),
    (&["meta", "hour"], "rules have no clock: change them at that time"),
    (&["meta", "random"], "rules cannot match at random: remove it"),
    (&["numgen"], "rules cannot match at random: remove it"),
    (&["jhash"], "rules cannot compute hashes: remove it"),
    (&["symhash"], "rules cannot compute hashes: remove it"),
    (&["add", "@"], DYNAMIC),
    (&["update", "@"], DYNAMIC),
    (&["delete", "@"], DYNAMIC),
    (&["meter"], METER),
    (&["quota"], KEPT),
    (&["limit", "name"], "write the rate into the rule: `limit rate 10/second`"),
    (&["dup"], ELSEWHERE),
    (&["fwd"], ELSEWHERE),
    (&["flow"], "forwarding is fast without flow tables: remove it"),
    (&["synproxy"], ELSEWHERE),
    (&["xt"], "this belongs to iptables: import the output of `iptables-save`"),
    (&["osf"], "rules cannot match operating systems: remove it"),
    (&["ipsec"], "rules cannot match what IPsec did to a packet: remove it"),
    (&["exthdr"], "rules cannot match extension headers: match what follows them by `meta l4proto`"),
    (&["dst"], "rules cannot match extension headers: match what follows them by `meta l4proto`"),
    (&["hbh"], "rules cannot match extension headers: match what follows them by `meta l4proto`"),
    (&["mh"], "rules cannot match extension headers: match what follows them by `meta l4proto`"),
    (&["frag"], "rules cannot match extension headers: match what follows them by `meta l4proto`"),
];

/// The text about the construct that `rest` begins with, and its place; none for other constructs.
pub(crate) fn foreign(rest: &str, start: usize) -> Option<(Range<usize>, String)> {
    let begin = rest.len() - rest.trim_start().len();
    let mut words = words(rest);
    let first = words.next()?;
    let second = words.next();
    let place = |last: &(usize, &str)| start + begin..start + last.0 + last.1.len();
    if first.1 == "fib" {
        let end = rest.find(['{', ';']).unwrap_or(rest.len());
        let said = routes(&rest[..end]);
        return Some((place(&first), format!("`fib`: rules cannot match the route: {said}")));
    }
    if let ("tcp", Some("option")) = (first.1, second.map(|word| word.1)) {
        let said = if rest.contains(" set ") { CHANGES } else { "rules cannot match options of TCP: remove the rule" };
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
    // Of connection tracking and the like, the next word belongs to it.
    let last = if names.len() > 1 || matches!(first.1, "ct" | "rt") { second.unwrap_or(first) } else { first };
    let end = last.0 + last.1.len();
    Some((place(&last), format!("`{}`: {said}", &rest[begin..end])))
}

/// Constructs of chains, which `import` translates and a single rule cannot have.
const OF_CHAINS: &[(&str, &str)] = &[
    ("jump", "a rule cannot jump to a chain: write the rules of that chain in its place, or use `dataplane import`"),
    ("goto", "a rule cannot go to a chain: write the rules of that chain in its place, or use `dataplane import`"),
    ("return", "a rule cannot return: narrow the rules behind it, or use `dataplane import`"),
    ("vmap", "a rule has one action: write a rule for each element, or use `dataplane import`"),
];

/// The text about an unsupported construct that begins with the word at byte `at` or the two before, and its place.
pub(crate) fn unsupported(text: &str, at: usize) -> Option<(Range<usize>, String)> {
    let starts: Vec<_> = words(text).map(|(start, _)| start).take_while(|start| *start <= at).collect();
    let here = words(&text[at..]).next().map(|(_, word)| word);
    let of_chains = OF_CHAINS.iter().find(|(name, _)| here == Some(name));
    let of_chains = of_chains.map(|(name, said)| (at..at + name.len(), format!("`{name}`: {said}")));
    of_chains.or_else(|| {
        let found = starts.iter().rev().take(3).filter_map(|start| foreign(&text[*start..], *start));
        found.into_iter().find(|(place, _)| place.end > at)
    })
}

/// What to do instead of matching the route (nft(8), "FIB EXPRESSIONS").
fn routes(asked: &str) -> &'static str {
    let has = |word: &str| asked.split_whitespace().any(|other| other == word);
    match (has("type"), has("saddr")) {
        // What for: the type of the destination, of the source, or whether there is a way back.
        (true, false) if has("local") && !has("broadcast") && !has("multicast") => {
            "chain input has packets to this machine, chain forward all others: put the rule into one of them"
        }
        (true, false) => {
            "chain input has packets to this machine, its broadcast addresses and groups, chain forward all others; match \
             groups by `ip daddr 224.0.0.0/4`, `ip6 daddr ff00::/8` and the broadcast addresses"
        }
        (true, true) => {
            "IPv4 packets whose source is an address of this machine, a group or a broadcast address are dropped anyway \
             (`martian_source`): remove the rule"
        }
        (false, _) if has("iif") => {
            "for IPv4 set net.ipv4.conf.all.rp_filter=1 (strict) instead; for IPv6 there is no such setting: for each interface \
             drop other prefixes, such as `iifname \"eth1\" ip6 saddr != 2001:db8:1::/48 drop`"
        }
        (false, _) => {
            "for IPv4 set net.ipv4.conf.all.rp_filter=2 (any way back) instead; for IPv6 there is no such setting: for each \
             interface drop other prefixes, such as `iifname \"eth1\" ip6 saddr != 2001:db8:1::/48 drop`"
        }
    }
}

/// Words with their places.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_whitespace().map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}
