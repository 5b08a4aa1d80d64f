//! Decisions that need nothing but the packet: what `ip_rcv`, `ip6_rcv` and the route input code look at.
//!
//! What travels from stage to stage has fields of 64 bits: LLVM merges neighbouring smaller ones on the stack into loads
//! that cross word boundaries, which it may do in a packet but the verifier does not allow on the stack. Nor are there enums
//! with fields that only some variants have: LLVM may spill a field that was never written, which the verifier refuses.

mod address;
mod bridge;
mod client;
mod flow;
mod key;
mod link;
mod network;
mod transport;

pub use address::{AddressClass, Scope};
pub use bridge::{is_seen_by_bridge, longest_frame};
pub use client::{is_for_client, is_for_raw_sockets};
pub use flow::{FlowHeader, FlowTime, RowVerdict, flow_header, judge_row};
pub use key::{bare, ethernet, key};
pub use link::{Frame, L3Protocol, PacketType, Vlan, bare_frame, frame, queue_priority};
pub use network::{Datagram, Family, V4, V6, flow};
pub use transport::{
    PseudoHeader, Readable, Transport, is_partial, is_pending, quoted_flow, segment_length, transport,
};
