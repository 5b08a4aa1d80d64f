//! What needs a kernel.

pub mod bench;
pub mod lab;
