//! The counters of an interface.

use super::word::Words;
use crate::netlink::LinkCounters;

/// `counter_format`: the counters of RFC 2233 (`if_counters`).
const GENERIC: u32 = 1;
/// `ifType` of Ethernet.
const ETHERNET: u32 = 6;
/// `ifDirection`: both directions at once.
const FULL_DUPLEX: u32 = 1;
/// A counter that is not known.
const UNKNOWN: u32 = u32::MAX;

/// An interface with its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Its index.
    pub ifindex: u32,
    /// It works.
    pub up: bool,
    /// The operator set it up.
    pub enabled: bool,
    /// It takes frames for others.
    pub promiscuous: bool,
    /// What the kernel counts there.
    pub counters: LinkCounters,
}

impl InterfaceCounters {
    /// One record. Counters of packets wrap at 32 bits, as the specification has them.
    pub(super) fn write(&self, body: &mut Vec<u8>) {
        let (mut record, counters) = (Vec::new(), &self.counters);
        record.words(&[self.ifindex, ETHERNET]);
        // The speed is not known.
        record.long(0);
        record.words(&[FULL_DUPLEX, u32::from(self.enabled) | u32::from(self.up) << 1]);
        record.long(counters.rx_bytes);
        let unicast = counters.rx_packets.saturating_sub(counters.rx_multicast);
        let received =
            [unicast, counters.rx_multicast, UNKNOWN.into(), counters.rx_dropped, counters.rx_errors, UNKNOWN.into()];
        record.words(&received.map(|count| count as u32));
        record.long(counters.tx_bytes);
        let sent = [counters.tx_packets, UNKNOWN.into(), UNKNOWN.into(), counters.tx_dropped, counters.tx_errors];
        record.words(&sent.map(|count| count as u32));
        // TruthValue: 1 is true, 2 is false.
        record.words(&[if self.promiscuous { 1 } else { 2 }]);
        body.words(&[1, GENERIC]);
        body.opaque(&record);
    }
}
