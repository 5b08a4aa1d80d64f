//! The tables of a commit, tests before they are live: some packets, by the program that packets will meet.

use anyhow::ensure;

use crate::{
    daemon::epoch::PerEpoch,
    filter::SelfTest,
    kernel::{SelfTestError, SelfTester, Staged, Verified},
    rule::ChainName,
};

/// Runs packets through what is staged, and holds what comes out to what the rules say.
///
/// # Errors
/// It is something else.
pub(super) fn verify(
    tester: &mut PerEpoch<SelfTester>,
    epoch: u64,
    load: impl FnOnce() -> Result<SelfTester, SelfTestError>,
    staged: Staged,
    tests: &[SelfTest],
) -> anyhow::Result<Verified> {
    if tests.is_empty() {
        return Ok(staged.verified());
    }
    match run(tester, epoch, load, &staged, tests) {
        Ok(answers) => {
            compare(tests, &answers)?;
            Ok(staged.verified())
        }
        Err(error) => {
            tracing::warn!("the rules come into force untested: {error}");
            Ok(staged.untried())
        }
    }
}

fn run(
    known: &mut PerEpoch<SelfTester>,
    epoch: u64,
    load: impl FnOnce() -> Result<SelfTester, SelfTestError>,
    staged: &Staged,
    tests: &[SelfTest],
) -> Result<Vec<Option<(u32, u32)>>, SelfTestError> {
    let mut tester = match known.take(epoch) {
        Some(tester) => tester,
        None => load()?,
    };
    let answers = tests.iter().map(|one| tester.run(staged.bank(), one.chain, &one.key)).collect();
    known.put(epoch, tester);
    answers
}

fn compare(tests: &[SelfTest], answers: &[Option<(u32, u32)>]) -> anyhow::Result<()> {
    for (one, answer) in tests.iter().zip(answers) {
        ensure!(
            *answer == one.rule,
            "chain {}: the tables say {answer:?} where the rules say {:?} (order, counter), for {:?}; the rules of before \
             stay in force. This is a fault of dataplane: please report it, with the config",
            ChainName::DRIVER[one.chain],
            one.rule,
            one.key
        );
    }
    Ok(())
}
