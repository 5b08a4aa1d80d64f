//! What the kernel half and the controller share: wire formats, the layout of every map, the closed list of reasons, and
//! the decisions that need no map, clock or socket.
//!
//! Everything here compiles both for BPF and for the host, so plain `cargo test`, proptest and fuzzers exercise the very
//! code that the kernel runs.

#![no_std]

pub mod abi;
pub mod decide;
pub mod reason;
pub mod steer;
pub mod traffic;
pub mod wire;

pub use reason::{Reason, Verdict};
