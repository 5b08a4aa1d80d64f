//! What needs a kernel.

pub mod bench;
