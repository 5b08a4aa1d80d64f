//! Single packets that rules tell of: what is logged of them, and what their senders are answered.
//!
//! All of this is pure: bytes in, text or bytes out. What comes here was sent by strangers, and may lie about its lengths.

mod answer;
mod line;
mod packet;
mod rate;

pub use answer::{Answer, answer};
pub use line::{Ways, line};
pub use packet::{Network, Packet};
pub use rate::Bucket;

#[cfg(test)]
mod tests;
