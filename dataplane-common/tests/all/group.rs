//! Which next hop of several a flow takes.

use std::collections::BTreeMap;

use dataplane_common::{
    abi::{GROUP_SLOTS, NextHopGroup},
    decide::{Datagram, Family, V4, V6},
    wire::Address6,
};
use proptest::prelude::*;

/// A group with member 100 + n as often as weight n says.
fn weighted(weights: &[usize]) -> NextHopGroup {
    let mut group = NextHopGroup::EMPTY;
    let members = weights.iter().zip(100..).flat_map(|(weight, member)| std::iter::repeat_n(member, *weight));
    for (slot, member) in group.members.iter_mut().zip(members) {
        *slot = member;
        group.slots += 1;
    }
    group
}

fn shares(group: &NextHopGroup, flows: impl Iterator<Item = u32>) -> BTreeMap<u32, usize> {
    let mut shares = BTreeMap::new();
    for flow in flows {
        *shares.entry(group.member(flow).expect("a member")).or_insert(0) += 1;
    }
    shares
}

#[test]
fn an_empty_group_has_no_member() {
    for flow in [0, 1, 0x8000_0000, u32::MAX] {
        assert_eq!(NextHopGroup::EMPTY.member(flow), None);
        assert_eq!(weighted(&[1]).member(flow), Some(100));
    }
}

#[test]
fn a_route_may_allow_less_than_its_device_or_more() {
    let within = |mtu: u32| mtu | NextHopGroup::WITHIN_DEVICE;
    for (mtu, device, longest) in [
        (0, 1500, 1500),
        (1400, 1500, 1400),
        (1300, 1280, 1300),
        (within(1400), 1500, 1400),
        (within(1300), 1280, 1280),
    ] {
        assert_eq!(NextHopGroup::longest(mtu, device), longest, "route {mtu:#x}, device {device}");
    }
}

#[test]
fn members_share_flows_by_weight() {
    const FLOWS: usize = 1 << 16;
    for weights in [vec![1, 1], vec![2, 1], vec![1, 2, 3, 4], vec![63, 1], vec![1; GROUP_SLOTS]] {
        let group = weighted(&weights);
        assert_eq!(group.slots as usize, weights.iter().sum::<usize>());
        let shares = shares(&group, (0..FLOWS as u32).map(|flow| flow << 16));
        assert_eq!(shares.len(), weights.len(), "{weights:?}");
        for (weight, share) in weights.iter().zip(shares.values()) {
            let wanted = FLOWS * weight / weights.iter().sum::<usize>();
            assert!(share.abs_diff(wanted) <= *weight, "{weights:?}: {share} for {weight}, not {wanted}");
        }
    }
}

fn flow<F: Family>(source: F::Address, destination: F::Address) -> u32 {
    let (length, payload, protocol, ttl, fragment, punt) = (40, 54, 17, 64, 0, None);
    F::flow(&Datagram { source, destination, length, payload, protocol, ttl, fragment, punt })
}

#[test]
fn neighbouring_addresses_take_different_ways() {
    // One client to many servers, many clients to one, and both; consecutive addresses, as a test network has them.
    const FLOWS: u32 = 20_000;
    let group = weighted(&[1; 8]);
    let v6 = |half: u64| Address6 { high: 0x2001_0db8_0000_0000 | half >> 8, low: half & 0xff };
    let even = |name: &str, flows: &mut dyn Iterator<Item = u32>| {
        let shares = shares(&group, flows);
        let wanted = FLOWS as usize / 8;
        assert_eq!(shares.len(), 8, "{name}: {shares:?}");
        assert!(shares.values().all(|share| share.abs_diff(wanted) < wanted / 5), "{name}: {shares:?}");
    };
    even("servers", &mut (0..FLOWS).map(|n| flow::<V4>(0xc612_0001, 0xc613_0000 + n)));
    even("clients", &mut (0..FLOWS).map(|n| flow::<V4>(0xc612_0000 + n, 0xc613_0001)));
    even("pairs", &mut (0..FLOWS).map(|n| flow::<V4>(0xc612_0000 + n, 0xc613_0000 + n)));
    even("servers, IPv6", &mut (0..FLOWS).map(|n| flow::<V6>(v6(1), v6(0x10_0000 + u64::from(n)))));
    even("clients, IPv6", &mut (0..FLOWS).map(|n| flow::<V6>(v6(0x10_0000 + u64::from(n)), v6(1))));
    even("pairs, IPv6", &mut (0..FLOWS).map(|n| flow::<V6>(v6(u64::from(n)), v6(0x10_0000 + u64::from(n)))));
}

proptest! {
    #[test]
    fn a_flow_keeps_its_way(weights in prop::collection::vec(1..8_usize, 1..8), source: u32, destination: u32) {
        let group = weighted(&weights);
        let member = group.member(flow::<V4>(source, destination));
        prop_assert!(member.is_some_and(|member| (100..100 + weights.len() as u32).contains(&member)));
        // Nothing but addresses counts: all fragments of a datagram take one way.
        let (length, payload, protocol, ttl, fragment, punt) = (1500, 34, 6, 3, 0x20b9, None);
        let later = Datagram { source, destination, length, payload, protocol, ttl, fragment, punt };
        prop_assert_eq!(group.member(V4::flow(&later)), member);
        prop_assert_eq!(group.member(flow::<V4>(destination, source)), member);
    }
}
