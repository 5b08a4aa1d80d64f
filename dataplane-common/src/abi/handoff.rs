//! What XDP hands to tc with a packet, in the metadata in front of it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Ifindex;

/// Lies in the metadata area of what XDP passes on. Without it, tc judges the packet as if XDP had not been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Handoff {
    /// [`Handoff::magic`] of the port.
    pub magic: u32,
    /// How far it got: one of the constants below; 0 is nowhere. With [`Handoff::JUDGED`], the upper half is a
    /// [`super::EgressPermit`].
    pub state: u32,
}

impl Handoff {
    /// Bits of [`Handoff::state`] that say how far it got.
    pub const STATE: u32 = 0xffff;
    /// Distinguishes our metadata from that of other programs.
    const MAGIC: u32 = 0x6470_6c6e;
    /// Judged and counted: up to the kernel.
    pub const JUDGED: u32 = 1;
    /// Met chain prerouting, which counted it; not yet counted at the port.
    pub const PREROUTED: u32 = 2;
    /// Met all of its chains, which counted it, and is for tc to send; not yet counted at the port.
    pub const FILTERED: u32 = 3;
    /// Dropped and counted, but raw sockets receive it: up to the kernel as a packet of another host, so that IP drops it.
    pub const HIDDEN: u32 = 4;

    /// The magic number at a port. Metadata stays with an skb that is sent on, into other ports too.
    #[must_use]
    pub const fn magic(ifindex: Ifindex) -> u32 {
        Self::MAGIC ^ ifindex
    }
}
