//! The tables against the list of entries, one by one.

use dataplane_common::abi::{ActionCode, Class, Key, KeyFlags, Selector, field, mixed};
use proptest::prelude::*;

use super::{Found, Image, Patch, SelfTest, build};
use crate::{
    cases::cases,
    lower::filter::{Elements, Entry, LoweredFilter, Membership, key},
};

/// Few values, so that entries and packets meet.
fn address() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => (0..4u32, 0..3u32, 0..2u32, 0..4u32).prop_map(|(a, b, c, d)| 10 << 24 | a << 16 | b << 12 | c << 8 | d),
        1 => any::<u32>(),
    ]
}

fn small() -> impl Strategy<Value = u16> {
    prop_oneof![0..4u16, 78..82u16, any::<u16>()]
}

fn prefix(bits: u32) -> impl Strategy<Value = u32> {
    prop_oneof![2 => Just(0), 2 => Just(bits), 1 => (0..=bits / 8).prop_map(|bytes| bytes * 8), 2 => 0..=bits]
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![40 => asking(), 1 => unconditional()]
}

/// All packets, or all of a family.
fn unconditional() -> impl Strategy<Value = Entry> {
    (prop::option::of(prop::sample::select(vec![4, 6])), action_code()).prop_map(|(family, action_code)| {
        let mut entry = Entry { action_code, ..Entry::ANY };
        if let Some(family) = family {
            entry.mask[key::NETWORK] = 0xff << 24;
            entry.value[key::NETWORK] = family << 24;
        }
        entry
    })
}

fn action_code() -> impl Strategy<Value = ActionCode> {
    prop::sample::select(vec![ActionCode::Accept, ActionCode::Drop, ActionCode::Continue])
}

fn asking() -> impl Strategy<Value = Entry> {
    let network = (prop::bool::ANY, [address(), address()], [prefix(128), prefix(128)], prop::option::of(6..8u32));
    let span =
        (prop::option::of((small(), small(), prop::bool::ANY)), prop::option::of((small(), small(), prop::bool::ANY)));
    let links = (prop::option::of(0..3u32), prop::option::of(0..3u32), prop::option::weighted(0.1, 0..4u32));
    let set = prop::option::weighted(0.2, (0..2u32, prop::bool::ANY, 1..9u64));
    (network, span, links, set, action_code()).prop_map(
        |(network, (sport, dport), (iif, oif, ttl), set, action_code)| {
            let (ipv6, addresses, lengths, protocol) = network;
            let mut entry = Entry { action_code, ..Entry::ANY };
            let mut ask = |word: usize, mask: u32, value: u32| {
                entry.mask[word] |= mask;
                entry.value[word] |= value & mask;
            };
            if protocol != Some(7) || ipv6 {
                ask(key::NETWORK, 0xff << 24, if ipv6 { 6 } else { 4 } << 24);
            }
            for ((start, address), length) in [key::DESTINATION, key::SOURCE].into_iter().zip(addresses).zip(lengths) {
                if protocol == Some(7) && !ipv6 {
                    break;
                }
                let words: &[u32] = if ipv6 { &[0x2001_0db8, address & 3, 0, address] } else { &[address] };
                for (at, value) in words.iter().enumerate() {
                    let bits = length.saturating_sub(at as u32 * 32).min(32);
                    ask(start + at, u32::MAX.checked_shl(32 - bits).unwrap_or(0), *value);
                }
            }
            if let Some(protocol) = protocol {
                ask(key::NETWORK, 0xff << 16, protocol << 16);
            }
            for (word, mask, value) in [(key::IIF, u32::MAX, iif), (key::OIF, u32::MAX, oif), (key::NETWORK, 0xff, ttl)]
            {
                if let Some(value) = value {
                    ask(word, mask, value);
                }
            }
            let span = |low: u16, high: u16, one: bool| {
                let high = if one { low } else { high };
                dataplane_common::abi::Span { low: low.min(high), high: low.max(high) }
            };
            if let Some((low, high, one)) = sport {
                entry.source_port = span(low, high, one);
                entry.needs |= KeyFlags::PORTS;
            }
            if let Some((low, high, one)) = dport {
                entry.destination_port = span(low, high, one);
                entry.needs |= KeyFlags::PORTS;
            }
            if let Some((set, negated, selectors)) = set {
                entry.sets[0] = Some(Membership { set, negated, selectors, portless: None });
            }
            entry
        },
    )
}

fn packet() -> impl Strategy<Value = Key> {
    let network = (prop::bool::ANY, [address(), address()], 5..8u64, 0..4u32);
    (network, [small(), small()], 0..3u32, 0..3u32, 0..4u32).prop_map(
        |((ipv6, [to, from], protocol, ttl), [sport, dport], iif, oif, readable)| {
            let wide = u64::from;
            let mut key = Key { length: 60, ..Key::default() };
            key.address = if ipv6 {
                [0x2001_0db8 << 32 | wide(to & 3), wide(to), 0x2001_0db8 << 32 | wide(from & 3), wide(from)]
            } else {
                [wide(to) << 32 | wide(from), 0, 0, 0]
            };
            key.fields[field::NETWORK] = if ipv6 { 6 } else { 4 } << 24 | (protocol as u32) << 16 | ttl;
            key.fields[field::IIF] = iif;
            key.fields[field::OIF] = oif;
            let ports = if readable == 0 { [0, 0] } else { [sport, dport] };
            key.mixed = mixed::of(ports[0].into(), ports[1].into(), protocol, iif, oif);
            key.flags = match readable {
                0 => KeyFlags::UNREADABLE,
                _ => KeyFlags::PORTS | KeyFlags::TRANSPORT,
            };
            key
        },
    )
}

/// Addresses as words, with some prefix.
fn elements(values: &[(u32, u32)]) -> Elements {
    let mut elements = Elements { narrow: true, ..Elements::default() };
    for (value, length) in values {
        let mask = u64::from(u32::MAX.checked_shl(32 - length).unwrap_or(0));
        let table = elements.tables.entry([mask, 0, 0, 0, 0, 0]).or_default();
        table.insert([u64::from(*value) & mask, 0, 0, 0, 0, 0]);
    }
    elements
}

fn first(lowered: &LoweredFilter, packet: &Key, from: u32) -> Option<(u32, ActionCode)> {
    let holds = |membership: Membership| {
        let mut packet = *packet;
        dataplane_common::abi::seek(&mut packet, membership.selectors);
        let sought = std::array::from_fn(|at| packet.sought[at]);
        lowered.sets[membership.set as usize].hold(&sought)
    };
    lowered.entries[2].iter().filter(|entry| entry.order >= from && entry.is_for(packet.family())).find_map(|entry| {
        let entry = if packet.class().is_unreadable() { entry.for_unreadable()? } else { *entry };
        entry.fits(packet, holds).then_some((entry.order, entry.action_code))
    })
}

/// What is done to a chain: whether a rule is added, where, which, and with which set that none had before.
type Change = (bool, usize, Entry, Option<Vec<(u32, u32)>>);

/// A rule more, with an order that none has, or one less.
fn patch_one(image: &mut Image, lowered: &mut LoweredFilter, (add, at, mut entry, set): Change) -> Option<Patch> {
    let entries = &mut lowered.entries[2];
    if add || entries.is_empty() {
        let at = at % (entries.len() + 1);
        let before = at.checked_sub(1).map_or(0, |before| entries[before].order);
        let behind = entries.get(at).map_or(before + (1 << 20), |behind| behind.order);
        let order = before + (behind - before) / 2;
        let new: Vec<_> = set.iter().map(|set| elements(set)).collect();
        if !new.is_empty() {
            let (set, selectors) = (lowered.sets.len() as u32, Selector::Source4 as u64);
            entry.sets[0] = Some(Membership { set, negated: false, selectors, portless: None });
        }
        entries.insert(at, Entry { order, counter: order, ..entry });
        lowered.sets.extend(new.clone());
        image.insert(2, &entries[at..=at], &new)
    } else {
        let gone = entries.remove(at % entries.len());
        image.remove(2, &[gone], |_| entries.iter().map(|entry| (*entry, entry.order, entry.counter)))
    }
}

// Each case has 64 packets, or as many after every change.
proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(512)))]

    #[test]
    fn what_is_amended_is_as_if_built(
        entries in prop::collection::vec(entry(), 0..60),
        changes in prop::collection::vec(
            (
                prop::bool::ANY,
                any::<usize>(),
                entry(),
                prop::option::weighted(0.2, prop::collection::vec((address(), prefix(32)), 0..20)),
            ),
            1..16,
        ),
        packets in prop::collection::vec(packet(), 64),
        set in prop::collection::vec((address(), prefix(32)), 0..20),
    ) {
        let mut lowered = LoweredFilter { sets: vec![elements(&set), elements(&[])], ..LoweredFilter::default() };
        lowered.entries[2] = (1..)
            .map(|number| number << 20)
            .zip(entries)
            .map(|(order, entry)| Entry { order, counter: order >> 8, ..entry })
            .collect();
        let mut image = build(&lowered).expect("few shapes");
        for change in changes {
            let mut live = image.words.clone();
            let Some(Patch { appended_from, pointer_writes, .. }) = patch_one(&mut image, &mut lowered, change) else {
                image = build(&lowered).expect("few shapes");
                continue;
            };
            prop_assert_eq!(appended_from, live.len());
            live.extend_from_slice(&image.words[appended_from..]);
            for (at, to) in pointer_writes {
                live[at] = to;
            }
            prop_assert_eq!(&live, &image.words);
            for packet in &packets {
                let (found, _) = image.find(2, packet, 0);
                prop_assert_eq!(
                    found.map(|found| (found.order, found.action_code)), first(&lowered, packet, 0), "{:?}", packet
                );
            }
        }
    }

    #[test]
    fn tables_find_what_the_list_finds(
        entries in prop::collection::vec(entry(), 0..120),
        packets in prop::collection::vec(packet(), 64),
        sets in [prop::collection::vec((address(), prefix(32)), 0..20), prop::collection::vec((address(), prefix(0)), 0..20)],
        from in 0..100u32,
    ) {
        let sets = sets.iter().map(|set| elements(set)).collect();
        let mut lowered = LoweredFilter { sets, ..LoweredFilter::default() };
        lowered.entries[2] = (1..).zip(entries).map(|(order, entry)| Entry { order, counter: order, ..entry }).collect();
        let image = build(&lowered).expect("few shapes");
        for packet in &packets {
            // The search ends at a rule that could not be read: what that rule matches again is left out.
            for from in [0, if packet.class().is_unreadable() { 0 } else { from }] {
                let (found, _) = image.find(2, packet, from);
                prop_assert_eq!(
                    found.map(|found| (found.order, found.action_code)), first(&lowered, packet, from), "{:?}", packet
                );
            }
        }
        prop_assert!(Class::ALL.iter().all(|class| image.filter.tables[0][class.number() as usize].count == 0));
        for SelfTest { chain, key, rule } in lowered.self_tests(&mut fastrand::Rng::with_seed(from.into())) {
            let behind = |from| image.find(chain, &key, from).0;
            let mut found = behind(0);
            while let Some(Found { order, action_code: ActionCode::Continue, .. }) = found {
                found = behind(order + 1);
            }
            prop_assert_eq!(found.map(|found| (found.order, found.counter)), rule, "{:?}", key);
        }
    }
}
