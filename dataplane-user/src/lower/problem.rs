//! What could not be done, for the operator.

use dataplane_common::abi::{ADJACENCIES, GROUPS, Ifindex, PORT_PROBES, VLANS};

use crate::model::IpVersion;

/// Why the kernel has to do what we could not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// There are routing rules that programs can not ask the kernel about.
    #[error(
        "{0} has routing rules that only the kernel's own path follows (with VRFs, or suppress_* of IPv6), so the kernel \
         forwards {0} itself; `ip rule` lists them, delete those that are not needed"
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
            Self::VlansFull { .. } => "ip -d link show type vlan  # and `dataplane detach` a port with many of them",
            Self::PortsFull { .. } => "dataplane port list  # detach what is not needed",
        }
    }
}
