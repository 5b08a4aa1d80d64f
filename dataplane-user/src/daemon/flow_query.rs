//! Answers about connections: made in threads of their own, with what the thread that follows them knows and what the kernel
//! lists.

use std::{collections::BTreeMap, time::Duration};

use dataplane_common::abi::Ifindex;

use super::{
    Daemon,
    flow_handle::{Command, Handle, Views},
};
use crate::{
    control::{
        flow::{FlowCounts, FlowRow, TupleRow, WayRow},
        protocol::{Data, Failure, FailureKind, Reply, Request},
    },
    flow::{AnySeen, Ends, Filter, View, Way},
    netlink::conntrack::Conntrack,
};

/// What it takes to answer elsewhere.
pub(super) struct FlowQuery {
    handle: Option<Handle>,
    names: BTreeMap<Ifindex, String>,
    /// Why none is carried; none if they are followed.
    off: Option<String>,
}

impl Daemon {
    /// What it takes to answer elsewhere.
    pub(super) fn flow_query(&self) -> FlowQuery {
        let handle = self.flows.handle();
        let off = match (&handle, self.flows.trouble()) {
            (Some(_), _) => None,
            (None, Some(trouble)) => Some(format!("connections cannot be followed: {trouble}")),
            (None, None) => Some("no connection is carried: `dataplane port list` and `doctor` say why".to_owned()),
        };
        FlowQuery { handle, names: self.link_names(), off }
    }

    /// Sends all connections through the kernel once.
    pub(super) fn flow_flush(&self) -> Reply {
        match self.flows.handle() {
            Some(handle) if handle.tell(Command::Flush) => Data::Done.into(),
            _ => Reply::from(Data::Done).warn("no connection is carried: there was nothing to do"),
        }
    }

    /// What is counted of connections; none while they are not followed.
    pub(super) fn flow_counts(&self, renewed: Option<u64>) -> Option<FlowCounts> {
        let stats = self.flows.stats()?;
        Some(FlowCounts {
            rows: stats.rows,
            max: stats.max,
            armed: stats.armed,
            asked: stats.asked,
            full: stats.full,
            silent: stats.silent,
            renewed: renewed.unwrap_or_default(),
            epochs: stats.epochs,
            overruns: stats.overruns,
            resyncs: stats.resyncs,
            events: stats.events,
            carried: stats.carried,
        })
    }
}

impl FlowQuery {
    /// Answers.
    pub(super) fn run(&self, request: &Request) -> Result<Reply, Failure> {
        match request {
            Request::FlowList { filter, why_not, limit } => self.list(&parse(filter)?, *why_not, *limit as usize),
            Request::FlowDel { filter } => self.delete(&parse(filter)?),
            other => Err(Failure::new(FailureKind::Failed, format!("`{}` is not about connections", other.verb()))),
        }
    }

    fn list(&self, filter: &Filter, why_not: bool, limit: usize) -> Result<Reply, Failure> {
        let which = why_not.then(|| all(&mut open()?)).transpose()?;
        let Views { rows, total } = self.views(which, filter, limit)?;
        let listed: Vec<_> = rows.iter().map(|view| self.row(view)).collect();
        let more = total.saturating_sub(listed.len());
        let mut reply = Reply::from(Data::Flows(listed));
        if let Some(off) = &self.off {
            reply = reply.warn(off.clone());
        }
        if more > 0 {
            reply = reply.warn(format!("{more} more connections are not shown; give a filter, or --limit"));
        }
        Ok(reply)
    }

    /// Those of the kernel, or all that are known, that a filter takes.
    fn views(&self, which: Option<Vec<AnySeen>>, filter: &Filter, limit: usize) -> Result<Views, Failure> {
        let Some(handle) = &self.handle else {
            let views = which.into_iter().flatten().map(|seen| View::unknown(&seen)).filter(|view| filter.takes(view));
            let mut rows: Vec<_> = views.collect();
            let total = rows.len();
            rows.truncate(limit);
            return Ok(Views { rows, total });
        };
        handle.views(which, filter, limit).ok_or_else(|| {
            Failure::new(
                FailureKind::Failed,
                "what follows connections does not answer; `dataplane doctor` may say why",
            )
        })
    }

    fn delete(&self, filter: &Filter) -> Result<Reply, Failure> {
        if filter.is_empty() {
            return Err(Failure::new(FailureKind::Usage, "say which connections; `conntrack -F` deletes all of them"));
        }
        let mut conntrack = open()?;
        let found = self.views(Some(all(&mut conntrack)?), filter, usize::MAX)?.rows;
        let mut deleted = 0;
        for view in &found {
            deleted += u64::from(conntrack.delete(&view.named, view.id).map_err(failed)?);
        }
        if found.is_empty() {
            let text = "the kernel has no such connection; `dataplane flow list --why-not` shows all";
            return Err(Failure::new(FailureKind::NotFound, text));
        }
        Ok(Data::Deleted(deleted).into())
    }

    fn row(&self, view: &View) -> FlowRow {
        let why = view.not_fast.map(|not_fast| not_fast.meaning().to_owned());
        FlowRow {
            proto: view.protocol.to_owned(),
            original: tuple(view.original),
            reply: tuple(view.reply),
            zone: view.zone,
            mark: view.mark,
            status: view.status.words().map(str::to_owned).collect(),
            state: view.state().to_owned(),
            reason: view.not_fast.map(|not_fast| not_fast.name().to_owned()),
            why: self.off.clone().or(why),
            age_ms: view.age.map(milliseconds),
            packets: view.packets(),
            forth: view.ways[0].map(|way| self.way(&way)),
            back: view.ways[1].map(|way| self.way(&way)),
        }
    }

    fn way(&self, way: &Way) -> WayRow {
        way_row(way, |ifindex| self.names.get(&ifindex).cloned().unwrap_or_else(|| format!("if{ifindex}")))
    }
}

/// One direction, with the names of its interfaces.
pub(super) fn way_row(way: &Way, name: impl Fn(Ifindex) -> String) -> WayRow {
    let name = |ifindex: Ifindex| (ifindex != 0).then(|| name(ifindex));
    WayRow {
        state: way.state().to_owned(),
        iif: name(way.iif),
        oif: name(way.oif),
        lease_age_ms: way.witnessed.map(milliseconds),
        packets: way.packets,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Addresses and ports of one direction.
pub(super) fn tuple(ends: Ends) -> TupleRow {
    TupleRow {
        saddr: ends.source.ip(),
        sport: ends.source.port(),
        daddr: ends.destination.ip(),
        dport: ends.destination.port(),
    }
}

fn parse(filter: &str) -> Result<Filter, Failure> {
    Filter::parse(filter).map_err(|error| Failure::new(FailureKind::Usage, error))
}

fn open() -> Result<Conntrack, Failure> {
    Conntrack::requests().map_err(failed)
}

/// All connections that the kernel tracks.
fn all(conntrack: &mut Conntrack) -> Result<Vec<AnySeen>, Failure> {
    let mut found = Vec::new();
    let mut listing = conntrack.list().map_err(failed)?;
    while !conntrack.read(&mut listing, |seen| found.push(seen)).map_err(failed)? {}
    Ok(found)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn failed(error: crate::netlink::Error) -> Failure {
    Failure::new(FailureKind::Failed, error.to_string())
}
