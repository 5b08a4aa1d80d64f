//! Traffic for measuring: a generator that the kernel runs on frames of its own (`BPF_PROG_TEST_RUN` with live frames, Linux
//! 5.18), and a sink that counts them where they arrive.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{Array, MapData, MapError, PerCpuArray},
    programs::{ProgramError, Xdp, XdpMode, xdp::XdpLink},
};
use dataplane_common::{
    abi::Ifindex,
    traffic::{
        TIME_BUCKETS, TRAFFIC_CPUS, TRAFFIC_HEADERS, TRAFFIC_SHORTEST, TrafficCount, TrafficFrame, TrafficProgress, map,
    },
};
use thiserror::Error;
use zerocopy::FromBytes as _;

use super::object::chain;

/// The programs and their maps, as built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/traffic"));
const GENERATE: &str = "generate";
const SINK: &str = "sink";

type Bytes<const SIZE: usize> = [u8; SIZE];
type ProgressMap = Array<MapData, Bytes<{ size_of::<TrafficProgress>() }>>;

/// Why there is no traffic.
#[derive(Debug, Error)]
pub enum TrafficError {
    /// The object or its maps.
    #[error("cannot make the maps of the generator: {}", chain(.0))]
    Object(#[from] EbpfError),
    /// The kernel refuses a program.
    #[error("the kernel refuses program {name}: {}", chain(.error))]
    Program {
        /// Which.
        name: &'static str,
        /// The error.
        error: ProgramError,
    },
    /// The kernel does not run the generator.
    #[error("the kernel does not run the generator with live frames ({}); it takes Linux 5.18 or later", chain(.0))]
    Run(ProgramError),
    /// A map could not be read or written.
    #[error("map {name}: {}", chain(.error))]
    Map {
        /// Which one.
        name: &'static str,
        /// The error.
        error: MapError,
    },
    /// The object lacks something.
    #[error("{0} is missing from the object; rebuild with `cargo xtask build`")]
    Missing(&'static str),
}

fn failed(name: &'static str) -> impl Fn(MapError) -> TrafficError {
    move |error| TrafficError::Map { name, error }
}

/// The generator, for one interface of the network namespace of those who run it.
pub struct Generator {
    ebpf: Ebpf,
    progress: Mutex<ProgressMap>,
    blank: Vec<u8>,
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("longest", &self.blank.len()).finish_non_exhaustive()
    }
}

impl Generator {
    /// CPUs that it can run on: those below this number.
    pub const CPUS: usize = TRAFFIC_CPUS;

    /// Loads it with the frames that it sends in turn.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn load(frames: &[TrafficFrame], egress: Ifindex) -> Result<Self, TrafficError> {
        let longest = frames.iter().map(|frame| frame.length as usize).max().unwrap_or(TRAFFIC_SHORTEST);
        // Frames of several lengths are cut from the longest, behind all that is written.
        let equal = frames.iter().all(|frame| frame.length as usize == longest);
        let room = if equal { longest } else { longest.max(TRAFFIC_HEADERS) };
        let (total, bytes) = (frames.len() as u32, room as u32);
        let mut ebpf = EbpfLoader::new()
            .override_global(map::TOTAL, &total, true)
            .override_global(map::ROOM, &bytes, true)
            .override_global(map::EGRESS, &egress, true)
            .map_max_entries(map::FRAMES, total.max(1))
            .load(OBJECT)?;
        let found = ebpf.map_mut(map::FRAMES).ok_or(TrafficError::Missing(map::FRAMES))?;
        let mut rows =
            Array::<_, Bytes<{ size_of::<TrafficFrame>() }>>::try_from(found).map_err(failed(map::FRAMES))?;
        for (index, frame) in (0..).zip(frames) {
            let bytes: Bytes<{ size_of::<TrafficFrame>() }> = zerocopy::transmute!(*frame);
            rows.set(index, bytes, 0).map_err(failed(map::FRAMES))?;
        }
        let progress = ebpf.take_map(map::PROGRESS).ok_or(TrafficError::Missing(map::PROGRESS))?;
        let progress = Mutex::new(progress.try_into().map_err(failed(map::PROGRESS))?);
        load(&mut ebpf, GENERATE)?;
        Ok(Self { ebpf, progress, blank: vec![0; room] })
    }

    /// How far a CPU has come.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn progress(&self, cpu: usize) -> Result<TrafficProgress, TrafficError> {
        let bytes = self.map().get(&(cpu as u32), 0).map_err(failed(map::PROGRESS))?;
        TrafficProgress::read_from_bytes(&bytes).map_err(|_| TrafficError::Missing(map::PROGRESS))
    }

    /// Says how a CPU goes on.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_progress(&self, cpu: usize, progress: &TrafficProgress) -> Result<(), TrafficError> {
        let bytes: Bytes<{ size_of::<TrafficProgress>() }> = zerocopy::transmute!(*progress);
        self.map().set(cpu as u32, bytes, 0).map_err(failed(map::PROGRESS))
    }

    fn map(&self) -> MutexGuard<'_, ProgressMap> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the program so many times on the CPU of this thread; `batch` frames leave together. A signal ends it early.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn run(&self, times: u32, batch: u32) -> Result<(), TrafficError> {
        let program = self.ebpf.program(GENERATE).ok_or(TrafficError::Missing(GENERATE))?;
        let program: &Xdp = program.try_into().map_err(|error| TrafficError::Program { name: GENERATE, error })?;
        let options = TestRunOptions {
            data_in: Some(&self.blank),
            repeat: times,
            attrs: TestRunAttrs::new().xdp_live_frames(batch),
            ..TestRunOptions::default()
        };
        match program.test_run(options) {
            Err(ProgramError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(TrafficError::Run(error)),
            Ok(_) => Ok(()),
        }
    }
}

/// What a sink has seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of the stamped ones were on their way how long, by [`dataplane_common::traffic::time_bucket`].
    pub times: Vec<u64>,
}

/// Counts at an interface, until it is dropped.
pub struct Sink {
    ebpf: Ebpf,
    _link: XdpLink,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    /// Attaches it in the network namespace of this thread, at the driver where that can be.
    ///
    /// # Errors
    /// The kernel refuses it: another program is there.
    pub fn attach(ifindex: Ifindex) -> Result<Self, TrafficError> {
        let mut ebpf = EbpfLoader::new().map_max_entries(map::FRAMES, 1).load(OBJECT)?;
        let program = load(&mut ebpf, SINK)?;
        let failed = |error| TrafficError::Program { name: SINK, error };
        let id = program
            .attach_to_if_index(ifindex, XdpMode::Driver)
            .or_else(|_| program.attach_to_if_index(ifindex, XdpMode::Skb))
            .map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        Ok(Self { ebpf, _link: link })
    }

    /// Everything until now.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn seen(&self) -> Result<Seen, TrafficError> {
        let found = self.ebpf.map(map::COUNT).ok_or(TrafficError::Missing(map::COUNT))?;
        let counts = PerCpuArray::<_, Bytes<{ size_of::<TrafficCount>() }>>::try_from(found);
        let counts = counts.and_then(|counts| counts.get(&0, 0)).map_err(failed(map::COUNT))?;
        let mut seen = Seen { packets: 0, bytes: 0, times: Vec::with_capacity(TIME_BUCKETS) };
        for one in counts.iter().filter_map(|bytes| TrafficCount::read_from_bytes(bytes).ok()) {
            seen.packets += one.packets;
            seen.bytes += one.bytes;
        }
        let found = self.ebpf.map(map::TIMES).ok_or(TrafficError::Missing(map::TIMES))?;
        let times = PerCpuArray::<_, u64>::try_from(found).map_err(failed(map::TIMES))?;
        for bucket in 0..TIME_BUCKETS as u32 {
            seen.times.push(times.get(&bucket, 0).map_err(failed(map::TIMES))?.iter().sum());
        }
        Ok(seen)
    }

    /// Frames until now.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn packets(&self) -> Result<u64, TrafficError> {
        Ok(self.seen()?.packets)
    }
}

/// Loads a program.
fn load<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, TrafficError> {
    let failed = |error| TrafficError::Program { name, error };
    let program = ebpf.program_mut(name).ok_or(TrafficError::Missing(name))?;
    let program: &mut Xdp = program.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    Ok(program)
}
