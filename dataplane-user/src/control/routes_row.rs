//! Where the packets of a port go.

use serde::{Deserialize, Serialize};

/// Who says where the packets of a port go, by family: `mirror`, `kernel` (asked from the programs, for routing rules or a VRF)
/// or `stack` (the kernel gets the packets).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesRow {
    /// Of IPv4 packets.
    pub ipv4: String,
    /// Of IPv6 packets.
    pub ipv6: String,
}
