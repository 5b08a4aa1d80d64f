//! The tables of a commit, tried before they are live: some packets, by the program that packets will meet.

use anyhow::ensure;

use super::Daemon;
use crate::{
    fib::Sizes,
    filter::Tried,
    kernel::{TrialError, Trials},
    lower::filter::LoweredFilter,
    rule::ChainName,
};

/// The program that asks, and the maps that it was loaded for.
#[derive(Debug)]
pub(super) struct Trying {
    trials: Trials,
    sizes: Sizes,
    generation: u32,
}

impl Daemon {
    /// Asks a generation of the filter that is not live for what the rules say.
    ///
    /// # Errors
    /// It says something else.
    pub(super) fn try_filter(&mut self, staged: u32, lowered: &LoweredFilter) -> anyhow::Result<()> {
        let tried = lowered.trials(&mut fastrand::Rng::new());
        if tried.is_empty() {
            return Ok(());
        }
        match self.ask(staged, &tried) {
            Ok(answers) => compare(&tried, &answers),
            Err(error) => {
                tracing::warn!("the rules come into force untried: {error}");
                Ok(())
            }
        }
    }

    fn ask(&mut self, staged: u32, tried: &[Tried]) -> Result<Vec<Option<(u32, u32)>>, TrialError> {
        let made_for = (self.sizes, self.generation);
        let known = self.trying.take().filter(|trying| (trying.sizes, trying.generation) == made_for);
        let mut trying = if let Some(known) = known {
            known
        } else {
            let (sizes, generation) = made_for;
            Trying { trials: Trials::load(sizes, &self.place)?, sizes, generation }
        };
        let answers = tried.iter().map(|one| trying.trials.ask(staged, one.chain, &one.key)).collect();
        self.trying = Some(trying);
        answers
    }
}

fn compare(tried: &[Tried], answers: &[Option<(u32, u32)>]) -> anyhow::Result<()> {
    for (one, answer) in tried.iter().zip(answers) {
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
