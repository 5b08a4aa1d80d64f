//! What a bridge does with a frame between its members.

use crate::wire::{Be16, EtherType, Ethernet};

/// The longest frame that a device takes, in bytes: room for a tag is always there (`is_skb_forwardable`, `net/core/dev.c`).
pub const fn longest_frame(mtu: u32) -> u32 {
    mtu.saturating_add(size_of::<Ethernet>() as u32 + 4)
}

/// Whether a bridge, or a VLAN device on its member, may do more with a frame of this type than send it to where its destination
/// is: tags, ARP and RARP (`br_do_proxy_suppress_arp`), MRP and CFM (`br_process_frame_type`).
#[inline(always)]
pub const fn is_seen_by_bridge(ethertype: EtherType) -> bool {
    // As numbers: bytes would be compared byte by byte.
    const ARP: u16 = Be16::new(0x0806).raw();
    const RARP: u16 = Be16::new(0x8035).raw();
    const MRP: u16 = Be16::new(0x88e3).raw();
    const CFM: u16 = Be16::new(0x8902).raw();
    ethertype.is_tag() || matches!(ethertype.0.raw(), ARP | RARP | MRP | CFM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_more_than_a_payload_is_for_the_bridge() {
        for (kind, expected) in [
            (0x0800, false),
            (0x86dd, false),
            (0x0806, true),
            (0x8035, true),
            (0x8100, true),
            (0x88a8, true),
            (0x88e3, true),
            (0x8902, true),
            (0x88b5, false),
            // A length, as LLC has it.
            (100, false),
        ] {
            assert_eq!(is_seen_by_bridge(EtherType(Be16::new(kind))), expected, "{kind:#06x}");
        }
    }

    #[test]
    fn frames_may_be_a_tag_longer_than_the_device_says() {
        assert_eq!([longest_frame(1500), longest_frame(u32::MAX)], [1518, u32::MAX]);
    }
}
