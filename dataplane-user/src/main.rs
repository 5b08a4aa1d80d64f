//! The binary `dataplane`.

use std::process::ExitCode;

use clap::Parser as _;
use dataplane_user::cli::{self, Cli};

fn main() -> ExitCode {
    match Cli::parse().dispatch() {
        Ok(code) => code,
        Err(error) => cli::report(&error),
    }
}
