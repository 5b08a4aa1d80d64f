//! Where the pipeline runs: at the driver on a frame, or at tc on an skb.

pub mod tc;
pub mod xdp;

use dataplane_common::{abi::Ifindex, decide::Vlan, wire::Bytes};

/// Which of the tiers a program is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// At the driver. What it can not settle it may hand to tc.
    Xdp,
    /// On the skb. What it can not settle is the kernel's.
    Tc,
}

/// Which chains have judged, and counted, a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Met {
    /// None.
    Nothing,
    /// Prerouting.
    Prerouting,
    /// All of its chains.
    All,
}

/// A packet at a hook: its bytes, and what the hook knows of it.
pub trait Hook: Bytes {
    /// Which tier this is.
    const TIER: Tier;

    /// The interface it came in through (at tc egress: goes out through).
    fn ifindex(&self) -> Ifindex;

    /// Bytes of the frame; in a frame of several buffers those of the first.
    fn length(&self) -> usize;

    /// Whether there are more bytes than [`Self::length`] says.
    fn is_scattered(&self) -> bool;

    /// Payload bytes of each segment that hardware or the kernel will cut the packet into; 0 when it goes as it is.
    fn segment_size(&self) -> usize;

    /// A VLAN tag that is no longer in the bytes.
    fn stripped_vlan(&self) -> Vlan;

    /// Which chains an earlier tier has led it through.
    fn met(&self) -> Met;
}
