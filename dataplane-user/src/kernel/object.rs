//! The object that the binary carries, loaded with a set of features.

use std::{
    io,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Array, Map, MapData, MapError},
    programs::{Iter, Program, ProgramError, ProgramInfo, RawTracePoint, SchedClassifier, Xdp, loaded_programs},
    util::nr_cpus,
};
use dataplane_common::abi::{
    ADJACENCIES, Adjacency, Control, Features, Fib4Base, Fib6Base, Filter, KernelOffsets, Observer, PORTS, Port, WAYS,
    map,
};
use thiserror::Error;

use super::{Hook, PinDirs, TableError, mmap::Mapping, rx_handler, self_test, switch, table::Rows};
use crate::{
    fib::{Memory as _, TableSizes},
    release::OLDEST,
};

/// `BPF_F_MMAPABLE` (`include/uapi/linux/bpf.h`).
const MAPPABLE: u32 = 1 << 10;

/// The kernel half, as built.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane"));

/// Maps that every daemon takes over.
const LASTING: &[&str] =
    &[map::COUNTERS, map::RULE_COUNTERS, map::ACTIVE_OBSERVER, map::EGRESS_CLASSES, map::EGRESS_LINKS];
/// Maps that each daemon makes anew.
const OWN: &[&str] = &[
    map::PORTS,
    map::VLANS,
    map::BRIDGED,
    map::SWITCHED,
    map::ADJACENCIES,
    map::NEIGHBOURS,
    map::POLICIES,
    map::EGRESS,
    map::LIMITS,
    map::PACKET_EVENTS,
    map::HEARTBEAT,
    map::TRACE_CONFIG,
    map::TRACE_CONTEXT,
    map::TRACE_RECORDS,
];

/// Maps that are made anew when routes, rules or connections outgrow them.
const ROUTING: &[&str] = &[
    map::CONTROL,
    map::FIB4_BASE,
    map::FIB4,
    map::FIB6_BASE,
    map::FIB6,
    map::GROUPS,
    map::FILTERS,
    map::FILTER,
    map::VERDICT_SETS,
    map::VERDICTS,
    map::FLOW_CONTROL,
    map::FLOWS4,
    map::FLOWS6,
];

/// Why the programs are not loaded.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// The object or its maps.
    #[error(
        "cannot load the kernel half: {}; it needs Linux {}.{} or later, and root or CAP_BPF and CAP_NET_ADMIN",
        chain(.0), OLDEST.0, OLDEST.1
    )]
    Object(#[from] EbpfError),
    /// The object, before the kernel sees it.
    #[error("the kernel half in this binary is damaged: {0}; rebuild with `cargo xtask build`")]
    Damaged(#[from] object::Error),
    /// A program, with the verifier's log.
    #[error("the kernel refuses program {name}: {}", chain(.error))]
    Program {
        /// Which one.
        name: &'static str,
        /// The log.
        error: ProgramError,
    },
    /// The object is not the one that this binary was built with.
    #[error("program {0} is missing from the object; rebuild with `cargo xtask build`")]
    Missing(&'static str),
    /// Facts about a loaded program could not be read.
    #[error("cannot read the kernel's information about a program: {0}")]
    Info(io::Error),
}

/// Constants about the kernel.
#[derive(Clone, Copy, Debug, Default)]
struct KernelLog {
    observer: Observer,
    offsets: KernelOffsets,
}

impl KernelLog {
    /// For the programs that packets go through.
    fn on_path() -> Self {
        Self { offsets: rx_handler::on_path(), ..Self::default() }
    }
}

/// How many CPUs there can be.
fn cpus() -> u32 {
    nr_cpus().map_or(1, |cpus| cpus as u32)
}

/// Sets that the verdict cache has for each CPU.
fn verdict_sets(sizes: TableSizes) -> u32 {
    sizes.verdict_sets(cpus())
}

/// All causes of an error in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The loaded programs and, until they are taken, the maps.
pub struct Object {
    ebpf: Ebpf,
    features: Features,
}

impl Object {
    /// Loads all programs with `features`, for tables of these `sizes`.
    pub fn load(features: Features, sizes: TableSizes, dirs: &PinDirs) -> Result<Self, ObjectError> {
        let mut object = Self::open(features, sizes, dirs)?;
        object.ready(&Hook::ALL)?;
        Ok(object)
    }

    /// The same, but programs are loaded when they are needed. Maps that are pinned in `dirs` are used, missing ones made and
    /// pinned.
    pub fn open(features: Features, sizes: TableSizes, dirs: &PinDirs) -> Result<Self, ObjectError> {
        Self::with_pins(features, KernelLog::on_path(), sizes, dirs)
    }

    /// Loads the programs of these hooks, unless they are: all at once, since each takes the verifier its time.
    pub fn ready(&mut self, hooks: &[Hook]) -> Result<(), ObjectError> {
        let hook = |name: &str| hooks.iter().find(|hook| hook.program() == name);
        let wanted = self.ebpf.programs_mut().filter_map(|(name, program)| Some((hook(name)?.program(), program)));
        let wanted = wanted.filter(|(_, program)| program.fd().is_err());
        thread::scope(|scope| {
            let loads: Vec<_> = wanted.map(|(name, program)| scope.spawn(move || load(name, program))).collect();
            loads.into_iter().try_for_each(|load| load.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }

    /// Opens the object for the observers of losses, which are loaded one by one.
    pub(super) fn observers(observer: Observer, sizes: TableSizes, dirs: &PinDirs) -> Result<Self, ObjectError> {
        Self::with_pins(Features::empty(), KernelLog { observer, ..KernelLog::default() }, sizes, dirs)
    }

    /// Opens the object for the iterator over links.
    pub(super) fn rx_handlers(offsets: KernelOffsets, sizes: TableSizes, dirs: &PinDirs) -> Result<Self, ObjectError> {
        Self::with_pins(Features::empty(), KernelLog { offsets, ..KernelLog::default() }, sizes, dirs)
    }

    /// Opens the object for dry runs: with the live maps, except those that programs write. These are its own.
    pub(super) fn for_test_run(features: Features, sizes: TableSizes, dirs: &PinDirs) -> Result<Self, ObjectError> {
        let mut loader = Self::loader(sizes);
        // The places of ports and rules that are not there are not counted.
        loader.map_max_entries(map::COUNTERS, 1);
        loader.map_max_entries(map::RULE_COUNTERS, 1);
        let read = [
            map::PORTS,
            map::VLANS,
            map::BRIDGED,
            map::SWITCHED,
            map::ADJACENCIES,
            map::NEIGHBOURS,
            map::POLICIES,
            map::EGRESS,
        ];
        let ways = [map::EGRESS_CLASSES, map::EGRESS_LINKS];
        pin(&mut loader, &[(&ways, &dirs.lasting), (&read, &dirs.own), (ROUTING, &dirs.routing)]);
        // The verdict cache is for packets of the live programs.
        Self::finish(loader, features.difference(Features::VERDICTS), KernelLog::on_path(), sizes, dirs)
    }

    fn with_pins(features: Features, log: KernelLog, sizes: TableSizes, dirs: &PinDirs) -> Result<Self, ObjectError> {
        let mut loader = Self::loader(sizes);
        pin(&mut loader, &[(LASTING, &dirs.lasting), (OWN, &dirs.own), (ROUTING, &dirs.routing)]);
        Self::finish(loader, features, log, sizes, dirs)
    }

    /// How large the maps are.
    fn loader<'a>(sizes: TableSizes) -> EbpfLoader<'a> {
        let mut loader = EbpfLoader::new();
        // It has read all types of the kernel, some 20 MB, and no program of ours needs one.
        loader.btf(None);
        loader.map_max_entries(map::FIB4, 2 * sizes.ipv4.blocks());
        loader.map_max_entries(map::FIB6, 2 * sizes.ipv6.total());
        loader.map_max_entries(map::GROUPS, sizes.groups);
        loader.map_max_entries(map::FILTER, 2 * sizes.filter);
        let sets = cpus() * verdict_sets(sizes);
        loader.map_max_entries(map::VERDICT_SETS, sets);
        loader.map_max_entries(map::VERDICTS, WAYS * sets);
        loader.map_max_entries(map::FLOWS4, sizes.flows);
        loader.map_max_entries(map::FLOWS6, sizes.flows);
        loader
    }

    fn finish(
        loader: EbpfLoader<'_>,
        features: Features,
        log: KernelLog,
        sizes: TableSizes,
        dirs: &PinDirs,
    ) -> Result<Self, ObjectError> {
        // A map of a section is written when it is opened, with what the object says that it holds.
        let control: [u8; size_of::<Control>()] = live(&dirs.routing, map::CONTROL)?;
        let filters: [u8; 2 * size_of::<Filter>()] = live(&dirs.routing, map::FILTERS)?;
        let ports = shared::<{ PORTS as usize * size_of::<Port>() }>(&dirs.own, map::PORTS)?;
        let adjacencies = shared::<{ ADJACENCIES as usize * size_of::<Adjacency>() }>(&dirs.own, map::ADJACENCIES)?;
        let base4 = shared::<{ size_of::<Fib4Base>() }>(&dirs.routing, map::FIB4_BASE)?;
        let lookup6_base = shared::<{ size_of::<Fib6Base>() }>(&dirs.routing, map::FIB6_BASE)?;
        // With both, programs would be too long for the verifier; such a lookup costs more than the verdict cache saves.
        let lookup = features.contains(Features::KERNEL_LOOKUP);
        let possible = if lookup { features.difference(Features::VERDICTS) } else { features };
        let object = switch::specialised(OBJECT, possible | sizes.features())?;
        let (observer, offsets) = (log.observer.words(), log.offsets.words());
        // It holds on to the globals until it has loaded.
        let mut loader = loader;
        // The log costs the verifier time and the daemon memory; the errors carry what matters.
        loader.verifier_log_level(VerifierLogLevel::STATS);
        loader.override_global(map::OBSERVER, &observer, true);
        loader.override_global(map::KERNEL_OFFSETS, &offsets, true);
        let mask = verdict_sets(sizes) - 1;
        loader.override_global(map::VERDICT_MASK, &mask, true);
        loader.override_global(map::CONTROL_SYMBOL, &control, true);
        loader.override_global(map::FILTERS_SYMBOL, &filters, true);
        loader.override_global(map::PORTS_SYMBOL, &ports[..], true);
        loader.override_global(map::ADJACENCIES_SYMBOL, &adjacencies[..], true);
        loader.override_global(map::FIB4_BASE_SYMBOL, &base4[..], true);
        loader.override_global(map::FIB6_BASE_SYMBOL, &lookup6_base[..], true);
        Ok(Self { ebpf: loader.load(&object)?, features })
    }

    /// What it was loaded with.
    pub fn features(&self) -> Features {
        self.features
    }

    /// One of the XDP programs.
    pub fn xdp(&mut self, hook: Hook) -> Result<&mut Xdp, ObjectError> {
        let name = hook.program();
        let program = self.ebpf.program_mut(name).ok_or(ObjectError::Missing(name))?;
        program.try_into().map_err(|error| ObjectError::Program { name, error })
    }

    /// The program for the self-test of a generation of the filter.
    pub(super) fn self_test(&mut self) -> Result<&mut Xdp, ObjectError> {
        let program = self.ebpf.program_mut(self_test::PROGRAM).ok_or(ObjectError::Missing(self_test::PROGRAM))?;
        program.try_into().map_err(|error| ObjectError::Program { name: self_test::PROGRAM, error })
    }

    /// One of the tc programs.
    pub fn classifier(&mut self, hook: Hook) -> Result<&mut SchedClassifier, ObjectError> {
        let name = hook.program();
        let program = self.ebpf.program_mut(name).ok_or(ObjectError::Missing(name))?;
        program.try_into().map_err(|error| ObjectError::Program { name, error })
    }

    /// One of the observers of losses.
    pub(super) fn observer(&mut self, name: &'static str) -> Result<&mut RawTracePoint, ObjectError> {
        let program = self.ebpf.program_mut(name).ok_or(ObjectError::Missing(name))?;
        program.try_into().map_err(|error| ObjectError::Program { name, error })
    }

    /// The iterator over links.
    pub(super) fn iterator(&mut self, name: &'static str) -> Result<&mut Iter, ObjectError> {
        let program = self.ebpf.program_mut(name).ok_or(ObjectError::Missing(name))?;
        program.try_into().map_err(|error| ObjectError::Program { name, error })
    }

    /// Lets an observer count, and no other.
    pub(super) fn take_watch(&mut self, observer: Observer) -> Result<(), TableError> {
        Rows::<8>::take(self, map::ACTIVE_OBSERVER)?.write(0, &observer.id)
    }

    /// A map that stays here.
    pub(super) fn map(&self, name: &'static str) -> Result<&Map, ObjectError> {
        self.ebpf.map(name).ok_or(ObjectError::Missing(name))
    }

    /// Takes a map out. It must not be closed before all programs are loaded.
    pub fn take_map(&mut self, name: &'static str) -> Result<Map, ObjectError> {
        self.ebpf.take_map(name).ok_or(ObjectError::Missing(name))
    }

    /// How many instructions the verifier walked through for a program; `None` where the kernel does not say.
    pub fn verified_instructions(&self, hook: Hook) -> Result<Option<u32>, ObjectError> {
        Ok(self.info(hook)?.verified_instruction_count())
    }

    /// How long a program is in bytes, as the kernel translated it: without what its features leave out.
    pub fn translated_bytes(&self, hook: Hook) -> Result<Option<u32>, ObjectError> {
        Ok(self.info(hook)?.size_translated())
    }

    fn info(&self, hook: Hook) -> Result<ProgramInfo, ObjectError> {
        let name = hook.program();
        let program = self.ebpf.program(name).ok_or(ObjectError::Missing(name))?;
        program.info().map_err(|error| ObjectError::Program { name, error })
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("features", &self.features).finish_non_exhaustive()
    }
}

/// Where a map is pinned. A BPF file system takes no name with a dot in it.
pub(super) fn pinned(directory: &Path, name: &str) -> PathBuf {
    directory.join(name.rsplit('.').next().unwrap_or(name))
}

/// Where all maps of a place are pinned.
pub(super) fn pins(dirs: &PinDirs) -> impl Iterator<Item = PathBuf> {
    let folders = [(LASTING, &dirs.lasting), (OWN, &dirs.own), (ROUTING, &dirs.routing)];
    folders.into_iter().flat_map(|(names, folder)| names.iter().map(|name| pinned(folder, name)))
}

/// Says where maps are pinned, or are to be.
fn pin<'a>(loader: &mut EbpfLoader<'a>, offsets: &[(&[&'a str], &PathBuf)]) {
    for (names, directory) in offsets {
        for name in *names {
            loader.map_pin_path(name, pinned(directory, name));
        }
    }
}

/// What is in a section's map that is pinned in a directory; all zero where there is none.
fn live<const SIZE: usize>(routing: &Path, name: &str) -> Result<[u8; SIZE], ObjectError> {
    let path = pinned(routing, name);
    if !path.exists() {
        return Ok([0; SIZE]);
    }
    let read = || Array::<_, [u8; SIZE]>::try_from(Map::from_map_data(MapData::from_pin(&path)?)?)?.get(&0, 0);
    read().map_err(|error| ObjectError::Object(error.into()))
}

/// What is in a section's map that the controller writes as memory; made and pinned if there is none, since aya would make one
/// that is no memory.
fn shared<const SIZE: usize>(directory: &Path, name: &'static str) -> Result<Vec<u64>, ObjectError> {
    let path = pinned(directory, name);
    if !path.exists() {
        let made = || -> Result<(), MapError> {
            let map = Array::<MapData, [u8; SIZE]>::create(1, MAPPABLE)?;
            map.pin(&path).map_err(|error| MapError::PinError { name: Some(name.to_owned()), error })
        };
        made().map_err(|error| ObjectError::Object(error.into()))?;
        return Ok(vec![0; SIZE / size_of::<u64>()]);
    }
    words(&path, SIZE / size_of::<u64>()).map_err(|error| ObjectError::Object(error.into()))
}

/// So many words of a pinned map that the controller writes as memory.
pub(super) fn words(path: &Path, count: usize) -> Result<Vec<u64>, MapError> {
    let mut memory = Mapping::<AtomicU64>::new(MapData::from_pin(path)?.fd(), count).map_err(MapError::IoError)?;
    let mut words = Vec::with_capacity(count);
    memory.each(0..count, |word| words.push(word.load(Ordering::Relaxed)));
    Ok(words)
}

fn load(name: &'static str, program: &mut Program) -> Result<(), ObjectError> {
    let loaded = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => return Err(ObjectError::Missing(name)),
    };
    loaded.map_err(|error| ObjectError::Program { name, error })
}

/// The name of a loaded program; `None` when there is none with this number, or the kernel does not show it.
pub fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().flatten().find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}
