//! What needs a kernel.

pub mod bench;
pub mod fixture;
pub mod lab;
pub mod oracle;
