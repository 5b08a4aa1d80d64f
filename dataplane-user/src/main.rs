//! The binary `dataplane`.

use std::process::ExitCode;

use dataplane_user::cli::{self, Cli};

fn main() -> ExitCode {
    match Cli::read().dispatch() {
        Ok(code) => code,
        Err(error) => cli::report(&error),
    }
}
