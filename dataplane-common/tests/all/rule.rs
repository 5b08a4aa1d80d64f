//! Whether a packet fits an entry of the filter.

use dataplane_common::abi::{Entry, EntryFlags, Hit, KEY_WORDS, Key, KeyFlags, Ruling, Span, key};
use proptest::prelude::*;

/// A packet of which nothing is known but what could be read.
fn packet(flags: KeyFlags) -> Key {
    Key { flags, length: 60, source_port: 1234, destination_port: 80, ..Key::default() }
}

/// Asks for destination port 80 and for TCP's SYN.
fn entry(port: u16, tcp_flags: u32) -> Entry {
    let mut entry = Entry { flags: (EntryFlags::PORTS | EntryFlags::TRANSPORT).bits(), ..Entry::ANY };
    entry.destination_port = Span { low: port, high: port };
    entry.mask[key::TRANSPORT] = 0x02 << 16;
    entry.value[key::TRANSPORT] = tcp_flags << 16;
    entry
}

#[test]
fn what_can_be_read_rules_an_entry_out() {
    let (unreadable, ports, transport) = (KeyFlags::UNREADABLE, KeyFlags::PORTS, KeyFlags::TRANSPORT);
    // What of the packet could be read, port and TCP flags that the entry asks for; the packet has port 80, no flags.
    let rows = [
        (ports | transport, 80, 0, Hit::Yes),
        (ports | transport, 81, 0, Hit::No),
        (ports | transport, 80, 2, Hit::No),
        (unreadable, 80, 0, Hit::Unreadable),
        (unreadable, 81, 2, Hit::Unreadable),
        (unreadable | ports, 80, 2, Hit::Unreadable),
        (unreadable | ports, 81, 2, Hit::No),
        (unreadable | transport, 81, 0, Hit::Unreadable),
        (unreadable | transport, 81, 2, Hit::No),
        (transport, 80, 0, Hit::No),
        (ports, 80, 0, Hit::No),
        (KeyFlags::empty(), 80, 0, Hit::No),
    ];
    for (flags, port, tcp_flags, wanted) in rows {
        assert_eq!(entry(port, tcp_flags).matches(&packet(flags)), wanted, "{flags:?}, port {port}, flags {tcp_flags}");
    }
    // Addresses, lengths and the like can always be read.
    let mut other = entry(80, 0);
    (other.mask[key::SOURCE], other.value[key::SOURCE]) = (u32::MAX, 1);
    assert_eq!(other.matches(&packet(unreadable)), Hit::No);
    let short = Entry { length: Span { low: 0, high: 59 }, ..entry(80, 0) };
    assert_eq!(short.matches(&packet(unreadable)), Hit::No);
    let link = Entry { flags: EntryFlags::all().bits(), ..entry(80, 0) };
    assert_eq!(link.matches(&packet(unreadable)), Hit::No);
    assert_eq!(link.matches(&packet(unreadable | KeyFlags::ETHERNET)), Hit::Unreadable);
}

#[test]
fn lengths_past_sixteen_bits_are_the_longest() {
    let rows = [
        (0, 1500, 1500, Hit::Yes),
        (0, 1500, 1501, Hit::No),
        (0, 1500, 65_536, Hit::No),
        (0, 1500, 66_000, Hit::No),
        (0, 65_534, 65_575, Hit::No),
        (1501, 65_535, 65_535, Hit::Yes),
        (1501, 65_535, 65_536, Hit::Yes),
        (1501, 65_535, 524_280, Hit::Yes),
        (0, 65_535, u32::MAX, Hit::Yes),
    ];
    for (low, high, length, wanted) in rows {
        let entry = Entry { length: Span { low, high }, ..Entry::ANY };
        let packet = Key { length, ..Key::default() };
        assert_eq!(entry.matches(&packet), wanted, "{length} in {low} to {high}");
    }
}

#[test]
fn an_unknown_ruling_drops() {
    for ruling in [Ruling::Accept, Ruling::Drop, Ruling::Continue] {
        assert_eq!(Ruling::from_number(ruling as u32), ruling);
    }
    for number in [3, 255, 256, u32::MAX] {
        assert_eq!(Ruling::from_number(number), Ruling::Drop);
    }
}

/// The same question, one criterion after the other: `None` where it can not be answered.
fn criteria(entry: &Entry, packet: &Key) -> Vec<Option<bool>> {
    let needs = EntryFlags::from_bits_retain(entry.flags);
    let read = |flag, answer| packet.flags.contains(flag).then_some(answer);
    let inside = |span: Span, value: u32| (u32::from(span.low)..=u32::from(span.high)).contains(&value);
    let word = |word: usize| packet.words[word] & entry.mask[word] == entry.value[word];
    let mut answers: Vec<_> = (0..key::TRANSPORT).map(|number| Some(word(number))).collect();
    answers.push(Some(inside(entry.length, packet.length.min(0xffff))));
    if needs.contains(EntryFlags::ETHERNET) {
        answers.push(Some(packet.flags.contains(KeyFlags::ETHERNET)));
    }
    if needs.contains(EntryFlags::TRANSPORT) {
        answers.push(read(KeyFlags::TRANSPORT, word(key::TRANSPORT)));
    }
    if needs.contains(EntryFlags::PORTS) {
        let ports = inside(entry.source_port, packet.source_port.into())
            && inside(entry.destination_port, packet.destination_port.into());
        answers.push(read(KeyFlags::PORTS, ports));
    }
    answers
}

fn span() -> impl Strategy<Value = Span> {
    prop_oneof![Just(Span::FULL), (0..4_u16, 0..4_u16).prop_map(|(low, high)| Span { low, high })]
}

prop_compose! {
    fn any_entry()(
        // Few bits, so that entries fit now and then.
        mask in prop::collection::vec(prop_oneof![4 => Just(0_u32), 1 => Just(1)], KEY_WORDS),
        value: [u32; KEY_WORDS],
        source_port in span(),
        destination_port in span(),
        length in span(),
        flags in 0..8_u16,
    ) -> Entry {
        let mask: [u32; KEY_WORDS] = mask.try_into().expect("as many words");
        let value = std::array::from_fn(|word| value[word] & mask[word]);
        Entry { mask, value, source_port, destination_port, length, flags, ..Entry::ANY }
    }
}

prop_compose! {
    fn any_packet()(
        words: [u32; KEY_WORDS],
        source_port in 0..4_u16,
        destination_port in 0..4_u16,
        length in prop_oneof![0..4_u32, 0xffff..0x1_0004_u32],
        flags in 0..16_u32,
    ) -> Key {
        let flags = KeyFlags::from_bits_retain(flags);
        Key { words, source_port, destination_port, length, flags }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn an_entry_is_all_of_its_criteria(entry in any_entry(), packet in any_packet()) {
        let answers = criteria(&entry, &packet);
        let wanted = if answers.contains(&Some(false)) {
            Hit::No
        } else if !answers.contains(&None) {
            Hit::Yes
        } else if packet.flags.contains(KeyFlags::UNREADABLE) {
            Hit::Unreadable
        } else {
            Hit::No
        };
        prop_assert_eq!(entry.matches(&packet), wanted);
    }
}
