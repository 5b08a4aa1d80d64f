//! What needs no kernel: every row of the wire formats, the decisions and the map layout, by the code that the kernel runs.

mod address;
mod checksum;
mod extension;
mod fib;
mod group;
mod link;
mod network;
mod packet;
mod reason;
mod rule;
mod transport;
