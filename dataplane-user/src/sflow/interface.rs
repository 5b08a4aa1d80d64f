//! The counters of an interface.

use super::word::Words;

/// `counter_format`: the counters of RFC 2233 (`if_counters`).
const GENERIC: u32 = 1;
/// `ifType` of Ethernet.
const ETHERNET: u32 = 6;
/// `ifDirection`: both directions at once.
const FULL_DUPLEX: u32 = 1;
/// A counter that is not known.
const UNKNOWN: u32 = u32::MAX;

/// What the kernel counts at an interface.
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
    /// Received.
    pub rx_bytes: u64,
    /// Received.
    pub rx_packets: u64,
    /// Multicast among them, where the device counts it.
    pub rx_multicast: u64,
    /// Given up.
    pub rx_dropped: u64,
    /// Broken.
    pub rx_errors: u64,
    /// Transmitted.
    pub tx_bytes: u64,
    /// Transmitted.
    pub tx_packets: u64,
    /// Given up.
    pub tx_dropped: u64,
    /// The device failed.
    pub tx_errors: u64,
}

impl InterfaceCounters {
    /// One record. Counters of packets wrap at 32 bits, as the specification has them.
    pub(super) fn write(&self, body: &mut Vec<u8>) {
        let mut record = Vec::new();
        record.words(&[self.ifindex, ETHERNET]);
        // The speed is not known.
        record.long(0);
        record.words(&[FULL_DUPLEX, u32::from(self.enabled) | u32::from(self.up) << 1]);
        record.long(self.rx_bytes);
        let unicast = self.rx_packets.saturating_sub(self.rx_multicast);
        let received = [unicast, self.rx_multicast, UNKNOWN.into(), self.rx_dropped, self.rx_errors, UNKNOWN.into()];
        record.words(&received.map(|count| count as u32));
        record.long(self.tx_bytes);
        let sent = [self.tx_packets, UNKNOWN.into(), UNKNOWN.into(), self.tx_dropped, self.tx_errors];
        record.words(&sent.map(|count| count as u32));
        // TruthValue: 1 is true, 2 is false.
        record.words(&[if self.promiscuous { 1 } else { 2 }]);
        body.words(&[1, GENERIC]);
        body.opaque(&record);
    }
}
