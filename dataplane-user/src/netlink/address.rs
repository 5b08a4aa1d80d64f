//! `RTM_NEWADDR`, `RTM_DELADDR` (rtnetlink(7)).

use super::attribute::{Attributes, ip, u8_at, u32_at, version};
use crate::model::Address;

/// `struct ifaddrmsg`.
pub(super) const HEADER: usize = 8;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// The address of a message. With `IFA_LOCAL`, `IFA_ADDRESS` is the peer's (or the same again).
pub(super) fn parse(payload: &[u8]) -> Option<Address> {
    version(payload)?;
    let (mut local, mut address) = (None, None);
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => address = ip(value),
            _ => {}
        }
    }
    Some(Address {
        ifindex: u32_at(payload, 4)?,
        address: local.or(address)?,
        length: u8_at(payload, 1)?,
        peer: address.filter(|peer| local.is_some_and(|local| local != *peer)),
    })
}
