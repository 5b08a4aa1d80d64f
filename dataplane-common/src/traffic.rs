//! Traffic for measuring: what the generator of `dataplane bench` puts into frames, and what its sink counts.
//!
//! No part of [`crate::abi`]: the maps belong to programs of their own, which live as long as the verb.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a frame that are written for each packet: the headers and the stamp of IPv6, in whole words.
pub const TRAFFIC_HEADERS: usize = 72;
/// Bytes that are written where all frames are shorter: the shortest frame of Ethernet.
pub const TRAFFIC_SHORTEST: usize = 60;
/// Where the stamp is: behind Ethernet, the header of IP without options, and that of UDP.
pub const STAMP4: usize = 14 + 20 + 8;
/// The same of IPv6.
pub const STAMP6: usize = 14 + 40 + 8;
/// UDP's discard port (RFC 863): where all packets go.
pub const TRAFFIC_PORT: u16 = 9;
/// CPUs that can generate.
pub const TRAFFIC_CPUS: usize = 256;
/// Frames that the generator takes in turn.
pub const TRAFFIC_FRAMES: usize = 1 << 20;

/// A frame but for its stamp, and the zeros behind what is written.
///
/// The stamp is a time of the clock (ns, its lower half) and its complement. Their sum is the same for all times, so that the
/// checksum of the frame holds. Zero is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TrafficFrame {
    /// Its beginning, as it is on the wire.
    pub words: [u64; TRAFFIC_HEADERS / 8],
    /// Bytes of the whole frame.
    pub length: u32,
    /// [`STAMP4`] or [`STAMP6`].
    pub stamp: u32,
}

/// How far the generator of a CPU has come, and how it goes on. Only that CPU writes it while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TrafficProgress {
    /// Frames sent.
    pub sent: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The next frame.
    pub next: u64,
    /// A frame is stamped, and the clock looked at, when no bit of this is set in their number.
    pub mask: u64,
    /// From frame to frame (ns); 0: as fast as it can.
    pub interval: u64,
    /// When the next one is due.
    pub due: u64,
    /// The clock, and frames sent, when it was first looked at; 0: not yet.
    pub first: [u64; 2],
    /// The same for the last time.
    pub last: [u64; 2],
}

/// What the sink of a CPU has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TrafficCount {
    /// Frames of a generator.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

const _: () = assert!(size_of::<TrafficFrame>() == 80);
const _: () = assert!(size_of::<TrafficProgress>() == 80);
const _: () = assert!(size_of::<TrafficCount>() == 16);

/// Buckets of times from 0 to 2³² ns: one for each of the first 16, then 16 for each doubling.
pub const TIME_BUCKETS: usize = 29 * 16;

/// The bucket of a time (ns).
#[inline(always)]
pub const fn time_bucket(time: u32) -> u32 {
    if time < 16 {
        return time;
    }
    let mut shift = 0;
    let mut left = time;
    // By halves, as programs have no instruction for it.
    if left >= 1 << 20 {
        shift += 16;
        left >>= 16;
    }
    if left >= 1 << 12 {
        shift += 8;
        left >>= 8;
    }
    if left >= 1 << 8 {
        shift += 4;
        left >>= 4;
    }
    if left >= 1 << 6 {
        shift += 2;
        left >>= 2;
    }
    if left >= 1 << 5 {
        shift += 1;
        left >>= 1;
    }
    shift * 16 + left
}

/// The middle of a bucket's times (ns).
pub const fn bucket_time(bucket: u32) -> u64 {
    if bucket < 32 {
        return bucket as u64;
    }
    let shift = bucket / 16 - 1;
    let low = ((bucket - shift * 16) as u64) << shift;
    low + (1 << shift) / 2
}

/// Names of maps and globals.
pub mod map {
    /// Array of [`super::TrafficFrame`].
    pub const FRAMES: &str = "TRAFFIC_FRAMES";
    /// Array of [`super::TrafficProgress`], one for each CPU.
    pub const PROGRESS: &str = "TRAFFIC_PROGRESS";
    /// Per CPU, one [`super::TrafficCount`].
    pub const COUNT: &str = "TRAFFIC_COUNT";
    /// Per CPU, how many times fell into each bucket.
    pub const TIMES: &str = "TRAFFIC_TIMES";
    /// Global: how many frames there are.
    pub const TOTAL: &str = "TRAFFIC_TOTAL";
    /// Global: bytes of the frames that the kernel hands over.
    pub const ROOM: &str = "TRAFFIC_ROOM";
    /// Global: the interface that frames leave by.
    pub const EGRESS: &str = "TRAFFIC_EGRESS";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_narrow() {
        let mut last = 0;
        for time in (0..100_000_u32).chain((100_000..u32::MAX).step_by(1_000_003)).chain([u32::MAX]) {
            let bucket = time_bucket(time);
            assert!(bucket >= last && (bucket as usize) < TIME_BUCKETS, "{time}: {bucket} after {last}");
            let middle = bucket_time(bucket);
            assert!(middle.abs_diff(u64::from(time)) * 32 <= u64::from(time).max(1), "{time}: {middle}");
            last = bucket;
        }
        assert_eq!(last as usize, TIME_BUCKETS - 1);
    }
}
