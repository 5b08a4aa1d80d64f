//! The kernel's own route lookup, where its rules and tables are not mirrored.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Ifindex;
use crate::wire::{Address6, Be16};

/// `struct bpf_fib_lookup` of `include/uapi/linux/bpf.h`: the question, and in its place the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FibLookup {
    /// `AF_INET` or `AF_INET6`; of the answer: that of the next hop.
    pub family: u8,
    /// Transport protocol.
    pub protocol: u8,
    /// Source port, or 0.
    pub source_port: Be16,
    /// Destination port, or 0.
    pub destination_port: Be16,
    /// Bytes of the packet; of the answer: how many the way out takes.
    pub length: u16,
    /// Through which interface it came in; of the answer: through which it goes out.
    pub ifindex: Ifindex,
    /// IPv4: type of service, in the byte that comes first in memory. IPv6: traffic class and flow label, in the order of the
    /// wire.
    pub service: u32,
    /// Source address, in the order of the wire; IPv4 has the first word.
    pub source: [u32; 4],
    /// Destination address; of the answer: that of the next hop.
    pub destination: [u32; 4],
    /// VLAN and link addresses of the answer, which we have elsewhere.
    pub link: [u32; 4],
}

/// A packet for the kernel's lookup, and the result. It lies in a map, because the stack of a program has no room for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KernelLookup {
    /// The parameters of the helper.
    pub params: FibLookup,
    /// Source address, as in [`FibLookup`].
    pub source: [u32; 4],
    /// Destination address, as in [`FibLookup`].
    pub destination: [u32; 4],
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// Transport protocol.
    pub protocol: u32,
    /// Flags and offset of a fragment, in the places where IPv4 has them.
    pub fragment: u32,
    /// Where the IP header begins, in bytes from the start of the frame.
    pub offset: u32,
    /// Where the transport header begins, likewise.
    pub payload: u32,
    /// Bytes of the packet.
    pub length: u32,
    /// Differentiated services code point.
    pub dscp: u32,
    /// Of the port: [`super::PortFlags`].
    pub flags: u32,
    /// Of the port.
    pub domain: Ifindex,
    /// Of the port.
    pub ifindex: Ifindex,
    /// Of the port.
    pub rp_filter: u32,
    /// Of the port.
    pub route_mtu: u32,
    /// Result: [`super::Target::raw`].
    pub target: u64,
    /// Result: the egress link; 0: none.
    pub out: u64,
    /// Result: the adjacency of the next hop (beyond all adjacencies: not known), and above it the MTU.
    pub next: u64,
    /// Which chains an earlier tier has led the packet through ([`super::Handoff::state`]).
    pub chains_done: u64,
}

impl KernelLookup {
    /// In [`KernelLookup::next`]: there was no lookup.
    pub const NOT_DONE: u64 = u64::MAX;
}

/// What the kernel answers: `BPF_FIB_LKUP_RET_*`.
pub mod fib_result {
    /// There is a way, and the neighbour is known.
    pub const SUCCESS: i64 = 0;
    /// To be dropped.
    pub const BLACKHOLE: i64 = 1;
    /// To be answered with unreachable.
    pub const UNREACHABLE: i64 = 2;
    /// To be answered with prohibited.
    pub const PROHIBIT: i64 = 3;
    /// Not to be forwarded: it is for this machine, or there is no route, or a rule forbids it.
    pub const NOT_FORWARDED: i64 = 4;
    /// There is a way, and the neighbour is not known.
    pub const NO_NEIGHBOUR: i64 = 7;
}

/// The key by which an adjacency is found after the kernel's lookup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighbourKey {
    /// The way out; for an address of this machine the VRF that it is in.
    pub ifindex: Ifindex,
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// Upper half of the address, in the host's byte order; IPv4 has none.
    pub high: u64,
    /// Lower half of the address, or the IPv4 address.
    pub low: u64,
}

impl NeighbourKey {
    /// What is found for an address of this machine.
    pub const OURS: u32 = u32::MAX;

    /// Added to the family: a neighbour that the kernel answers for on this interface, which is [`Self::OURS`].
    pub const PROXIED: u32 = 1 << 16;

    /// The key of an IPv4 address.
    pub const fn v4(ifindex: Ifindex, address: u32) -> Self {
        Self { ifindex, family: AF_INET, high: 0, low: address as u64 }
    }

    /// The key of an IPv6 address.
    pub const fn v6(ifindex: Ifindex, address: Address6) -> Self {
        Self { ifindex, family: AF_INET6, high: address.high, low: address.low }
    }

    /// The key of a neighbour elsewhere that the kernel answers for.
    pub const fn proxied(ifindex: Ifindex, address: Address6) -> Self {
        Self { family: AF_INET6 | Self::PROXIED, ..Self::v6(ifindex, address) }
    }
}

/// `AF_INET`.
pub const AF_INET: u32 = 2;
/// `AF_INET6`.
pub const AF_INET6: u32 = 10;
