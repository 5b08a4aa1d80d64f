//! Rules that are lowered one by one, against all at once.

use super::super::{ChainRules, Entry, lower, lower_alone, lower_remaining, lower_rule, order};
use super::{in_forward, links, numbered};
use crate::rule::{self, LinkPattern, Rule, parse};

#[test]
fn what_is_lowered_by_itself_is_the_same() {
    let texts = [
        "ip saddr 192.0.2.0/24 tcp dport 80-90 accept",
        "iifname \"p0\" drop",
        "tcp dport { 1, 3, 5, 7, 9, 11, 13, 15, 17 } drop",
        "ip saddr @hosts drop",
        "accept",
    ];
    let rules: Vec<Rule> = texts.iter().map(|text| parse(text).expect("a rule")).collect();
    let hosts = rule::parse_set_type("ipv4_addr").expect("a type");
    // In another order and with other counters, links and elements.
    for (turn, (ifindex, element)) in [(1, "192.0.2.1"), (2, "192.0.2.2")].into_iter().enumerate() {
        let elements = [rule::parse_element(&hosts, element).expect("an element")];
        let order: Vec<usize> = if turn == 0 { (0..5).collect() } else { (0..5).rev().collect() };
        let numbered: Vec<_> = order.iter().map(|index| (&rules[*index], *index as u32 + 10 * turn as u32)).collect();
        let chains = || std::array::from_fn(|_| ChainRules { rules: &numbered, ..ChainRules::default() });
        let links = |_: &LinkPattern| vec![ifindex];
        let sets = |_: &rule::SetName| Some((&hosts, &elements[..]));
        let fresh = lower(chains(), &links, &sets);
        let mut known = |_, index: usize, boxes: &mut Vec<_>| {
            let own = lower_alone(&rules[order[index]]);
            let is_known = own.is_some();
            boxes.extend(own.into_iter().flatten());
            is_known
        };
        let again = lower_remaining(chains(), &links, &sets, &mut known);
        assert_eq!(again, fresh, "turn {turn}");
    }
    let known = rules.iter().map(|rule| lower_alone(rule).is_some());
    assert_eq!(known.collect::<Vec<_>>(), [true, false, false, false, true]);
}

#[test]
fn a_rule_is_lowered_beside_others_as_with_them() {
    let texts = [
        "iifname \"p0\" ip saddr @hosts drop",
        "tcp dport { 1, 3, 5, 7, 9, 11, 13, 15, 17 } drop",
        "ip saddr . tcp dport { 192.0.2.1 . 80, 192.0.2.2 . 443 } drop",
        "udp dport { 1, 3, 5, 7, 9, 11, 13, 15, 17 } ip saddr @hosts drop",
        "ip daddr @hosts tcp dport { 2, 4, 6, 8, 10, 12, 14, 16, 18 } limit rate 1/second accept",
        "meta pkttype multicast drop",
    ];
    let rules: Vec<Rule> = texts.iter().map(|text| parse(text).expect("a rule")).collect();
    let hosts = rule::parse_set_type("ipv4_addr").expect("a type");
    let elements = [rule::parse_element(&hosts, "192.0.2.0/24").expect("an element")];
    let sets = |_: &rule::SetName| Some((&hosts, &elements[..]));
    let lower_all = |rules: &[Rule]| lower(in_forward(&numbered(rules)), &links, &sets).expect("rules");
    for known in 0..rules.len() {
        let before = lower_all(&rules[..known]);
        let (mut all, mut numbers, mut boxes) = (before.sets, before.set_numbers, before.entries[2].clone());
        for (index, rule) in rules.iter().enumerate().skip(known) {
            let one = lower_rule(rule, &links, &sets, &numbers).expect(texts[index]);
            let again = lower_rule(rule, &links, &sets, &numbers).expect(texts[index]);
            assert_eq!(one.boxes, again.boxes, "no number is taken by it");
            all.extend(one.sets);
            numbers.extend(one.set_numbers);
            let (order, counter) = (order(index), index as u32);
            boxes.extend(one.boxes.into_iter().map(|entry| Entry { order, counter, ..entry }));
        }
        let fresh = lower_all(&rules);
        assert_eq!((all, numbers, boxes), (fresh.sets, fresh.set_numbers, fresh.entries[2].clone()), "{known} known");
    }
}
