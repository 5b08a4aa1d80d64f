//! How the path of a packet ends: what stages return, and hooks carry out.

use core::{
    hint::{black_box, cold_path},
    ops::ControlFlow,
};

use dataplane_common::Reason;

use crate::maps::Adjacent;

/// How a packet ends.
#[must_use]
pub enum Outcome {
    /// Judged: dropped, or up the stack.
    Stop(Reason),
    /// To a next hop.
    Transmit(Egress),
    /// As it is, to the member of a bridge with this index.
    Switch(u64),
    /// Handed over to tc, with this state ([`dataplane_common::abi::Handoff`]).
    Defer(u64),
}

/// The way to a next hop. A number comes first: what is in the place of a reason LLVM may cut into pieces, which a pointer does
/// not survive.
#[repr(C)]
pub struct Egress {
    /// Its index.
    pub index: u64,
    /// What to write, and where to send.
    pub adjacency: Adjacent,
    /// 4 or 6.
    pub family: u64,
    /// How many VLAN tags it came with, or [`Self::BARE`].
    pub tags: u64,
}

impl Egress {
    /// In the place of a number of tags: it came without a link header.
    pub const BARE: u64 = 1 << 8;
}

/// What a stage returns: its product, or where the path ends.
pub type Step<T> = ControlFlow<Outcome, T>;

/// Ends the path. Rare and not foreseen, as [`Reason::found`].
#[inline(always)]
pub fn stop<T>(reason: Reason) -> Step<T> {
    cold_path();
    ControlFlow::Break(Outcome::Stop(black_box(reason)))
}
