//! Devices that send and receive packets without a link header, and how each finds the far end.

use super::attribute::{Attributes, text};
use super::link::{HEADER, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO};
use crate::model::Layer3;

/// `ARPHRD_*` of `include/uapi/linux/if_arp.h` for which the kernel takes the link header off when a program redirects there
/// (`dev_is_mac_header_xmit`).
const BARE: [u16; 8] = [PPP, 519, 768, 769, 776, IPGRE, 823, NONE];
const PPP: u16 = 512;
const IPGRE: u16 = 778;
const NONE: u16 = 65534;
const IFF_NOARP: u32 = 0x80;

/// Attributes of tunnels, by kind: the remote address, and that it comes with each packet (`external`)
/// (`include/uapi/linux/if_tunnel.h`).
const TUNNELS: [(&str, u16, u16); 5] =
    [("ipip", 3, 19), ("sit", 3, 19), ("ip6tnl", 3, 19), ("gre", 7, 18), ("ip6gre", 7, 18)];

/// What the link of a message is. Without `NOARP` the kernel would look for a link address.
pub(super) fn of(link_type: u16, flags: u32, payload: &[u8]) -> Layer3 {
    if !BARE.contains(&link_type) || flags & IFF_NOARP == 0 {
        return Layer3::Unknown;
    }
    let find = |within: &[u8], wanted| {
        Attributes::within(within).find(|(kind, _)| *kind == wanted).map(|(_, value)| value.to_vec())
    };
    let info = Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == IFLA_LINKINFO);
    let info = info.map_or_else(Vec::new, |(_, value)| value.to_vec());
    let kind = find(&info, IFLA_INFO_KIND).map(|kind| text(&kind)).unwrap_or_default();
    let data = find(&info, IFLA_INFO_DATA).unwrap_or_default();
    match kind.as_str() {
        "tun" | "ppp" => Layer3::Plain,
        "wireguard" => Layer3::Answers,
        "ovpn" => Layer3::Routed,
        kind => match TUNNELS.iter().find(|(name, ..)| *name == kind) {
            None => Layer3::Unknown,
            Some((_, remote, external)) => {
                let remote = find(&data, *remote).is_some_and(|address| address.iter().any(|byte| *byte != 0));
                if !remote || find(&data, *external).is_some() {
                    Layer3::Routed
                } else if link_type == IPGRE {
                    Layer3::Outward
                } else {
                    Layer3::Answers
                }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::attribute::put;
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let far: &[u8] = &[192, 0, 2, 1];
        for (kind, link_type, flags, attributes, expected) in [
            ("tun", NONE, IFF_NOARP, &[][..], Layer3::Plain),
            ("tun", NONE, 0, &[], Layer3::Unknown),
            ("tun", 1, IFF_NOARP, &[], Layer3::Unknown),
            ("ppp", PPP, IFF_NOARP, &[], Layer3::Plain),
            ("wireguard", NONE, IFF_NOARP, &[], Layer3::Answers),
            ("ovpn", NONE, IFF_NOARP, &[], Layer3::Routed),
            ("xfrm", NONE, IFF_NOARP, &[], Layer3::Unknown),
            ("", NONE, IFF_NOARP, &[], Layer3::Unknown),
            ("ipip", 768, IFF_NOARP, &[(3, far)], Layer3::Answers),
            ("ipip", 768, IFF_NOARP, &[(3, &[0; 4])], Layer3::Routed),
            ("ipip", 768, IFF_NOARP, &[(3, far), (19, &[])], Layer3::Routed),
            ("sit", 776, IFF_NOARP, &[(3, far)], Layer3::Answers),
            ("ip6tnl", 769, IFF_NOARP, &[(3, &[1; 16])], Layer3::Answers),
            ("gre", IPGRE, IFF_NOARP, &[(7, far)], Layer3::Outward),
            ("gre", IPGRE, IFF_NOARP, &[(7, far), (18, &[])], Layer3::Routed),
            ("ip6gre", 823, IFF_NOARP, &[(7, &[1; 16])], Layer3::Answers),
        ] {
            let (mut data, mut info, mut message) = (Vec::new(), Vec::new(), vec![0; HEADER]);
            for (number, value) in attributes {
                put(&mut data, *number, value);
            }
            put(&mut info, IFLA_INFO_KIND, kind.as_bytes());
            put(&mut info, IFLA_INFO_DATA, &data);
            put(&mut message, IFLA_LINKINFO, &info);
            assert_eq!(of(link_type, flags, &message), expected, "{kind} {link_type} {attributes:?}");
        }
    }
}
