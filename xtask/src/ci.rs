//! `cargo xtask ci`: all that CI runs. The closing line of the tests is the last line.

use std::{process::ExitCode, time::Instant};

use crate::{lint, test, vm};

pub(crate) fn main() -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let linted = lint::main()?;
    println!("== lint took {:.0} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let mut tally = test::all(&[])?;
    println!("== test took {:.0} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    tally.add(vm::all(&[])?);
    println!("== test vm took {:.0} s", start.elapsed().as_secs_f64());
    if linted != ExitCode::SUCCESS {
        println!("== lint found something, see above");
    }
    let tested = tally.close();
    Ok(if linted == ExitCode::SUCCESS { tested } else { linted })
}
