//! What needs a kernel.

pub mod lab;
