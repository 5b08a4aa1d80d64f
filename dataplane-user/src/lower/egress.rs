//! Links as ways out: which of them are the same to all rules of chain forward.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::{EgressLinkFlags, Ifindex};

use crate::{
    model::Link,
    rule::{Element, Field, Item, LinkField, LinkPattern, Match, Rule, SetName, Values},
};

/// The number of a class beyond those with a bit of their own: a packet that must leave through one class goes through none of
/// these.
const BEYOND: usize = u8::MAX as usize;

/// Kinds of links that are built on other links: what comes in through them came in through those, too.
const UPPER: [&str; 14] = [
    "bridge",
    "bond",
    "team",
    "vlan",
    "macvlan",
    "macvtap",
    "ipvlan",
    "ipvtap",
    "vrf",
    "macsec",
    "hsr",
    "dsa",
    "openvswitch",
    "batadv",
];
/// Kinds of links that put a packet into another one.
const TUNNELS: [&str; 18] = [
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
    "erspan",
    "ip6erspan",
    "ipip",
    "ip6tnl",
    "sit",
    "vti",
    "vti6",
    "xfrm",
    "vxlan",
    "geneve",
    "bareudp",
    "amt",
    "gtp",
    "wireguard",
];

/// The classes of ways out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressPartition {
    /// A link of each class, by the number of the class.
    pub classes: Vec<Ifindex>,
    /// Class and nature of each link.
    pub links: BTreeMap<Ifindex, (u8, EgressLinkFlags)>,
    /// Whether no rule looks at the way out.
    pub alike: bool,
}

impl EgressPartition {
    /// The classes of links, by the patterns that their names match.
    pub fn of<'l>(
        links: impl Iterator<Item = &'l Link>,
        is_port: impl Fn(Ifindex) -> bool,
        patterns: &BTreeSet<LinkPattern>,
    ) -> Self {
        Self::partition(links, is_port, patterns, |pattern, link| pattern.fits(&link.name))
    }

    /// The same where `meant` says whether a pattern means a link.
    pub fn partition<'l>(
        links: impl Iterator<Item = &'l Link>,
        is_port: impl Fn(Ifindex) -> bool,
        patterns: &BTreeSet<LinkPattern>,
        meant: impl Fn(&LinkPattern, &Link) -> bool,
    ) -> Self {
        let mut egress = Self { alike: patterns.is_empty(), ..Self::default() };
        let mut numbers: BTreeMap<Vec<bool>, usize> = BTreeMap::new();
        for link in links.filter(|link| !link.loopback) {
            let fits: Vec<_> = patterns.iter().map(|pattern| meant(pattern, link)).collect();
            let next = numbers.len();
            let class = *numbers.entry(fits).or_insert(next);
            if class == egress.classes.len() {
                egress.classes.push(link.ifindex);
            }
            egress.links.insert(link.ifindex, (class.min(BEYOND) as u8, flags(link, is_port(link.ifindex))));
        }
        egress
    }
}

fn flags(link: &Link, is_port: bool) -> EgressLinkFlags {
    let kind = link.kind.as_deref().unwrap_or_default();
    let mut flags = EgressLinkFlags::empty();
    flags.set(EgressLinkFlags::FOREIGN, !is_port && !UPPER.contains(&kind));
    flags.set(EgressLinkFlags::TUNNEL, TUNNELS.contains(&kind));
    flags
}

/// The patterns that rules compare with the way out.
pub fn patterns<'r, 's>(
    rules: impl Iterator<Item = &'r Rule>,
    set: impl Fn(&SetName) -> Option<&'s [Element]>,
) -> BTreeSet<LinkPattern> {
    let mut found = BTreeSet::new();
    let take = |found: &mut BTreeSet<_>, elements: &[Element], places: &[usize]| {
        let items = elements.iter().flat_map(|element| places.iter().filter_map(|place| element.0.get(*place)));
        found
            .extend(items.filter_map(|item| if let Item::Link(pattern) = item { Some(pattern.clone()) } else { None }));
    };
    for patterns_in_use in rules.flat_map(Rule::matches) {
        match patterns_in_use {
            Match::Link(field @ (LinkField::Oif | LinkField::Oifname), test) => {
                // As the rule is lowered.
                let meant = |pattern: &LinkPattern| match field {
                    LinkField::Oif => pattern.followed(),
                    _ => pattern.clone(),
                };
                let patterns_in_use: Vec<_> = match test.values() {
                    Values::Listed(patterns) => patterns.iter().map(meant).collect(),
                    Values::Set(name) => {
                        let items = set(name).unwrap_or_default().iter().flat_map(|element| &element.0);
                        items
                            .filter_map(|item| if let Item::Link(pattern) = item { Some(meant(pattern)) } else { None })
                            .collect()
                    }
                };
                found.extend(patterns_in_use);
            }
            Match::Concatenation(patterns_in_use) => {
                let is_way_out = |field: &Field| matches!(field, Field::Link(LinkField::Oif | LinkField::Oifname));
                let places = patterns_in_use.fields().iter().enumerate().filter(|(_, field)| is_way_out(field));
                let places: Vec<_> = places.map(|(place, _)| place).collect();
                match patterns_in_use.test().values() {
                    _ if places.is_empty() => {}
                    Values::Listed(elements) => take(&mut found, elements, &places),
                    Values::Set(name) => take(&mut found, set(name).unwrap_or_default(), &places),
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::parse;

    fn link(ifindex: Ifindex, name: &str, kind: Option<&str>) -> Link {
        Link { ifindex, name: name.to_owned(), kind: kind.map(str::to_owned), ..Link::default() }
    }

    fn patterns_in_use(rules: &[&str]) -> BTreeSet<LinkPattern> {
        let rules: Vec<_> = rules.iter().map(|text| parse(text).expect(text)).collect();
        patterns(rules.iter(), |_| None)
    }

    #[test]
    fn only_patterns_of_oif_separate_links() {
        let rows: [(&[&str], &[&str]); 4] = [
            (&["iifname \"lan\" drop", "tcp dport 22 accept"], &[]),
            (&["iifname \"lan\" oifname { \"wan\", \"dmz*\" } accept"], &["dmz*", "wan"]),
            (&["oif != \"wan\" drop"], &["wan"]),
            (&["iifname . oifname { \"lan\" . \"wan\", \"dmz\" . \"guest\" } accept"], &["guest", "wan"]),
        ];
        for (rules, expected) in rows {
            let found: Vec<_> = patterns_in_use(rules).iter().map(|pattern| pattern.as_str().to_owned()).collect();
            assert_eq!(found, expected, "{rules:?}");
        }
    }

    #[test]
    fn links_that_fit_the_same_patterns_are_of_one_class() {
        let links = [
            link(1, "wan", None),
            link(2, "lan", Some("bridge")),
            link(3, "dmz0", Some("veth")),
            link(4, "dmz1", Some("veth")),
            link(5, "tun", Some("gre")),
            Link { loopback: true, ..link(6, "lo", None) },
        ];
        let egress = EgressPartition::of(
            links.iter(),
            |ifindex| ifindex == 1,
            &patterns_in_use(&["oifname { \"wan\", \"dmz*\" } accept"]),
        );
        assert_eq!(egress.classes, [1, 2, 3]);
        assert!(!egress.alike);
        let of = |ifindex| egress.links[&ifindex];
        assert_eq!(of(1), (0, EgressLinkFlags::empty()), "a port");
        assert_eq!(of(2), (1, EgressLinkFlags::empty()), "a bridge may have ports");
        assert_eq!(of(3), (2, EgressLinkFlags::FOREIGN));
        assert_eq!(of(4), (2, EgressLinkFlags::FOREIGN));
        assert_eq!(of(5), (1, EgressLinkFlags::FOREIGN | EgressLinkFlags::TUNNEL), "no pattern fits, as with lan");
        let alike = EgressPartition::of(links.iter(), |_| false, &BTreeSet::new());
        assert!(alike.alike);
        assert_eq!(alike.classes, [1]);
    }
}
