//! Rows of the flow table: what netfilter has decided about a connection, for one direction each.
//!
//! The controller writes who a row is for and how it is translated, for each connection that the kernel's conntrack has. The
//! kernel half *arms* it: once the kernel has let a packet of this direction out, under the rules in force. Only an armed row
//! carries packets past netfilter.
//!
//! A row is an array of words of 64 bits, 8 of them for IPv4 and 16 for IPv6 ([`RowLayout`]). Numbers are in the host's byte
//! order. The words from [`row::WAY`] to [`row::LEASE`] are the kernel half's: the controller writes zero when it takes a row,
//! and reads them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{ADDRESS_WORDS, Hash, Ifindex};

/// A row is found within so many from its home, or is not there.
pub const FLOW_PROBES: u32 = 16;
/// What a lease is counted in: 2^20 nanoseconds of `CLOCK_MONOTONIC`, in 32 bits, which wrap.
pub const MOMENT: u32 = 20;
/// No row.
pub const NO_ROW: u64 = u32::MAX as u64;

/// The state of the whole table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowControl {
    /// A random number of this table: senders cannot know which of their tuples share a home.
    pub seed: u64,
    /// Rows that were armed in this epoch carry packets. 16 bits, of which the lower eight are never all zero
    /// ([`FlowControl::next_epoch`]).
    pub epoch: u32,
    /// The same, where rows may be armed; else 0.
    pub arming: u32,
    /// How long a row stays armed, in moments ([`MOMENT`]).
    pub lease: u32,
    /// Rows of `FLOWS4`, minus one: all bits of a number.
    pub mask4: u32,
    /// Rows of `FLOWS6`, minus one.
    pub mask6: u32,
    /// Zero.
    pub reserved: u32,
}

impl FlowControl {
    /// The epoch after another one. A packet carries eight bits of it, where zero means none.
    pub const fn next_epoch(epoch: u32) -> u32 {
        let next = (epoch + 1) & 0xffff;
        // Its lower byte.
        if next as u8 == 0 { next + 1 } else { next }
    }
}

/// Where the words of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    /// Words of a row.
    pub words: usize,
    /// Words of both addresses, as [`crate::decide::Family::fill`] has them, from the first word on.
    pub addresses: usize,
    /// [`ports`].
    pub ports: usize,
    /// The addresses that the packet leaves with, in the same form.
    pub new_addresses: usize,
    /// [`new_ports`].
    pub new_ports: usize,
    /// [`twin`].
    pub twin: usize,
}

impl RowLayout {
    /// IPv4: a line of the cache.
    pub const V4: Self = Self { words: 8, addresses: 1, ports: 1, new_addresses: 2, new_ports: 3, twin: 4 };
    /// IPv6: what a packet has to match, and the kernel half's words, are in the first line.
    pub const V6: Self = Self { words: 16, addresses: 4, ports: 4, new_addresses: 8, new_ports: 12, twin: 13 };
}

/// Words that are at the same place in both families: the kernel half's.
pub mod row {
    /// Through which interface the packets come in (upper half) and leave.
    pub const WAY: usize = 5;
    /// From the lowest byte: epoch in which it is armed (16 bits; 0: it is not), TTL and DSCP of the last packet that went up,
    /// [`super::CLOSING`].
    pub const STAGE: usize = 6;
    /// Packets that were carried (upper half, wraps), and the moment of the last witness; of a row that is closing, the moment
    /// since which it is.
    pub const LEASE: usize = 7;

    /// Bytes within [`STAGE`].
    pub mod stage {
        /// Two bytes.
        pub const ARMED: usize = 0;
        /// One byte.
        pub const TTL: usize = 2;
        /// One byte.
        pub const DSCP: usize = 3;
        /// One byte.
        pub const CLOSING: usize = 4;
    }

    /// Bytes within [`LEASE`].
    pub mod lease {
        /// Four bytes.
        pub const WITNESS: usize = 0;
        /// Four bytes.
        pub const PACKETS: usize = 4;
    }
}

/// A packet with FIN, RST or SYN has been seen: the kernel has the rest of the connection.
pub const CLOSING: u8 = 1;

/// The word of ports, protocol and flags.
pub mod ports {
    /// Protocol of a row that is free: a search ends.
    pub const FREE: u64 = 0;
    /// Protocol of a row that was in use: a search goes on.
    pub const USED: u64 = 0xff << PROTOCOL;
    /// Below it is nothing that is compared.
    pub const PROTOCOL: u32 = 24;
    /// Addresses or ports change.
    pub const TRANSLATES: u64 = 1;
    /// The row is for the direction of answers.
    pub const REPLY: u64 = 1 << 1;

    /// The word for a flow, without flags.
    #[inline(always)]
    pub const fn of(source: u64, destination: u64, protocol: u64) -> u64 {
        source << 48 | destination << 32 | protocol << PROTOCOL
    }

    /// Whether a row's word is for this flow.
    #[inline(always)]
    pub const fn agree(row: u64, flow: u64) -> bool {
        (row ^ flow) >> PROTOCOL == 0
    }

    /// Whether it is that of a row in which no connection ever was.
    #[inline(always)]
    pub const fn is_free(row: u64) -> bool {
        protocol(row) == 0
    }

    /// Protocol.
    #[inline(always)]
    pub const fn protocol(word: u64) -> u64 {
        word >> PROTOCOL & 0xff
    }

    /// Source and destination port.
    #[inline(always)]
    pub const fn pair(word: u64) -> [u64; 2] {
        [word >> 48, word >> 32 & 0xffff]
    }
}

/// The word of the ports that a packet leaves with, and of the changes of its checksums.
pub mod new_ports {
    /// From the top: source port, destination port, change by the addresses, change by the ports.
    #[inline(always)]
    pub const fn of(source: u16, destination: u16, by_addresses: u16, by_ports: u16) -> u64 {
        (source as u64) << 48 | (destination as u64) << 32 | (by_addresses as u64) << 16 | by_ports as u64
    }

    /// Both ports, as they lie in the first four bytes of the transport header, as a number in network order.
    #[inline(always)]
    pub const fn pair(word: u64) -> u32 {
        (word >> 32) as u32
    }

    /// How the addresses change a checksum.
    #[inline(always)]
    pub const fn by_addresses(word: u64) -> u32 {
        (word >> 16) as u32 & 0xffff
    }

    /// How the ports change a checksum.
    #[inline(always)]
    pub const fn by_ports(word: u64) -> u32 {
        word as u32 & 0xffff
    }
}

/// The word of the row of the other direction and the connection's mark.
pub mod twin {
    /// Row of the other direction, and `ct mark`.
    #[inline(always)]
    pub const fn of(row: u32, mark: u32) -> u64 {
        (row as u64) << 32 | mark as u64
    }

    /// Row of the other direction.
    #[inline(always)]
    pub const fn row(word: u64) -> u32 {
        (word >> 32) as u32
    }

    /// `ct mark`.
    #[inline(always)]
    pub const fn mark(word: u64) -> u32 {
        word as u32
    }
}

/// Where the search for a flow begins, before it is masked.
#[inline(always)]
pub const fn home(seed: u64, addresses: &[u64; ADDRESS_WORDS], count: usize, ports: u64) -> u32 {
    let mut hash = Hash::START.with(ports ^ seed);
    let mut at = 0;
    while at < count {
        hash = hash.with(addresses[at] ^ seed.rotate_left(at as u32 * 16 + 8));
        at += 1;
    }
    hash.stirred()
}

/// The addresses of the opposite direction.
#[inline(always)]
pub const fn swapped(addresses: [u64; ADDRESS_WORDS], count: usize) -> [u64; ADDRESS_WORDS] {
    let [a, b, c, d] = addresses;
    if count == 1 { [a.rotate_left(32), 0, 0, 0] } else { [c, d, a, b] }
}

/// How a ones'-complement checksum changes when `old` words become `new` ones: what [`changed`] adds. Words may be of any even
/// number of bytes, in the host's order.
pub const fn change(old: &[u64], new: &[u64]) -> u16 {
    let (mut sum, mut at) = (0, 0);
    while at < old.len() {
        sum += sum_of(!old[at]);
        at += 1;
    }
    at = 0;
    while at < new.len() {
        sum += sum_of(new[at]);
        at += 1;
    }
    fold(sum)
}

const fn sum_of(word: u64) -> u64 {
    (word >> 48) + (word >> 32 & 0xffff) + (word >> 16 & 0xffff) + (word & 0xffff)
}

#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// A checksum, in the host's byte order, after the sum over what it covers changed (`csum_replace4` of `net/checksum.h`).
#[inline(always)]
pub const fn changed(checksum: u16, change: u32) -> u16 {
    !fold(!checksum as u64 + change as u64)
}

/// The flow of the packet at hand, between the stages of a program: the stack has no room for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowContext {
    /// Its row; [`NO_ROW`]: it has none.
    pub row: u64,
    /// Not zero: the row carries the packet.
    pub carried: u64,
    /// Number of the [`crate::Reason`] to leave it to the kernel, where it has a row that does not carry it.
    pub reason: u64,
    /// The destination address that it is routed by: the first words that the row has of the new addresses. IPv4 has one word.
    pub destination: [u64; 2],
    /// Both addresses of the packet, as [`crate::decide::Family::fill`] has them.
    pub addresses: [u64; ADDRESS_WORDS],
}

/// What a row says in words, for the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowState {
    /// The epoch in which it is armed; 0: it is not.
    pub armed: u16,
    /// It saw FIN, RST or SYN.
    pub closing: bool,
    /// Packets that were carried, modulo 2^32.
    pub packets: u32,
    /// When the kernel last let a packet through, in moments.
    pub witness: u32,
    /// The interface that packets come in through; 0: not known yet.
    pub iif: Ifindex,
    /// The interface that they leave through.
    pub oif: Ifindex,
}

impl RowState {
    /// From the words at [`row::WAY`], [`row::STAGE`] and [`row::LEASE`].
    pub const fn of(way: u64, stage: u64, lease: u64) -> Self {
        Self {
            armed: stage as u16,
            closing: (stage >> (8 * row::stage::CLOSING)) as u8 == CLOSING,
            packets: (lease >> 32) as u32,
            witness: lease as u32,
            iif: (way >> 32) as Ifindex,
            oif: way as Ifindex,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Be16, decrement_ttl};

    /// `csum_replace4` of the kernel, step by step.
    fn replace4(checksum: u16, from: u32, to: u32) -> u16 {
        let add = |a: u32, b: u32| {
            let (sum, carry) = a.overflowing_add(b);
            sum + u32::from(carry)
        };
        let sum = add(add(!u32::from(!checksum) ^ 0xffff_ffff, !from), to);
        let sum = (sum >> 16) + (sum & 0xffff);
        !(((sum >> 16) + (sum & 0xffff)) as u16)
    }

    /// `csum_replace2`.
    fn replace2(checksum: u16, from: u16, to: u16) -> u16 {
        replace4(checksum, u32::from(from), u32::from(to))
    }

    proptest! {
        /// One change by both addresses is what the kernel computes step by step.
        #[test]
        fn one_change_is_as_good_as_steps(
            checksum: u16, old: [u32; 2], new: [u32; 2], from: [u16; 2], to: [u16; 2],
        ) {
            let words = |[destination, source]: [u32; 2]| [u64::from(destination) << 32 | u64::from(source)];
            let pair = |[a, b]: [u16; 2]| [u64::from(a) << 16 | u64::from(b)];
            let by_addresses = change(&words(old), &words(new));
            let by_ports = change(&pair(from), &pair(to));
            let steps = (0..2).fold(checksum, |sum, at| replace4(sum, old[at], new[at]));
            // A header whose words are all zero has no sum: both zeros are possible there.
            prop_assume!(checksum != 0xffff);
            prop_assert_eq!(changed(checksum, by_addresses.into()), steps);
            let steps = (0..2).fold(steps, |sum, at| replace2(sum, from[at], to[at]));
            prop_assert_eq!(changed(checksum, u32::from(by_addresses) + u32::from(by_ports)), steps);
            let ttl = |sum: u16| decrement_ttl(Be16::new(sum)).get();
            prop_assert_eq!(ttl(changed(checksum, by_addresses.into())), ttl((0..2).fold(checksum, |sum, at| replace4(sum, old[at], new[at]))));
        }

        #[test]
        fn the_way_back_is_the_way_back(words: [u64; 4]) {
            prop_assert_eq!(swapped(swapped(words, 4), 4), words);
            let v4 = [words[0], 0, 0, 0];
            prop_assert_eq!(swapped(swapped(v4, 1), 1), v4);
        }
    }

    #[test]
    fn epochs_are_never_none() {
        let mut epoch = 0;
        for _ in 0..0x1_0010 {
            epoch = FlowControl::next_epoch(epoch);
            assert!(epoch & 0xff != 0 && epoch <= 0xffff, "{epoch:#x}");
        }
    }

    #[test]
    fn a_row_is_for_one_flow() {
        let word = ports::of(1, 2, 6);
        let rows = [
            ("itself, with flags", word | ports::TRANSLATES | ports::REPLY, true),
            ("another source port", ports::of(3, 2, 6), false),
            ("another destination port", ports::of(1, 3, 6), false),
            ("another protocol", ports::of(1, 2, 17), false),
            ("free", ports::FREE, false),
            ("was in use", ports::USED, false),
        ];
        for (what, row, expected) in rows {
            assert_eq!(ports::agree(row, word), expected, "{what}");
        }
        assert!(ports::is_free(ports::FREE) && !ports::is_free(ports::USED) && !ports::is_free(word));
    }

    #[test]
    fn a_state_is_read_as_it_is_written() {
        let state = RowState { armed: 0x102, closing: true, packets: 7, witness: 9, iif: 3, oif: 4 };
        assert_eq!(RowState::of(3 << 32 | 4, 0x01_0000_0102, 7 << 32 | 9), state);
    }
}
