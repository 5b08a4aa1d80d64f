//! `steer list`, `add` and `del`, and what the doctor says of entries.

use std::{collections::BTreeMap, net::IpAddr, os::fd::OwnedFd};

use dataplane_common::{abi::Ifindex, steer::SteerCounter};
use rustix::{
    fs::fstat,
    net::{AddressFamily, ipproto, sockopt},
};

use super::{Daemon, recipient::end, steer::InForce};
use crate::{
    control::{
        protocol::{Data, Failure, FailureKind, Reply},
        row::{Finding, Status},
        steer::SteerRow,
    },
    model::{Family, OpenSocket, Prefix, RouteType, Routes, TABLE_LOCAL},
    netlink::sock_diag::open_sockets,
    steer::{self, Entry},
};

/// Rows, but for the sockets, which are looked for elsewhere.
pub(super) struct SteerQuery {
    rows: Vec<(SteerRow, Option<u64>)>,
    names: BTreeMap<Ifindex, String>,
    trouble: Option<Failure>,
}

impl SteerQuery {
    /// Answers.
    pub(super) fn run(self) -> Result<Reply, Failure> {
        if let Some(trouble) = self.trouble {
            return Err(trouble);
        }
        let sockets = if self.rows.is_empty() { Vec::new() } else { listed()? };
        let by_cookie: BTreeMap<_, _> = sockets.iter().map(|socket| (socket.cookie, socket)).collect();
        let name = |ifindex: Ifindex| self.names.get(&ifindex).cloned().unwrap_or_else(|| format!("if{ifindex}"));
        let rows = self.rows.into_iter().map(|(row, cookie)| {
            let socket = cookie.and_then(|cookie| by_cookie.get(&cookie)).map(|socket| end(socket, name));
            SteerRow { socket, ..row }
        });
        Ok(Data::Steer(rows.collect()).into())
    }
}

impl Daemon {
    /// What the doctor says of entries: those without a socket, and those whose packets do not come to this machine.
    pub(super) fn steer_findings(&self) -> Vec<Finding> {
        let steering = &self.steering;
        let mut findings = Vec::new();
        findings.extend(steering.trouble().map(|trouble| Finding {
            check: "steer".to_owned(),
            status: Status::Fail,
            found: trouble.to_owned(),
            fix: "dataplane config apply FILE  # it is tried again then".to_owned(),
        }));
        for (index, known) in &steering.entries {
            let check = format!("steer: {}", known.id);
            if steering.cookie(*index).is_none() {
                let without = if known.entry.or_drop { "go to no socket" } else { "go where they would without it" };
                let found = format!("the socket of `{}` ({}) is closed: packets {without}", known.entry, known.origin);
                let or_drop = if known.entry.or_drop { " or drop" } else { "" };
                let fix = format!("dataplane steer replace {} to {}{or_drop}", known.entry, known.origin);
                findings.push(Finding { check: check.clone(), status: Status::Warn, found, fix });
            }
            if !self.is_local(&known.entry) {
                let found = format!(
                    "{}/{} is not local: its packets do not come to sockets",
                    known.entry.address, known.entry.length
                );
                findings.push(Finding { check, status: Status::Warn, found, fix: local_route(&known.entry) });
            }
        }
        if findings.is_empty() && !steering.entries.is_empty() {
            findings.push(Finding {
                check: "steer".to_owned(),
                status: Status::Ok,
                found: format!("{} entries have their sockets", steering.entries.len()),
                fix: String::new(),
            });
        }
        findings
    }

    /// Whether there is a local route around the prefix of an entry, or within it.
    fn is_local(&self, entry: &Entry) -> bool {
        let model = self.observed.model();
        match entry.address {
            IpAddr::V4(address) => has_local(&model.routes4, Prefix::new(address.to_bits(), entry.length)),
            IpAddr::V6(address) => has_local(&model.routes6, Prefix::new(address.to_bits(), entry.length)),
        }
    }

    /// What it takes to list entries elsewhere: all, or the one at an index.
    pub(super) fn steer_query(&self, only: Option<u32>) -> SteerQuery {
        let entries = self.steering.entries.iter().filter(|(index, _)| only.is_none_or(|only| only == **index));
        let mut trouble = None;
        let mut rows: Vec<_> = entries
            .map(|(index, known)| {
                let counter = self.steering.counter(*index).unwrap_or_else(|failure| {
                    trouble = Some(failure);
                    SteerCounter::default()
                });
                (row(known, counter), self.steering.cookie(*index))
            })
            .collect();
        rows.sort_by_key(|(row, _)| row.id);
        SteerQuery { rows, names: self.link_names(), trouble }
    }

    /// Steers to a socket that came with a request.
    pub(super) fn steer_add(&mut self, text: &str, replace: bool, sockets: Vec<OwnedFd>) -> Result<Reply, Failure> {
        let rejected = |message: String| Failure::new(FailureKind::Rejected, message);
        let (entry, origin) = steer::parse(text).map_err(|error| rejected(error.to_string()))?;
        let known = self.steering.entries.values().find(|known| known.entry.matches_as(&entry));
        if let (Some(known), false) = (known, replace) {
            let message = format!(
                "entry {} matches `{entry}` already; `dataplane steer replace` gives it another socket",
                known.id
            );
            return Err(rejected(message));
        }
        let Some(socket) = sockets.into_iter().next() else {
            return Err(Failure::new(FailureKind::Usage, "no socket came with the request".to_owned()));
        };
        fits(&socket, &entry)?;
        let id = self.steering.highest + 1;
        let index =
            self.steering.put(InForce { id, entry, origin: origin.to_string(), config: false }, Some(&socket))?;
        drop(socket);
        let reply = self.steer_query(Some(index)).run()?;
        if self.is_local(&entry) {
            return Ok(reply);
        }
        let (address, length) = (entry.address, entry.length);
        Ok(reply.warn(format!(
            "{address}/{length} is not local, so that its packets do not come to sockets: `{}`",
            local_route(&entry)
        )))
    }

    /// Steers no more what an entry matches.
    pub(super) fn steer_del(&mut self, id: u32) -> Result<Reply, Failure> {
        let found = self.steering.entries.iter().find(|(_, known)| known.id == id).map(|(index, _)| *index);
        if self.steering.entries.values().any(|known| known.id == id && known.config) {
            let message = format!("entry {id} is of the config; `dataplane config apply` of a file without it ends it");
            return Err(Failure::new(FailureKind::Rejected, message));
        }
        let index = found.ok_or_else(|| {
            let message = format!("there is no entry {id}; `dataplane steer list` shows them");
            Failure::new(FailureKind::NotFound, message)
        })?;
        self.steering.remove(index)?;
        Ok(Data::Done.into())
    }
}

/// Whether table local has a local route around a prefix, or within it.
fn has_local<A: Family>(routes: &Routes<A>, prefix: Prefix<A>) -> bool {
    let mut all = routes.around(TABLE_LOCAL, prefix).chain(routes.inside(TABLE_LOCAL, prefix));
    all.any(|(_, candidates)| candidates.iter().any(|route| route.kind == RouteType::Local))
}

/// What makes the addresses of an entry local.
fn local_route(entry: &Entry) -> String {
    let family = if entry.address.is_ipv6() { "-6 " } else { "" };
    format!("ip {family}route add local {}/{} dev lo", entry.address, entry.length)
}

fn row(known: &InForce, counter: SteerCounter) -> SteerRow {
    let SteerCounter { steered, passed, dropped } = counter;
    SteerRow {
        id: known.id,
        matches: known.entry.to_string(),
        to: known.origin.clone(),
        or_drop: known.entry.or_drop,
        config: known.config,
        socket: None,
        process: None,
        packets: steered + passed + dropped,
        steered,
        passed,
        dropped,
    }
}

/// The sockets of this network namespace.
fn listed() -> Result<Vec<OpenSocket>, Failure> {
    open_sockets().map_err(|error| {
        let message = format!("{error}; does the kernel have CONFIG_INET_DIAG and its UDP part?");
        Failure::new(FailureKind::Failed, message)
    })
}

/// Whether a socket can get what an entry matches: else the kernel would refuse it packet by packet.
fn fits(socket: &OwnedFd, entry: &Entry) -> Result<(), Failure> {
    let rejected = |message: String| Err(Failure::new(FailureKind::Rejected, message));
    let word = entry.protocol_word();
    let wanted = if entry.udp { ipproto::UDP } else { ipproto::TCP };
    let Ok(protocol) = sockopt::socket_protocol(socket) else {
        return rejected("the descriptor is no socket".to_owned());
    };
    let family = sockopt::socket_domain(socket).ok();
    if protocol != Some(wanted) || !matches!(family, Some(AddressFamily::INET | AddressFamily::INET6)) {
        return rejected(format!("the descriptor is no socket of {word}"));
    }
    let inode = fstat(socket).map(|stat| stat.st_ino).unwrap_or_default();
    let sockets = listed()?;
    let found = sockets.iter().find(|open| u64::from(open.inode) == inode && open.protocol == entry.protocol());
    let Some(open) = found else {
        let must = if entry.udp { "be bound, and not connected" } else { "listen" };
        return rejected(format!("the socket must {must}, in the network namespace of the daemon"));
    };
    let ipv4 = entry.address.is_ipv4();
    // As `bpf_sk_lookup_assign` in net/core/filter.c has it.
    let takes = if ipv4 { open.local.is_ipv4() || !open.only_ipv6 } else { open.local.is_ipv6() };
    if !takes {
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        return rejected(format!("the socket, bound to {}, takes no packets of {family}", open.local));
    }
    Ok(())
}
