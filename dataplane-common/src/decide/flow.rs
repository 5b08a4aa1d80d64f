//! Which packets a row of the flow table may carry, and when.

use crate::{
    abi::{
        Ifindex,
        flow::{RowState, ports},
    },
    wire::{Bytes, Tcp, Udp, protocol},
};

/// What a transport header says to the flow table, in one word: the ports as [`ports::of`] has them, and flags below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct FlowHeader(u64);

impl FlowHeader {
    /// No row is for such a packet: another protocol, or a header that conntrack calls invalid.
    pub const NONE: Self = Self(0);
    const CLOSES: u64 = 1;
    const EMPTY: u64 = 2;
    const OPENS: u64 = 4;

    /// Whether it is [`Self::NONE`].
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Ports and protocol.
    #[inline(always)]
    pub const fn ports(self) -> u64 {
        self.0 >> ports::PROTOCOL << ports::PROTOCOL
    }

    /// Whether it begins or ends a connection: FIN, RST or SYN.
    #[inline(always)]
    pub const fn closes(self) -> bool {
        self.0 & Self::CLOSES != 0
    }

    /// Whether it opens a connection: SYN alone.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & Self::OPENS != 0
    }

    /// Whether it may go through the kernel without being missed: it has no payload, or its order is not promised (UDP).
    #[inline(always)]
    pub const fn may_lag(self) -> bool {
        self.0 & Self::EMPTY != 0
    }
}

const FIN: u8 = 1;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;
const URG: u8 = 1 << 5;

/// A bit for each combination of flags, PSH aside, that conntrack takes (`tcp_valid_flags`): others are invalid, and not
/// translated.
const SOUND: u64 = 1 << SYN
    | 1 << (SYN | URG)
    | 1 << (SYN | ACK)
    | 1 << RST
    | 1 << (RST | ACK)
    | 1 << (FIN | ACK)
    | 1 << (FIN | ACK | URG)
    | 1 << ACK
    | 1 << (ACK | URG);

/// Reads the transport header at `at`, of a packet that has `left` bytes from there. Sound as `tcp_error` and `udp_error` of
/// `net/netfilter` want it, but for the checksum, which covers the payload.
#[inline(always)]
pub fn flow_header<B: Bytes + ?Sized>(packet: &B, number: u64, at: usize, left: usize) -> FlowHeader {
    let at = at & 0x7fff;
    match number {
        protocol::TCP => {
            let Some(header) = packet.header::<Tcp>(at) else { return FlowHeader::NONE };
            let length = header.header_length();
            if length < size_of::<Tcp>() || length > left {
                return FlowHeader::NONE;
            }
            if SOUND >> (header.flags & (FIN | SYN | RST | ACK | URG)) & 1 == 0 {
                return FlowHeader::NONE;
            }
            let closes = match header.flags & (FIN | SYN | RST | ACK) {
                ACK => 0,
                SYN => FlowHeader::CLOSES | FlowHeader::OPENS,
                _ => FlowHeader::CLOSES,
            };
            let word = ports::of(u64::from(header.source.get()), u64::from(header.destination.get()), number);
            let empty = if length == left { FlowHeader::EMPTY } else { 0 };
            FlowHeader(word | empty | closes)
        }
        protocol::UDP => {
            let Some(header) = packet.header::<Udp>(at) else { return FlowHeader::NONE };
            let length = usize::from(header.length.get());
            if length < size_of::<Udp>() || length > left {
                return FlowHeader::NONE;
            }
            let word = ports::of(u64::from(header.source.get()), u64::from(header.destination.get()), number);
            FlowHeader(word | FlowHeader::EMPTY)
        }
        _ => FlowHeader::NONE,
    }
}

/// What a row does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowVerdict {
    /// It carries the packet past netfilter.
    Carry,
    /// The kernel has let no packet of this direction out under the rules in force, or not from this interface.
    Unarmed,
    /// The lease is over: this packet is judged by the kernel, and the row armed anew.
    Renew,
    /// The connection begins or ends.
    Closing,
}

/// The table as far as it concerns all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTime {
    /// The live epoch.
    pub epoch: u32,
    /// In moments.
    pub now: u32,
    /// In moments.
    pub lease: u32,
}

/// What a row does with a packet that came in through an interface.
#[inline(always)]
pub const fn judge_row(row: &RowState, time: FlowTime, iif: Ifindex, header: FlowHeader) -> RowVerdict {
    if row.closing || header.closes() {
        return RowVerdict::Closing;
    }
    if row.armed as u32 != time.epoch || row.armed == 0 || row.iif != iif {
        return RowVerdict::Unarmed;
    }
    let age = time.now.wrapping_sub(row.witness);
    // Data overtakes a packet that goes through the kernel, so one without is waited for; not for ever.
    if age > time.lease && (header.may_lag() || age / 2 > time.lease) {
        return RowVerdict::Renew;
    }
    RowVerdict::Carry
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = 64;

    fn header(number: u64, bytes: &[u8], left: usize) -> FlowHeader {
        let mut packet = [0; LENGTH];
        packet[..bytes.len()].copy_from_slice(bytes);
        flow_header(&packet[..], number, 0, left)
    }

    fn tcp(flags: u8, offset: u8) -> [u8; 20] {
        [0, 80, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, offset << 4, flags, 0, 0, 0, 0, 0, 0]
    }

    #[test]
    fn only_sound_headers_have_a_row() {
        let word = ports::of(80, 0x102, protocol::TCP);
        let rows = [
            ("data", tcp(ACK | 8, 5), 30, Some((word, false, false))),
            ("only an acknowledgement", tcp(ACK, 5), 20, Some((word, false, true))),
            ("options, nothing behind them", tcp(ACK, 8), 32, Some((word, false, true))),
            ("the end", tcp(ACK | FIN, 5), 20, Some((word, true, true))),
            ("the beginning", tcp(SYN, 5), 20, Some((word, true, true))),
            ("a reset", tcp(RST, 5), 20, Some((word, true, true))),
            ("no flags", tcp(0, 5), 20, None),
            ("urgent data", tcp(ACK | URG, 5), 20, Some((word, false, true))),
            ("the end without an acknowledgement", tcp(FIN, 5), 20, None),
            ("beginning and end", tcp(SYN | FIN, 5), 20, None),
            ("beginning and reset", tcp(SYN | RST, 5), 20, None),
            ("all flags", tcp(0x3f, 5), 20, None),
            ("a header shorter than it can be", tcp(ACK, 4), 20, None),
            ("a header longer than the packet", tcp(ACK, 6), 20, None),
        ];
        for (what, bytes, left, expected) in rows {
            let found = header(protocol::TCP, &bytes, left);
            let seen = (!found.is_none()).then(|| (found.ports(), found.closes(), found.may_lag()));
            assert_eq!(seen, expected, "{what}");
        }
        let udp = |length: u8| [0, 53, 1, 2, 0, length, 0, 0];
        let word = ports::of(53, 0x102, protocol::UDP);
        for (what, length, left, expected) in [
            ("UDP", 12, 12, true),
            ("longer than the packet", 13, 12, false),
            ("shorter than its header", 7, 12, false),
        ] {
            let found = header(protocol::UDP, &udp(length), left);
            assert_eq!(!found.is_none(), expected, "{what}");
            assert!(!expected || found.ports() == word, "{what}");
        }
        assert!(header(protocol::SCTP, &[0; 20], 20).is_none());
        for (flags, opens) in [(SYN, true), (SYN | URG, true), (SYN | ACK, false), (FIN | ACK, false), (ACK, false)] {
            assert_eq!(header(protocol::TCP, &tcp(flags, 5), 20).opens(), opens, "{flags:#x}");
        }
    }

    #[test]
    fn a_row_carries_while_it_is_armed() {
        let armed = RowState { armed: 5, closing: false, packets: 0, witness: 100, iif: 3, oif: 4 };
        let time = FlowTime { epoch: 5, now: 150, lease: 100 };
        let (data, empty) = (header(protocol::TCP, &tcp(ACK, 5), 30), header(protocol::TCP, &tcp(ACK, 5), 20));
        let end = header(protocol::TCP, &tcp(ACK | FIN, 5), 20);
        let late = |now| FlowTime { now, ..time };
        let rows = [
            ("armed", armed, time, 3, data, RowVerdict::Carry),
            ("from another interface", armed, time, 4, data, RowVerdict::Unarmed),
            ("another epoch", armed, FlowTime { epoch: 6, ..time }, 3, data, RowVerdict::Unarmed),
            (
                "never armed",
                RowState { armed: 0, ..armed },
                FlowTime { epoch: 0, ..time },
                3,
                data,
                RowVerdict::Unarmed,
            ),
            ("it ends", armed, time, 3, end, RowVerdict::Closing),
            ("it has ended", RowState { closing: true, ..armed }, time, 3, data, RowVerdict::Closing),
            ("the lease is over, data", armed, late(201), 3, data, RowVerdict::Carry),
            ("the lease is over, no data", armed, late(201), 3, empty, RowVerdict::Renew),
            ("the lease is over for long", armed, late(302), 3, data, RowVerdict::Renew),
            ("the clock wraps", RowState { witness: u32::MAX - 9, ..armed }, late(40), 3, empty, RowVerdict::Carry),
            (
                "the clock wraps, over",
                RowState { witness: u32::MAX - 9, ..armed },
                late(91),
                3,
                empty,
                RowVerdict::Renew,
            ),
        ];
        for (what, row, time, iif, header, expected) in rows {
            assert_eq!(judge_row(&row, time, iif, header), expected, "{what}");
        }
    }
}
