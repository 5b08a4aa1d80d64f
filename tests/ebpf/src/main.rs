//! Generator, floors and sink: the programs that stand around a device under test.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod program;
#[cfg(target_arch = "bpf")]
mod route;

/// The host has no use for this binary; it exists there so that the whole workspace can be checked at once.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
