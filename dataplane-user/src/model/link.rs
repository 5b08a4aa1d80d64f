//! Links: the interfaces of this network namespace.

use bitflags::bitflags;
use dataplane_common::abi::{Ifindex, Tag};
use dataplane_common::wire::Mac;

use super::{Bridge, BridgePort};

/// One interface, as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, as the kernel reports it")]
pub struct Link {
    /// Its index; unique within the namespace.
    pub ifindex: Ifindex,
    /// Its name.
    pub name: String,
    /// Its other names (`ip link property add dev IFACE altname NAME`); names of all links differ.
    pub altnames: Vec<String>,
    /// Its link address, if that is a 48-bit one.
    pub mac: Option<Mac>,
    /// MTU in bytes, without the link header.
    pub mtu: u32,
    /// Set up by the operator (`IFF_UP`). Without it the kernel uses no route through it.
    pub enabled: bool,
    /// Set up by the operator, with a carrier, and operational.
    pub up: bool,
    /// What a VLAN device says of itself.
    pub vlan: Option<Vlan>,
    /// What a macvlan device says of itself.
    pub macvlan: Option<Macvlan>,
    /// `IFLA_INFO_KIND`: `veth`, `bridge`, `vlan`, ...; none for hardware.
    pub kind: Option<String>,
    /// What a bridge says of itself.
    pub bridge: Option<Bridge>,
    /// What a member of a bridge says of that.
    pub bridge_port: Option<BridgePort>,
    /// Hardware may have sent its frames on within a bridge already (`switchdev`).
    pub offloads: bool,
    /// The loopback device.
    pub loopback: bool,
    /// `ARPHRD_ETHER`: frames begin with an Ethernet header.
    pub ethernet: bool,
    /// What a device without Ethernet header means for forwarding.
    pub layer3: Layer3,
    /// A forwarded IPv4 packet gets a priority for queues (`net.ipv4.ip_forward_update_priority`).
    pub prioritises: bool,
    /// The bridge, bond or VRF that it belongs to.
    pub master: Option<Ifindex>,
    /// `IFLA_LINK`: a VLAN's lower device, a veth's peer.
    pub parent: Option<Ifindex>,
    /// The namespace of `parent`, by this namespace's number for it; none: this namespace.
    pub parent_netns: Option<i32>,
    /// The device that it belongs to: the bus, and the name there. None for virtual links, and before Linux 5.14.
    pub device: Option<(String, String)>,
    /// XDP programs on it.
    pub xdp: Vec<AttachedXdp>,
    /// `net.ipv4.conf` `accept_local`, of `all` or of this interface.
    pub accept_local: bool,
    /// `net.ipv4.conf` `route_localnet`, of `all` or of this interface.
    pub route_localnet: bool,
    /// How many want to see frames for others on it, too.
    pub promiscuity: u32,
    /// It takes the frames of what it is on, whomever they are for: ipvlan, macvlan in mode passthru or source, and the like.
    pub takes: bool,
    /// IPv6 packets that come in are dropped: `disable_ipv6` is set, or the MTU is below the minimum of IPv6.
    pub no_ipv6: bool,
    /// The MTU that IPv6 uses (sysctl `net.ipv6.conf.IFACE.mtu`, or a router's advertisement), in bytes; 0: not known.
    pub ipv6_mtu: u32,
}

impl Link {
    /// The longest IPv6 packet that goes out, where that is less than the device takes (`ip6_dst_mtu_maybe_forward` in
    /// `include/net/ip6_route.h`).
    pub fn narrow_ipv6(&self) -> Option<u32> {
        Some(self.ipv6_mtu).filter(|mtu| *mtu != 0 && *mtu < self.mtu)
    }
}

impl Link {
    /// Whether it is one end of a pair whose other end is in another namespace.
    pub fn reaches_another_namespace(&self) -> bool {
        self.kind.as_deref() == Some("veth") && self.parent_netns.is_some()
    }

    /// All its names, its own first.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        std::iter::once(self.name.as_str()).chain(self.altnames.iter().map(String::as_str))
    }
}

/// What a device without Ethernet header means for forwarding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layer3 {
    /// It has an Ethernet header, or something that is not known.
    #[default]
    Unknown,
    /// Packets are all that it sends and receives (tun, ppp).
    Plain,
    /// The same; it answers packets itself, with ICMP, and needs the kernel's route for that (`WireGuard`, ipip, sit).
    Answers,
    /// The same; of what it receives, tc sees the outer header first (gre).
    Outward,
    /// Only the kernel's route says where its packets go: in-kernel ovpn, tunnels with `external` or without a remote address.
    Routed,
}

impl Layer3 {
    /// Whether tc may hand packets to it.
    pub const fn sends(self) -> bool {
        matches!(self, Self::Plain | Self::Answers | Self::Outward)
    }

    /// Whether tc may forward what it receives.
    pub const fn receives(self) -> bool {
        matches!(self, Self::Plain | Self::Answers)
    }

    /// Why the kernel forwards instead, for people.
    pub const fn why_kernel(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::Answers => None,
            Self::Unknown => Some("what it has in front of a packet is not known"),
            Self::Outward => Some("of what it receives, tc sees the outer header first"),
            Self::Routed => Some("only the kernel's route says where its packets go"),
        }
    }
}

/// A VLAN device: its tag on the link under it ([`Link::parent`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Without priority.
    pub tag: Tag,
    /// The priority of tags that it writes depends on the packet (`egress-qos-map`).
    pub prioritises: bool,
}

/// What a macvlan device gets of the frames of the link under it, and where what it sends goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Macvlan {
    /// Those for its own link address; all that it sends leaves the link (`private`, `vepa`).
    Apart,
    /// The same; what it sends to another macvlan device on the link goes there (`bridge`).
    Bridge,
    /// All, or those of some sources (`passthru`, `source`).
    Taking,
}

/// An XDP program, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedXdp {
    /// The program's id.
    pub program: u32,
    /// Where it runs.
    pub mode: XdpMode,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// On the skb.
    Generic,
    /// In the hardware.
    Offloaded,
}

/// Where programs and classifiers at tc see packets of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcPlace {
    /// As they come in.
    Ingress,
    /// On their way out.
    Egress,
}

bitflags! {
    /// What a driver offers to XDP: `enum netdev_xdp_act` of `include/uapi/linux/netdev.h`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct XdpFeatures: u64 {
        /// `PASS`, `DROP`, `TX`, `ABORTED`.
        const BASIC = 1 << 0;
        /// `REDIRECT` away from it.
        const REDIRECT = 1 << 1;
        /// Transmits frames that were redirected to it.
        const NDO_XMIT = 1 << 2;
        /// `AF_XDP` without copies.
        const XSK_ZEROCOPY = 1 << 3;
        /// Offload to the hardware.
        const HW_OFFLOAD = 1 << 4;
        /// Receives frames in several buffers.
        const RX_SG = 1 << 5;
        /// Transmits frames in several buffers.
        const NDO_XMIT_SG = 1 << 6;
        /// Later kernels know more.
        const _ = !0;
    }
}
