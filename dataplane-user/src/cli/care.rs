//! Options of changes that may cut off the operator.

use std::env;

use clap::Args;

use super::units::seconds;
use crate::control::protocol::{Apply, Care, Careful, ConfigText, Request};

/// How carefully a change is made.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct CareArgs {
    /// Roll back after this time (60, 60s, 2m) unless `config confirm` comes first
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    confirm: Option<u32>,
    /// Make the change even if it may drop this session, or leave no port
    #[arg(long)]
    force: bool,
}

impl CareArgs {
    /// Whether the change is to be confirmed.
    pub(super) fn waits(&self) -> bool {
        self.confirm.is_some()
    }

    /// Insists, and waits for no confirmation.
    pub(super) fn forced(force: bool) -> Self {
        Self { confirm: None, force }
    }

    /// A config to apply with care.
    pub(super) fn apply(&self, config: ConfigText) -> Request {
        Request::ConfigApply(Apply {
            confirm: self.confirm,
            force: self.force,
            session: session(),
            ..Apply::from(config)
        })
    }

    /// The change with care, where there is a session to be careful of or a time was given.
    pub(super) fn around(&self, change: Request) -> Request {
        let care = Care { confirm: self.confirm, force: self.force, session: session() };
        // Without care a daemon of before understands it, too.
        if care.confirm.is_none() && care.session.is_none() {
            return change;
        }
        Request::Careful(Box::new(Careful { change, care }))
    }

    /// Says how long there is to confirm.
    pub(super) fn remind(&self) {
        if let Some(seconds) = self.confirm {
            eprintln!("rolled back in {seconds} s unless `dataplane config confirm` comes before");
        }
    }
}

/// The ssh session that this program runs in.
fn session() -> Option<String> {
    env::var("SSH_CONNECTION").ok().filter(|session| !session.is_empty())
}
