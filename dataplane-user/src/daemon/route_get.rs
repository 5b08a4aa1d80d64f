//! Where the kernel says that packets go, for `route get` at ports whose packets it is asked about.

use std::net::IpAddr;

use dataplane_common::{Reason, abi::AdjacencyFlags};

use super::Daemon;
use crate::{
    control::{
        protocol::{Failure, FailureKind},
        row::{DecisionRow, Table},
    },
    model::{Link, RouteType},
    netlink,
};

impl Daemon {
    /// What the kernel would do with a packet to `dst`, by its rules and tables.
    pub(super) fn asked(&self, dst: IpAddr, from: Option<IpAddr>, iif: Option<&Link>) -> Result<DecisionRow, Failure> {
        let from = from.map(|source| (source, iif.map(|link| link.ifindex)));
        let path = netlink::path(dst, from).map_err(|error| Failure::new(FailureKind::Failed, error.to_string()))?;
        Ok(path.map_or_else(|reason| row(dst, reason), |path| self.judged(dst, path, iif)))
    }

    fn judged(&self, dst: IpAddr, path: netlink::Path, iif: Option<&Link>) -> DecisionRow {
        let netlink::Path { kind, dev, via } = path;
        let ends = match kind {
            RouteType::Local | RouteType::Anycast => Some(Reason::Local),
            RouteType::Broadcast => Some(Reason::Broadcast),
            RouteType::Multicast => Some(Reason::Multicast),
            RouteType::Blackhole => Some(Reason::Blackhole),
            RouteType::Unreachable => Some(Reason::Unreachable),
            RouteType::Prohibit => Some(Reason::Prohibit),
            RouteType::Unicast | RouteType::Throw | RouteType::Other(_) => None,
        };
        let link = self.observed.model().links.get(&dev);
        let known = link.and_then(|link| {
            let whos = self.plane.next_hops();
            let (index, _) = whos.into_iter().find(|(_, who)| *who == (link.ifindex, via.unwrap_or(dst)))?;
            self.plane.want().adjacencies.get(&index)
        });
        let known = known.filter(|adjacency| adjacency.flags().contains(AdjacencyFlags::RESOLVED));
        let transmits = AdjacencyFlags::XDP_TRANSMIT | AdjacencyFlags::TC_TRANSMIT;
        let reason = ends.unwrap_or(match (known, iif.zip(link)) {
            (_, Some((iif, out))) if iif.ifindex == out.ifindex => Reason::SamePort,
            (None, _) => Reason::NeighbourUnresolved,
            (Some(adjacency), _) if adjacency.flags().intersects(transmits) => Reason::Forwarded,
            (Some(_), _) => Reason::NoEgress,
        });
        let lladdr = known.map(|adjacency| adjacency.destination.to_string());
        DecisionRow { dev: link.map(|link| link.name.clone()), via, lladdr, ..row(dst, reason) }
    }
}

fn row(dst: IpAddr, reason: Reason) -> DecisionRow {
    DecisionRow {
        decision: reason.verdict().name().to_owned(),
        reason: reason.name().to_owned(),
        dst,
        prefix: None,
        dev: None,
        via: None,
        lladdr: None,
        table: Table::Kernel,
    }
}
