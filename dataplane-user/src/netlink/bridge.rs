//! Bridges: what they, their members and their forwarding tables say (`net/bridge/br_netlink.c`, `br_fdb.c`).

use dataplane_common::abi::Ifindex;

use super::{
    Error,
    attribute::{Attributes, mac, u8_at, u16_at, u32_at},
    dump::is_foreign,
    link, neighbour,
    socket::Requester,
};
use crate::model::{Bridge, BridgePort, FdbEntry};

/// `AF_BRIDGE`.
const FAMILY: u8 = 7;
const IFLA_PROTINFO: u16 = 12;
const IFLA_BR_AGEING_TIME: u16 = 4;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_NEIGH_SUPPRESS: u16 = 32;
const IFLA_BRPORT_ISOLATED: u16 = 33;
/// Since Linux 6.3.
const IFLA_BRPORT_NEIGH_VLAN_SUPPRESS: u16 = 43;
const IFLA_BRPORT_VLAN_TUNNEL: u16 = 29;
const IFLA_BRPORT_BACKUP_PORT: u16 = 34;
const IFLA_BRPORT_LOCKED: u16 = 39;
/// `BR_STATE_FORWARDING`.
const FORWARDING: u8 = 3;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_MASTER: u16 = 9;
/// `NTF_SELF`: of a device's own table.
const NTF_SELF: u8 = 0x02;
/// `NUD_PERMANENT`: this machine.
const PERMANENT: u16 = 0x80;

/// `IFLA_INFO_DATA` of a bridge.
pub(super) fn bridge(data: &[u8]) -> Bridge {
    let mut bridge = Bridge::default();
    for (kind, value) in Attributes::within(data) {
        match kind {
            IFLA_BR_VLAN_FILTERING => bridge.filters_vlans = value.first() != Some(&0),
            // In `USER_HZ`, which is 100.
            IFLA_BR_NF_CALL_IPTABLES => bridge.calls[0] = is_on(value),
            IFLA_BR_NF_CALL_IP6TABLES => bridge.calls[1] = is_on(value),
            IFLA_BR_AGEING_TIME => bridge.ageing = u32_at(value, 0).unwrap_or_default(),
            _ => {}
        }
    }
    bridge
}

/// `IFLA_INFO_SLAVE_DATA` or `IFLA_PROTINFO` of a member.
pub(super) fn port(data: &[u8]) -> BridgePort {
    let mut port = BridgePort::default();
    for (kind, value) in Attributes::within(data) {
        match kind {
            IFLA_BRPORT_STATE => port.forwarding = value.first() == Some(&FORWARDING),
            IFLA_BRPORT_VLAN_TUNNEL | IFLA_BRPORT_LOCKED => port.special |= value.first() != Some(&0),
            IFLA_BRPORT_MODE => port.hairpin = is_on(value),
            IFLA_BRPORT_ISOLATED => port.isolated = is_on(value),
            IFLA_BRPORT_NEIGH_SUPPRESS | IFLA_BRPORT_NEIGH_VLAN_SUPPRESS => port.suppresses |= is_on(value),
            IFLA_BRPORT_BACKUP_PORT => port.special = true,
            _ => {}
        }
    }
    port
}

fn is_on(value: &[u8]) -> bool {
    value.first() != Some(&0)
}

/// Whether netfilter's rules for IPv4 and IPv6 see packets in bridges (`br_netfilter`); none where there is no such thing.
/// What cannot be read is taken for on.
pub(super) fn calls() -> Option<[bool; 2]> {
    let read = |name| match std::fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{name}")) {
        Ok(text) => Some(text.trim() != "0"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(_) => Some(true),
    };
    let [v4, v6] = ["iptables", "ip6tables"].map(read);
    (v4.is_some() || v6.is_some()).then(|| [v4, v6].map(|call| call.unwrap_or(true)))
}

/// A bridge's view of a member (`RTM_NEWLINK`): the kernel announces a new state in no other way.
pub(super) fn news(payload: &[u8]) -> Option<(Ifindex, BridgePort)> {
    if u8_at(payload, 0)? != FAMILY {
        return None;
    }
    let (_, info) = Attributes::behind(payload, link::HEADER).find(|(kind, _)| *kind == IFLA_PROTINFO)?;
    Some((u32_at(payload, 4)?, port(info)))
}

/// An entry of a bridge's forwarding table, without a VLAN (`RTM_NEWNEIGH`, `RTM_DELNEIGH`).
pub(super) fn entry(payload: &[u8]) -> Option<FdbEntry> {
    if u8_at(payload, 0)? != FAMILY || u8_at(payload, 10)? & NTF_SELF != 0 {
        return None;
    }
    let (mut host, mut bridge) = (None, None);
    for (kind, value) in Attributes::behind(payload, neighbour::HEADER) {
        match kind {
            NDA_LLADDR => host = mac(value),
            NDA_MASTER => bridge = u32_at(value, 0),
            NDA_VLAN => return None,
            _ => {}
        }
    }
    let (bridge, device) = (bridge?, u32_at(payload, 4)?);
    let ours = u16_at(payload, 8)? & PERMANENT != 0 || device == bridge;
    Some(FdbEntry { bridge, mac: host?, member: Some(device).filter(|_| !ours) })
}

/// All entries of all bridges.
pub(super) fn entries(requester: &mut Requester) -> Result<Vec<FdbEntry>, Error> {
    let mut request = vec![0; neighbour::HEADER];
    request[0] = FAMILY;
    match requester.dump("hosts behind bridges", libc::RTM_GETNEIGH, &request, |message| entry(message.payload)) {
        // A kernel without bridges.
        Err(error) if is_foreign(&error) => Ok(Vec::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::wire::Mac;

    use super::*;
    use crate::netlink::attribute::put;

    fn message(family: u8, device: u32, state: u16, flags: u8, vlan: bool) -> Vec<u8> {
        let mut message = vec![family, 0, 0, 0];
        message.extend_from_slice(&device.to_ne_bytes());
        message.extend_from_slice(&state.to_ne_bytes());
        message.extend_from_slice(&[flags, 0]);
        put(&mut message, NDA_LLADDR, &[2, 0, 0, 0, 0, 9]);
        put(&mut message, NDA_MASTER, &7_u32.to_ne_bytes());
        if vlan {
            put(&mut message, NDA_VLAN, &1_u16.to_ne_bytes());
        }
        message
    }

    #[test]
    fn entries_without_a_vlan_are_hosts_behind_members() {
        let host = |member| Some(FdbEntry { bridge: 7, mac: Mac([2, 0, 0, 0, 0, 9]), member });
        let rows = [
            ("learned", message(FAMILY, 3, 2, 0, false), host(Some(3))),
            ("static", message(FAMILY, 3, 0x40, 0, false), host(Some(3))),
            ("the member's own", message(FAMILY, 3, PERMANENT, 0, false), host(None)),
            ("the bridge's own", message(FAMILY, 7, 0x40, 0, false), host(None)),
            ("of a VLAN", message(FAMILY, 3, 2, 0, true), None),
            ("of a VXLAN device", message(FAMILY, 3, 2, NTF_SELF, false), None),
            ("a neighbour", message(2, 3, 2, 0, false), None),
            ("cut off", message(FAMILY, 3, 2, 0, false)[..20].to_vec(), None),
        ];
        for (what, message, expected) in rows {
            assert_eq!(entry(&message), expected, "{what}");
        }
    }

    #[test]
    fn members_say_whether_they_let_frames_through() {
        let of = |attributes: &[(u16, &[u8])]| {
            let mut info = Vec::new();
            for (kind, value) in attributes {
                put(&mut info, *kind, value);
            }
            let mut message = vec![FAMILY, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            put(&mut message, IFLA_PROTINFO | 0x8000, &info);
            news(&message).map(|(member, port)| (member, port.forwarding, port.special))
        };
        assert_eq!(of(&[(IFLA_BRPORT_STATE, &[3]), (IFLA_BRPORT_LOCKED, &[0])]), Some((5, true, false)));
        assert_eq!(of(&[(IFLA_BRPORT_STATE, &[4])]), Some((5, false, false)), "blocking");
        assert_eq!(of(&[(IFLA_BRPORT_STATE, &[3]), (IFLA_BRPORT_LOCKED, &[1])]), Some((5, true, true)));
        assert_eq!(of(&[(IFLA_BRPORT_BACKUP_PORT, &[9, 0, 0, 0])]), Some((5, false, true)));
        assert_eq!(news(&[0; 16]), None, "a message about the link itself");
    }

    #[test]
    fn a_bridge_says_whether_it_knows_vlans() {
        let of = |value: &[u8]| {
            let mut data = Vec::new();
            put(&mut data, IFLA_BR_VLAN_FILTERING, value);
            bridge(&data).filters_vlans
        };
        assert_eq!([of(&[0]), of(&[1]), bridge(&[]).filters_vlans], [false, true, false]);
        let mut data = Vec::new();
        put(&mut data, IFLA_BR_AGEING_TIME, &30_000_u32.to_ne_bytes());
        assert_eq!([bridge(&data).ageing, bridge(&[]).ageing], [30_000, 0]);
    }
}
