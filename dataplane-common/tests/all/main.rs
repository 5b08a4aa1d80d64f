//! Wire formats, decisions and map layout, row by row: the code that the kernel runs, without a kernel.

mod address;
mod checksum;
mod extension;
mod fib;
mod group;
mod limit;
mod link;
mod network;
mod packet;
mod reason;
mod transport;
