//! The forwarding tables, against a scan over all cuts.

use std::fmt::Debug;

use dataplane_common::abi::{FIB_CHUNKS, FIB_INTERVALS, Fib, Fib4, Fib6, Prefixed, RouteKind, Target};
use proptest::prelude::*;
use zerocopy::FromZeros as _;

/// Ascending addresses where intervals begin; the first is 0.
type Cuts<T> = Vec<<T as Fib>::Address>;

trait Table: Fib<Address: Debug> + Sized {
    /// A table with those cuts, the n-th of which maps to group n.
    #[expect(clippy::unnecessary_box_returns, reason = "a table is larger than a stack")]
    fn with(cuts: &Cuts<Self>) -> Box<Self>;
    fn address(number: u128) -> Self::Address;
}

macro_rules! table {
    ($name:ident, $address:ty) => {
        impl Table for $name {
            fn with(cuts: &Vec<$address>) -> Box<Self> {
                assert_eq!(cuts[0], 0);
                let mut table = Self::new_box_zeroed().expect("memory for a table");
                for (place, cut) in cuts.iter().enumerate() {
                    table.starts[place] = cut.pack();
                    table.targets[place] = target(place);
                }
                // For each chunk the last cuts at or before its first and its last address.
                let mut place = 0;
                for chunk in 0..FIB_CHUNKS {
                    while place + 1 < cuts.len() && cuts[place + 1] <= (chunk as $address) << (<$address>::BITS - 16) {
                        place += 1;
                    }
                    let first = place;
                    let end = (chunk as $address + 1)
                        .checked_shl(<$address>::BITS - 16)
                        .map_or(<$address>::MAX, |next| next.wrapping_sub(1));
                    while place + 1 < cuts.len() && cuts[place + 1] <= end {
                        place += 1;
                    }
                    table.index[chunk] = [first as u32, place as u32];
                }
                table
            }

            fn address(number: u128) -> $address {
                (number >> (128 - <$address>::BITS)) as $address
            }
        }
    };
}

table!(Fib4, u32);
table!(Fib6, u128);

fn target(place: usize) -> Target {
    Target::new(RouteKind::Unicast, place as u32)
}

fn scan<A: Prefixed>(cuts: &[A], address: A) -> Target {
    target(cuts.iter().rposition(|cut| *cut <= address).expect("the first cut is 0"))
}

/// Looks up every cut and its neighbours, and what else is named.
fn check<T: Table>(mut numbers: Vec<u128>, others: &[u128]) -> Result<(), TestCaseError> {
    numbers.push(0);
    let mut cuts: Cuts<T> = numbers.iter().map(|number| T::address(*number)).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let table = T::with(&cuts);
    let step = 1 << (128 - T::Address::BITS);
    let around = numbers.iter().flat_map(|cut| [*cut, cut.wrapping_sub(step), cut.wrapping_add(step)]);
    for number in around.chain(others.iter().copied()).chain([0, u128::MAX]) {
        let address = T::address(number);
        prop_assert_eq!(table.lookup(address), scan(&cuts, address), "{:?} among {} cuts", address, cuts.len());
    }
    Ok(())
}

/// Addresses that crowd together: few prefixes, few chunks, many low bits zero.
fn number() -> impl Strategy<Value = u128> {
    let crowd = (0..4_u128, 0..4_u128, any::<u16>(), 0..=128_u32).prop_map(|(chunk, middle, low, keep)| {
        let number = (0xc611 + chunk) << 112 | middle << 96 | u128::from(low) << 40;
        number & u128::MAX.checked_shl(128 - keep).unwrap_or(0)
    });
    prop_oneof![any::<u128>(), crowd]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_lookup_finds_what_a_scan_finds(
        cuts in prop::collection::vec(number(), 0..200),
        others in prop::collection::vec(number(), 100),
    ) {
        check::<Fib4>(cuts.clone(), &others)?;
        check::<Fib6>(cuts, &others)?;
    }

    #[test]
    fn a_local_address_is_never_missed(
        locals in prop::collection::vec(any::<u128>(), 1..300),
        other: u128,
    ) {
        let (mut v4, mut v6) = (Fib4::with(&vec![0]), Fib6::with(&vec![0]));
        prop_assert!(!v4.may_be_local(Fib4::address(other)) && !v6.may_be_local(other), "of none");
        for local in &locals {
            v4.set_local(Fib4::address(*local));
            v6.set_local(*local);
        }
        for local in &locals {
            prop_assert!(v4.may_be_local(Fib4::address(*local)) && v6.may_be_local(*local), "{:x}", local);
        }
    }
}

#[test]
fn one_cut_covers_all() {
    for number in [0, 1, 1 << 96, u128::MAX] {
        assert_eq!(Fib4::with(&vec![0]).lookup(Fib4::address(number)), target(0));
        assert_eq!(Fib6::with(&vec![0]).lookup(number), target(0));
    }
}

#[test]
fn the_last_address_has_its_own_cut() {
    let (v4, v6) = (Fib4::with(&vec![0, u32::MAX]), Fib6::with(&vec![0, u128::MAX]));
    assert_eq!((v4.lookup(u32::MAX - 1), v4.lookup(u32::MAX)), (target(0), target(1)));
    assert_eq!((v6.lookup(u128::MAX - 1), v6.lookup(u128::MAX)), (target(0), target(1)));
}

#[test]
fn a_full_table_with_cuts_in_all_chunks_is_searched() {
    // Two to a chunk: at its first address and in its middle.
    let v4: Vec<_> = (0..FIB_INTERVALS as u32).map(|place| place << 15).collect();
    let v6: Vec<_> = (0..FIB_INTERVALS as u128).map(|place| place << 111).collect();
    let (table4, table6) = (Fib4::with(&v4), Fib6::with(&v6));
    for place in 0..FIB_INTERVALS {
        assert_eq!(table4.lookup(v4[place]), target(place));
        assert_eq!(table4.lookup(v4[place] | 0x7fff), target(place));
        assert_eq!(table6.lookup(v6[place]), target(place));
        assert_eq!(table6.lookup(v6[place] | ((1 << 111) - 1)), target(place));
    }
}

#[test]
fn a_full_table_in_one_chunk_is_searched_to_its_end() {
    // The most steps that a search can take: all of the cuts but the first are in 2001::/16.
    let cuts: Vec<_> =
        (0..FIB_INTERVALS as u128).map(|place| if place == 0 { 0 } else { 0x2001 << 112 | place << 64 }).collect();
    let table = Fib6::with(&cuts);
    for (place, cut) in cuts.iter().enumerate() {
        assert_eq!(table.lookup(*cut), target(place));
        assert_eq!(table.lookup(cut.saturating_sub(1)), target(place.saturating_sub(1)));
    }
    assert_eq!(table.lookup(u128::MAX), target(FIB_INTERVALS - 1));
}

#[test]
fn a_target_says_what_was_put_in() {
    use RouteKind::{Blackhole, Broadcast, Kernel, Local, Multicast, None, Prohibit, Unicast, Unreachable};
    for kind in [None, Unicast, Local, Broadcast, Multicast, Blackhole, Unreachable, Prohibit, Kernel] {
        for group in [0, 1, 4095, 0x0fff_ffff] {
            let target = Target::from_raw(Target::new(kind, group).raw());
            assert_eq!((target.kind(), target.group()), (kind, group));
        }
    }
    assert_eq!(Target::NONE.kind(), None);
    assert_eq!(Target::from_raw(u32::MAX).kind(), None);
}
