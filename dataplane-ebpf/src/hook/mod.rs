//! Where the pipeline runs: at the driver on a frame, or at tc on an skb.

pub mod egress;
mod gather;
mod global;
mod hide;
pub mod self_test;
pub mod tc;
pub mod xdp;
