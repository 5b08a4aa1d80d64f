//! Steering in words and tables: entries as operators write them, and the tables of the program at the kernel's lookup of
//! sockets.

mod entry;
mod table;

pub use entry::{Entry, EntryError, Origin, SteerConfig, parse};
pub use table::{Indexed, SteerTables, TooManyPorts};

#[cfg(test)]
mod tests;
