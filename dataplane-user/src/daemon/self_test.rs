//! The tables of a commit, tried before they are live: some packets, by the program that packets will meet.

use anyhow::ensure;

use super::Daemon;
use crate::{
    fib::TableSizes,
    filter::SelfTest,
    kernel::{SelfTestError, SelfTester},
    lower::filter::LoweredFilter,
    rule::ChainName,
};

/// The program that asks, and the maps that it was loaded for.
#[derive(Debug)]
pub(super) struct LoadedSelfTest {
    tester: SelfTester,
    sizes: TableSizes,
    generation: u32,
}

impl Daemon {
    /// Asks a generation of the filter that is not live for what the rules say.
    ///
    /// # Errors
    /// It says something else.
    pub(super) fn self_test_filter(&mut self, staged: u32, lowered: &LoweredFilter) -> anyhow::Result<()> {
        let tests = lowered.self_tests(&mut fastrand::Rng::new());
        if tests.is_empty() {
            return Ok(());
        }
        match self.run_self_tests(staged, &tests) {
            Ok(answers) => compare(&tests, &answers),
            Err(error) => {
                tracing::warn!("the rules come into force untried: {error}");
                Ok(())
            }
        }
    }

    fn run_self_tests(&mut self, staged: u32, tests: &[SelfTest]) -> Result<Vec<Option<(u32, u32)>>, SelfTestError> {
        let made_for = (self.sizes, self.generation);
        let known = self.self_test.take().filter(|self_test| (self_test.sizes, self_test.generation) == made_for);
        let mut self_test = if let Some(known) = known {
            known
        } else {
            let (sizes, generation) = made_for;
            LoadedSelfTest { tester: SelfTester::load(sizes, &self.pin_dirs)?, sizes, generation }
        };
        let answers = tests.iter().map(|one| self_test.tester.run(staged, one.chain, &one.key)).collect();
        self.self_test = Some(self_test);
        answers
    }
}

fn compare(tests: &[SelfTest], answers: &[Option<(u32, u32)>]) -> anyhow::Result<()> {
    for (one, answer) in tests.iter().zip(answers) {
        ensure!(
            *answer == one.rule,
            "chain {}: the tables say {answer:?} where the rules say {:?} (order, counter), for {:?}; the rules of before \
             stay in force. This is a fault of dataplane: please report it, with the config",
            ChainName::ALL[one.chain],
            one.rule,
            one.key
        );
    }
    Ok(())
}
