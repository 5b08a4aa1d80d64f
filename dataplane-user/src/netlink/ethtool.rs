//! Generic netlink family `ethtool`: offloads (`Documentation/networking/ethtool-netlink.rst`).

use std::collections::BTreeSet;

use dataplane_common::abi::Ifindex;

use super::{
    Error,
    attribute::{Attributes, put, text},
    device::{self, CONTROLLER, HEADER},
    socket::Requester,
};

const MSG_FEATURES_GET: u8 = 11;
const FEATURES_HEADER: u16 = 1;
const FEATURES_ACTIVE: u16 = 4;
const HEADER_DEV_INDEX: u16 = 1;
const BITSET_BITS: u16 = 3;
const BIT_NAME: u16 = 2;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// Names of the offloads that are on, as the kernel spells them: `rx-vlan-hw-parse` is what `ethtool -K` calls `rxvlan`,
/// `rx-lro` is `lro`. None where the kernel has no ethtool netlink (before 5.6).
///
/// # Errors
///
/// The socket, or the kernel refuses.
pub fn offloads(ifindex: Ifindex) -> Result<BTreeSet<String>, Error> {
    let mut requester = Requester::open(libc::NETLINK_GENERIC as isize)?;
    let family = requester.get("netlink families", CONTROLLER, &device::family_request("ethtool"), |message| {
        device::parse_family_id(message.payload)
    })?;
    let Some(family) = family else { return Ok(BTreeSet::new()) };
    let found = requester.get("offloads", family, &request(ifindex), |message| Some(parse(message.payload)))?;
    Ok(found.unwrap_or_default())
}

fn request(ifindex: Ifindex) -> Vec<u8> {
    let mut header = Vec::new();
    put(&mut header, HEADER_DEV_INDEX, &ifindex.to_ne_bytes());
    let mut body = vec![MSG_FEATURES_GET, 1, 0, 0];
    put(&mut body, FEATURES_HEADER | NESTED, &header);
    body
}

/// The names in the set of what is active: a list without a mask has only those that are on.
fn parse(payload: &[u8]) -> BTreeSet<String> {
    let active = Attributes::behind(payload, HEADER).filter(|(kind, _)| *kind == FEATURES_ACTIVE);
    let bits = active.flat_map(|(_, set)| Attributes::within(set)).filter(|(kind, _)| *kind == BITSET_BITS);
    let names = bits
        .flat_map(|(_, bits)| Attributes::within(bits))
        .filter_map(|(_, bit)| Attributes::within(bit).find(|(kind, _)| *kind == BIT_NAME));
    names.map(|(_, name)| text(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_is_active() {
        let bit = |name: &[u8]| {
            let mut bit = Vec::new();
            put(&mut bit, 1, &7_u32.to_ne_bytes());
            put(&mut bit, BIT_NAME, name);
            bit
        };
        let set = |names: &[&[u8]]| {
            let mut bits = Vec::new();
            for name in names {
                put(&mut bits, 1 | NESTED, &bit(name));
            }
            let mut set = Vec::new();
            put(&mut set, BITSET_BITS | NESTED, &bits);
            set
        };
        let mut message = vec![MSG_FEATURES_GET, 1, 0, 0];
        put(&mut message, 2 | NESTED, &set(&[b"rx-lro\0"]));
        put(&mut message, FEATURES_ACTIVE | NESTED, &set(&[b"rx-gro\0", b"rx-vlan-hw-parse\0"]));
        let expected: BTreeSet<_> = ["rx-gro", "rx-vlan-hw-parse"].map(str::to_owned).into();
        assert_eq!(parse(&message), expected);
    }
}
