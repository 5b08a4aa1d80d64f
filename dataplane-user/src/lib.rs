//! The controller and the command line of `dataplane`.
//!
//! One ring: event, model, lower, diff, apply. The command line talks to the daemon over its socket and never opens a map.

#[cfg(test)]
mod cases;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod diff;
pub mod doctor;
pub mod event;
pub mod fib;
pub mod filter;
pub mod flow;
pub mod frame;
mod heap;
pub mod import;
pub mod kernel;
pub mod lower;
pub mod metrics;
pub mod model;
pub mod netlink;
pub(crate) mod parallel;
pub mod release;
pub mod retired;
pub mod rule;
pub mod sflow;
pub mod steer;
