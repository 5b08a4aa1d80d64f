//! A port: an interface that we are attached to.

use core::mem::offset_of;

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Ifindex;
use crate::wire::Mac;

/// How many ports there can be at once; a power of two.
pub const PORTS: u32 = 1024;

/// Slot of the counters of all links that are no ports.
pub const ELSEWHERE: u32 = PORTS;

/// A port is found within this many slots after its home, or is not there.
pub const PORT_PROBES: u32 = 8;

/// The slot where the search for a port begins.
#[inline(always)]
pub const fn home_slot(ifindex: Ifindex) -> u32 {
    ifindex & (PORTS - 1)
}

/// One attached interface, or a VLAN device on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Port {
    /// Whose slot this is; 0: free.
    pub ifindex: Ifindex,
    /// [`PortFlags`].
    pub flags: u32,
    /// Our link address on it.
    pub mac: Mac,
    /// 0, 1 (strict) or 2 (loose): what the kernel has in force for this interface, `all` included.
    pub rp_filter: u8,
    /// Zero.
    pub reserved: u8,
    /// MTU of the device, in bytes, without the link header.
    pub mtu: u32,
    /// The interface for lookups in the kernel: the port's VRF, or the port itself. Of a member that switches, its bridge.
    pub domain: Ifindex,
    /// The least MTU that any route has, of IPv4 and of IPv6, in bytes; 0: none has one.
    pub route_mtu: [u32; 2],
}

bitflags! {
    /// What a port is and may do.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct PortFlags: u32 {
        /// `net.ipv4.conf.IFACE.forwarding`.
        const FORWARDING_V4 = 1 << 0;
        /// `net.ipv6.conf.all.forwarding` (what `ip6_forward` looks at).
        const FORWARDING_V6 = 1 << 1;
        /// The tc programs are attached: XDP may hand over what only tc can settle.
        const TC = 1 << 2;
        /// Its peer may be a local stack that leaves L4 checksums to be filled in (veth).
        const PARTIAL_CHECKSUMS = 1 << 3;
        /// No Ethernet header (tun, `WireGuard`, ppp): packets begin with IP.
        const NO_ETHERNET = 1 << 4;
        /// `net.ipv4.conf.IFACE.accept_local`.
        const ACCEPT_LOCAL = 1 << 5;
        /// `net.ipv4.conf.IFACE.route_localnet`.
        const ROUTE_LOCALNET = 1 << 6;
        /// Our program is the one at XDP, so whatever is redirected there is ours.
        const XDP = 1 << 7;
        /// The kernel looks up IPv4 routes: there are routing rules or a VRF.
        const KERNEL_LOOKUP_V4 = 1 << 8;
        /// The same for IPv6.
        const KERNEL_LOOKUP_V6 = 1 << 9;
        /// The lookup takes the table of the port's VRF, without routing rules.
        const IN_VRF = 1 << 10;
        /// XDP does not see what there is to know, and all its frames are for tc: VLAN devices are on it, and its peer may be a
        /// local stack that leaves tags beside its frames (veth); or XDP comes behind the kernel's `IPsec` (generic).
        const HIDDEN_TAGS = 1 << 11;
        /// An `rx_handler` of the kernel takes its untagged frames before IP sees them.
        const RX_HANDLER = 1 << 12;
        /// IPv4 packets from it that would be forwarded meet rules of netfilter: they are left to the kernel.
        const FOLLOW_V4 = 1 << 13;
        /// The same for IPv6.
        const FOLLOW_V6 = 1 << 14;
        /// It is a member of a bridge that is a port, too. A device on it with this flag is that bridge.
        const BRIDGED = 1 << 15;
        /// A bridge of which all members are ports: what they have judged comes with a permit, and is not judged again.
        const JUDGED_BELOW = 1 << 16;
        /// No Ethernet header, and programs may send what it receives.
        const LAYER3 = 1 << 17;
        /// A member of a bridge: what it receives for a host behind another member is sent there.
        const SWITCHES = 1 << 18;
        /// A member of a bridge that gets nothing from other isolated ones.
        const ISOLATED = 1 << 19;
        /// The bridge that it is a member of looks at IP headers (`br_netfilter`).
        const HEADERS_CHECKED = 1 << 20;
    }
}

impl Port {
    /// What a slot holds that is free.
    pub const FREE: Self = Self {
        ifindex: 0,
        flags: 0,
        mac: Mac([0; 6]),
        rp_filter: 0,
        reserved: 0,
        mtu: 0,
        domain: 0,
        route_mtu: [0; 2],
    };

    /// Our link address, as [`Mac::wide`].
    #[inline(always)]
    pub fn recipient(&self) -> u64 {
        Mac::wide(self.as_bytes(), offset_of!(Self, mac))
    }

    /// [`Port::flags`], typed.
    #[inline(always)]
    pub const fn flags(&self) -> PortFlags {
        PortFlags::from_bits_retain(self.flags)
    }
}
