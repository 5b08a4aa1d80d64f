//! Benches: contestants side by side, in one run, on one CPU.

#[cfg(test)]
mod arrival;
pub mod bridge;
pub mod chain;
pub mod chart;
pub mod classbench;
pub mod connection;
pub mod contestant;
pub mod curve;
pub mod daemon;
pub mod filter;
pub mod forward;
pub mod frame;
pub mod load;
pub mod machine;
pub mod measure;
pub mod namespace;
pub mod program;
pub mod proxy;
pub mod report;
pub mod route;
pub mod rules;
pub mod shape;
pub mod table;
