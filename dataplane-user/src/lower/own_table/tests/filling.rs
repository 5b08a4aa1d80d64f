//! Sets that rules fill.

use std::sync::LazyLock;

use super::*;
use crate::model::{OwnDynamic, OwnUpdate};

#[expect(clippy::unnecessary_wraps, reason = "it stands where there may be no such set")]
fn of_addresses(_: &SetName) -> Option<(&'static SetType, DynamicSet)> {
    static KIND: LazyLock<SetType> = LazyLock::new(|| crate::rule::parse_set_type("ipv4_addr").expect("a type"));
    Some((&*KIND, DynamicSet { timeout: None, size: 7 }))
}

/// A table whose rules fill a set of addresses.
fn filling(rules: &[&str]) -> OwnTable {
    let rules: Vec<_> = rules.iter().map(|text| parse(text).expect("a rule")).collect();
    let mut chains = vec![KernelChain::default(); ChainName::ALL.len()];
    chains[ChainName::Forward.index()].rules = rules.iter().zip(1..).collect();
    own_table(&chains, Names { dynamic: &of_addresses, ..NAMES }, &[7]).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn rules_fill_sets() {
    let table = filling(&["udp dport 1 update @a { ip saddr & 255.0.0.0 timeout 1s limit rate over 2/hour } drop"]);
    let limit = Step::Limit { over: true, bytes: false, amount: 2, seconds: 3600, burst: 0 };
    let update = OwnUpdate { operation: 1, set: "a".to_owned(), key: 8, timeout: Some(1000), condition: Some(limit) };
    let wanted = [
        Step::Payload(1, 12, 4, 8),
        Step::Mask(8, vec![255, 0, 0, 0]),
        Step::Update(Box::new(update)),
        Step::Count,
        Step::Drop,
    ];
    assert!(table.chains[0].rules[1].steps.ends_with(&wanted), "{:?}", table.chains[0].rules[1].steps);
    let dynamic = table.sets[1].dynamic;
    assert_eq!(dynamic, Some(OwnDynamic { timeout: None, times_out: true, size: 7 }), "a rule gives a time");
    let plain = filling(&["add @a { ip saddr ct count over 2 } drop"]);
    assert_eq!(plain.sets[1].dynamic, Some(OwnDynamic { timeout: None, times_out: false, size: 7 }));
}

/// Between two writes: what an element has of its own is matched once, and a set that both know is one.
#[test]
fn a_table_and_the_one_before_share_the_sets_that_rules_fill() {
    let before = filling(&["add @a { ip saddr limit rate over 2/hour } drop", "ip saddr @a add @a { ip saddr } drop"]);
    let both = filling(&["ip saddr @a drop"]).together_with(&before);
    let old = both.chains.iter().find(|chain| chain.name == "forward_before").expect("the chain of before");
    let looked_up = |rule: &OwnRule| {
        rule.steps
            .iter()
            .find_map(|step| if let Step::InSet(_, false, name) = step { Some(name.clone()) } else { None })
    };
    let rules: Vec<_> = old.rules.iter().filter_map(looked_up).collect();
    assert_eq!((rules, old.rules.len()), (vec!["a".to_owned()], 2), "{old:?}");
    assert_eq!(both.sets.iter().filter(|set| set.dynamic.is_some()).count(), 1);
    assert!(!old.rules.iter().flat_map(|rule| &rule.steps).any(|step| matches!(step, Step::Update(_))));
}
