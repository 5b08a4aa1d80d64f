//! Generic netlink family `netdev`: what drivers offer to XDP (`Documentation/netlink/specs/netdev.yaml`), and `nlctrl`,
//! which knows the number of a family.

use dataplane_common::abi::Ifindex;

use super::attribute::{Attributes, put, text, u8_at, u16_at, u32_at, u64_at};
use crate::model::{Event, XdpFeatures};

/// `struct genlmsghdr`.
pub(super) const HEADER: usize = 4;
/// `GENL_ID_CTRL`: the number of `nlctrl` itself.
pub(super) const CONTROLLER: u16 = 0x10;

const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

const CMD_DEV_GET: u8 = 1;
const CMD_DEV_ADD_NTF: u8 = 2;
const CMD_DEV_DEL_NTF: u8 = 3;
const CMD_DEV_CHANGE_NTF: u8 = 4;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;

/// Number and notification group of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GenericFamily {
    /// Type of its messages.
    pub(super) id: u16,
    /// Group `mgmt`.
    pub(super) group: u32,
}

/// Asks `nlctrl` for a family.
pub(super) fn family_request(name: &str) -> Vec<u8> {
    let mut body = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    put(&mut body, CTRL_ATTR_FAMILY_NAME, format!("{name}\0").as_bytes());
    body
}

/// The number in an answer to [`family_request`].
pub(super) fn parse_family_id(payload: &[u8]) -> Option<u16> {
    let id = Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID);
    u16_at(id?.1, 0)
}

/// The answer to [`family_request`].
pub(super) fn parse_family(payload: &[u8]) -> Option<GenericFamily> {
    let (mut id, mut group) = (None, None);
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            CTRL_ATTR_FAMILY_ID => id = u16_at(value, 0),
            CTRL_ATTR_MCAST_GROUPS => {
                group = Attributes::within(value).find_map(|(_, entry)| {
                    let find = |wanted| Attributes::within(entry).find(|(kind, _)| *kind == wanted);
                    let (_, name) = find(CTRL_ATTR_MCAST_GRP_NAME)?;
                    let (_, id) = find(CTRL_ATTR_MCAST_GRP_ID)?;
                    (text(name) == "mgmt").then(|| u32_at(id, 0)).flatten()
                });
            }
            _ => {}
        }
    }
    Some(GenericFamily { id: id?, group: group? })
}

/// Asks for all devices.
pub(super) fn dump_request() -> Vec<u8> {
    vec![CMD_DEV_GET, 1, 0, 0]
}

/// The change that a message of the family tells.
pub(super) fn parse(payload: &[u8]) -> Option<Event> {
    match u8_at(payload, 0)? {
        CMD_DEV_GET | CMD_DEV_ADD_NTF | CMD_DEV_CHANGE_NTF => {
            let (ifindex, features) = parse_features(payload)?;
            Some(Event::Features(ifindex, features))
        }
        CMD_DEV_DEL_NTF => Some(Event::FeaturesGone(ifindex(payload)?)),
        _ => None,
    }
}

/// Device and features of an answer to [`dump_request`].
pub(super) fn parse_features(payload: &[u8]) -> Option<(Ifindex, XdpFeatures)> {
    let features = Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == DEV_XDP_FEATURES)?;
    Some((ifindex(payload)?, XdpFeatures::from_bits_retain(u64_at(features.1, 0)?)))
}

fn ifindex(payload: &[u8]) -> Option<Ifindex> {
    Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == DEV_IFINDEX).and_then(|(_, value)| u32_at(value, 0))
}
