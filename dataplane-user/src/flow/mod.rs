//! Connections of the kernel that may be carried at the driver: which, and the rows that say how. Pure: no socket, no clock, no
//! map.

mod connection;
mod epoch;
mod filter;
mod flows;
mod not_fast;
mod room;
#[cfg(test)]
mod room_tests;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod view;
mod watched;

pub use connection::{Announcement, AnySeen, Change, ESTABLISHED, LIBERAL, Named, Protocol, Seen, Status, Tcp, Tuple};
pub use epoch::Epochs;
pub use filter::{Filter, WORDS};
pub use flows::{FlowStats, Flows, Settings};
pub use not_fast::NotFast;
pub use state::{Connections, Counts, Key, Known, Origin, Place, SILENT, Work, YOUNG, Zoned};
pub use table::{FlowFamily, NoRoom, Table};
pub use view::{Ends, View, Way};
pub use watched::{SetKey, WatchedSets};
