//! Where the kernel says that packets go, for `route get` at ports whose packets it is asked about.

use std::{net::IpAddr, process::Command};

use dataplane_common::{Reason, abi::AdjacencyFlags};
use serde::Deserialize;

use super::Daemon;
use crate::{
    control::{
        protocol::{Failure, FailureKind},
        row::{DecisionRow, Table},
    },
    model::Link,
};

/// A row of `ip -j route get`.
#[derive(Debug, Deserialize)]
struct Got {
    #[serde(rename = "type")]
    kind: Option<String>,
    dev: Option<String>,
    gateway: Option<IpAddr>,
    via: Option<Via>,
}

/// A gateway of the other family.
#[derive(Debug, Deserialize)]
struct Via {
    host: IpAddr,
}

impl Daemon {
    /// What the kernel would do with a packet to `dst`, by its rules and tables.
    pub(super) fn asked(&self, dst: IpAddr, from: Option<IpAddr>, iif: Option<&Link>) -> Result<DecisionRow, Failure> {
        let mut command = Command::new("ip");
        command.args(["-j", if dst.is_ipv4() { "-4" } else { "-6" }, "route", "get", &dst.to_string()]);
        if let Some(from) = from {
            command.args(["from", &from.to_string()]);
            // Without a sender, the kernel takes a packet from outside for a martian.
            command.args(iif.iter().flat_map(|link| ["iif", link.name.as_str()]));
        }
        let failed = |error: String| Failure::new(FailureKind::Failed, error);
        let said = command.output().map_err(|error| failed(format!("cannot run `ip route get`: {error}")))?;
        if !said.status.success() {
            let error = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            let reason = refusal(&error).ok_or_else(|| failed(format!("`ip route get` failed: {error}")))?;
            return Ok(row(dst, reason));
        }
        let rows: Vec<Got> = serde_json::from_slice(&said.stdout)
            .map_err(|error| failed(format!("`ip route get` said what is no JSON: {error}")))?;
        let Some(got) = rows.into_iter().next() else { return Ok(row(dst, Reason::NoRoute)) };
        Ok(self.judged(dst, &got, iif))
    }

    fn judged(&self, dst: IpAddr, got: &Got, iif: Option<&Link>) -> DecisionRow {
        let ends = match got.kind.as_deref() {
            Some("local" | "anycast") => Some(Reason::Local),
            Some("broadcast") => Some(Reason::Broadcast),
            Some("multicast") => Some(Reason::Multicast),
            Some("blackhole") => Some(Reason::Blackhole),
            Some("unreachable") => Some(Reason::Unreachable),
            Some("prohibit") => Some(Reason::Prohibit),
            _ => None,
        };
        let via = got.gateway.or(got.via.as_ref().map(|via| via.host));
        let link = got.dev.as_ref().and_then(|dev| self.model.link_named(dev));
        let known = link.and_then(|link| {
            let whos = self.lowering.next_hops();
            let (index, _) = whos.into_iter().find(|(_, who)| *who == (link.ifindex, via.unwrap_or(dst)))?;
            self.lowering.want().adjacencies.get(&index)
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
        DecisionRow { dev: got.dev.clone(), via, lladdr, ..row(dst, reason) }
    }
}

/// What the kernel's refusal means (`fib_props` and the actions of rules).
fn refusal(error: &str) -> Option<Reason> {
    let said = |words: &str| error.contains(words);
    if said("No route to host") {
        Some(Reason::Unreachable)
    } else if said("Network is unreachable") {
        Some(Reason::NoRoute)
    } else if said("Permission denied") {
        Some(Reason::Prohibit)
    } else if said("Invalid argument") {
        Some(Reason::Blackhole)
    } else {
        None
    }
}

fn row(dst: IpAddr, reason: Reason) -> DecisionRow {
    DecisionRow {
        decision: reason.decision().name().to_owned(),
        reason: reason.name().to_owned(),
        dst,
        prefix: None,
        dev: None,
        via: None,
        lladdr: None,
        table: Table::Kernel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_reasons() {
        let rows = [
            ("RTNETLINK answers: No route to host", Some(Reason::Unreachable)),
            ("RTNETLINK answers: Network is unreachable", Some(Reason::NoRoute)),
            ("RTNETLINK answers: Permission denied", Some(Reason::Prohibit)),
            ("RTNETLINK answers: Invalid argument", Some(Reason::Blackhole)),
            ("Cannot find device \"eth7\"", None),
        ];
        for (error, reason) in rows {
            assert_eq!(refusal(error), reason, "{error}");
        }
    }
}
