//! Targets and sizes of the forwarding tables. Lookups are tested where tables are painted: `dataplane-user/src/fib/`.

use dataplane_common::abi::{BRANCH, LOCALS, RouteKind, Target, local_bit, tree_class, tree_lines};

#[test]
fn a_target_round_trips() {
    use RouteKind::{Blackhole, Broadcast, Kernel, Local, Multicast, None, Prohibit, Unicast, Unreachable};
    for kind in [None, Local, Broadcast, Multicast, Blackhole, Prohibit, Unreachable, Kernel] {
        let target = Target::new(kind, 0);
        assert_eq!(Target::from_raw(target.raw()).kind(), kind);
        assert!(target.raw() < u32::from(BRANCH));
    }
    for group in [0, 1, 4095, Target::GROUPS - 1] {
        let target = Target::from_raw(Target::new(Unicast, group).raw());
        assert_eq!((target.kind(), target.group()), (Unicast, group));
        assert!(target.raw() < u32::from(BRANCH));
    }
    assert_eq!(Target::new(Unicast, Target::GROUPS), Target::KERNEL);
    assert_eq!(Target::NONE.kind(), None);
    assert_eq!(Target::from_raw(9).kind(), Kernel, "a number that means nothing");
}

#[test]
fn the_class_of_a_tree_has_room_for_it() {
    for lines in 1..=65_792 {
        let class = tree_class(lines).expect("a class");
        assert!(tree_lines(class) >= lines && tree_lines(class) < lines + 256, "{lines}");
        assert!(class == 0 || tree_lines(class - 1) < lines, "{lines}: a smaller class would do");
    }
    assert_eq!(tree_class(65_793), None);
}

#[test]
fn bits_of_local_addresses_lie_in_the_filter() {
    for address in [0, 1, 0x7fff_ffff, 0xc612_0001, u32::MAX] {
        assert!(local_bit(address) < 16 * LOCALS as u32);
    }
}
