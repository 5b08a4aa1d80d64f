//! Packets that never were: the programs that are loaded, run on bytes from somewhere (`BPF_PROG_TEST_RUN`). They read the
//! maps of what is live; what they write goes into maps of their own, so that nothing counts.

use std::collections::BTreeMap;

use aya::{
    TestRun as _, TestRunOptions,
    maps::{MapData, RingBuf},
    programs::ProgramError,
};
use dataplane_common::abi::{
    Features, Ifindex, Limit, TRACE_FILTERS, TRACE_RECORD_BYTES, TraceConfig, TraceFilter, TraceRecord, map,
};
use thiserror::Error;
use zerocopy::FromBytes as _;

use super::{
    Hook, Object, ObjectError, PinDirs, TableError,
    object::chain,
    table::{Limits, Rows, limits},
};
use crate::fib::TableSizes;

/// Room for the longest frame, and what is in front of it.
const ROOM: usize = 16 << 10;
/// Words of `struct xdp_md` (include/uapi/linux/bpf.h).
const XDP_MD: usize = 6;
/// Words of `struct __sk_buff`.
const SK_BUFF: usize = 48;

/// Why a dry run failed.
#[derive(Debug, Error)]
pub enum TestRunError {
    /// The programs could not be loaded.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The maps could not be made.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The kernel refuses to run it.
    #[error("the kernel does not run {bytes} bytes through {program}: {}; a frame has 14 bytes at least", chain(.error))]
    Run {
        /// Which program.
        program: &'static str,
        /// How long the frame is.
        bytes: usize,
        /// The error.
        error: ProgramError,
    },
}

/// What a program did to a frame.
#[derive(Debug)]
pub struct Ran {
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// The record of the packet; none where the program leaves it to the next tier.
    pub record: Option<TraceRecord>,
}

/// Programs that are loaded beside those in use.
pub struct TestRun {
    object: Object,
    ring: RingBuf<MapData>,
    limits: Limits,
    /// What is in them.
    known: BTreeMap<u32, Limit>,
    /// Programs that are not loaded yet need it open.
    _watched: Rows<{ size_of::<TraceConfig>() }>,
}

impl TestRun {
    /// Opens the programs with the live features, sizes and maps. Maps of sections are written with their own contents, so
    /// there must be no other writer meanwhile.
    pub fn open(features: Features, sizes: TableSizes, dirs: &PinDirs) -> Result<Self, TestRunError> {
        let mut object = Object::for_test_run(features | Features::TRACING | Features::DRY_RUN, sizes, dirs)?;
        let mut filters = [TraceFilter::default(); TRACE_FILTERS];
        filters[0] = TraceFilter {
            reasons: u64::MAX,
            source_port: [0, u16::MAX],
            destination_port: [0, u16::MAX],
            length: [0, u16::MAX],
            ..TraceFilter::default()
        };
        // Costs nothing, so it is never over.
        let limit = Limit { depth: u64::MAX >> 1, ..Limit::default() };
        let watch =
            TraceConfig { limit, count: 1, bytes: TRACE_RECORD_BYTES as u32, filters, ..TraceConfig::default() };
        let mut watched = Rows::<{ size_of::<TraceConfig>() }>::take(&mut object, map::TRACE_CONFIG)?;
        watched.write(0, &watch)?;
        let failed = |error| TableError::Map { name: map::TRACE_RECORDS, error };
        let ring = RingBuf::try_from(object.take_map(map::TRACE_RECORDS)?).map_err(failed)?;
        let limits = limits(&mut object)?;
        Ok(Self { object, ring, limits, known: BTreeMap::new(), _watched: watched })
    }

    /// Loads the programs of these hooks, unless that is done: it takes the verifier its time.
    pub fn ready(&mut self, hooks: &[Hook]) -> Result<(), TestRunError> {
        Ok(self.object.ready(hooks)?)
    }

    /// Gives rules their limits, by their counters: a new one has a full bucket.
    pub fn set_limits(&mut self, limits: &BTreeMap<u32, Limit>) -> Result<(), TestRunError> {
        let failed = |error| TableError::Map { name: map::LIMITS, error };
        let gone: Vec<u32> = self.known.keys().filter(|counter| !limits.contains_key(counter)).copied().collect();
        for counter in gone {
            self.limits.remove(&counter).map_err(failed)?;
            self.known.remove(&counter);
        }
        for (counter, limit) in limits {
            if self.known.get(counter) != Some(limit) {
                let row: [u8; size_of::<Limit>()] = zerocopy::transmute!(*limit);
                self.limits.insert(*counter, row, 0).map_err(failed)?;
                self.known.insert(*counter, *limit);
            }
        }
        Ok(())
    }

    /// Runs the program of a hook on a frame that came in through an interface.
    pub fn run(&mut self, hook: Hook, ifindex: Ifindex, frame: &[u8]) -> Result<Ran, TestRunError> {
        self.ready(&[hook])?;
        let xdp = matches!(hook, Hook::Xdp | Hook::Generic);
        let mut data = vec![0; ROOM.max(frame.len() + 256)];
        let input = context(xdp, ifindex, frame.len());
        let mut output = vec![0; input.len()];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut data),
            ctx_in: Some(&input),
            ctx_out: Some(&mut output),
            ..TestRunOptions::default()
        };
        let program = hook.program();
        let done = if xdp {
            self.object.xdp(hook)?.test_run(options)
        } else {
            self.object.classifier(hook)?.test_run(options)
        };
        let done = done.map_err(|error| TestRunError::Run { program, bytes: frame.len(), error })?;
        data.truncate(done.data_size_out as usize);
        // The output begins with the metadata; `data` in the context says where the frame does.
        let start = output.first_chunk().filter(|_| xdp).map_or(0, |word| u32::from_ne_bytes(*word) as usize);
        let frame = data.split_off(start.min(data.len()));
        let record = self.ring.next().and_then(|item| TraceRecord::read_from_bytes(&item).ok());
        Ok(Ran { frame, record })
    }
}

impl std::fmt::Debug for TestRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rehearsal").field("object", &self.object).finish_non_exhaustive()
    }
}

/// `struct xdp_md` or `struct __sk_buff`; what is not named must be zero.
fn context(xdp: bool, ifindex: Ifindex, length: usize) -> Vec<u8> {
    let mut words = if xdp { vec![0; XDP_MD] } else { vec![0; SK_BUFF] };
    if xdp {
        words[1] = length as u32;
        words[3] = ifindex;
    } else {
        words[9] = ifindex;
        words[10] = ifindex;
    }
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
