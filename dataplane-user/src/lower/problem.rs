//! What could not be done, for the operator.

use std::fmt;

use dataplane_common::abi::{ADJACENCIES, GROUPS, Ifindex, PORT_PROBES, VLANS};

use crate::model::{IpVersion, Ipsec};

/// Why the kernel has to do what we could not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// There are routing rules that `bpf_fib_lookup` does not evaluate.
    #[error(
        "{0} has routing rules that only the kernel's own path follows (others than by mark and destination, with VRFs or \
         suppress_* of IPv6), so the kernel forwards {0} itself; `ip rule` lists them, delete those that are not needed"
    )]
    PolicyRouting(IpVersion),
    /// The table does not fit, not even at its largest.
    #[error(
        "the {version} routes do not fit: in {left} places of the table the kernel decides itself; aggregate routes"
    )]
    RoutesFull {
        /// Of which family.
        version: IpVersion,
        /// How many places are left to the kernel.
        left: usize,
    },
    /// More distinct sets of next hops than fit.
    #[error(
        "the {0} routes have more distinct next hops than fit ({GROUPS} sets, {ADJACENCIES} next hops), so the kernel \
         forwards {0} itself; use fewer gateways"
    )]
    NextHopsFull(IpVersion),
    /// More neighbours on connected networks than fit.
    #[error(
        "{left} {version} neighbours on connected networks are beyond the room for next hops ({GROUPS} sets, {ADJACENCIES} \
         next hops), so the kernel forwards to these itself; split the network"
    )]
    NeighboursFull {
        /// Of which family.
        version: IpVersion,
        /// How many are left out.
        left: usize,
    },
    /// Another device takes the frames of a port.
    #[error(
        "the frames of {port} go to {by} before IP sees them, so they are left to the kernel; attach to that instead"
    )]
    Taken {
        /// Its name.
        port: String,
        /// Which.
        by: String,
    },
    /// There are policies of `IPsec`.
    #[error("the kernel has IPsec policies: it forwards {0} itself, and dataplane the rest")]
    Ipsec(Shielded),
    /// More VLAN devices than fit.
    #[error(
        "{left} VLAN devices are beyond the room for {VLANS}, so their packets are left to the kernel; detach a port"
    )]
    VlansFull {
        /// How many are left out.
        left: usize,
    },
    /// No slot for a port.
    #[error(
        "no slot is free for the port with index {ifindex} (tried {PORT_PROBES}), so its packets are left to the kernel; detach another"
    )]
    PortsFull {
        /// Which port.
        ifindex: Ifindex,
    },
}

/// Which packets policies of `IPsec` may cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shielded {
    /// All.
    All,
    /// Those between so many pairs of networks.
    Some {
        /// Of IPv4.
        v4: usize,
        /// Of IPv6.
        v6: usize,
    },
}

impl Shielded {
    /// What the policies of the kernel may cover; `None`: nothing.
    pub fn by(ipsec: &Ipsec) -> Option<Self> {
        let some = Self::Some { v4: ipsec.v4.len(), v6: ipsec.v6.len() };
        if ipsec.all { Some(Self::All) } else { Some(some).filter(|_| !ipsec.v4.is_empty() || !ipsec.v6.is_empty()) }
    }
}

impl fmt::Display for Shielded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all packets"),
            Self::Some { v4, v6 } => {
                write!(f, "what they may cover (between {v4} pairs of networks of IPv4, {v6} of IPv6)")
            }
        }
    }
}

impl Problem {
    /// The command that cures it, or shows what to cure.
    pub fn cure(&self) -> &'static str {
        match self {
            Self::PolicyRouting(IpVersion::V4) => "ip rule list  # delete with `ip rule del` those that are not needed",
            Self::PolicyRouting(IpVersion::V6) => {
                "ip -6 rule list  # delete with `ip -6 rule del` those that are not needed"
            }
            Self::RoutesFull { .. } | Self::NextHopsFull(_) => "ip route show  # aggregate routes, use fewer gateways",
            Self::NeighboursFull { .. } => "ip neigh show  # split the network",
            Self::Taken { .. } => {
                "ip -d link show  # `dataplane attach` what takes the frames, `dataplane detach` the port"
            }
            Self::Ipsec(_) => "ip xfrm policy  # and `ip xfrm policy getdefault`",
            Self::VlansFull { .. } => "ip -d link show type vlan  # and `dataplane detach` a port with many of them",
            Self::PortsFull { .. } => "dataplane port list  # detach what is not needed",
        }
    }
}
