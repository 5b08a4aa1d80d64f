//! The program at the kernel's lookup of sockets: its object, its maps and its link, pinned apart from those of the ports.
//!
//! ```text
//! ROOT/steer/entries-1, sockets-1, counters-1    entries, their sockets, their counts
//! ROOT/steer/link-N                              what keeps the program attached
//! ```
//!
//! The tables that it searches are its own and never change: with other entries comes another program. Both are attached side by
//! side for a moment, and the kernel takes the socket that the first one of them says.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
    pin::PinError,
    programs::{ProgramError, SkLookup, links::FdLink},
};
use dataplane_common::steer::{STEER_ENTRIES, SteerCounter, SteerEntry, SteerPorts, SteerRange, map};
use thiserror::Error;
use zerocopy::{FromBytes as _, Immutable, IntoBytes};

use super::object::chain;
use crate::steer::SteerTables;

/// The program and its maps, as built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer"));
const PROGRAM: &str = "steer";
/// The directory under that of all pins. A daemon that does not know it removes it, and with it the link.
pub(super) const DIRECTORY: &str = "steer";
/// Maps that are pinned, and the names of their pins. The number is that of their layout.
const PINNED: [(&str, &str); 3] =
    [(map::ENTRIES, "entries-1"), (map::SOCKETS, "sockets-1"), (map::COUNTERS, "counters-1")];
/// What the names of links begin with.
const LINK: &str = "link-";

/// Why sockets are not steered.
#[derive(Debug, Error)]
pub enum SteerError {
    /// The object or its maps.
    #[error("cannot make the maps of program {PROGRAM}: {}", chain(.0))]
    Object(#[from] EbpfError),
    /// The program.
    #[error("the kernel refuses program {PROGRAM}: {}; it needs CAP_BPF and CAP_NET_ADMIN", chain(.0))]
    Program(#[from] ProgramError),
    /// A map could not be read or written.
    #[error("map {name}: {}", chain(.error))]
    Map {
        /// Which one.
        name: &'static str,
        /// The error.
        error: MapError,
    },
    /// The kernel takes no such socket.
    #[error("the kernel steers nothing to this socket: {}", chain(.0))]
    Socket(MapError),
    /// The link could not be pinned.
    #[error("cannot pin the link of program {PROGRAM}: {0}")]
    Pin(#[from] PinError),
    /// The object lacks something.
    #[error("{0} is missing from the object; rebuild with `cargo xtask build`")]
    Missing(&'static str),
    /// A file.
    #[error("cannot use {}: {error}", .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// How it failed.
        error: io::Error,
    },
}

type Sockets = HashMap<MapData, u32, u64>;

/// The maps, and what keeps the program attached.
pub struct SteerProgram {
    directory: PathBuf,
    entries: Array<MapData, [u8; size_of::<SteerEntry>()]>,
    sockets: Sockets,
    counters: PerCpuArray<MapData, [u8; size_of::<SteerCounter>()]>,
    link: Option<FdLink>,
}

impl std::fmt::Debug for SteerProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SteerProgram").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl SteerProgram {
    /// What an earlier daemon left under `root`; none where there is nothing.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn adopt(root: &Path) -> Result<Option<Self>, SteerError> {
        let directory = root.join(DIRECTORY);
        if PINNED.iter().any(|(_, pin)| !directory.join(pin).exists()) {
            remove(&directory)?;
            return Ok(None);
        }
        Self::new(root).map(Some)
    }

    /// The maps under `root`, made where they are not there.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn new(root: &Path) -> Result<Self, SteerError> {
        let directory = root.join(DIRECTORY);
        fs::create_dir_all(&directory).map_err(|error| SteerError::Path { path: directory.clone(), error })?;
        let mut ebpf = open(&directory, &SteerTables::default())?;
        let mut take = |name| ebpf.take_map(name).ok_or(SteerError::Missing(name));
        let (entries, sockets, counters) = (take(map::ENTRIES)?, take(map::SOCKETS)?, take(map::COUNTERS)?);
        let Map::SockMap(sockets) = sockets else { return Err(SteerError::Missing(map::SOCKETS)) };
        Ok(Self {
            directory,
            entries: entries.try_into().map_err(failed(map::ENTRIES))?,
            // To aya a map of sockets has values of 32 bits, and cannot be read. To the kernel, reading, writing and removing is
            // the same call for all maps.
            sockets: Map::HashMap(sockets).try_into().map_err(failed(map::SOCKETS))?,
            counters: counters.try_into().map_err(failed(map::COUNTERS))?,
            link: None,
        })
    }

    /// All entries, by index.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn entries(&self) -> Result<Vec<(u32, SteerEntry)>, SteerError> {
        let mut found = Vec::new();
        for index in 0..STEER_ENTRIES {
            let bytes = self.entries.get(&index, 0).map_err(failed(map::ENTRIES))?;
            if let Ok(row) = SteerEntry::read_from_bytes(&bytes)
                && row.flags & SteerEntry::USED != 0
            {
                found.push((index, row));
            }
        }
        Ok(found)
    }

    /// Writes an entry; a program that is attached knows only its index.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn write(&mut self, index: u32, entry: &SteerEntry) -> Result<(), SteerError> {
        let failed = failed(map::ENTRIES);
        self.entries.set(index, bytes_of(entry).map_err(failed)?, 0).map_err(failed)
    }

    /// Gives an entry its socket, in the place of another.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn put_socket(&mut self, index: u32, socket: &impl AsFd) -> Result<(), SteerError> {
        let number = socket.as_fd().as_raw_fd();
        self.sockets.insert(index, u64::from(number.cast_unsigned()), 0).map_err(SteerError::Socket)
    }

    /// The cookie of an entry's socket; none where that is closed.
    pub fn cookie(&self, index: u32) -> Option<u64> {
        self.sockets.get(&index, 0).ok()
    }

    /// Takes an entry's socket away.
    pub fn remove_socket(&mut self, index: u32) {
        if let Err(error) = self.sockets.remove(&index) {
            tracing::debug!(index, "an entry had no socket: {error}");
        }
    }

    /// What became of what an entry matched, of all CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counter(&self, index: u32) -> Result<SteerCounter, SteerError> {
        let mut sum = SteerCounter::default();
        for bytes in self.counters.get(&index, 0).map_err(failed(map::COUNTERS))?.iter() {
            let Ok(one) = SteerCounter::read_from_bytes(bytes) else { continue };
            sum.steered += one.steered;
            sum.passed += one.passed;
            sum.dropped += one.dropped;
        }
        Ok(sum)
    }

    /// Has an entry count from zero.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn clear_counter(&mut self, index: u32) -> Result<(), SteerError> {
        let failed = failed(map::COUNTERS);
        let cpus = match aya::util::nr_cpus() {
            Ok(cpus) => cpus,
            Err((_, error)) => return Err(failed(MapError::IoError(error))),
        };
        let zeros = vec![[0; size_of::<SteerCounter>()]; cpus];
        let written = aya::maps::PerCpuValues::try_from(zeros)
            .map_err(MapError::IoError)
            .and_then(|zeros| self.counters.set(index, zeros, 0));
        written.map_err(failed)
    }

    /// Attaches a program with these tables to the network namespace of the caller, then takes the one before it off.
    ///
    /// # Errors
    /// The kernel refuses it. The one before goes on.
    pub fn attach(&mut self, tables: &SteerTables) -> Result<(), SteerError> {
        let mut ebpf = open(&self.directory, tables)?;
        write_all::<{ size_of::<SteerRange>() }, _>(&mut ebpf, map::RANGES, &tables.ranges)?;
        write_all::<{ size_of::<SteerPorts>() }, _>(&mut ebpf, map::PORTS, &tables.ports)?;
        let program = ebpf.program_mut(PROGRAM).ok_or(SteerError::Missing(PROGRAM))?;
        let program: &mut SkLookup = program.try_into()?;
        program.load()?;
        let path = PathBuf::from("/proc/thread-self/ns/net");
        let namespace = File::open(&path).map_err(|error| SteerError::Path { path, error })?;
        let id = program.attach(&namespace)?;
        let link = FdLink::from(program.take_link(id)?);
        let before = self.links();
        let number = before.iter().filter_map(|path| number_of(path)).max().map_or(0, |number| number.wrapping_add(1));
        let link = link.pin(self.directory.join(format!("{LINK}{number}")))?;
        for path in before {
            unpin(&path)?;
        }
        self.link = Some(link.into());
        Ok(())
    }

    /// Takes the program off, and removes its maps.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn end(self) -> Result<(), SteerError> {
        remove(&self.directory)
    }

    /// Whether the program is attached, and its pin is there.
    pub fn is_pinned(&self) -> bool {
        self.link.is_none() || !self.links().is_empty()
    }

    fn links(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| number_of(path).is_some()).collect()
    }
}

/// Takes off what a daemon left under `root`; whether there was anything.
pub(super) fn take_off(root: &Path) -> Result<bool, SteerError> {
    let directory = root.join(DIRECTORY);
    let there = directory.exists();
    remove(&directory)?;
    Ok(there)
}

/// The object with the pinned maps, and room for these tables.
fn open(directory: &Path, tables: &SteerTables) -> Result<Ebpf, SteerError> {
    let shape = tables.shape.words();
    let mut loader = EbpfLoader::new();
    // No program here needs the kernel's types.
    loader.btf(None);
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for (name, pin) in PINNED {
        loader.map_pin_path(name, directory.join(pin));
    }
    loader.map_max_entries(map::RANGES, (tables.ranges.len() as u32).max(1));
    loader.map_max_entries(map::PORTS, (tables.ports.len() as u32).max(1));
    loader.override_global(map::SHAPE, &shape[..], true);
    Ok(loader.load(OBJECT)?)
}

/// Fills a map from its beginning.
fn write_all<const SIZE: usize, T>(ebpf: &mut Ebpf, name: &'static str, rows: &[T]) -> Result<(), SteerError>
where
    T: IntoBytes + Immutable,
{
    let map = ebpf.map_mut(name).ok_or(SteerError::Missing(name))?;
    let mut array: Array<_, [u8; SIZE]> = map.try_into().map_err(failed(name))?;
    for (index, row) in (0..).zip(rows) {
        let bytes = bytes_of::<SIZE, T>(row).map_err(failed(name))?;
        array.set(index, bytes, 0).map_err(failed(name))?;
    }
    Ok(())
}

fn bytes_of<const SIZE: usize, T: IntoBytes + Immutable>(row: &T) -> Result<&[u8; SIZE], MapError> {
    row.as_bytes().try_into().map_err(|_| MapError::InvalidValueSize { size: size_of::<T>(), expected: SIZE })
}

fn failed(name: &'static str) -> impl Fn(MapError) -> SteerError + Copy {
    move |error| SteerError::Map { name, error }
}

/// The number of a link's pin.
fn number_of(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix(LINK)?.parse().ok()
}

fn unpin(path: &Path) -> Result<(), SteerError> {
    fs::remove_file(path).map_err(|error| SteerError::Path { path: path.to_owned(), error })
}

/// Removes a directory of pins, if it is there.
fn remove(directory: &Path) -> Result<(), SteerError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SteerError::Path { path: directory.to_owned(), error })
        }
        _ => Ok(()),
    }
}
