//! Painted tables against a list of routes. `DATAPLANE_CASES` says how many sequences of changes there are for each table.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU16, AtomicU64},
};

use dataplane_common::abi::{BASE_ENTRIES, BASE_LINES, BLOCK, Layout4, Layout6, RouteKind, WORDS};
use proptest::prelude::*;

use super::*;
use crate::{cases::cases, model::Family as _};

type Model<A> = BTreeMap<(A, u8), Target>;

fn direct(wide: bool, groups: u32) -> DirectTable<ChainedMemory<Vec<AtomicU16>>> {
    let layout = Layout4 { wide, groups };
    let entries = |count| (0..count).map(|_| AtomicU16::new(0)).collect();
    DirectTable::new(ChainedMemory::new(entries(BASE_ENTRIES), entries(2 * layout.blocks() as usize * BLOCK)), layout)
}

fn tree(wide: bool, escapes: u32, lines: u32) -> RangeTree<ChainedMemory<Vec<AtomicU64>>> {
    let layout = Layout6 { wide, escapes, lines };
    let lines = |count: u32| (0..count as usize * WORDS).map(|_| AtomicU64::new(0)).collect();
    RangeTree::new(ChainedMemory::new(lines(BASE_LINES), lines(2 * layout.total())), layout)
}

fn longest<A: Bits>(model: &Model<A>, at: A) -> Target {
    let found = (0..=A::BITS as u8).rev().find_map(|length| model.get(&(Prefix::new(at, length).first(), length)));
    found.copied().unwrap_or(Target::NONE)
}

/// A place, as if all addresses had 128 bits: crowded, so that routes lie inside each other.
fn place() -> impl Strategy<Value = (u128, u8)> {
    let first = prop_oneof![
        4 => (0..4_u128).prop_map(|low| (0x2001_0db8 + low) << 96),
        2 => (0..3_u128).prop_map(|low| (0xfe80 + low) << 112),
        1 => Just(0),
        1 => Just(u128::MAX),
        1 => any::<u128>(),
    ];
    let bits = (first, prop::collection::vec((0..128_u32, any::<bool>()), 0..4)).prop_map(|(first, flips)| {
        flips.into_iter().fold(first, |address, (bit, flip)| if flip { address ^ (1 << bit) } else { address })
    });
    (bits, prop_oneof![0..=128_u8, Just(128), Just(64), Just(112), Just(48), Just(32), Just(23), Just(3), Just(0)])
}

/// What happens to a table.
#[derive(Clone, Debug)]
enum Step {
    Set((u128, u8), u32),
    /// The route at this position among those that are there.
    Clear(usize),
    Grace,
    Load,
    Change(Vec<((u128, u8), u32)>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let target = 0..6_u32;
    let step = prop_oneof![
        12 => (place(), target.clone()).prop_map(|(place, target)| Step::Set(place, target)),
        8 => any::<usize>().prop_map(Step::Clear),
        2 => Just(Step::Grace),
        1 => Just(Step::Load),
        1 => prop::collection::vec((place(), target), 0..20).prop_map(Step::Change),
    ];
    prop::collection::vec(step, 1..60)
}

fn target(number: u32) -> Target {
    match number {
        0 => Target::new(RouteKind::Blackhole, 0),
        1 => Target::new(RouteKind::Local, 0),
        number => Target::new(RouteKind::Unicast, number * 5000),
    }
}

/// A prefix of a family from a place of 128 bits: the bits that both have, or for IPv4 those from bit 8 on.
fn prefix<A: Bits>(from: impl Fn(u128) -> A, (address, length): (u128, u8)) -> Prefix<A> {
    Prefix::new(from(address), if A::BITS == 32 { length / 4 + length % 2 } else { length })
}

/// Every edge of every route, its neighbours, and what else is named.
fn edges<A: Bits>(model: &Model<A>, others: &[A]) -> Vec<A> {
    let mut edges = others.to_vec();
    for (first, length) in model.keys() {
        let prefix = Prefix::new(*first, *length);
        let (first, last) = (prefix.first(), prefix.last());
        edges.extend([Some(first), Some(last), last.next(), first.next()].into_iter().flatten());
        let before = A::host_mask(A::BITS as u8 - 1);
        edges.push(last.without(before));
        // The address before: that of the prefix beside it, if there is one.
        edges.extend((0..*length).rev().take(1).map(|_| first.without(before)));
    }
    edges
}

fn run<P: Painter>(painter: &mut P, from: impl Fn(u128) -> P::Address, steps: Vec<Step>, exact: bool) {
    let mut model = Model::<P::Address>::new();
    let mut probes: Vec<P::Address> = [0, 1, 1 << 127, u128::MAX].into_iter().map(&from).collect();
    for step in steps {
        match step {
            Step::Set(place, number) => {
                let prefix = prefix(&from, place);
                model.insert((prefix.first(), prefix.length()), target(number));
                painter.change([(prefix, Some(target(number)))]);
                probes.extend([prefix.first(), prefix.last()]);
            }
            Step::Clear(position) => {
                let Some((first, length)) = model.keys().nth(position % model.len().max(1)).copied() else { continue };
                model.remove(&(first, length));
                painter.change([(Prefix::new(first, length), None)]);
            }
            Step::Grace => painter.grace_passed(),
            Step::Load => {
                painter.load(model.iter().map(|((first, length), target)| (Prefix::new(*first, *length), *target)));
            }
            Step::Change(places) => {
                let after: Model<P::Address> = places
                    .into_iter()
                    .map(|(place, number)| {
                        let prefix = prefix(&from, place);
                        ((prefix.first(), prefix.length()), target(number))
                    })
                    .collect();
                let gone = model.keys().filter(|key| !after.contains_key(key)).map(|key| (key, None));
                let changes = gone.chain(after.iter().map(|(key, to)| (key, Some(*to))));
                painter.change(changes.map(|((first, length), to)| (Prefix::new(*first, *length), to)));
                model = after;
            }
        }
        assert_eq!(painter.trie().len(), model.len());
        for at in edges(&model, &probes) {
            let (found, expected) = (painter.lookup(at), longest(&model, at));
            assert!(
                found == expected || !exact && found == Target::KERNEL,
                "{}: {found:?}, not {expected:?}",
                at.to_ip()
            );
        }
        assert!(!exact || painter.overflowed() == 0);
    }
    let all: Vec<_> = painter.trie().all().iter().map(|entry| (entry.first, entry.length)).collect();
    assert_eq!(all, model.keys().copied().collect::<Vec<_>>());
    for (first, length) in all {
        painter.change([(Prefix::new(first, length), None)]);
    }
    assert!(painter.trie().is_empty());
    painter.grace_passed();
    painter.grace_passed();
    assert_eq!(painter.overflowed(), 0);
    assert!(probes.into_iter().all(|at| painter.lookup(at) == Target::NONE));
}

/// All bits of an IPv4 address count somewhere among the first bytes of the crowded places.
fn v4(address: u128) -> u32 {
    ((address >> 96) ^ (address >> 32) ^ address) as u32
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    #[test]
    fn small_ipv4_tables_answer_as_the_routes_do(steps in steps()) {
        let mut painter = direct(false, 600);
        run(&mut painter, v4, steps, true);
        prop_assert_eq!(painter.groups(), 0);
    }

    #[test]
    fn small_ipv6_tables_answer_as_the_routes_do(steps in steps()) {
        let mut painter = tree(false, 512, 8192);
        run(&mut painter, |address| address, steps, true);
        prop_assert_eq!(painter.escapes(), 0);
        prop_assert_eq!(painter.lines(), 0);
    }

    #[test]
    fn without_room_an_address_is_the_kernels(steps in steps()) {
        let mut painter = direct(false, 3);
        run(&mut painter, v4, steps.clone(), false);
        prop_assert_eq!(painter.groups(), 0);
        let mut painter = tree(false, 16, 8);
        run(&mut painter, |address| address, steps, false);
        prop_assert_eq!((painter.escapes(), painter.lines()), (0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64).div_ceil(16)))]

    #[test]
    fn wide_tables_answer_as_the_routes_do(steps in steps()) {
        let mut painter = direct(true, 600);
        run(&mut painter, v4, steps.clone(), true);
        prop_assert_eq!(painter.groups(), 0);
        let mut painter = tree(true, 512, 8192);
        run(&mut painter, |address| address, steps, true);
        prop_assert_eq!((painter.escapes(), painter.lines()), (0, 0));
    }
}

#[test]
fn trees_of_all_sizes_are_searched() {
    for count in [1, 7, 8, 9, 79, 80, 81, 2040, 2056, 4000, 40_000_u32] {
        let mut painter = tree(false, 16, 10_240);
        let prefix = |number: u32| Prefix::new((0x2001 << 112) | u128::from(number) << 66, 64);
        let to = |number: u32| Target::new(RouteKind::Unicast, number % 30_000);
        painter.load((0..count).map(|number| (prefix(number), to(number))));
        for number in 0..count {
            assert_eq!(painter.lookup(prefix(number).first()), to(number), "{number} of {count}");
            assert_eq!(painter.lookup(prefix(number).last()), to(number), "{number} of {count}");
            assert_eq!(painter.lookup(prefix(number).last() + 1), Target::NONE, "behind {number} of {count}");
        }
    }
}
