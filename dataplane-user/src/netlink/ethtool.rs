//! Generic netlink family `ethtool`: offloads (`Documentation/networking/ethtool-netlink.rst`).

use std::collections::BTreeSet;

use dataplane_common::abi::Ifindex;
use netlink_packet_core::NLM_F_ACK;

use super::{
    Error,
    attribute::{Attributes, put, text},
    device::{self, CONTROLLER, HEADER},
    socket::Requester,
};

const MSG_FEATURES_GET: u8 = 11;
const FEATURES_HEADER: u16 = 1;
const MSG_FEATURES_SET: u8 = 12;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const HEADER_DEV_INDEX: u16 = 1;
const BITSET_BITS: u16 = 3;
const BITSET_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
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
    let Some(family) = family(&mut requester)? else { return Ok(BTreeSet::new()) };
    let found = requester.get("offloads", family, &request(ifindex), |message| Some(parse(message.payload)))?;
    Ok(found.unwrap_or_default())
}

/// Turns offloads on or off, by the kernel's names.
///
/// # Errors
///
/// The socket, or the kernel refuses: it has no ethtool netlink (before 5.6), or not these offloads.
pub fn set_offloads(ifindex: Ifindex, wanted: &[(&str, bool)]) -> Result<(), Error> {
    let mut requester = Requester::open(libc::NETLINK_GENERIC as isize)?;
    let family = family(&mut requester)?.unwrap_or_default();
    requester.tell("offloads", family, NLM_F_ACK, &change(ifindex, wanted))
}

fn family(requester: &mut Requester) -> Result<Option<u16>, Error> {
    requester.get("netlink families", CONTROLLER, &device::family_request("ethtool"), |message| {
        device::parse_family_id(message.payload)
    })
}

fn begin(message: u8, ifindex: Ifindex) -> Vec<u8> {
    let mut header = Vec::new();
    put(&mut header, HEADER_DEV_INDEX, &ifindex.to_ne_bytes());
    let mut body = vec![message, 1, 0, 0];
    put(&mut body, FEATURES_HEADER | NESTED, &header);
    body
}

fn request(ifindex: Ifindex) -> Vec<u8> {
    begin(MSG_FEATURES_GET, ifindex)
}

/// A set with a mask: it changes those that it names.
fn change(ifindex: Ifindex, wanted: &[(&str, bool)]) -> Vec<u8> {
    let mut bits = Vec::new();
    for (name, on) in wanted {
        let mut bit = Vec::new();
        put(&mut bit, BIT_NAME, &[name.as_bytes(), b"\0"].concat());
        if *on {
            put(&mut bit, BIT_VALUE, &[]);
        }
        put(&mut bits, BITSET_BIT | NESTED, &bit);
    }
    let mut set = Vec::new();
    put(&mut set, BITSET_BITS | NESTED, &bits);
    let mut body = begin(MSG_FEATURES_SET, ifindex);
    put(&mut body, FEATURES_WANTED | NESTED, &set);
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
