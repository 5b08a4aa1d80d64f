//! Connections and rows against models.

use std::{
    collections::{BTreeSet, HashMap},
    sync::atomic::AtomicU64,
    time::Duration,
};

use dataplane_common::abi::flow::{RowLayout, new_ports, ports};
use proptest::prelude::*;

use super::*;
use crate::{fib::Memory as _, retired::Grace};

type Memory = Vec<AtomicU64>;

pub(super) fn memory(layout: RowLayout, rows: usize) -> Memory {
    (0..rows * layout.words).map(|_| AtomicU64::new(0)).collect()
}

pub(super) fn connections(rows: usize, max: u32) -> Connections<u32, Memory> {
    Connections::new(Table::new(memory(RowLayout::V4, rows), 7), max)
}

fn tuple(number: u16, protocol: Protocol) -> Tuple<u32> {
    Tuple { source: 0xc612_0002, destination: 0xc612_0102, source_port: 1024 + number, destination_port: 80, protocol }
}

/// A connection that is masqueraded.
pub(super) fn seen(number: u16, protocol: Protocol) -> Seen<u32> {
    let original = tuple(number, protocol);
    Seen {
        id: u32::from(number) + 100,
        zone: 0,
        status: Status::from_bits_retain(0x19e),
        mark: None,
        timeout: Some(120),
        tcp: (protocol == Protocol::Tcp).then_some(Tcp { state: ESTABLISHED, flags: Some([0; 2]) }),
        synproxy: false,
        original,
        reply: Tuple { destination: 0xc612_0101, ..original.reversed() },
    }
}

fn liberal(seen: Seen<u32>) -> Seen<u32> {
    Seen { tcp: Some(Tcp { state: ESTABLISHED, flags: Some([LIBERAL; 2]) }), ..seen }
}

pub(super) const fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn rows(connections: &Connections<u32, Memory>, seen: &Seen<u32>) -> Option<[u32; 2]> {
    match connections.get(&(seen.zone, seen.original))?.place {
        Place::Listed(rows) => Some(rows),
        _ => None,
    }
}

/// TCP gets rows only after it has lived for a while, the kernel was asked, and announced that it did.
#[test]
fn tcp_waits_for_its_echo() {
    let (mut all, mut work, tcp) = (connections(64, 16), Work::default(), seen(1, Protocol::Tcp));
    all.update(&tcp, Origin::Announced, at(0), &mut work);
    all.update(&liberal(tcp), Origin::Listed, at(1), &mut work);
    all.tick(at(49), &mut work);
    assert!(work.changes.is_empty() && rows(&all, &tcp).is_none(), "{work:?}");
    all.tick(at(50), &mut work);
    assert_eq!(work.changes.len(), 1);
    assert_eq!(work.changes[0].0.timeout, None);
    // It is in a list, as it should be: that does not say that its end will be announced.
    all.update(&liberal(tcp), Origin::Listed, at(51), &mut work);
    // It is announced, without what was asked for.
    all.update(&tcp, Origin::Announced, at(52), &mut work);
    assert!(rows(&all, &tcp).is_none(), "rows before the echo");
    all.update(&liberal(tcp), Origin::Announced, at(53), &mut work);
    assert!(rows(&all, &tcp).is_some(), "no rows after the echo");
    let closing = Seen { tcp: Some(Tcp { state: ESTABLISHED + 1, flags: None }), ..tcp };
    all.update(&closing, Origin::Announced, at(60), &mut work);
    assert!(all.get(&(0, tcp.original)).is_none() && all.table().used() == 0, "FIN frees the rows");
}

#[test]
fn udp_is_asked_only_where_it_was_not_announced() {
    let (mut all, mut work) = (connections(64, 16), Work::default());
    let (announced, listed) = (seen(1, Protocol::Udp), seen(2, Protocol::Udp));
    all.update(&announced, Origin::Announced, at(0), &mut work);
    assert!(work.changes.is_empty() && rows(&all, &announced).is_some());
    all.update(&listed, Origin::Listed, at(0), &mut work);
    assert!(rows(&all, &listed).is_none());
    assert_eq!(work.changes[0].0.timeout, Some(120));
    all.update(&listed, Origin::Announced, at(1), &mut work);
    assert!(rows(&all, &listed).is_some());
    let one_way = Seen { status: Status::CONFIRMED, ..seen(3, Protocol::Udp) };
    all.update(&one_way, Origin::Announced, at(2), &mut work);
    assert!(all.get(&(0, one_way.original)).is_none());
}

/// What announces nothing is forgotten, and has no rows.
#[test]
fn silent_connections_are_forgotten() {
    let (mut all, mut work, tcp) = (connections(64, 16), Work::default(), seen(1, Protocol::Tcp));
    all.update(&tcp, Origin::Listed, at(0), &mut work);
    all.tick(at(50), &mut work);
    assert_eq!((work.changes.len(), all.pending()), (1, 1));
    all.tick(at(50) + SILENT, &mut work);
    assert_eq!((all.iter().count(), all.pending(), all.counts().silent), (0, 0, 1));
}

#[test]
fn what_must_not_be_fast_is_not() {
    let tcp = seen(1, Protocol::Tcp);
    let with = |status| Seen { status: tcp.status | status, ..tcp };
    let cases = [
        (with(Status::HELPER), NotFast::Helper),
        (with(Status::SEQ_ADJUST), NotFast::SequenceNumbers),
        (with(Status::OFFLOAD), NotFast::Offloaded),
        (with(Status::NAT_CLASH), NotFast::Clash),
        (with(Status::DYING), NotFast::NotEstablished),
        (Seen { synproxy: true, ..tcp }, NotFast::SynProxy),
        (Seen { tcp: Some(Tcp { state: 2, flags: None }), ..tcp }, NotFast::NotEstablished),
        (Seen { tcp: None, ..tcp }, NotFast::NotEstablished),
        (Seen { status: Status::SEEN_REPLY, ..tcp }, NotFast::NotEstablished),
        (Seen { reply: tcp.original, ..tcp }, NotFast::Clash),
        (Seen { original: Tuple { source: 9, ..tcp.original }, ..tcp }, NotFast::Local),
        (Seen { reply: Tuple { source: 9, ..tcp.reply }, ..tcp }, NotFast::Local),
    ];
    for (case, expected) in cases {
        let mut all = connections(64, 16);
        all.set_local(BTreeSet::from([9]));
        assert_eq!(all.not_fast(&case), Some(expected), "{case:?}");
        // One that had rows loses them.
        let mut work = Work::default();
        let before = Seen { original: case.original, reply: case.reply, ..tcp };
        if all.not_fast(&before).is_none() {
            all.update(&before, Origin::Announced, at(0), &mut work);
            all.tick(at(50), &mut work);
            all.update(&liberal(before), Origin::Announced, at(51), &mut work);
            assert!(rows(&all, &before).is_some(), "{case:?}");
            if case.tcp.is_some() {
                all.update(&case, Origin::Announced, at(52), &mut work);
                assert_eq!(all.table().used(), 0, "{case:?}");
            }
        }
    }
}

/// Zones: a tuple that is in two of them has no row; a later connection with the tuple of one whose end is not yet read has.
#[test]
fn a_tuple_of_two_zones_is_the_kernels() {
    let (mut all, mut work, udp) = (connections(64, 16), Work::default(), seen(1, Protocol::Udp));
    let other = Seen { zone: 2, id: 7, ..udp };
    for seen in [&udp, &other] {
        all.update(seen, Origin::Announced, at(0), &mut work);
    }
    assert_eq!(all.table().used(), 0);
    for seen in [&udp, &other] {
        assert_eq!(all.get(&(seen.zone, seen.original)).map(|known| known.place), Some(Place::TwoZones));
    }
    let mut all = connections(64, 16);
    let later = Seen { id: 8, original: tuple(2, Protocol::Udp), ..udp };
    for seen in [&udp, &later] {
        all.update(seen, Origin::Announced, at(0), &mut work);
    }
    assert!(rows(&all, &later).is_some() && all.get(&(0, udp.original)).is_none());
    // Its end comes late, and is not the other's.
    all.destroy(&udp);
    all.destroy(&Seen { original: later.original, ..udp });
    assert!(rows(&all, &later).is_some());
}

#[test]
fn lists_end_what_is_not_in_them() {
    let (mut all, mut work) = (connections(64, 16), Work::default());
    let [stays, announced, goes] = [1, 2, 3].map(|number| seen(number, Protocol::Udp));
    for seen in [&stays, &announced, &goes] {
        all.update(seen, Origin::Announced, at(0), &mut work);
    }
    all.begin_round();
    all.update(&announced, Origin::Announced, at(1), &mut work);
    all.update(&stays, Origin::Listed, at(1), &mut work);
    all.end_round();
    assert!([&stays, &announced].iter().all(|seen| rows(&all, seen).is_some()));
    assert!(all.get(&(0, goes.original)).is_none());
}

#[test]
fn a_full_table_leaves_connections_to_the_kernel() {
    let (mut all, mut work) = (connections(64, 4), Work::default());
    for number in 0..10 {
        all.update(&seen(number, Protocol::Udp), Origin::Announced, at(0), &mut work);
    }
    assert!(all.table().used() <= 8 && all.counts().full >= 6, "{:?}", all.counts());
    assert_eq!(all.iter().count() as u32 * 2, all.table().used(), "what has no room is not kept");
}

#[test]
fn rows_say_how_packets_are_translated() {
    let mut table = Table::<u32, Memory>::new(memory(RowLayout::V4, 64), 3);
    let seen = seen(1, Protocol::Udp);
    let [first, second] = table.insert(&seen.original, &seen.reply, 5).expect("room");
    let words = |table: &mut Table<u32, Memory>, row: u32| -> Vec<u64> {
        let memory = table.memory();
        (0..8).map(|word| memory.word(row as usize * 8 + word).load(std::sync::atomic::Ordering::Relaxed)).collect()
    };
    let original = words(&mut table, first);
    assert_eq!(original[0], 0xc612_0102_c612_0002);
    assert_eq!(original[1], ports::of(1025, 80, 17) | ports::TRANSLATES);
    assert_eq!(original[2], 0xc612_0102_c612_0101, "its source is the router's");
    assert_eq!(new_ports::pair(original[3]), (1025 << 16) + 80);
    assert_eq!((original[4] >> 32) as u32, second);
    let reply = words(&mut table, second);
    assert_eq!(reply[0], 0xc612_0101_c612_0102);
    assert_eq!(reply[1], ports::of(80, 1025, 17) | ports::TRANSLATES | ports::REPLY);
    assert_eq!(reply[2], 0xc612_0002_c612_0102);
    assert_eq!((table.twin(second), table.tuple(second)), (first, Some(seen.reply)));
    table.set_mark([first, second], 9);
    assert_eq!(words(&mut table, first)[4], u64::from(second) << 32 | 9);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16),
    Free(u16),
    Grace,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![4 => (0..40_u16).prop_map(Step::Insert), 3 => (0..40_u16).prop_map(Step::Free), 1 => Just(Step::Grace)]
}

proptest! {
    /// The table against a map: what is in is found, what is freed is not, and no row is used again before the grace period.
    #[test]
    fn a_table_is_a_map(steps in prop::collection::vec(step(), 1..300), seed: u64) {
        let mut table = Table::<u32, Memory>::new(memory(RowLayout::V4, 64), seed);
        let mut model = HashMap::<u16, [u32; 2]>::new();
        let (mut pending, mut held) = (Vec::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Insert(number) => {
                    let seen = seen(number, Protocol::Udp);
                    match table.insert(&seen.original, &seen.reply, 0) {
                        Ok(rows) => {
                            prop_assert!(rows.iter().all(|row| !held.contains(row)), "{rows:?} of {held:?}");
                            prop_assert!(model.insert(number, rows).is_none());
                        }
                        Err(NoRoom::Taken(row)) => prop_assert_eq!(model[&number][0], row),
                        Err(NoRoom::Full) => prop_assert!(!model.contains_key(&number)),
                    }
                }
                Step::Free(number) => {
                    if let Some(rows) = model.remove(&number) {
                        table.free(rows);
                        held.extend(rows);
                        pending.extend(table.retire());
                    }
                }
                Step::Grace => {
                    for retired in pending.drain(..) {
                        table.release(&Grace::passed().release(retired));
                    }
                    held.clear();
                }
            }
            prop_assert_eq!(table.used() as usize, 2 * model.len());
            for (number, rows) in &model {
                prop_assert_eq!(table.tuple(rows[0]), Some(tuple(*number, Protocol::Udp)));
                prop_assert_eq!((table.twin(rows[0]), table.twin(rows[1])), (rows[1], rows[0]));
                let seen = seen(*number, Protocol::Udp);
                prop_assert_eq!(table.insert(&seen.original, &seen.reply, 0), Err(NoRoom::Taken(rows[0])));
            }
        }
    }

    /// Whatever the kernel says in whatever order: each connection that has rows announced itself, rows are of known
    /// connections only, and never of one that must not have any.
    #[test]
    fn no_order_of_messages_makes_a_wrong_row(
        messages in prop::collection::vec((0..6_u16, 0..3_u32, 0..2_u16, 0..9_u8, any::<bool>(), any::<bool>()), 1..200),
    ) {
        let (mut all, mut work) = (connections(64, 8), Work::default());
        let mut announced = BTreeSet::new();
        for (time, (number, id, zone, kind, origin, udp)) in messages.into_iter().enumerate() {
            let now = at(time as u64 * 20);
            let base = seen(number, if udp { Protocol::Udp } else { Protocol::Tcp });
            let base = Seen { id, zone, ..base };
            let origin = if origin { Origin::Announced } else { Origin::Listed };
            let message = match kind {
                2 | 3 if !udp => liberal(base),
                4 => Seen { status: base.status | Status::HELPER, ..base },
                5 => Seen { tcp: None, ..base },
                _ => base,
            };
            match kind {
                6 => all.destroy(&message),
                7 => all.begin_round(),
                8 => all.end_round(),
                _ => {
                    all.update(&message, origin, now, &mut work);
                    if origin == Origin::Announced {
                        announced.insert((zone, message.original, id));
                    }
                }
            }
            all.tick(now, &mut work);
            let listed: Vec<_> = all.iter().filter_map(|(key, known)| match known.place {
                Place::Listed(rows) => Some((*key, known.id, rows)),
                _ => None,
            }).collect();
            prop_assert_eq!(all.table().used() as usize, 2 * listed.len());
            for (key, id, rows) in listed {
                prop_assert!(announced.contains(&(key.0, key.1, id)), "{key:?} {id} was never announced");
                prop_assert_eq!(all.table().tuple(rows[0]), Some(key.1));
                if kind == 4 {
                    prop_assert!((zone, message.original) != key, "a helper has rows");
                }
            }
        }
    }
}

/// A forged FIN, RST or SYN ends no connection: had it ended, the kernel would have announced that within the lease.
#[test]
fn rows_that_close_without_an_end_are_opened_again() {
    use dataplane_common::abi::{FlowControl, flow::CLOSING, flow::row};
    let mut table: Table<u32, Memory> = Table::new(memory(RowLayout::V4, 64), 7);
    let udp = seen(1, Protocol::Udp);
    let rows = table.insert(&udp.original, &udp.reply, 0).expect("room");
    let control = FlowControl { epoch: 5, lease: 100, ..FlowControl::default() };
    let close = |table: &mut Table<u32, Memory>| {
        for index in rows {
            let at = index as usize * RowLayout::V4.words;
            let closing = u64::from(CLOSING) << (8 * row::stage::CLOSING) | 5;
            table.memory().word(at + row::STAGE).store(closing, std::sync::atomic::Ordering::Relaxed);
            table.memory().word(at + row::LEASE).store(1000, std::sync::atomic::Ordering::Relaxed);
        }
    };
    for (moment, closing) in [(1000, true), (1100, true), (1101, false)] {
        close(&mut table);
        table.survey(0..1, &control, moment);
        let states = rows.map(|index| table.state(index));
        assert_eq!(states.map(|state| state.closing), [closing; 2], "at {moment}");
        assert_eq!(states.map(|state| state.armed), [if closing { 5 } else { 0 }; 2], "at {moment}");
    }
}

/// Rules that forbid it for a while end the follower, and the maps stay: what was armed under an epoch of that time must not be
/// found in the same epoch of the next one.
#[test]
fn memory_that_was_used_is_empty_for_the_next_table() {
    let udp = seen(1, Protocol::Udp);
    let mut first: Table<u32, Memory> = Table::new(memory(RowLayout::V4, 4), 7);
    first.insert(&udp.original, &udp.reply, 0).expect("room");
    let used = std::mem::take(first.memory());
    let mut next: Table<u32, Memory> = Table::new(used, 8);
    assert!((0..4).all(|row| next.tuple(row).is_none()), "rows of the table before");
    assert!(next.insert(&udp.original, &udp.reply, 0).is_ok(), "its own connection is taken for another's");
}
