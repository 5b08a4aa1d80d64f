//! Generic netlink family `netdev`: what drivers offer to XDP (`Documentation/netlink/specs/netdev.yaml`), and `nlctrl`,
//! which knows the number of a family.

use std::{collections::BTreeMap, fs};

use dataplane_common::abi::Ifindex;

use super::attribute::{Attributes, put, text, u8_at, u16_at, u32_at, u64_at};
use crate::model::{Event, Link, XdpFeatures, XdpMode};

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

/// Requests a family from `nlctrl`.
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

/// Requests all devices.
pub(super) fn dump_request() -> Vec<u8> {
    vec![CMD_DEV_GET, 1, 0, 0]
}

/// The change in a message of the family.
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

/// Drivers with `ndo_xdp_xmit` in Linux 6.1. Each of them sets its rings up for it when a program is attached.
const TRANSMITTERS: &[&str] = &[
    "bnxt_en",
    "ena",
    "fsl_dpaa2_eth",
    "fsl_enetc",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "qede",
    "sfc",
    "virtio_net",
];

/// The assumed features of a link where the kernel does not report them (before 6.3); rather too few than too many: frames that
/// XDP sends to a device that does not take them are lost.
///
/// - Hardware of a driver that we know: native XDP; it transmits only while a program is attached.
/// - A veth: native XDP; it transmits only if its peer is in this namespace and has a program (`veth_xdp_xmit`). A peer that
///   polls for GRO would do as well, but that cannot be seen.
pub(super) fn supposed(link: &Link, links: &BTreeMap<Ifindex, Link>) -> XdpFeatures {
    let native = |link: &Link| link.xdp.iter().any(|xdp| xdp.mode == XdpMode::Native);
    let (able, transmits) = match link.kind.as_deref() {
        None => (driver(link).is_some_and(|driver| TRANSMITTERS.contains(&driver.as_str())), native(link)),
        Some("veth") => {
            let peer = link.parent.filter(|_| link.parent_netns.is_none()).and_then(|peer| links.get(&peer));
            (true, peer.is_some_and(native))
        }
        Some(_) => (false, false),
    };
    let mut features = XdpFeatures::empty();
    features.set(XdpFeatures::BASIC | XdpFeatures::REDIRECT, able);
    features.set(XdpFeatures::NDO_XMIT, able && transmits);
    features
}

/// The driver of the device on a bus that a link belongs to; the names of both are the machine's, not the namespace's.
fn driver(link: &Link) -> Option<String> {
    let (bus, device) = link.device.as_ref()?;
    let driver = fs::read_link(format!("/sys/bus/{bus}/devices/{device}/driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

fn ifindex(payload: &[u8]) -> Option<Ifindex> {
    Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == DEV_IFINDEX).and_then(|(_, value)| u32_at(value, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AttachedXdp;

    #[test]
    fn missing_xdp_features_are_assumed_off() {
        let attached = |mode| vec![AttachedXdp { program: 1, mode }];
        let veth = |ifindex, parent, parent_netns, xdp| Link {
            ifindex,
            kind: Some("veth".to_owned()),
            parent: Some(parent),
            parent_netns,
            xdp,
            ..Link::default()
        };
        let links: BTreeMap<_, _> = [
            veth(1, 2, None, vec![]),
            veth(2, 1, None, attached(XdpMode::Native)),
            veth(3, 2, Some(0), attached(XdpMode::Native)),
            veth(4, 5, None, attached(XdpMode::Native)),
            veth(5, 4, None, attached(XdpMode::Generic)),
            Link { ifindex: 6, kind: Some("bridge".to_owned()), xdp: attached(XdpMode::Native), ..Link::default() },
            Link { ifindex: 7, xdp: attached(XdpMode::Native), ..Link::default() },
        ]
        .into_iter()
        .map(|link| (link.ifindex, link))
        .collect();
        let basic = XdpFeatures::BASIC | XdpFeatures::REDIRECT;
        let rows = [
            (1, basic | XdpFeatures::NDO_XMIT, "the peer has a program"),
            (2, basic, "the peer has none"),
            (3, basic, "the peer is elsewhere; index 2 here is another"),
            (4, basic, "generic does not count"),
            (6, XdpFeatures::empty(), "no native XDP"),
            (7, XdpFeatures::empty(), "a driver that is not known"),
        ];
        for (ifindex, expected, why) in rows {
            assert_eq!(supposed(&links[&ifindex], &links), expected, "{ifindex}: {why}");
        }
    }
}
