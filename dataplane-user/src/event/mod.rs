//! Single packets that rules tell of: what is logged of them, and what their senders are answered.
//!
//! All of this is pure: bytes in, text or bytes out. What comes here was sent by strangers, and may lie about its lengths.

mod line;
mod packet;
mod rate;
mod reject_reply;

pub use line::{Interfaces, line};
pub use packet::{Network, Packet};
pub use rate::Bucket;
pub use reject_reply::{RejectReply, answer};

#[cfg(test)]
mod tests;
