//! Packets that a rule drops and that raw sockets read all the same, as they do with netfilter.

#![expect(unsafe_code, reason = "helpers of the kernel that take the context")]

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_skb_change_type,
    programs::TcContext,
};

use crate::{features, rx_handler};

/// `PACKET_HOST`: for the device's own link address, as it is at this moment.
pub const HOST: u32 = 0;
/// `PACKET_BROADCAST` (`include/uapi/linux/if_packet.h`).
const BROADCAST: u32 = 1;
/// `PACKET_MULTICAST`.
const MULTICAST: u32 = 2;
/// `PACKET_OTHERHOST`.
const OTHER_HOST: u32 = 3;

/// Drops an skb for IP alone: as a packet of another host it goes to raw sockets, and `ip_rcv` and `ip6_rcv` take no notice of
/// it. It is dropped for all where the kernel could make it a packet for this host again: `vlan_do_receive` does so with one
/// for the link address of its device, `macvlan_handle_frame` too, and that also with copies of frames to groups. A bridge would
/// flood it.
#[inline(always)]
pub fn hide(context: &TcContext) -> i32 {
    // SAFETY: the context is the program's own.
    let kind = unsafe { (*context.skb.skb).pkt_type };
    // SAFETY: as above.
    let tagged = unsafe { (*context.skb.skb).vlan_present };
    let stays_hidden = matches!(kind, BROADCAST | MULTICAST) || kind == HOST && tagged == 0;
    let stays_hidden = stays_hidden && !features::VIRTUAL.on() && !rx_handler::takes(context.skb.skb);
    // SAFETY: a helper without pointers but the context's.
    let hidden = stays_hidden && unsafe { bpf_skb_change_type(context.skb.skb, OTHER_HOST) } == 0;
    if hidden { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}
