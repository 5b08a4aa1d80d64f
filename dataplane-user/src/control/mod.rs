//! The control socket: a Unix stream socket with one JSON object a line in each direction.
//!
//! [`protocol`] and [`row`] are what is said, [`server`] is the daemon's end, [`client`] the command line's. All JSON of the
//! controller is in this folder. [`page`] cuts long answers, `guest` bounds what readers can have, and [`http`] is the other
//! way in, for metrics alone.

mod address;
mod care;
pub mod client;
mod connection;
mod failure;
pub mod flow;
mod guest;
pub mod http;
pub mod json;
pub mod open_socket;
pub mod page;
pub mod plain;
pub mod protocol;
pub mod rate;
mod request;
mod routes_row;
pub mod row;
pub mod server;
pub mod set_row;
mod socket;
pub mod status;
pub mod steer;
mod visitor;
