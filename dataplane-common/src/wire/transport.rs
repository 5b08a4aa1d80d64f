//! The first bytes of TCP, UDP and ICMP: the fields that a rule can match.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Be16, Be32, Bytes};

/// Protocol numbers (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u64 = 0;
    /// ICMP.
    pub const ICMP: u64 = 1;
    /// TCP.
    pub const TCP: u64 = 6;
    /// UDP.
    pub const UDP: u64 = 17;
    /// DCCP.
    pub const DCCP: u64 = 33;
    /// IPv6 routing header.
    pub const ROUTING: u64 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u64 = 44;
    /// Encapsulating security payload: nothing behind it can be read.
    pub const ESP: u64 = 50;
    /// Authentication header.
    pub const AH: u64 = 51;
    /// `ICMPv6`.
    pub const ICMPV6: u64 = 58;
    /// IPv6: nothing follows.
    pub const NO_NEXT_HEADER: u64 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u64 = 60;
    /// SCTP.
    pub const SCTP: u64 = 132;
    /// IPv6 mobility header.
    pub const MOBILITY: u64 = 135;
    /// UDP-Lite.
    pub const UDP_LITE: u64 = 136;
}

/// TCP without options (RFC 9293).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tcp {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Sequence number.
    pub sequence: Be32,
    /// Acknowledgement number.
    pub acknowledgement: Be32,
    /// Data offset in units of four bytes (4 bits), reserved (4 bits).
    pub offset: u8,
    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN.
    pub flags: u8,
    /// Receive window.
    pub window: Be16,
    /// Over header, payload and pseudo header.
    pub checksum: Be16,
    /// Urgent pointer.
    pub urgent: Be16,
}

impl Tcp {
    /// Header length in bytes, options included.
    #[inline(always)]
    pub const fn header_length(&self) -> usize {
        (self.offset as usize >> 4) * 4
    }
}

/// UDP (RFC 768); UDP-Lite has the same shape.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Udp {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Header and payload, in bytes (UDP-Lite: checksum coverage).
    pub length: Be16,
    /// Over header, payload and pseudo header; zero in IPv4 means none.
    pub checksum: Be16,
}

/// ICMP and `ICMPv6` (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Over header and payload.
    pub checksum: Be16,
}

/// What is there of a transport header that is not sound, in one word: what a function can return that the verifier looks at by
/// itself. What is not there is zero.
///
/// From the top: ports, 16 bits each; flags, 8 bits; whether there are flags; whether there are ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Beginning(u64);

impl Beginning {
    const NOTHING: Self = Self(0);
    const PORTS: u64 = 1;
    const FLAGS: u64 = 1 << 8;

    /// As a number.
    #[inline(always)]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// From that number.
    #[inline(always)]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Whether there are ports.
    #[inline(always)]
    pub const fn has_ports(self) -> bool {
        self.0 & Self::PORTS != 0
    }

    /// Whether there is the byte where TCP has its flags.
    #[inline(always)]
    pub const fn has_flags(self) -> bool {
        self.0 & Self::FLAGS != 0
    }

    /// Source and destination port.
    #[inline(always)]
    pub const fn ports(self) -> [u64; 2] {
        [self.0 >> 48, self.0 >> 32 & 0xffff]
    }

    /// The byte where TCP has its flags.
    #[inline(always)]
    pub const fn flags(self) -> u64 {
        self.0 >> 16 & 0xff
    }
}

/// Reads as nft does (`nft_payload_eval`): ports where there are four bytes, flags where there are fourteen. `left` bytes are
/// the packet's from `at` on.
#[inline(always)]
pub fn beginning<B: Bytes + ?Sized>(packet: &B, at: usize, left: usize) -> Beginning {
    const END: usize = offset_of!(Tcp, flags) + 1;
    let at = at & 0x7fff;
    let Some([source, destination]) = packet.header::<[Be16; 2]>(at).filter(|_| left >= 4) else {
        return Beginning::NOTHING;
    };
    let ports = u64::from(source.get()) << 48 | u64::from(destination.get()) << 32 | Beginning::PORTS;
    match packet.header::<[u8; END]>(at) {
        Some(header) if left >= END => Beginning(ports | u64::from(header[END - 1]) << 16 | Beginning::FLAGS),
        _ => Beginning(ports),
    }
}
