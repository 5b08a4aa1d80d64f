//! What the kernel and the operator said.

pub mod port;
