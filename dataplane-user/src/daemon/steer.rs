//! Steered sockets: entries, their sockets, and the program that gives packets to them.
//!
//! The maps are what is known of them: a daemon that starts reads them. Sockets are closed with the machine, and so the entries
//! need no longer life than the BPF file system's.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use dataplane_common::steer::{STEER_ENTRIES, SteerCounter, SteerEntry, class as steer_class};

use super::Daemon;
use crate::{
    control::{
        open_socket::SteerEnd,
        protocol::{Failure, FailureKind},
    },
    kernel::{SteerError, SteerProgram},
    model::OpenSocket,
    steer::{Entry, Indexed, SteerConfig, SteerTables},
};

impl From<SteerError> for Failure {
    fn from(error: SteerError) -> Self {
        Self::new(FailureKind::Failed, error.to_string())
    }
}

/// An entry in force.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub id: u32,
    pub entry: Entry,
    /// Where its socket came from.
    pub origin: String,
    /// It is of the config.
    pub config: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Steering {
    /// Where pins are.
    root: PathBuf,
    /// There while there is an entry.
    program: Option<SteerProgram>,
    /// By index in the maps.
    pub(super) entries: BTreeMap<u32, InForce>,
    /// What the program that is attached searches.
    tables: SteerTables,
    /// Why entries of the config are not in force.
    trouble: Option<String>,
    /// The highest number so far.
    pub(super) highest: u32,
}

impl Steering {
    /// Goes on with what an earlier daemon left: with a program of this version, and the same sockets.
    pub(super) fn adopt(root: &Path) -> Self {
        let mut steering = Self { root: root.to_owned(), ..Self::default() };
        let adopted = SteerProgram::adopt(root).and_then(|program| {
            let Some(program) = program else { return Ok(()) };
            for (index, row) in program.entries()? {
                let Some((entry, origin)) = Entry::from_map(&row) else { continue };
                let config = row.flags & SteerEntry::CONFIG != 0;
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
            self.tables = SteerTables::default();
            return self.program.take().map_or(Ok(()), |program| program.end().map_err(Failure::from));
        }
        let tables = SteerTables::new(&self.indexed(None))
            .map_err(|error| Failure::new(FailureKind::Rejected, error.to_string()))?;
        if let Some(program) = &mut self.program {
            program.attach(&tables)?;
            self.tables = tables;
        }
        Ok(())
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
    pub(super) fn put(&mut self, wanted: InForce, socket: Option<&OwnedFd>) -> Result<u32, Failure> {
        let same = self.entries.iter().find(|(_, known)| known.entry.matches_as(&wanted.entry));
        let (index, known) = match same {
            Some((index, known)) => (*index, Some(known.clone())),
            None => (free(|index| self.entries.contains_key(&index))?, None),
        };
        let id = known.as_ref().map_or(wanted.id, |known| known.id);
        let wanted = InForce { config: known.as_ref().is_some_and(|known| known.config), ..wanted };
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
                    let _unused = program.write(index, &SteerEntry::FREE);
                    program.remove_socket(index);
                }
                self.program = Some(program);
                return Err(error.into());
            }
            Ok(()) => (self.program, self.tables) = (Some(program), tables),
        }
        self.highest = self.highest.max(id);
        self.entries.insert(index, InForce { id, ..wanted });
        Ok(index)
    }

    /// Puts the entries of a config in force, in the place of those of the one before. Entries that are in both keep their
    /// sockets; new ones have none yet.
    fn follow(&mut self, wanted: &[SteerConfig]) -> Result<(), Failure> {
        let mut entries = self.entries.clone();
        entries.retain(|_, known| !known.config || wanted.iter().any(|one| one.entry.matches_as(&known.entry)));
        let (mut changed, mut new) = (Vec::new(), Vec::new());
        for SteerConfig { entry, origin } in wanted {
            let known = entries.iter_mut().find(|(_, known)| known.entry.matches_as(entry));
            if let Some((index, known)) = known {
                if !known.config || known.entry != *entry {
                    (known.config, known.entry) = (true, *entry);
                    changed.push(*index);
                }
                continue;
            }
            // Not that of one that goes: the program of before still knows it.
            let index = free(|index| entries.contains_key(&index) || self.entries.contains_key(&index))?;
            self.highest += 1;
            entries
                .insert(index, InForce { id: self.highest, entry: *entry, origin: origin.to_string(), config: true });
            new.push(index);
        }
        let gone: Vec<_> = self.entries.keys().copied().filter(|index| !entries.contains_key(index)).collect();
        if changed.is_empty() && new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        if entries.is_empty() {
            self.entries = entries;
            return self.refresh();
        }
        let all = entries.iter().map(|(index, known)| Indexed { index: *index, id: known.id, entry: known.entry });
        let tables = SteerTables::new(&all.collect::<Vec<_>>())
            .map_err(|error| Failure::new(FailureKind::Rejected, error.to_string()))?;
        if self.program.is_none() {
            self.program = Some(SteerProgram::new(&self.root)?);
        }
        let Some(program) = &mut self.program else { return Ok(()) };
        for index in &new {
            program.remove_socket(*index);
            program.clear_counter(*index)?;
        }
        for index in changed.iter().chain(&new) {
            let known = &entries[index];
            program.write(*index, &known.entry.to_map(known.id, &known.origin, known.config))?;
        }
        if !new.is_empty() || !gone.is_empty() {
            program.attach(&tables)?;
            self.tables = tables;
        }
        for index in gone {
            program.write(index, &SteerEntry::FREE)?;
            program.remove_socket(index);
        }
        self.entries = entries;
        Ok(())
    }

    /// Why entries of the config are not in force.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Takes an entry out of force; the program first, then what it names.
    pub(super) fn remove(&mut self, index: u32) -> Result<(), Failure> {
        let Some(before) = self.entries.remove(&index) else { return Ok(()) };
        if let Err(failure) = self.refresh() {
            self.entries.insert(index, before);
            return Err(failure);
        }
        if let Some(program) = &mut self.program {
            program.write(index, &SteerEntry::FREE)?;
            program.remove_socket(index);
        }
        Ok(())
    }

    /// The entry that decides where a packet to `destination` goes, given the socket that the kernel found for it: one that is
    /// not connected is the entry's, or none is there because the entry has none and lets no other take the packet.
    pub(super) fn decides(
        &self,
        protocol: u8,
        destination: SocketAddr,
        found: Option<&OpenSocket>,
    ) -> Option<SteerEnd> {
        let class = steer_class(protocol.into(), destination.is_ipv6())?;
        let address = match destination.ip() {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let index = self.tables.find(class as u8, address, destination.port())?;
        let (known, cookie) = (self.entries.get(&index)?, self.cookie(index));
        let decides = match (found, cookie) {
            (Some(socket), Some(cookie)) => socket.cookie == cookie && socket.peer.is_none(),
            (None, None) => known.entry.or_drop,
            _ => false,
        };
        let end = SteerEnd { id: known.id, matches: known.entry.to_string(), closed: cookie.is_none() };
        decides.then_some(end)
    }

    /// What each entry has counted, by number.
    pub(super) fn counters(&self) -> Vec<(u32, SteerCounter)> {
        let counters = self.entries.iter().filter_map(|(index, known)| Some((known.id, self.counter(*index).ok()?)));
        counters.collect()
    }

    pub(super) fn cookie(&self, index: u32) -> Option<u64> {
        self.program.as_ref()?.cookie(index)
    }

    pub(super) fn counter(&self, index: u32) -> Result<SteerCounter, Failure> {
        self.program.as_ref().map_or(Ok(SteerCounter::default()), |program| Ok(program.counter(index)?))
    }
}

/// An index that no entry has.
fn free(taken: impl Fn(u32) -> bool) -> Result<u32, Failure> {
    (0..STEER_ENTRIES).find(|index| !taken(*index)).ok_or_else(|| {
        let message = format!("there are {STEER_ENTRIES} entries already; `dataplane steer del ID` makes room");
        Failure::new(FailureKind::Rejected, message)
    })
}

impl Daemon {
    /// Steers what the config says.
    pub(super) fn steer_config(&mut self) {
        let done = self.steering.follow(self.desired.running().steer());
        self.steering.trouble = done.err().map(|failure| {
            tracing::error!("entries of `steer` in the config are not in force: {failure}");
            format!("entries of `steer` are not in force: {failure}")
        });
    }
}
