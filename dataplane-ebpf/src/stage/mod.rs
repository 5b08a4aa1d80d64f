//! The stages of the path. Each takes what earlier ones produced and returns its product, or where the path ends. No stage
//! calls another, and none writes a packet byte.

pub mod bridge;
pub mod filter;
pub mod flow;
pub mod forward;
pub mod kernel_lookup;
pub mod link;
pub mod network;
pub mod policy;
pub mod proxy;
pub mod route;
pub mod source;
pub mod transport;
pub mod vlan;
