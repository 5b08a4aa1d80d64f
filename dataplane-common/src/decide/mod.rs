//! Decisions that need nothing but the packet: what `ip_rcv`, `ip6_rcv` and the route input code look at.
//!
//! What travels from stage to stage has fields of 32 bits and more: LLVM merges neighbouring bytes on the stack into loads
//! that cross word boundaries, which it may do in a packet but the verifier does not allow on the stack.

mod address;
mod key;
mod link;
mod network;
mod transport;

pub use address::{Placing, Scope};
pub use key::key;
pub use link::{frame, Audience, Carried, Frame};
pub use network::{Datagram, Family, V4, V6};
pub use transport::{is_partial, segment_length, transport, PseudoHeader, Transport};
