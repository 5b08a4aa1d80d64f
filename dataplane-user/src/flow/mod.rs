//! Connections of the kernel that may be carried at the driver: which, and the rows that say how. Pure: no socket, no clock, no
//! map.

mod connection;

pub use connection::{Announcement, AnySeen, Change, ESTABLISHED, LIBERAL, Named, Protocol, Seen, Status, Tcp, Tuple};
