//! `RTM_NEWLINK`, `RTM_DELLINK` (rtnetlink(7)).

use std::fs;

use dataplane_common::abi::{Ifindex, Tag};

use super::attribute::{Attributes, mac, text, u8_at, u16_at, u32_at};
use crate::model::{AttachedXdp, Link, Vlan, XdpMode};

/// `struct ifinfomsg`.
pub(super) const HEADER: usize = 16;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_EGRESS_QOS: u16 = 3;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const ETH_P_8021AD: [u8; 2] = [0x88, 0xa8];
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;

const ARPHRD_ETHER: u16 = 1;
/// `IFF_UP | IFF_RUNNING | IFF_LOWER_UP`: up, operational, with a carrier.
pub(super) const IFF_USABLE: u32 = 0x1 | 0x40 | 0x1_0000;
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;

/// The link of a message; `None` for a bridge's view of its ports, which comes as the same message type.
pub(super) fn parse(payload: &[u8]) -> Option<Link> {
    let ifindex = ifindex(payload)?;
    let flags = u32_at(payload, 8)?;
    let mut link = Link {
        ifindex,
        ethernet: u16_at(payload, 2)? == ARPHRD_ETHER,
        enabled: flags & IFF_UP != 0,
        up: flags & IFF_USABLE == IFF_USABLE,
        loopback: flags & IFF_LOOPBACK != 0,
        ..Link::default()
    };
    let (mut bus, mut device) = (None, None);
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            IFLA_ADDRESS => link.mac = mac(value),
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0).unwrap_or_default(),
            IFLA_LINK => link.parent = u32_at(value, 0).filter(|parent| *parent != 0),
            IFLA_LINK_NETNSID => link.parent_netns = u32_at(value, 0).map(u32::cast_signed),
            IFLA_MASTER => link.master = u32_at(value, 0).filter(|master| *master != 0),
            IFLA_LINKINFO => {
                let info = |wanted| Attributes::within(value).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
                link.kind = info(IFLA_INFO_KIND).map(text);
                let vlan = info(IFLA_INFO_DATA).filter(|_| link.kind.as_deref() == Some("vlan"));
                link.vlan = vlan.and_then(self::vlan);
            }
            IFLA_XDP => link.xdp = xdp(value),
            IFLA_PROP_LIST => {
                let names = Attributes::within(value).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
                link.altnames = names.map(|(_, name)| text(name)).collect();
            }
            IFLA_PARENT_DEV_NAME => device = Some(text(value)),
            IFLA_PARENT_DEV_BUS_NAME => bus = Some(text(value)),
            _ => {}
        }
    }
    link.device = bus.zip(device);
    link.accept_local = switched_on(&link.name, "accept_local");
    link.route_localnet = switched_on(&link.name, "route_localnet");
    Some(link)
}

/// The index in a message about the link itself.
pub(super) fn ifindex(payload: &[u8]) -> Option<Ifindex> {
    (i32::from(u8_at(payload, 0)?) == libc::AF_UNSPEC).then(|| u32_at(payload, 4)).flatten()
}

/// The tag of a VLAN device (`vlan_fill_info`, `net/8021q/vlan_netlink.c`).
fn vlan(data: &[u8]) -> Option<Vlan> {
    let find = |wanted| Attributes::within(data).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let service = find(IFLA_VLAN_PROTOCOL).is_some_and(|protocol| protocol == ETH_P_8021AD);
    Some(Vlan {
        tag: Tag::new(service, u16_at(find(IFLA_VLAN_ID)?, 0)?),
        prioritises: find(IFLA_VLAN_EGRESS_QOS).is_some_and(|map| !map.is_empty()),
    })
}

/// `IFLA_XDP`: a program id for each mode in use; older attributes name one mode and one id.
fn xdp(value: &[u8]) -> Vec<AttachedXdp> {
    let modes = [(5, XdpMode::Native), (6, XdpMode::Generic), (7, XdpMode::Offloaded)];
    Attributes::within(value)
        .filter_map(|(kind, value)| {
            let mode = modes.iter().find(|(number, _)| *number == kind)?.1;
            Some(AttachedXdp { program: u32_at(value, 0)?, mode })
        })
        .collect()
}

/// A switch of `net.ipv4.conf` that the kernel takes from `all` or the interface. Netlink does not carry these.
fn switched_on(name: &str, switch: &str) -> bool {
    ["all", name].iter().any(|scope| {
        let path = format!("/proc/sys/net/ipv4/conf/{scope}/{switch}");
        fs::read_to_string(path).is_ok_and(|text| text.trim().parse::<i32>().is_ok_and(|value| value != 0))
    })
}

#[cfg(test)]
mod tests {
    use super::super::attribute::put;
    use super::*;

    fn message(family: u8, flags: u32) -> Vec<u8> {
        let mut message = vec![family, 0, 1, 0];
        message.extend_from_slice(&7_u32.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        put(&mut message, IFLA_IFNAME, b"no-such-link\0");
        put(&mut message, IFLA_MTU, &1500_u32.to_ne_bytes());
        put(&mut message, IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]);
        let mut kind = Vec::new();
        put(&mut kind, IFLA_INFO_KIND, b"veth\0");
        put(&mut message, IFLA_LINKINFO, &kind);
        let mut xdp = Vec::new();
        put(&mut xdp, 2, &[1]);
        put(&mut xdp, 4, &9_u32.to_ne_bytes());
        put(&mut xdp, 5, &9_u32.to_ne_bytes());
        put(&mut message, IFLA_XDP, &xdp);
        put(&mut message, IFLA_PARENT_DEV_NAME, b"0000:00:03.0\0");
        put(&mut message, IFLA_PARENT_DEV_BUS_NAME, b"pci\0");
        message
    }

    #[test]
    fn a_link_is_up_only_with_a_carrier() {
        for (flags, up) in [(IFF_USABLE, true), (0x1, false), (0x1_0040, false), (0x1 | 0x1_0000, false)] {
            let link = parse(&message(0, flags)).expect("a link");
            assert_eq!(link.up, up, "flags {flags:#x}");
            assert_eq!((link.ifindex, link.name.as_str(), link.mtu), (7, "no-such-link", 1500));
            assert_eq!(link.kind.as_deref(), Some("veth"));
            assert_eq!(link.xdp, [AttachedXdp { program: 9, mode: XdpMode::Native }]);
            assert_eq!(link.device, Some(("pci".to_owned(), "0000:00:03.0".to_owned())));
            assert!(link.ethernet && !link.loopback);
        }
    }

    #[test]
    fn a_vlan_device_says_its_tag() {
        for (protocol, qos, expected) in [
            ([0x81, 0x00], false, Vlan { tag: Tag::new(false, 100), prioritises: false }),
            ([0x88, 0xa8], false, Vlan { tag: Tag::new(true, 100), prioritises: false }),
            ([0x81, 0x00], true, Vlan { tag: Tag::new(false, 100), prioritises: true }),
        ] {
            let mut data = Vec::new();
            put(&mut data, IFLA_VLAN_PROTOCOL, &protocol);
            put(&mut data, IFLA_VLAN_ID, &100_u16.to_ne_bytes());
            put(&mut data, 2, &[1, 0, 0, 0, 0, 0, 0, 0]);
            if qos {
                put(&mut data, IFLA_VLAN_EGRESS_QOS, &[12, 0, 1, 0, 0, 0, 0, 0, 5, 0, 0, 0]);
            }
            let mut info = Vec::new();
            put(&mut info, IFLA_INFO_KIND, b"vlan\0");
            put(&mut info, IFLA_INFO_DATA, &data);
            let mut message = message(0, IFF_USABLE);
            put(&mut message, IFLA_LINKINFO, &info);
            put(&mut message, IFLA_LINK, &3_u32.to_ne_bytes());
            let link = parse(&message).expect("a link");
            assert_eq!((link.vlan, link.parent), (Some(expected), Some(3)), "{protocol:x?}");
        }
    }

    #[test]
    fn a_bridge_leaving_a_port_is_not_a_link_leaving() {
        assert_eq!(ifindex(&message(7, 0)), None);
        assert_eq!(parse(&message(7, 0)), None);
        assert_eq!(parse(&message(0, 0)[..10]), None);
    }
}
