//! The self-test of a generation of the filter before it is live (`BPF_PROG_TEST_RUN`), by the code that packets will meet.

use aya::{TestRun as _, TestRunOptions, programs::ProgramError};
use dataplane_common::abi::{Features, Key, Search, SelfTestFrame, entry};
use thiserror::Error;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{Object, ObjectError, PinDirs, object::chain};
use crate::fib::TableSizes;

/// Its name in the object.
pub(super) const PROGRAM: &str = "self_test";

/// Why the test could not run.
#[derive(Debug, Error)]
pub enum SelfTestError {
    /// The program could not be loaded.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The kernel refuses to run it.
    #[error("the kernel does not run program {PROGRAM}: {}", chain(.0))]
    Run(#[from] ProgramError),
    /// The program has no answer.
    #[error("program {PROGRAM} returned no result; rebuild with `cargo xtask build`")]
    Silent,
}

/// The program of the test.
#[derive(Debug)]
pub struct SelfTester {
    object: Object,
}

impl SelfTester {
    /// Loads it beside the programs that use the tables of a place. Buckets of limits are its own, and empty.
    pub fn load(sizes: TableSizes, dirs: &PinDirs) -> Result<Self, SelfTestError> {
        let mut object = Object::for_test_run(Features::LIMITS, sizes, dirs)?;
        object.self_test()?.load()?;
        Ok(Self { object })
    }

    /// Which rule of a chain of a generation decides on a packet: its order and its counter. None leaves it to the policy.
    pub fn run(&mut self, generation: u32, chain: usize, key: &Key) -> Result<Option<(u32, u32)>, SelfTestError> {
        let Key { address, mixed, fields, length, flags, .. } = *key;
        let chain = chain as u32;
        let question = SelfTestFrame {
            generation,
            chain,
            address,
            mixed,
            fields,
            length,
            flags: flags.bits(),
            ..SelfTestFrame::default()
        };
        let mut answer = [0; size_of::<SelfTestFrame>()];
        let options = TestRunOptions {
            data_in: Some(question.as_bytes()),
            data_out: Some(&mut answer),
            ..TestRunOptions::default()
        };
        let done = self.object.self_test()?.test_run(options)?;
        let answer = SelfTestFrame::read_from_bytes(&answer).map_err(|_| SelfTestError::Silent)?;
        // XDP_ABORTED (include/uapi/linux/bpf.h).
        if done.return_value == 0 {
            return Err(SelfTestError::Silent);
        }
        let rule = (answer.order as u32, (answer.rule & entry::COUNTER) as u32);
        Ok((answer.order < Search::NONE).then_some(rule))
    }
}
