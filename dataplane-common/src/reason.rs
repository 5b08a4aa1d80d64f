//! The closed list of reasons: why a packet was forwarded, delivered, dropped or left to the kernel.

use core::hint::{black_box, cold_path};

/// What becomes of a packet. Every [`Reason`] belongs to exactly one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Decision {
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

impl Decision {
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
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal => $decision:ident, $advice:literal;)+) => {
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
            pub const fn decision(self) -> Decision {
                match self { $(Self::$variant => Decision::$decision),+ }
            }

            /// Whether the reason with this number drops. A program asks it about a number: about a reason LLVM would find out
            /// at each place that names one, and carry the answer along.
            #[inline(always)]
            pub const fn drops(number: u32) -> bool {
                const DROPS: u64 = $((matches!(Decision::$decision, Decision::Drop) as u64) << Reason::$variant as u64)|+;
                DROPS >> (number & 63) & 1 != 0
            }

            /// The outcome of a check that found it. Rare, and not foreseen: else LLVM would load the reason before it asks,
            /// for every packet.
            #[inline(always)]
            pub const fn found<T>(self) -> Result<T, Self> {
                cold_path();
                Err(black_box(self))
            }

            /// One line of meaning.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }.trim()
            }

            /// What an operator who sees it count may want to do.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice),+ }
            }
        }
    };
}

reasons! {
    /// Forwarded to the next hop.
    Forwarded = "forwarded" => Forward, "nothing: this is the normal case";
    /// For an address of this machine.
    Local = "local" => Deliver, "nothing: this is the normal case";

    /// The frame ends inside a VLAN tag or the IP header.
    Truncated = "truncated" => Drop, "look for a broken sender or an MTU mismatch on the link";
    /// The IP version is not the one that the link header names.
    BadVersion = "bad_version" => Drop, "look for a broken or hostile sender";
    /// The IPv4 header is shorter than 20 bytes or longer than the packet.
    BadHeaderLength = "bad_header_length" => Drop, "look for a broken or hostile sender";
    /// The IP length is longer than the frame.
    BadLength = "bad_length" => Drop, "look for a broken sender or an MTU mismatch on the link";
    /// The IPv4 header checksum is wrong.
    BadChecksum = "bad_checksum" => Drop, "look for failing hardware on the link";
    /// The source address can not be one: loopback, multicast, broadcast, unspecified, or one of ours.
    MartianSource = "martian_source" => Drop, "look for spoofing, or for an address configured twice";
    /// The destination address can not be one on a wire: loopback, unspecified, or an IPv6 scope that ends at the host.
    MartianDestination = "martian_destination" => Drop, "look for a broken or hostile sender";
    /// No way back to the source, or none through this port, and reverse path filtering asks for one.
    ReversePath = "reverse_path" => Drop, "on an asymmetric path set rp_filter to 2 or 0";
    /// The route is a blackhole.
    Blackhole = "blackhole" => Drop, "nothing: the route says so";
    /// A rule or the policy of chain prerouting.
    FilterPrerouting = "filter_prerouting" => Drop, "`dataplane rule list prerouting` shows what counted";
    /// A rule or the policy of chain input.
    FilterInput = "filter_input" => Drop, "`dataplane rule list input` shows what counted";
    /// A rule or the policy of chain forward.
    FilterForward = "filter_forward" => Drop, "`dataplane rule list forward` shows what counted";
    /// A rule that drops asks for ports, flags or types, and this packet has none that can be read.
    Unreadable = "unreadable" => Drop, "fragments and broken headers do not pass rules that may have dropped them";
    /// More IPv6 extension headers than the parser walks.
    ExtensionLimit = "extension_limit" => Drop, "look for a hostile sender";
    /// A routing header of type 0 (RFC 5095).
    RoutingHeader = "routing_header" => Drop, "look for a hostile sender";
    /// Two fragment headers, a first fragment that lacks headers (RFC 7112), or a later one of an extension header.
    FragmentChain = "fragment_chain" => Drop, "look for a hostile sender";
    /// A way out that takes frames of XDP did not take this one: its queue is full, or it went down a moment ago.
    RedirectFailed = "redirect_failed" => Drop, "more than the way out carries, or its link flaps: `ip -s link`, `ethtool -S`";

    /// Neither IPv4 nor IPv6 (ARP, LLDP and the like), or IPv6 where that is off.
    NotIp = "not_ip" => Kernel, "nothing: the kernel handles these";
    /// The link address is somebody else's.
    OtherHost = "other_host" => Kernel, "nothing, unless the switch floods what it should not";
    /// The frame carries a VLAN tag for which no VLAN device is known here.
    Vlan = "vlan" => Kernel, "nothing: the kernel handles these";
    /// More VLAN tags than the parser takes.
    VlanDepth = "vlan_depth" => Drop, "look for a loop or a hostile sender";
    /// A unicast packet in a broadcast or multicast frame, not for this machine.
    GroupFrame = "group_frame" => Kernel, "nothing: the kernel does not forward these";
    /// To a broadcast address.
    Broadcast = "broadcast" => Kernel, "nothing: the kernel handles these";
    /// To a multicast group.
    Multicast = "multicast" => Kernel, "nothing: the kernel handles these";
    /// IPv4 options.
    Options = "options" => Kernel, "nothing: the kernel handles these";
    /// IPv6 hop-by-hop options.
    HopByHop = "hop_by_hop" => Kernel, "nothing: the kernel handles these";
    /// An address that must not leave its link.
    LinkScope = "link_scope" => Kernel, "nothing: the kernel answers these";
    /// TTL or hop limit at its end; the kernel answers with ICMP.
    TtlExpired = "ttl_expired" => Kernel, "nothing for traceroute; many of them point at a routing loop";
    /// Larger than the way out takes; the kernel fragments or answers with ICMP.
    TooBig = "too_big" => Kernel, "compare the MTUs of the links; TCP adapts by itself";
    /// No route to the destination; the kernel answers with ICMP.
    NoRoute = "no_route" => Kernel, "`ip route get` for the destination, then add the route";
    /// The route is of type unreachable; the kernel answers with ICMP.
    Unreachable = "unreachable" => Kernel, "nothing: the route says so";
    /// The route is of type prohibit; the kernel answers with ICMP.
    Prohibit = "prohibit" => Kernel, "nothing: the route says so";
    /// Forwarding is off on this port.
    ForwardingOff = "forwarding_off" => Kernel, "`sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`; IPv6 also ends at `disable_ipv6`, and below an MTU of 1280";
    /// The next hop's link address is not known, or no next hop is; the kernel asks for it.
    NeighbourUnresolved = "neighbour_unresolved" => Kernel, "if it goes on, the next hop does not answer ARP or ND";
    /// Out of the port it came from; the kernel also sends a redirect.
    SamePort = "same_port" => Kernel, "give the sender the better next hop";
    /// The way out is not a device that we transmit on, or the packet came without a link header to rewrite.
    NoEgress = "no_egress" => Kernel, "`dataplane port list` says what each port can do";
    /// A route that only the kernel follows: a tunnel, a type of service, a source prefix.
    KernelRoute = "kernel_route" => Kernel, "nothing: the kernel handles these";
    /// A security policy (xfrm) may cover it: the kernel encrypts, stops or lets go.
    Ipsec = "ipsec" => Kernel, "nothing: `ip xfrm policy` says so";
    /// Somebody takes the frames of this port before IP sees them: a bridge, a bond, Open vSwitch, macvlan (passthru), ipvlan.
    Taken = "taken" => Kernel, "attach to what takes them, for instance the bridge; `dataplane doctor` names it";
    /// Neither the mirrored tables nor the kernel's lookup decide: routing rules, a VRF, or more routes than fit.
    MirrorOff = "mirror_off" => Kernel, "`ip rule` and the daemon's log say why";
    /// No daemon has been heard of for longer than the config allows: what it knew is not trusted any more.
    NoController = "no_controller" => Kernel, "`dataplane run` takes over again; `[heartbeat]` in the config says how long to wait";

    /// One of this machine's own packets met a rule or the policy of chain output.
    FilterOutput = "filter_output" => Withhold, "`dataplane rule list output` shows what counted";
    /// The kernel forwarded a packet of a port through a link that chain forward does not let it take.
    FilterEgress = "filter_egress" => Withhold, "`dataplane rule list forward`: a rule or the policy drops it for this way out";
    /// One of this machine's own packets met a dropping rule that could not read it.
    UnreadableOutput = "unreadable_output" => Withhold, "fragments do not pass rules that may have dropped them";
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
        Self::NoController,
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
            assert_eq!(Reason::drops(*reason as u32), reason.decision() == Decision::Drop, "{reason:?}");
        }
    }
}
