//! `RTM_GETSTATS` (rtnetlink(7), `rtnl_stats_dump` in `net/core/rtnetlink.c`): what the kernel counts at links.

use std::collections::BTreeMap;

use dataplane_common::abi::Ifindex;

use super::{
    Error,
    attribute::{Attributes, u32_at},
    socket::Requester,
};

/// `struct if_stats_msg`.
const HEADER: usize = 12;
/// `RTM_GETSTATS` of `include/uapi/linux/rtnetlink.h`.
const RTM_GETSTATS: u16 = 94;
/// `IFLA_STATS_LINK_64`: a `struct rtnl_link_stats64`, as in `IFLA_STATS64` of a link.
const IFLA_STATS_LINK_64: u16 = 1;
/// `IFLA_STATS_FILTER_BIT(IFLA_STATS_LINK_64)`.
const FILTER: u32 = 1;

/// What the kernel and the driver of a link counted since it was made: frames, as `ip -s link` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Received, but broken.
    pub rx_errors: u64,
    /// Received, but given up for want of room, here or in the device (`rx_missed_errors`), as `/proc/net/dev` has it.
    pub rx_dropped: u64,
    /// Multicast among the received, where the device counts it.
    pub rx_multicast: u64,
    /// Transmitted.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Not transmitted: the device failed.
    pub tx_errors: u64,
    /// Not transmitted: no room.
    pub tx_dropped: u64,
}

/// The counters of all links of this network namespace.
///
/// # Errors
/// The socket, or a dump that never settles.
pub fn link_counters() -> Result<BTreeMap<Ifindex, LinkCounters>, Error> {
    let mut request = [0; HEADER];
    request[8..].copy_from_slice(&FILTER.to_ne_bytes());
    let mut requester = Requester::open(libc::NETLINK_ROUTE as isize)?;
    let rows = requester.dump("counters of links", RTM_GETSTATS, &request, |message| parse(message.payload))?;
    Ok(rows.into_iter().collect())
}

fn parse(payload: &[u8]) -> Option<(Ifindex, LinkCounters)> {
    let (_, stats) = Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == IFLA_STATS_LINK_64)?;
    let at = |index: usize| {
        let bytes = stats.get(index * 8..index * 8 + 8)?;
        bytes.try_into().ok().map(u64::from_ne_bytes)
    };
    let counters = LinkCounters {
        rx_packets: at(0)?,
        tx_packets: at(1)?,
        rx_bytes: at(2)?,
        tx_bytes: at(3)?,
        rx_errors: at(4)?,
        tx_errors: at(5)?,
        rx_dropped: at(6)?.saturating_add(at(15)?),
        tx_dropped: at(7)?,
        rx_multicast: at(8)?,
    };
    Some((u32_at(payload, 4)?, counters))
}

#[cfg(test)]
mod tests {
    use super::super::attribute::put;
    use super::*;

    #[test]
    fn counters_stand_in_the_order_of_the_kernel() {
        let mut message = vec![0; HEADER];
        message[4] = 7;
        let stats: Vec<u8> = (1..=25_u64).flat_map(u64::to_ne_bytes).collect();
        put(&mut message, IFLA_STATS_LINK_64, &stats);
        let want = LinkCounters {
            rx_packets: 1,
            tx_packets: 2,
            rx_bytes: 3,
            tx_bytes: 4,
            rx_errors: 5,
            tx_errors: 6,
            rx_dropped: 7 + 16,
            tx_dropped: 8,
            rx_multicast: 9,
        };
        assert_eq!(parse(&message), Some((7, want)));
        assert_eq!(parse(&message[..HEADER]), None);
        assert_eq!(parse(&message[..HEADER + 40]), None, "cut short");
    }
}
