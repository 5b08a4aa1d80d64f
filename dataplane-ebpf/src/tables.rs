//! The forwarding tables, by family.
//!
//! The search for IPv6 is a global function: the verifier looks at it once, not once for every path that leads to it.

#![expect(unsafe_code, reason = "the linker keeps functions global that have a name of their own")]

use dataplane_common::{
    abi::{
        ADDRESS_WORDS, AF_INET, AF_INET6, Control, Ifindex, NeighbourKey, NextHopGroup, Port, RouteKind, Target,
        lookup4, lookup6_base, may_be_local, search_on6,
    },
    decide::{Family, V4, V6},
    wire::{Address6, Bytes, IPV4_FRAGMENT_MASK, Icmp, Ipv6, Tag, protocol},
};

use crate::{
    features, flow_lookup,
    maps::{self, Table4, Table6},
    packet::Hook,
};

/// A family with its table.
pub trait Routed: Family {
    /// The longest match in the live generation.
    fn lookup(control: Control, address: Self::Address) -> Target;

    /// Whether an address may be one of this machine's: `false` is certain.
    fn may_be_local(control: Control, address: Self::Address) -> bool;

    /// `AF_INET` or `AF_INET6`.
    const SOCKET: u32;

    /// An address in the order of the wire, as `bpf_fib_lookup` takes it.
    fn words(address: Self::Address) -> [u32; 4];
}

/// Whether the mirror of this family decides for a port.
#[inline(always)]
pub fn decides<F: Routed>(control: Control, port: &Port) -> bool {
    let by_kernel = features::KERNEL_LOOKUP.on() && port.flags().contains(F::KERNEL_LOOKUP);
    control.mirror & F::MIRROR != 0 && !by_kernel && !follows::<F>(port)
}

/// Whether the mirror decides for a packet: it knows nothing of what routing rules say of packets with a mark.
#[inline(always)]
pub fn decides_for<F: Routed, H: Hook>(hook: &H, control: Control, port: &Port) -> bool {
    decides::<F>(control, port) && !is_ruled(hook)
}

/// Whether a packet has a mark, and some routing rule may be for it.
#[inline(always)]
pub fn is_ruled<H: Hook>(hook: &H) -> bool {
    features::MARKS.on() && hook.is_marked()
}

/// Whether what would be forwarded from a port is left to the kernel because it meets rules of netfilter there, and no row of the
/// flow table carries it.
#[inline(always)]
pub fn follows<F: Family>(port: &Port) -> bool {
    features::FOLLOW.on() && port.flags().contains(F::FOLLOW) && !(features::FLOWS.on() && flow_lookup::is_carried())
}

/// The next hop of a group for a flow: the index of an adjacency, or [`NO_ADJACENCY`], and above it the MTU of the route (0:
/// none).
#[inline(always)]
pub fn next_hop(control: Control, group: u32, flow: u32) -> u64 {
    if features::MULTIPATH.on() {
        return member_for(group, flow);
    }
    if control.mirror & Control::DIRECT != 0 {
        return u64::from(group);
    }
    match maps::group(group) {
        Some(group) => hop(group, u32::from(group.members[0])),
        None => u64::from(NO_ADJACENCY),
    }
}

/// The same where there is a choice. A global function, so that what follows is one path.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn member_for(group: u32, flow: u32) -> u64 {
    let Some(group) = maps::group(group) else { return u64::from(NO_ADJACENCY) };
    group.member(flow).map_or(u64::from(NO_ADJACENCY), |member| hop(group, member))
}

#[inline(always)]
fn hop(group: &NextHopGroup, member: u32) -> u64 {
    u64::from(group.mtu) << 32 | u64::from(member)
}

/// No adjacency.
pub const NO_ADJACENCY: u32 = u32::MAX - 1;

impl Routed for V4 {
    #[inline(always)]
    fn lookup(control: Control, address: u32) -> Target {
        lookup4(&Table4, control.fib4, features::WIDE_FIB4.on(), address)
    }

    #[inline(always)]
    fn may_be_local(control: Control, address: u32) -> bool {
        may_be_local(&Table4, control.fib4, address)
    }

    const SOCKET: u32 = AF_INET;

    #[inline(always)]
    fn words(address: u32) -> [u32; 4] {
        [address.to_be(), 0, 0, 0]
    }
}

impl Routed for V6 {
    #[inline(always)]
    fn lookup(control: Control, address: Address6) -> Target {
        match lookup6_base(&Table6, control.fib6, features::WIDE_FIB6.on(), address) {
            Ok(target) => target,
            Err(root) => Target::from_raw(lookup_v6(control.fib6, root, address.high, address.low)),
        }
    }

    #[inline(always)]
    fn may_be_local(_: Control, _: Address6) -> bool {
        true
    }

    const SOCKET: u32 = AF_INET6;

    #[inline(always)]
    fn words(address: Address6) -> [u32; 4] {
        let [a, b, c, d] = address.words();
        [a.to_be(), b.to_be(), c.to_be(), d.to_be()]
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lookup_v6(live: u32, root: u32, high: u64, low: u64) -> u32 {
    search_on6(&Table6, live, features::WIDE_FIB6.on(), root, Address6 { high, low }).raw()
}

/// Whether a policy of `IPsec` may cover a packet of a family with these addresses.
#[inline(always)]
pub fn may_cover(family: u32, [a, b, c, d]: [u64; ADDRESS_WORDS]) -> bool {
    covered(family, a, b, c, d) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn covered(family: u32, a: u64, b: u64, c: u64, d: u64) -> u32 {
    maps::policies(family).map_or(1, |policies| u32::from(policies.may_cover([a, b, c, d])))
}

/// The route of a packet that came in through a port, [`Target::raw`]: this machine, if the packet would be forwarded, is
/// neighbour discovery, and the kernel is an NDP proxy for its destination. `places` are where the IPv6 header and the payload
/// begin, the protocol, and which fragment it is.
#[inline(always)]
pub fn proxied<B: Bytes>(packet: &B, ifindex: Ifindex, places: u64, route: u32) -> u32 {
    let (offset, payload) = (places as usize & 0x7fff, (places >> 16) as usize & 0x7fff);
    let (next, fragment) = (places >> 32 & 0xff, places >> 40 & u64::from(IPV4_FRAGMENT_MASK));
    let forwarded = matches!(Target::from_raw(route).kind(), RouteKind::Unicast | RouteKind::Kernel);
    if !forwarded || next != protocol::ICMPV6 || fragment != 0 {
        return route;
    }
    let (Some(message), Some(header)) = (packet.header::<Icmp>(payload), packet.header::<Ipv6>(offset)) else {
        return route;
    };
    let (to, family) = (Address6::from_bytes(header.destination), AF_INET6 | NeighbourKey::PROXIED);
    if (SOLICITATION..=REDIRECT).contains(&message.kind)
        && maps::neighbour([u64::from(family) << 32 | u64::from(ifindex), to.high, to.low]).is_some()
    {
        return Target::new(RouteKind::Local, 0).raw();
    }
    route
}

/// `NDISC_ROUTER_SOLICITATION`, the first message of neighbour discovery.
const SOLICITATION: u8 = 133;
/// `NDISC_REDIRECT`, the last one.
const REDIRECT: u8 = 137;

/// Whether one of the next hops of a route is through `ifindex`.
#[inline(always)]
pub fn leads_back(route: Target, ifindex: Ifindex) -> bool {
    reaches(route.group(), ifindex) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn reaches(group: u32, ifindex: u32) -> u32 {
    let Some(group) = maps::group(group) else { return 0 };
    for (slot, member) in group.members.iter().enumerate() {
        if slot as u32 >= group.slots {
            break;
        }
        if maps::adjacency(u32::from(*member)).is_some_and(|adjacency| adjacency.ifindex == ifindex) {
            return 1;
        }
    }
    0
}

/// Where the VLAN device for a tag ([`dataplane_common::abi::Tag::raw`]) on an interface is found: a
/// [`dataplane_common::abi::VlanKey`] in one word. Its tag may be the number of a link address.
#[inline(always)]
pub fn vlan_key(ifindex: Ifindex, tag: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(ifindex)
}

/// The key of the innermost VLAN device for two tags, or for one with identifier 0, on a port; 0 is the port itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stacked_vlan(port: u32, outer: u32, inner: u32) -> u64 {
    // Whether a tag may be there just for its priority.
    let says_nothing = |tag: u32| Tag::from_raw(tag as u16).id() == 0;
    let mut key = vlan_key(port, outer);
    let below = match maps::vlan(key) {
        Some(device) => device.ifindex,
        None if says_nothing(outer) => {
            key = 0;
            port
        }
        // Not found here, nor when it is looked for again.
        None => return key,
    };
    if inner == 0 {
        return key;
    }
    let stacked = vlan_key(below, inner);
    if says_nothing(inner) && maps::vlan(stacked).is_none() { key } else { stacked }
}

/// The VLAN device through which a frame with these tags comes in; 0: none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vlan_device(port: u32, outer: u32, inner: u32) -> u32 {
    let key = stacked_vlan(port, outer, inner);
    if key == 0 { 0 } else { maps::vlan(key).map_or(0, |device| device.ifindex) }
}
