//! Token buckets.

use dataplane_common::abi::{Limit, LimitFlags};

const SECOND: u64 = 1_000_000_000;

/// How many of the packets, `gap` nanoseconds apart, find enough in the bucket.
fn passed(limit: Limit, packets: u64, gap: u64, bytes: u64) -> u64 {
    let mut full = 0;
    (0..packets).fold(0, |passed, packet| match limit.take(full, 1000 * SECOND + packet * gap, bytes) {
        Some(next) => {
            full = next;
            passed + 1
        }
        None => passed,
    })
}

#[test]
fn a_bucket_holds_its_burst_and_fills_at_its_rate() {
    let packets = Limit { cost: (SECOND / 10) << 8, depth: SECOND / 2, ..Limit::default() };
    let bytes = Limit { cost: (SECOND << 8) / 1000, depth: 2 * SECOND, flags: LimitFlags::BYTES.bits(), ..packets };
    let rows = [
        ("ten a second, bucket of five, all at once", packets, 100, 0, 60, 5),
        ("one every 100 ms for ten seconds", packets, 100, SECOND / 10, 60, 100),
        ("one every 50 ms for ten seconds", packets, 200, SECOND / 20, 60, 104),
        ("one every 200 ms", packets, 50, SECOND / 5, 60, 50),
        ("1000 bytes a second, bucket of 2000, packets of 500", bytes, 100, 0, 500, 4),
        ("packets larger than the bucket", bytes, 100, 0, 2001, 0),
        ("the same at twice the rate, for ten seconds", bytes, 40, SECOND / 4, 500, 23),
    ];
    for (what, limit, count, gap, length, expected) in rows {
        assert_eq!(passed(limit, count, gap, length), expected, "{what}");
    }
    // Nothing runs over, however slow the rate and large the packet.
    let slow = Limit { cost: (1 << 43) - 1, depth: 1 << 62, flags: LimitFlags::BYTES.bits(), ..Limit::default() };
    assert_eq!(slow.take(0, 1 << 61, u64::MAX), Some((1 << 61) + ((0xf_ffff * ((1 << 43) - 1)) >> 8)));
}
