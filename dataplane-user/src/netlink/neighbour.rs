//! `RTM_NEWNEIGH`, `RTM_DELNEIGH` (rtnetlink(7)).

use super::attribute::{Attributes, ip, mac, u8_at, u16_at, u32_at, version};
use crate::model::{Neighbour, NeighbourState};

/// `struct ndmsg`.
pub(super) const HEADER: usize = 12;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// `NTF_PROXY`: we answer for somebody else; not a neighbour.
const NTF_PROXY: u8 = 0x08;

/// The neighbour of a message; `None` for a bridge's forwarding table and for proxies, which come as the same type.
pub(super) fn parse(payload: &[u8]) -> Option<Neighbour> {
    version(payload)?;
    if u8_at(payload, 10)? & NTF_PROXY != 0 {
        return None;
    }
    let (mut address, mut link_address) = (None, None);
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            NDA_DST => address = ip(value),
            NDA_LLADDR => link_address = mac(value),
            _ => {}
        }
    }
    Some(Neighbour {
        ifindex: u32_at(payload, 4)?,
        address: address?,
        state: NeighbourState::from_bits_retain(u16_at(payload, 8)?),
        mac: link_address,
    })
}
