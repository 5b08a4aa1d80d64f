//! The closed list of reasons: why a packet was forwarded, delivered, dropped or left to the kernel.

use core::hint::{black_box, cold_path};

/// What becomes of a packet. Every [`Reason`] belongs to exactly one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Verdict {
    /// Transmitted by us.
    Forward,
    /// Up the stack, to this machine, by our decision.
    Deliver,
    /// Ends here.
    Drop,
    /// Up the stack, undecided: the kernel answers, resolves or decides.
    Kernel,
    /// One of this machine's own packets, not sent. Not part of what a port received.
    Withhold,
}

impl Verdict {
    /// The name in JSON, as `explain` and `route get` print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Deliver => "deliver",
            Self::Drop => "drop",
            Self::Kernel => "kernel",
            Self::Withhold => "withhold",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal => $verdict:ident, $advice:literal;)+) => {
        /// Why a packet went where it went: counter index, JSON name and manual entry in one.
        #[must_use]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u64)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of its counter.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in JSON and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What becomes of the packet.
            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict),+ }
            }

            /// Whether the reason with this number drops. A program passes a number: for a reason LLVM would compute the result
            /// at each place that names one, and carry it along.
            #[inline(always)]
            pub const fn drops(number: u32) -> bool {
                const DROPS: u64 = $((matches!(Verdict::$verdict, Verdict::Drop) as u64) << Reason::$variant as u64)|+;
                DROPS >> (number & 63) & 1 != 0
            }

            /// The outcome of a check that found it. Rare, and marked as cold: otherwise LLVM would load the reason before the
            /// check, for every packet.
            #[inline(always)]
            pub const fn found<T>(self) -> Result<T, Self> {
                cold_path();
                Err(black_box(self))
            }

            /// One line of meaning.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }.trim()
            }

            /// What an operator can do when the counter grows.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice),+ }
            }
        }
    };
}

reasons! {
    /// Forwarded to the next hop.
    Forwarded = "forwarded" => Forward, "nothing: this is the normal case";
    /// Sent on, as it came, to the member of a bridge that its destination is behind.
    Bridged = "bridged" => Forward, "nothing: this is the normal case";
    /// Delivered to an address of this machine.
    Local = "local" => Deliver, "nothing: this is the normal case";

    /// The frame ends inside a VLAN tag or the IP header.
    Truncated = "truncated" => Drop, "look for a broken sender or an MTU mismatch on the link";
    /// The IP version differs from the one that the link header names.
    BadVersion = "bad_version" => Drop, "look for a broken or hostile sender";
    /// The IPv4 header is shorter than 20 bytes or longer than the packet.
    BadHeaderLength = "bad_header_length" => Drop, "look for a broken or hostile sender";
    /// The IP length is longer than the frame.
    BadLength = "bad_length" => Drop, "look for a broken sender or an MTU mismatch on the link";
    /// The IPv4 header checksum is wrong.
    BadChecksum = "bad_checksum" => Drop, "look for failing hardware on the link";
    /// Invalid source address: loopback, multicast, broadcast, unspecified, or an address of this machine.
    MartianSource = "martian_source" => Drop, "look for spoofing, or for an address configured twice";
    /// Invalid destination address: loopback, unspecified, or an IPv6 scope that ends at the host.
    MartianDestination = "martian_destination" => Drop, "look for a broken or hostile sender";
    /// Reverse path filtering is on, and there is no route back to the source, or none through this port.
    ReversePath = "reverse_path" => Drop, "on an asymmetric path set rp_filter to 2 or 0";
    /// The route is a blackhole.
    Blackhole = "blackhole" => Drop, "nothing: the route says so";
    /// Dropped by a rule or the policy of chain prerouting.
    FilterPrerouting = "filter_prerouting" => Drop, "`dataplane rule list prerouting` shows which rules counted";
    /// Dropped by a rule or the policy of chain input.
    FilterInput = "filter_input" => Drop, "`dataplane rule list input` shows which rules counted";
    /// Dropped by a rule or the policy of chain forward.
    FilterForward = "filter_forward" => Drop, "`dataplane rule list forward` shows which rules counted";
    /// A rule that drops matches ports, flags or types, and this packet has none that can be read.
    Unreadable = "unreadable" => Drop, "nothing for broken headers; `fragments = \"pass\"` in the config lets later fragments through";
    /// More IPv6 extension headers than the parser reads.
    ExtensionLimit = "extension_limit" => Drop, "look for a hostile sender";
    /// The packet has an IPv6 routing header of type 0 (RFC 5095).
    RoutingHeader = "routing_header" => Drop, "look for a hostile sender";
    /// Two fragment headers, a first fragment that lacks headers (RFC 7112), or a later one of an extension header.
    FragmentChain = "fragment_chain" => Drop, "look for a hostile sender";
    /// The egress device did not take the frame from XDP: its queue is full, or its link has just gone down.
    RedirectFailed = "redirect_failed" => Drop, "the egress carries no more, or its link flaps: `ip -s link`, `ethtool -S`";

    /// Neither IPv4 nor IPv6 (ARP, LLDP and the like), or IPv6 where it is off.
    NotIp = "not_ip" => Kernel, "nothing: the kernel handles these";
    /// The frame's destination address is not that of this port.
    OtherHost = "other_host" => Kernel, "nothing, unless the switch floods unicast frames without need";
    /// The frame has a VLAN tag for which there is no VLAN device.
    Vlan = "vlan" => Kernel, "nothing: the kernel handles these";
    /// More VLAN tags than the parser reads.
    VlanDepth = "vlan_depth" => Drop, "look for a loop or a hostile sender";
    /// A unicast packet in a broadcast or multicast frame, not for this machine.
    GroupFrame = "group_frame" => Kernel, "nothing: the kernel does not forward these";
    /// Sent to a broadcast address.
    Broadcast = "broadcast" => Kernel, "nothing: the kernel handles these";
    /// Sent to a multicast group.
    Multicast = "multicast" => Kernel, "nothing: the kernel handles these";
    /// The packet has IPv4 options.
    Options = "options" => Kernel, "nothing: the kernel handles these";
    /// The packet has IPv6 hop-by-hop options.
    HopByHop = "hop_by_hop" => Kernel, "nothing: the kernel handles these";
    /// The source or destination address must not leave its link.
    LinkScope = "link_scope" => Kernel, "nothing: the kernel answers these";
    /// TTL or hop limit has expired; the kernel answers with ICMP.
    TtlExpired = "ttl_expired" => Kernel, "nothing for traceroute; many of them point at a routing loop";
    /// Larger than the MTU of the egress; the kernel fragments or answers with ICMP.
    TooBig = "too_big" => Kernel, "compare the MTUs of the links; TCP adapts by itself";
    /// No route to the destination; the kernel answers with ICMP.
    NoRoute = "no_route" => Kernel, "`ip route get` for the destination, then add the route";
    /// The route is of type unreachable; the kernel answers with ICMP.
    Unreachable = "unreachable" => Kernel, "nothing: the route says so";
    /// The route is of type prohibit; the kernel answers with ICMP.
    Prohibit = "prohibit" => Kernel, "nothing: the route says so";
    /// Forwarding is off on this port.
    ForwardingOff = "forwarding_off" => Kernel, "`sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`; IPv6 also ends at `disable_ipv6`, and below an MTU of 1280";
    /// The next hop's link address is not known, or no next hop is usable; the kernel resolves it.
    NeighbourUnresolved = "neighbour_unresolved" => Kernel, "if it persists, the next hop does not answer ARP or ND: `ip neigh`";
    /// The egress is the port that the packet came from; the kernel also sends a redirect.
    SamePort = "same_port" => Kernel, "give the sender the better next hop";
    /// The programs do not transmit on the egress device, or do not know the link header of the ingress device.
    NoEgress = "no_egress" => Kernel, "`dataplane doctor` names the port and the cause";
    /// A route that only the kernel follows: a tunnel, a type of service, a source prefix.
    KernelRoute = "kernel_route" => Kernel, "nothing: the kernel handles these";
    /// An IPsec policy (xfrm) may cover the packet; the kernel encrypts it, drops it or lets it pass.
    Ipsec = "ipsec" => Kernel, "nothing: `ip xfrm policy` lists the policies";
    /// Another device takes the frames of this port before IP: a bridge, a bond, Open vSwitch, macvlan (passthru), ipvlan.
    Taken = "taken" => Kernel, "attach to that device, for instance the bridge; `dataplane doctor` names it";
    /// Once in a quarter of its ageing time a bridge sees a frame of each host behind a member, so that it does not forget it.
    BridgeRefresh = "bridge_refresh" => Kernel, "nothing: the bridge, which is a port too, judges the packet";
    /// A bridge does not know the sender to be behind this member yet, so it must see the frame.
    BridgeLearning = "bridge_learning" => Kernel, "nothing for a few packets of a host; if it persists, `bridge fdb show` and `dataplane doctor`";
    /// To the port of a DHCP client, which may be on this machine and have no address yet.
    Dhcp = "dhcp" => Kernel, "nothing: the kernel handles these";
    /// Left to the kernel because of routing rules, a VRF, or more routes than fit.
    MirrorOff = "mirror_off" => Kernel, "`dataplane doctor`, `ip rule` and the daemon's log show the cause";
    /// Netfilter rules apply to it on its way through: the kernel forwards it, and they decide.
    Netfilter = "netfilter" => Kernel, "nothing, or `netfilter = \"bypass\"` under [flows] in the config; `dataplane doctor` lists the chains";
    /// Netfilter has let no packet of this direction of the connection through since its rules changed; it decides on this one.
    FlowUnarmed = "flow_unarmed" => Kernel, "nothing for a few packets; if it persists, a rule drops them, or they leave in another way: `dataplane flow list --why-not`";
    /// The lease of the connection's row is over: netfilter judges this packet, and the next ones are carried again.
    FlowRenew = "flow_renew" => Kernel, "nothing: once in `lease` seconds for each direction ([flows] in the config)";
    /// The connection begins or ends: netfilter has the rest of it.
    FlowClosing = "flow_closing" => Kernel, "nothing: this is the normal case";
    /// The route of a connection leads out of another interface than before: netfilter decides anew.
    FlowMoved = "flow_moved" => Kernel, "nothing, unless routes flap: `ip monitor route`";
    /// The daemon has not renewed its heartbeat in the time that the config allows, so its routes are not trusted.
    NoController = "no_controller" => Kernel, "`dataplane run` takes over again; `[heartbeat]` in the config sets the time";

    /// A packet of this machine was dropped by a rule or the policy of chain output.
    FilterOutput = "filter_output" => Withhold, "`dataplane rule list output` shows which rules counted";
    /// The kernel forwarded a packet of a port through a link for which chain forward drops it.
    FilterEgress = "filter_egress" => Withhold, "`dataplane rule list forward`: a rule or the policy drops it for this egress";
    /// A rule of chain output that drops could not read ports, flags or types of a packet of this machine.
    UnreadableOutput = "unreadable_output" => Withhold, "`fragments = \"pass\"` in the config lets later fragments through";
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The numbers of these reasons, as bits.
    const fn bits(reasons: &[Self]) -> u64 {
        let (mut bits, mut at) = (0, 0);
        while at < reasons.len() {
            bits |= 1 << reasons[at] as u64;
            at += 1;
        }
        bits
    }

    /// Whether the kernel may forward a packet that goes up for the reason with this number: it knows what the mirror does not
    /// know yet, or translates an address. Before the header is read, and where the kernel forwards under no circumstances
    /// (`ttl_expired`, `group_frame`), it does not.
    #[inline(always)]
    pub const fn may_be_forwarded(number: u32) -> bool {
        const BITS: u64 = Reason::bits(&[
            Reason::Local,
            Reason::Broadcast,
            Reason::Multicast,
            Reason::Options,
            Reason::HopByHop,
            Reason::Vlan,
            // Most of these are about neighbours of this machine itself.
            Reason::LinkScope,
            Reason::Ipsec,
        ]);
        (BITS | Self::UNROUTED) >> (number & 63) & 1 != 0
    }

    /// Whether a packet that goes up for the reason with this number is for no address of this machine: the kernel forwards it,
    /// answers it, or drops it.
    #[inline(always)]
    pub const fn is_for_others(number: u32) -> bool {
        Self::UNROUTED >> (number & 63) & 1 != 0
    }

    /// Whether a frame that goes up for the reason with this number was not judged: another device takes it, which may be a port.
    #[inline(always)]
    pub const fn is_unjudged(number: u32) -> bool {
        const BITS: u64 = Reason::bits(&[Reason::Taken, Reason::BridgeRefresh, Reason::BridgeLearning]);
        BITS >> (number & 63) & 1 != 0
    }

    const UNROUTED: u64 = Self::bits(&[
        Self::NoRoute,
        Self::Unreachable,
        Self::Prohibit,
        Self::ForwardingOff,
        Self::TooBig,
        Self::NeighbourUnresolved,
        Self::SamePort,
        Self::NoEgress,
        Self::KernelRoute,
        Self::MirrorOff,
        Self::Netfilter,
        Self::FlowUnarmed,
        Self::FlowRenew,
        Self::FlowClosing,
        Self::FlowMoved,
        Self::NoController,
        Self::Dhcp,
    ]);
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_counters_dense() {
        let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::COUNT);
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(Reason::drops(*reason as u32), reason.verdict() == Verdict::Drop, "{reason:?}");
        }
    }
}
