//! `RTM_NEWLINK`, `RTM_DELLINK` (rtnetlink(7)).

use std::fs;

use dataplane_common::abi::{Ifindex, Tag};

use super::attribute::{Attributes, mac, put, text, u8_at, u16_at, u32_at};
use super::{bridge, layer3};
use crate::model::{AttachedXdp, Link, Macvlan, Vlan, XdpMode};

/// `struct ifinfomsg`.
pub(super) const HEADER: usize = 16;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_QDISC: u16 = 6;
const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_EGRESS_QOS: u16 = 3;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const ETH_P_8021AD: [u8; 2] = [0x88, 0xa8];
/// Kinds that take all that their link receives, or what they find by IP.
const TAKERS: [&str; 4] = ["ipvlan", "ipvtap", "macsec", "rmnet"];
const IFLA_MACVLAN_MODE: u16 = 1;
/// `MACVLAN_MODE_BRIDGE`.
const BRIDGE_MODE: u32 = 4;
/// `MACVLAN_MODE_PASSTHRU` and `MACVLAN_MODE_SOURCE`; the other modes take what is for their own link addresses.
const TAKING_MODES: u32 = 8 | 16;
const IFLA_PHYS_SWITCH_ID: u16 = 36;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
/// Places in `IFLA_INET_CONF`: `IPV4_DEVCONF_*` of `include/uapi/linux/ip.h`, which begin at 1.
const ACCEPT_LOCAL: usize = 23 - 1;
const ROUTE_LOCALNET: usize = 26 - 1;
/// Places in `IFLA_INET6_CONF`: `DEVCONF_*` of `include/uapi/linux/ipv6.h`.
const MTU6: usize = 2;
const DISABLE_IPV6: usize = 26;
const IFLA_EXT_MASK: u16 = 29;
/// `RTEXT_FILTER_SKIP_STATS`.
const SKIP_STATS: u32 = 1 << 3;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;

const ARPHRD_ETHER: u16 = 1;
/// `IFF_UP | IFF_RUNNING | IFF_LOWER_UP`: up, operational, with a carrier.
pub(super) const IFF_USABLE: u32 = 0x1 | 0x40 | 0x1_0000;
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;

/// Requests all links, without their counters.
pub(super) fn request() -> Vec<u8> {
    let mut request = vec![0; HEADER];
    put(&mut request, IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
    request
}

/// The queueing discipline of the link of a message; empty where it is not known.
pub(super) fn discipline(payload: &[u8]) -> String {
    let found = Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == IFLA_QDISC);
    found.map(|(_, value)| text(value)).unwrap_or_default()
}

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
        layer3: layer3::of(u16_at(payload, 2)?, flags, payload),
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
            IFLA_PROMISCUITY => link.promiscuity = u32_at(value, 0).unwrap_or_default(),
            IFLA_MASTER => link.master = u32_at(value, 0).filter(|master| *master != 0),
            IFLA_LINKINFO => {
                let info = |wanted| Attributes::within(value).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
                link.kind = info(IFLA_INFO_KIND).map(text);
                let vlan = info(IFLA_INFO_DATA).filter(|_| link.kind.as_deref() == Some("vlan"));
                link.vlan = vlan.and_then(self::vlan);
                let macvlan = info(IFLA_INFO_DATA).filter(|_| link.kind.as_deref() == Some("macvlan"));
                link.macvlan = macvlan.and_then(self::macvlan);
                let bridge = info(IFLA_INFO_DATA).filter(|_| link.kind.as_deref() == Some("bridge"));
                link.bridge = bridge.map(bridge::bridge);
                let member = info(IFLA_INFO_SLAVE_KIND).is_some_and(|kind| text(kind) == "bridge");
                link.bridge_port = info(IFLA_INFO_SLAVE_DATA).filter(|_| member).map(bridge::port);
                link.takes = takes(link.kind.as_deref().unwrap_or_default(), info(IFLA_INFO_DATA).unwrap_or_default());
            }
            IFLA_PHYS_SWITCH_ID => link.offloads = true,
            IFLA_AF_SPEC => settings(&mut link, value),
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
    link.accept_local |= on_for_all("accept_local");
    link.route_localnet |= on_for_all("route_localnet");
    link.prioritises = !is_off("/proc/sys/net/ipv4/ip_forward_update_priority");
    Some(link)
}

/// The index in a message about the link itself.
pub(super) fn ifindex(payload: &[u8]) -> Option<Ifindex> {
    (i32::from(u8_at(payload, 0)?) == libc::AF_UNSPEC).then(|| u32_at(payload, 4)).flatten()
}

/// Whether a link of a kind takes the frames of what it is on.
fn takes(kind: &str, data: &[u8]) -> bool {
    TAKERS.contains(&kind) || (matches!(kind, "macvlan" | "macvtap") && macvlan(data) == Some(Macvlan::Taking))
}

/// The mode of a macvlan device (`macvlan_fill_info`, `drivers/net/macvlan.c`).
fn macvlan(data: &[u8]) -> Option<Macvlan> {
    let (_, mode) = Attributes::within(data).find(|(kind, _)| *kind == IFLA_MACVLAN_MODE)?;
    Some(match u32_at(mode, 0)? {
        mode if mode & TAKING_MODES != 0 => Macvlan::Taking,
        mode if mode & BRIDGE_MODE != 0 => Macvlan::Bridge,
        _ => Macvlan::Apart,
    })
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

/// The settings of each family for the link (`inet_fill_link_af`, `inet6_fill_link_af`). One that has no IPv6 has no part for
/// it.
fn settings(link: &mut Link, families: &[u8]) {
    let find = |family: i32, wanted| {
        let (_, value) = Attributes::within(families).find(|(kind, _)| i32::from(*kind) == family)?;
        Attributes::within(value).find(|(kind, _)| *kind == wanted).map(|(_, settings)| settings)
    };
    let at = |settings: Option<&[u8]>, place: usize| settings.and_then(|settings| u32_at(settings, 4 * place));
    let (v4, v6) = (find(libc::AF_INET, IFLA_INET_CONF), find(libc::AF_INET6, IFLA_INET6_CONF));
    link.accept_local = at(v4, ACCEPT_LOCAL).is_some_and(|on| on != 0);
    link.route_localnet = at(v4, ROUTE_LOCALNET).is_some_and(|on| on != 0);
    link.no_ipv6 = at(v6, DISABLE_IPV6).is_none_or(|on| on != 0);
    link.ipv6_mtu = at(v6, MTU6).unwrap_or_default();
}

/// A switch of `net.ipv4.conf` that the kernel takes from `all` or the interface. Netlink does not carry that of `all`.
fn on_for_all(switch: &str) -> bool {
    let path = format!("/proc/sys/net/ipv4/conf/all/{switch}");
    fs::read_to_string(path).is_ok_and(|text| text.trim().parse::<i32>().is_ok_and(|value| value != 0))
}

/// Whether a switch of the kernel is 0; one that is not there is on.
fn is_off(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "0")
}

#[cfg(test)]
mod tests {
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
    fn the_tag_of_a_vlan_device_is_read() {
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
    fn links_that_take_frames_are_recognised() {
        for (kind, mode, expected) in [
            ("macvlan", 8, true),
            ("macvtap", 8, true),
            ("macvlan", 16, true),
            ("macvlan", 4, false),
            ("macvlan", 1, false),
            ("ipvlan", 0, true),
            ("vlan", 8, false),
        ] {
            let of_macvlan = match mode {
                8 | 16 => Macvlan::Taking,
                4 => Macvlan::Bridge,
                _ => Macvlan::Apart,
            };
            let (mut data, mut info) = (Vec::new(), Vec::new());
            put(&mut data, IFLA_MACVLAN_MODE, &u32::to_ne_bytes(mode));
            put(&mut info, IFLA_INFO_KIND, kind.as_bytes());
            put(&mut info, IFLA_INFO_DATA, &data);
            let mut message = message(0, IFF_USABLE);
            put(&mut message, IFLA_LINKINFO, &info);
            put(&mut message, IFLA_PROMISCUITY, &2_u32.to_ne_bytes());
            let link = parse(&message).expect("a link");
            assert_eq!((link.takes, link.promiscuity), (expected, 2), "{kind} {mode}");
            assert_eq!(link.macvlan, Some(of_macvlan).filter(|_| kind == "macvlan"), "{kind} {mode}");
        }
    }

    #[test]
    fn the_ip_settings_of_a_link_are_read() {
        let of = |v4: Option<&[usize]>, v6: Option<(u32, &[usize])>| {
            let words = |on: &[usize], mtu: u32| -> Vec<u8> {
                let mut words = [0; 60];
                words[MTU6] = mtu;
                for place in on {
                    words[*place] = 1;
                }
                words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
            };
            let mut families = Vec::new();
            for (family, kind, words) in [
                (libc::AF_INET, IFLA_INET_CONF, v4.map(|on| words(on, 0))),
                (libc::AF_INET6, IFLA_INET6_CONF, v6.map(|(mtu, on)| words(on, mtu))),
            ] {
                let mut settings = Vec::new();
                if let Some(words) = words {
                    put(&mut settings, kind, &words);
                }
                if !settings.is_empty() {
                    put(&mut families, family.cast_unsigned() as u16, &settings);
                }
            }
            let mut message = message(0, IFF_USABLE);
            put(&mut message, IFLA_AF_SPEC, &families);
            let link = parse(&message).expect("a link");
            (link.accept_local, link.route_localnet, link.no_ipv6, link.narrow_ipv6())
        };
        let rows = [
            (of(None, None), (false, false, true, None), "no family"),
            (of(Some(&[]), Some((1500, &[]))), (false, false, false, None), "nothing special"),
            (of(Some(&[ACCEPT_LOCAL]), Some((1400, &[]))), (true, false, false, Some(1400)), "a small MTU"),
            (of(Some(&[ROUTE_LOCALNET]), Some((1500, &[DISABLE_IPV6]))), (false, true, true, None), "IPv6 off"),
        ];
        for (found, expected, what) in rows {
            assert_eq!(found, expected, "{what}");
        }
        let plain = parse(&message(0, IFF_USABLE)).expect("a link");
        assert!(!plain.no_ipv6, "a message that says nothing of families");
    }

    #[test]
    fn a_bridge_leaving_a_port_is_not_a_link_leaving() {
        assert_eq!(ifindex(&message(7, 0)), None);
        assert_eq!(parse(&message(7, 0)), None);
        assert_eq!(parse(&message(0, 0)[..10]), None);
    }
}
