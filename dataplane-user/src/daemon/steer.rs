//! Steered sockets: entries, their sockets, and the program that gives packets to them.
//!
//! The maps are what is known of them: a daemon that starts reads them. Sockets are closed with the machine, and so the entries
//! need no longer life than the BPF file system's.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use dataplane_common::{
    abi::Ifindex,
    steer::{STEER_ENTRIES, SteerCounter},
};
use rustix::{
    fs::fstat,
    net::{AddressFamily, ipproto, sockopt},
};

use super::{Daemon, recipient::end};
use crate::{
    control::{
        protocol::{Data, Failure, FailureKind, Reply},
        steer::SteerRow,
    },
    kernel::{SteerError, SteerProgram},
    model::{OpenSocket, STATE_LISTEN},
    netlink::sock_diag::open_sockets,
    steer::{self, Entry, Indexed, Origin, SteerTables},
};

impl From<SteerError> for Failure {
    fn from(error: SteerError) -> Self {
        Self::new(FailureKind::Failed, error.to_string())
    }
}

/// An entry in force.
#[derive(Clone, Debug)]
struct InForce {
    id: u32,
    entry: Entry,
    /// Where its socket came from.
    origin: String,
    config: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Steering {
    /// Where pins are.
    root: PathBuf,
    /// There while there is an entry.
    program: Option<SteerProgram>,
    /// By index in the maps.
    entries: BTreeMap<u32, InForce>,
    /// The highest number so far.
    highest: u32,
}

impl Steering {
    /// Goes on with what an earlier daemon left: with a program of this version, and the same sockets.
    pub(super) fn adopt(root: &Path) -> Self {
        let mut steering = Self { root: root.to_owned(), ..Self::default() };
        let adopted = SteerProgram::adopt(root).and_then(|program| {
            let Some(program) = program else { return Ok(()) };
            for (index, row) in program.entries()? {
                let Some((entry, origin)) = Entry::from_map(&row) else { continue };
                let config = row.flags & dataplane_common::steer::SteerEntry::CONFIG != 0;
                steering.highest = steering.highest.max(row.id);
                steering.entries.insert(index, InForce { id: row.id, entry, origin, config });
            }
            steering.program = Some(program);
            Ok(())
        });
        if let Err(error) = adopted {
            tracing::error!("what steers sockets goes on as an earlier daemon left it, and cannot be changed: {error}");
            return steering;
        }
        match steering.refresh() {
            Ok(()) if steering.entries.is_empty() => {}
            Ok(()) => tracing::info!(entries = steering.entries.len(), "sockets are steered as before"),
            Err(failure) => tracing::error!("sockets are steered by the program of an earlier daemon: {failure}"),
        }
        steering
    }

    /// Attaches a program for the entries that there are, or takes it off where there are none.
    fn refresh(&mut self) -> Result<(), Failure> {
        if self.entries.is_empty() {
            return self.program.take().map_or(Ok(()), |program| program.end().map_err(Failure::from));
        }
        let tables = SteerTables::new(&self.indexed(None))
            .map_err(|error| Failure::new(FailureKind::Rejected, error.to_string()))?;
        match &mut self.program {
            Some(program) => Ok(program.attach(&tables)?),
            None => Ok(()),
        }
    }

    /// All entries but one.
    fn indexed(&self, without: Option<u32>) -> Vec<Indexed> {
        let kept = self.entries.iter().filter(|(index, _)| Some(**index) != without);
        kept.map(|(index, known)| Indexed { index: *index, id: known.id, entry: known.entry }).collect()
    }

    /// Nothing is steered any more.
    pub(super) fn end(&mut self) {
        self.entries.clear();
        if let Err(error) = self.refresh() {
            tracing::error!("{error}");
        }
    }

    /// Puts an entry in force; gives its index.
    fn put(&mut self, wanted: InForce, socket: Option<&OwnedFd>) -> Result<u32, Failure> {
        let same = self.entries.iter().find(|(_, known)| known.entry.matches_as(&wanted.entry));
        let (index, known) = match same {
            Some((index, known)) => (*index, Some(known.clone())),
            None => (free(&self.entries)?, None),
        };
        let id = known.as_ref().map_or(wanted.id, |known| known.id);
        // First all that can be refused without a trace.
        let mut all = self.indexed(Some(index));
        all.push(Indexed { index, id, entry: wanted.entry });
        let tables = SteerTables::new(&all).map_err(|error| Failure::new(FailureKind::Rejected, error.to_string()))?;
        let new = self.program.is_none();
        let mut program = match self.program.take() {
            Some(program) => program,
            None => SteerProgram::new(&self.root)?,
        };
        let done = (|| {
            if known.is_none() {
                program.remove_socket(index);
                program.clear_counter(index)?;
            }
            if let Some(socket) = socket {
                program.put_socket(index, socket)?;
            }
            program.write(index, &wanted.entry.to_map(id, &wanted.origin, wanted.config))?;
            // Another socket, or none: the program that is attached looks them up each time.
            if known.is_none() { program.attach(&tables) } else { Ok(()) }
        })();
        match done {
            Err(error) if new => {
                let _gone = program.end();
                return Err(error.into());
            }
            Err(error) => {
                if known.is_none() {
                    let _unused = program.write(index, &dataplane_common::steer::SteerEntry::FREE);
                    program.remove_socket(index);
                }
                self.program = Some(program);
                return Err(error.into());
            }
            Ok(()) => self.program = Some(program),
        }
        self.highest = self.highest.max(id);
        self.entries.insert(index, InForce { id, ..wanted });
        Ok(index)
    }

    /// Takes an entry out of force; the program first, then what it names.
    fn remove(&mut self, index: u32) -> Result<(), Failure> {
        let Some(before) = self.entries.remove(&index) else { return Ok(()) };
        if let Err(failure) = self.refresh() {
            self.entries.insert(index, before);
            return Err(failure);
        }
        if let Some(program) = &mut self.program {
            program.write(index, &dataplane_common::steer::SteerEntry::FREE)?;
            program.remove_socket(index);
        }
        Ok(())
    }

    fn cookie(&self, index: u32) -> Option<u64> {
        self.program.as_ref()?.cookie(index)
    }

    fn counter(&self, index: u32) -> Result<SteerCounter, Failure> {
        self.program.as_ref().map_or(Ok(SteerCounter::default()), |program| Ok(program.counter(index)?))
    }
}

/// An index that no entry has.
fn free(entries: &BTreeMap<u32, InForce>) -> Result<u32, Failure> {
    (0..STEER_ENTRIES).find(|index| !entries.contains_key(index)).ok_or_else(|| {
        let message = format!("there are {STEER_ENTRIES} entries already; `dataplane steer del ID` makes room");
        Failure::new(FailureKind::Rejected, message)
    })
}

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

    /// Steers to a socket that came with a request, or from systemd.
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
        let socket = match (&origin, sockets.into_iter().next()) {
            (Origin::Systemd(name), _) => {
                return Err(rejected(format!("the daemon was given no socket named {name} by systemd")));
            }
            (_, Some(socket)) => socket,
            (_, None) => return Err(Failure::new(FailureKind::Usage, "no socket came with the request".to_owned())),
        };
        fits(&socket, &entry)?;
        let id = self.steering.highest + 1;
        let index =
            self.steering.put(InForce { id, entry, origin: origin.to_string(), config: false }, Some(&socket))?;
        drop(socket);
        self.steer_query(Some(index)).run()
    }

    /// Steers no more what an entry matches.
    pub(super) fn steer_del(&mut self, id: u32) -> Result<Reply, Failure> {
        let found = self.steering.entries.iter().find(|(_, known)| known.id == id).map(|(index, _)| *index);
        let index = found.ok_or_else(|| {
            let message = format!("there is no entry {id}; `dataplane steer list` shows them");
            Failure::new(FailureKind::NotFound, message)
        })?;
        self.steering.remove(index)?;
        Ok(Data::Done.into())
    }
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
    debug_assert!(entry.udp || open.state == STATE_LISTEN, "only such are listed");
    Ok(())
}
