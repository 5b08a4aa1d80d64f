//! Sets in rules: whether they hold what a match asks for, and a rule with their elements in the place of their names.

use super::ast::{Match, Rule, Test, Values};
use super::name::SetName;
use super::set::{Element, Item, ItemKind};
use super::value::Range;

impl Match {
    /// What a set must hold that this match may ask; none when there are no such sets.
    pub const fn set_kind(&self) -> Option<ItemKind> {
        match self {
            Self::Ipv4(..) => Some(ItemKind::Ipv4),
            Self::Ipv6(..) => Some(ItemKind::Ipv6),
            Self::Ether(..) => Some(ItemKind::Ether),
            Self::Protocol(..) => Some(ItemKind::Protocol),
            Self::Port(..) => Some(ItemKind::Service),
            Self::Link(..) => Some(ItemKind::Link),
            _ => None,
        }
    }
}

impl Rule {
    /// The same rule with the elements of sets instead of their names. What an empty set is compared with is in no case
    /// inside. A set that `elements` does not know keeps its name, and so does one of another type.
    pub(crate) fn with_sets<'s>(&self, elements: &dyn Fn(&SetName) -> Option<&'s [Element]>) -> Self {
        let matches = self.matches().iter().map(|asked| match asked {
            Match::Ipv4(side, test) => Match::Ipv4(*side, resolved(test, elements, ipv4)),
            Match::Ipv6(side, test) => Match::Ipv6(*side, resolved(test, elements, ipv6)),
            Match::Ether(side, test) => Match::Ether(*side, resolved(test, elements, ether)),
            Match::Protocol(field, test) => Match::Protocol(*field, resolved(test, elements, protocol)),
            Match::Port(transport, side, test) => Match::Port(*transport, *side, resolved(test, elements, service)),
            Match::Link(field, test) => Match::Link(*field, resolved(test, elements, link)),
            other => other.clone(),
        });
        self.with_matches(matches.collect())
    }
}

fn resolved<'s, I: Ord + Clone>(
    test: &Test<I>,
    elements: &dyn Fn(&SetName) -> Option<&'s [Element]>,
    item: impl Fn(&Item) -> Option<I>,
) -> Test<I> {
    let Values::Set(name) = test.values() else { return test.clone() };
    let items = elements(name).and_then(|elements| {
        let one = |element: &Element| match element.0.as_slice() {
            [one] => item(one),
            _ => None,
        };
        elements.iter().map(one).collect::<Option<Vec<_>>>()
    });
    items.map_or_else(|| test.clone(), |items| Test::elements(test.negated(), items))
}

/// One function for each sort of item: its values, if it is of that sort.
macro_rules! items {
    ($($name:ident $variant:ident $type:ty;)+) => { $(
        fn $name(item: &Item) -> Option<$type> {
            if let Item::$variant(value) = item { Some(value.clone()) } else { None }
        }
    )+ };
}

items! {
    ipv4 Ipv4 Range<std::net::Ipv4Addr>;
    ipv6 Ipv6 Range<std::net::Ipv6Addr>;
    ether Ether Range<super::value::MacAddress>;
    protocol Protocol Range<super::value::Protocol>;
    service Service Range<super::value::Port>;
    link Link super::name::LinkPattern;
}

#[cfg(test)]
mod tests {
    use crate::config::parse as config;
    use crate::rule::parse;

    #[test]
    fn elements_take_the_place_of_names() {
        let sets = "\
[sets.net]\ntype = 'ipv4_addr'\nelements = ['192.0.2.9', '192.0.2.1', '198.51.100.0/24']\n\
[sets.web]\ntype = 'inet_service'\nelements = ['80', '8000-8080']\n\
[sets.lan]\ntype = 'ifname'\nelements = ['eth1', 'wg*']\n\
[sets.pair]\ntype = 'ipv4_addr . inet_service'\nelements = ['192.0.2.1 . 80']\n";
        let config = config(sets, "sets.toml").expect("sets");
        for (rule, braces) in [
            ("ip saddr @net drop", "ip saddr { 192.0.2.1, 192.0.2.9, 198.51.100.0/24 } drop"),
            (
                "ip daddr != @net tcp dport @web drop",
                "ip daddr != { 192.0.2.1, 192.0.2.9, 198.51.100.0/24 } tcp dport { 80, 8000-8080 } drop",
            ),
            ("iifname @lan accept comment \"x\"", "iifname { \"eth1\", \"wg*\" } accept comment \"x\""),
            ("ip saddr @pair drop", "ip saddr @pair drop"),
            ("ip saddr @nobody drop", "ip saddr @nobody drop"),
        ] {
            let resolved = parse(rule).expect(rule).with_sets(&|name| config.elements(name));
            assert_eq!(resolved, parse(braces).expect(braces), "{rule}");
        }
    }

    #[test]
    fn an_empty_set_holds_nothing() {
        use crate::lower::filter::{ChainRules, lower};
        let config = config("[sets.none]\ntype = 'ipv4_addr'\n", "sets.toml").expect("a set");
        // All but nothing is any IPv4 packet: one entry.
        for (rule, entries) in [("ip saddr @none drop", 0), ("ip saddr != @none drop", 1)] {
            let rules = [(parse(rule).expect(rule).with_sets(&|name| config.elements(name)), 0)];
            let mut chains = [ChainRules::default(); 4];
            chains[0].rules = &rules;
            assert_eq!(lower(chains, &|_| Vec::new()).expect("room").entries.len(), entries, "{rule}");
        }
    }
}
