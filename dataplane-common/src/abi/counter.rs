//! Counters. All of them are per CPU, and every packet adds to exactly one reason of one port.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Reason;

/// How many rules can count at once.
pub const RULE_COUNTERS: u32 = 1 << 17;

/// Packets and bytes; bytes are whole frames, link header included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl core::ops::AddAssign for Counter {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// One port: a counter for each reason. What the port received is their sum, so the balance holds by construction.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortCounters {
    /// By [`Reason`]; room for more reasons than there are.
    pub reasons: [Counter; 64],
}

const _: () = assert!(Reason::COUNT <= 64);
