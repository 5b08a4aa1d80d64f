//! The Internet checksum.

use dataplane_common::wire::{Be16, Ipv4, Sum, decrement_ttl};
use proptest::prelude::*;
use zerocopy::FromBytes as _;

use crate::packet::naive_sum;

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().expect("four bytes")));
    u16::from_be_bytes(words.fold(Sum::default(), Sum::add).fold().to_ne_bytes())
}

#[test]
fn sums_of_the_rfc() {
    // RFC 1071 section 3.
    assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    assert_eq!(sum(&[]), 0);
    assert_eq!(sum(&[0xff; 40]), 0xffff);
    assert_eq!(sum(&[0; 40]), 0);
}

#[test]
fn a_header_on_the_wire_is_sound() {
    let header = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
        0x00, 0xc7,
    ];
    assert!(Ipv4::ref_from_bytes(&header).expect("20 bytes").is_sound());
    for bit in 0..160 {
        let mut header = header;
        header[bit / 8] ^= 1 << (bit % 8);
        assert!(!Ipv4::ref_from_bytes(&header).expect("20 bytes").is_sound(), "bit {bit}");
    }
}

/// As `ip_decrease_ttl` (`include/net/ip.h`) computes it: on the checksum as the machine loads it.
fn kernel_decrement(raw: u16) -> u16 {
    let sum = u32::from(raw) + u32::from(0x0100_u16.to_be());
    (sum + u32::from(sum >= 0xffff)) as u16
}

#[test]
fn every_checksum_goes_the_way_of_the_kernel() {
    for checksum in 0..=u16::MAX {
        let before = Be16::new(checksum);
        assert_eq!(decrement_ttl(before).raw(), kernel_decrement(before.raw()), "{checksum:#06x}");
    }
}

proptest! {
    #[test]
    fn the_sum_is_the_naive_one(words in proptest::collection::vec(any::<[u8; 4]>(), 0..64)) {
        let bytes = words.concat();
        // A sum of something is never zero, in either way to compute it.
        prop_assert_eq!(sum(&bytes), naive_sum(&bytes));
    }

    #[test]
    fn words_of_eight_bytes_are_two_of_four(words: [u64; 4], some in 0_u8..16) {
        // Any of them all ones: where a carry would be lost.
        let words = std::array::from_fn(|at| if some >> at & 1 == 0 { words[at] } else { u64::MAX });
        let halves = words.into_iter().flat_map(|word| [(word >> 32) as u32, word as u32]);
        let naive = halves.map(u128::from).sum::<u128>() % 0xffff;
        for number in [0, 1, 0xfffe, naive as u16] {
            prop_assert_eq!(Sum::of(words).equals(number), naive == u128::from(number), "{:x?}", words);
        }
    }

    #[test]
    fn a_sum_equals_one_number(words in proptest::collection::vec(any::<u32>(), 0..12), other: u16) {
        let sum = words.into_iter().fold(Sum::default(), Sum::add);
        for folded in [0, 1, 0xfffe, 0xffff, other, sum.fold()] {
            prop_assert_eq!(sum.equals(folded), sum.fold() % 0xffff == folded % 0xffff, "{:#x}", folded);
        }
    }

    #[test]
    fn soundness_is_that_of_a_naive_sum(mut header: [u8; 20], seal: bool) {
        if seal {
            header[10..12].fill(0);
            let checksum = !naive_sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        let naive = naive_sum(&header) == 0xffff;
        prop_assert!(naive || !seal);
        prop_assert_eq!(Ipv4::ref_from_bytes(&header).expect("20 bytes").is_sound(), naive);
    }

    #[test]
    fn a_sound_header_stays_sound_hop_by_hop(mut header: [u8; 20], ttl in 1..=255_u8) {
        // A header of zeros alone has no sound checksum, nor a version.
        header[0] = 0x45;
        header[8] = ttl;
        header[10..12].fill(0);
        let checksum = !naive_sum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut header = Ipv4::read_from_bytes(&header).expect("20 bytes");
        while header.ttl > 0 {
            header.ttl -= 1;
            header.checksum = decrement_ttl(header.checksum);
            prop_assert!(header.is_sound(), "ttl {}", header.ttl);
        }
    }
}
