//! Benches: contestants side by side, in one run, on one CPU.

pub mod chain;
pub mod frame;
pub mod namespace;
pub mod program;
pub mod table;
#[cfg(test)]
mod arrival;
