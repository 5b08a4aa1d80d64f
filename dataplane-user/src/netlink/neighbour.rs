//! `RTM_NEWNEIGH`, `RTM_DELNEIGH` (rtnetlink(7)).

use std::net::{IpAddr, Ipv6Addr};

use dataplane_common::abi::Ifindex;
use netlink_packet_core::NLM_F_ACK;

use super::{
    Error,
    attribute::{Attributes, ip, mac, put, u8_at, u16_at, u32_at, version},
    socket::Requester,
};
use crate::model::{Family as _, Neighbour, NeighbourState};

/// `struct ndmsg`.
pub(super) const HEADER: usize = 12;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// Requests the addresses for which the kernel is a proxy; it announces none of them.
pub(super) fn proxies_request() -> Vec<u8> {
    let mut request = vec![0; HEADER];
    (request[0], request[10]) = (u128::NUMBER, NTF_PROXY);
    request
}

/// One of them.
pub(super) fn proxy(payload: &[u8]) -> Option<(Ifindex, Ipv6Addr)> {
    let (_, address) = Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == NDA_DST)?;
    match ip(address)? {
        IpAddr::V6(address) if u8_at(payload, 10)? & NTF_PROXY != 0 => Some((u32_at(payload, 4)?, address)),
        _ => None,
    }
}

/// `NTF_PROXY`: we answer for another machine; not a neighbour.
const NTF_PROXY: u8 = 0x08;

const NDA_FLAGS_EXT: u16 = 15;
/// `NTF_EXT_LEARNED`: a control plane made it.
const NTF_EXT_LEARNED: u8 = 0x10;
/// `NTF_EXT_MANAGED`, in `NDA_FLAGS_EXT`: the kernel keeps it reachable by itself.
const NTF_EXT_MANAGED: u32 = 0x01;
/// `NTF_USE`: as if the kernel had a packet for it.
const NTF_USE: u8 = 0x01;

/// Marks neighbours as used in the kernel. The effect is that of a packet of its own: a stale entry is probed after
/// `delay_first_probe_time`, and becomes reachable or failed. No link address is written.
///
/// The kernel takes `permanent`, `extern_learn` and `managed` from an entry that is used in this way (seen with Linux 6.18):
/// only others may be.
pub struct Prober(Requester);

impl Prober {
    /// A socket in the caller's network namespace.
    pub fn open() -> Result<Self, Error> {
        Requester::open(libc::NETLINK_ROUTE as isize).map(Self)
    }

    /// Uses a neighbour; whether the kernel still has it. One that is not there is not made.
    pub fn probe(&mut self, ifindex: Ifindex, address: IpAddr) -> Result<bool, Error> {
        let asked = self.0.tell("neighbour", libc::RTM_NEWNEIGH, NLM_F_ACK, &use_of(ifindex, address));
        match asked {
            Err(Error::Refused { source, .. })
                if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) =>
            {
                Ok(false)
            }
            Err(Error::Refused { source, .. }) => Err(Error::Probe { address, source }),
            other => other.map(|()| true),
        }
    }
}

/// The request of `ip neighbour ... use`: `neigh_add` in `net/core/neighbour.c` of the kernel.
fn use_of(ifindex: Ifindex, address: IpAddr) -> Vec<u8> {
    let mut request = vec![0; HEADER];
    request[0] = if address.is_ipv4() { u32::NUMBER } else { u128::NUMBER };
    request[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    request[10] = NTF_USE;
    match address {
        IpAddr::V4(address) => put(&mut request, NDA_DST, &address.octets()),
        IpAddr::V6(address) => put(&mut request, NDA_DST, &address.octets()),
    }
    request
}

/// The neighbour of a message; `None` for a bridge's forwarding table and for proxies, which come as the same type.
pub(super) fn parse(payload: &[u8]) -> Option<Neighbour> {
    version(payload)?;
    if u8_at(payload, 10)? & NTF_PROXY != 0 {
        return None;
    }
    let (mut address, mut link_address) = (None, None);
    let mut tended = u8_at(payload, 10)? & NTF_EXT_LEARNED != 0;
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            NDA_DST => address = ip(value),
            NDA_LLADDR => link_address = mac(value),
            NDA_FLAGS_EXT => tended |= u32_at(value, 0)? & NTF_EXT_MANAGED != 0,
            _ => {}
        }
    }
    Some(Neighbour {
        ifindex: u32_at(payload, 4)?,
        address: address?,
        state: NeighbourState::from_bits_retain(u16_at(payload, 8)?),
        mac: link_address,
        tended,
    })
}
