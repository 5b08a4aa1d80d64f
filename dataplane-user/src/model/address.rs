//! Addresses of this machine.

use std::net::IpAddr;

use dataplane_common::abi::Ifindex;

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// On which interface.
    pub ifindex: Ifindex,
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub length: u8,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
}
