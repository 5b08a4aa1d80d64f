//! A table that grows with its connections.

use std::collections::HashMap;

use dataplane_common::abi::flow::RowLayout;

use super::{
    tests::{at, connections, memory, rows, seen},
    *,
};
use crate::retired::Grace;

/// A table begins small and grows with its connections. None is lost on the way, and what their rows have counted stays.
#[test]
fn a_table_grows_with_its_connections() {
    let (mut all, mut work) = (connections(1 << 14, 4000), Work::default());
    let mut packets = HashMap::new();
    for number in 0..4000 {
        let udp = seen(number, Protocol::Udp);
        all.update(&udp, Origin::Announced, at(0), &mut work);
        if let Some(rows) = rows(&all, &udp)
            && number % 7 == 0
        {
            all.table().set_packets(rows, [number.into(), 5]);
            packets.insert(number, [u32::from(number), 5]);
        }
        if all.is_crowded() {
            let before = all.table().mask();
            all.grow(&Grace::passed());
            assert!(all.table().mask() > before, "{number}: it would grow for ever");
        }
    }
    // In a table that is half full some row is further from home than is looked for.
    let (counts, used) = (all.counts(), u64::from(all.table().used()));
    assert!(counts.full <= 8 && used == 8000 - 2 * counts.full, "{counts:?} {used}");
    assert_eq!(all.table().mask(), (1 << 14) - 1);
    for number in 0..4000 {
        let udp = seen(number, Protocol::Udp);
        let Some([first, second]) = rows(&all, &udp) else { continue };
        assert_eq!((all.table().tuple(first), all.table().tuple(second)), (Some(udp.original), Some(udp.reply)));
        assert_eq!((all.table().twin(first), all.table().twin(second)), (second, first));
        let counted = [first, second].map(|row| all.table().state(row).packets);
        assert_eq!(counted, packets.get(&number).copied().unwrap_or_default(), "{number}");
    }
    assert!(!all.is_crowded(), "there is no memory for more");
}

/// While rows are moved none is armed, and none that was armed counts.
#[test]
fn nothing_is_armed_while_a_table_grows() {
    let memories = (memory(RowLayout::V4, 1 << 14), memory(RowLayout::V6, 64));
    let mut all = Flows::new(memories, 7, Settings { max: 4000, lease: at(5000) });
    all.raise(at(0));
    let before = all.control();
    for number in 0..1100 {
        all.update(&AnySeen::V4(seen(number, Protocol::Udp)), Origin::Announced, at(1000));
    }
    assert!(all.is_crowded(), "{:?} {:?}", all.stats(), all.control());
    all.pause(at(1000));
    let paused = all.control();
    assert_eq!((paused.arming, paused.mask4), (0, before.mask4));
    assert_ne!(paused.epoch, before.epoch);
    all.grow(&Grace::passed());
    let grown = all.control();
    assert_eq!((grown.arming, grown.epoch, grown.mask6), (paused.epoch, paused.epoch, before.mask6));
    assert!(grown.mask4 > before.mask4 && !all.is_crowded());
}
