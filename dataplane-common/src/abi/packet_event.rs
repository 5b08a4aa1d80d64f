//! Single packets that the kernel half sends to the controller: those that a rule logs, and those that it rejects.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a frame that an event has room for: an `ICMPv6` error may quote up to the 1280 bytes that it must not exceed
/// (RFC 4443, section 3.3), link header and tags not counted.
pub const PACKET_EVENT_BYTES: usize = 1304;
/// Bytes of the ring that events go through.
pub const PACKET_EVENT_RING: usize = 1 << 18;

/// Why a packet is sent; several bits may be set.
pub mod event_kind {
    /// A rule logs it.
    pub const LOG: u16 = 1;
    /// A rule rejects it: its sender gets an error.
    pub const REJECT: u16 = 2;
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PacketEvent {
    /// The rule's counter.
    pub counter: u32,
    /// Number of the chain.
    pub chain: u16,
    /// [`event_kind`].
    pub kind: u16,
    /// The way in; 0 from this machine.
    pub iif: u32,
    /// The way out, where it is known.
    pub oif: u32,
    /// Bytes of the whole frame.
    pub length: u32,
    /// Bytes of it that are here, from the beginning.
    pub captured: u32,
    /// Where its IP header begins.
    pub offset: u32,
    /// Zero.
    pub reserved: u32,
    /// The frame; what is behind [`PacketEvent::captured`] is of no meaning.
    pub bytes: [u8; PACKET_EVENT_BYTES],
}
