//! Access to a packet: what the pipeline needs of a hook, whether that has a frame in a driver's ring or an skb.

use core::ffi::c_void;

use dataplane_common::{
    abi::{Handoff, Ifindex, KernelLookup},
    decide::{L3Protocol, Vlan},
    wire::Bytes,
};

/// Which of the tiers a program is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// At the driver. It may hand to tc what it cannot decide.
    Xdp,
    /// On the skb. It leaves to the kernel what it cannot decide.
    Tc,
}

/// Which chains have judged, and counted, a packet: a number, so that the verifier need not follow a path for each.
#[derive(Clone, Copy)]
pub struct ChainsDone(u64);

impl ChainsDone {
    /// None.
    pub const NONE: Self = Self(0);

    /// Those that a [`Handoff::state`] says.
    #[inline(always)]
    pub const fn from_state(state: u32) -> Self {
        Self(state as u64)
    }

    /// Prerouting, at least.
    #[inline(always)]
    pub const fn prerouting(self) -> bool {
        self.0 >= Handoff::PREROUTED as u64
    }

    /// All of its chains.
    #[inline(always)]
    pub const fn all(self) -> bool {
        self.0 >= Handoff::FILTERED as u64
    }
}

/// What is done with a packet in a global function of its tier (`hook/global.rs`). A number is returned where there is nothing to
/// say, too.
pub trait Global {
    /// [`dataplane_common::wire::walk`].
    fn walked(&self, payload: u32, protocol: u32, end: u32) -> u64;

    /// [`dataplane_common::wire::beginning`].
    fn begins(&self, at: u32, left: u32) -> u64;

    /// [`dataplane_common::wire::tags`].
    fn tagged(&self, first: u32, stripped: u32) -> u64;

    /// [`dataplane_common::decide::is_for_client`].
    fn client_of(&self, at: u32, ipv6: u32) -> u32;

    /// [`dataplane_common::decide::quoted_flow`].
    fn quoted_flow_of(&self, at: u32, ipv6: u32, flow: u32) -> u32;

    /// `switching::way`.
    fn way_in_bridge(&self, member: Ifindex, bridge: Ifindex, flags: u32) -> u64;

    /// `tables::proxied`.
    fn proxied(&self, ifindex: Ifindex, places: u64, route: u32) -> u32;

    /// Looks up the packet in `maps::kernel_lookup` in the kernel; the result is written there.
    fn kernel_lookup(&self) -> u32;

    /// `flow_lookup::look_up`.
    fn flow_of(&self, at: u32, left: u32, query: u64) -> u32;

    /// `egress_permit::is_unknown_link`.
    fn is_unknown_link(&self) -> u32;

    /// Sends the packet to the controller, if rules of the chain that was just evaluated log or reject it.
    fn log_packet(&self, chain: u32) -> u32;

    /// Sends a record of the packet to the controller, if a subscriber wants it; the number of a reason, and the egress link or
    /// 0.
    fn trace(&self, reason: u32, oif: Ifindex) -> u32;
}

/// A packet at a hook: its bytes, and what the hook knows of it.
pub trait Hook: Bytes + Global {
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

    /// Whether the device may have said that a packet without link header is of this family.
    fn announces(&self, l3: L3Protocol) -> bool;

    /// Bytes in all buffers.
    fn total(&self) -> u64;

    /// Copies so many bytes from the beginning of the packet.
    fn load(&self, bytes: *mut c_void, count: u32) -> bool;

    /// Calls `bpf_fib_lookup`.
    fn fib_lookup(&self, query: &mut KernelLookup, flags: u32) -> i64;

    /// `flow_lookup::look_up`.
    #[inline(always)]
    fn look_up_flow(&self, at: usize, left: usize, query: u64) {
        self.flow_of(at as u32, left as u32, query);
    }

    /// Whether the kernel's rules would see a mark of the packet, of which `bpf_fib_lookup` knows nothing.
    fn is_marked(&self) -> bool;

    /// Whether the kernel says that the frame is for this machine. It knows at once when a link address changes.
    fn is_ours(&self) -> bool;

    /// Whether the kernel's `IPsec` had it in its hands (`secpath_exists`).
    fn is_unwrapped(&self) -> bool;

    /// [`dataplane_common::decide::is_for_client`].
    #[inline(always)]
    fn is_for_client(&self, at: usize, ipv6: bool) -> bool {
        self.client_of(at as u32, u32::from(ipv6)) != 0
    }

    /// [`dataplane_common::decide::quoted_flow`].
    #[inline(always)]
    fn quoted_flow(&self, at: usize, ipv6: bool, flow: u32) -> u32 {
        self.quoted_flow_of(at as u32, u32::from(ipv6), flow)
    }

    /// Which chains an earlier tier has led it through.
    fn chains_done(&self) -> ChainsDone;
}
