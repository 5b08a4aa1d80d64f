//! Rate limits of rules: token buckets, each stored as the time at which it would be full again.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// How a limit is kept.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct LimitFlags: u32 {
        /// The rule holds for what exceeds the rate.
        const OVER = 1 << 0;
        /// Bytes are counted, not packets.
        const BYTES = 1 << 1;
    }
}

/// The limit of a rule. The kernel half writes [`Limit::full`], the controller the rest before any program sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Limit {
    /// When the bucket is full again: nanoseconds of the monotonic clock.
    pub full: u64,
    /// Nanoseconds that a unit takes to come back, in 256ths; below 2^43 where bytes are counted, else below 2^58.
    pub cost: u64,
    /// Nanoseconds that an empty bucket takes to be full.
    pub depth: u64,
    /// [`LimitFlags`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

impl Limit {
    /// When the bucket will be full if a packet is taken out of it now; none when it does not hold enough.
    #[inline(always)]
    pub const fn take(&self, full: u64, now: u64, bytes: u64) -> Option<u64> {
        let units = if self.flags & LimitFlags::BYTES.bits() != 0 { bytes & 0xf_ffff } else { 1 };
        let from = if full > now { full } else { now };
        let next = from + ((units * self.cost) >> 8);
        if next - now <= self.depth { Some(next) } else { None }
    }
}
