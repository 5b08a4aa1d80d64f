//! Decisions that need nothing but the packet: what `ip_rcv`, `ip6_rcv` and the route input code look at.

mod address;
mod key;
mod link;
mod network;
mod transport;

pub use address::{Placing, Scope};
pub use key::key;
pub use link::{frame, Frame};
pub use network::{Datagram, Family, V4, V6};
pub use transport::{is_partial, segment_length, transport, PseudoHeader, Transport};
