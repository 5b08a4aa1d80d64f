//! `cargo xtask setup`: finds or installs what building and testing need. Idempotent; says each thing it does.
//!
//! Two ways to a compiler with `core` for BPF: Debian 12's packages, linked into rustup as `bpf`; or rustup's nightly with
//! rust-src. The linker is built once and kept outside `target/`, so `cargo clean` does not cost a minute.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use crate::{
    command::{self, line, run},
    compiler::{Compiler, LINKED},
    deb, linker, lint, package,
};

/// What to look for when no compiler for BPF is there.
#[derive(Args)]
pub(crate) struct Options {
    /// Where a compiler for BPF comes from when there is none
    #[arg(long, value_enum, default_value_t = Way::Debian)]
    way: Way,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Debian 12's packages, as root
    Debian,
    /// rustup's nightly with rust-src
    Rustup,
}

/// How much is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compiler and linker.
    Build,
    /// Those, and the programs that the demo runs.
    Demo,
    /// Those, and the programs that tests run; what is missing and can not be installed is said, and skipped later.
    Test,
    /// Those, and every program; what is missing is an error.
    Run,
}

/// What building needs, found.
pub(crate) struct Toolchain {
    /// The compiler of the kernel half.
    pub(crate) compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    /// A command that finds our linker: cargo, or something that runs it.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.with_linker(Command::new(program))
    }

    /// A cargo command of the kernel half's compiler, for the BPF target.
    pub(crate) fn bpf_cargo(&self, verb: &str) -> Command {
        self.with_linker(self.compiler.cargo(verb))
    }

    fn with_linker(&self, mut command: Command) -> Command {
        let dir = self.linker.parent().unwrap_or(Path::new("/"));
        let mut dirs = package::unpacked_programs();
        dirs.insert(0, dir.to_owned());
        command.env("PATH", command::path_with(&dirs)).current_dir(crate::root());
        command
    }
}

pub(crate) fn main(options: &Options) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let toolchain = prepare(Need::Run, options.way)?;
    println!("compiler  {}", toolchain.compiler.describe());
    println!("linker    {}", toolchain.linker.display());
    println!("packager  {}", deb::install()?.join("cargo-deb").display());
    println!("auditor   {}", package::cargo_tool("cargo-deny", lint::DENY)?.join("cargo-deny").display());
    if command::find(package::OPTIONAL).is_none() {
        println!("optional  {} is not there; `bench` goes without (xdp-tools 1.5 or later has it)", package::OPTIONAL);
    }
    println!("everything is there ({:.2} s)", start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// Finds what is needed; installs what is not there.
pub(crate) fn toolchain(need: Need) -> anyhow::Result<Toolchain> {
    prepare(need, Way::Debian)
}

fn prepare(need: Need, way: Way) -> anyhow::Result<Toolchain> {
    let compiler = Compiler::find();
    let linker = compiler.as_ref().map(linker::find).transpose()?.flatten();
    let tools = match need {
        Need::Build => Vec::new(),
        Need::Demo => package::missing_tools(package::DEMO),
        Need::Test | Need::Run => package::missing_tools(&package::tools()),
    };
    if let Some(obstacle) = package::obstacle() {
        let steps = by_hand(need, way, &tools, compiler.as_ref(), linker.is_some())?;
        if !steps.is_empty() {
            bail!("{obstacle}, so these are for you; then start again\n{}", steps.join("\n"));
        }
        if !tools.is_empty() {
            println!("missing: {} ({obstacle}); tests that need them will say so", tools.join(" "));
        }
    } else {
        if !tools.is_empty() {
            package::install(&tools)?;
        }
        if matches!(need, Need::Test | Need::Run) {
            package::unpack_services()?;
        }
    }
    let compiler = match compiler {
        Some(compiler) => compiler,
        None => install_compiler(way)?,
    };
    let linker = match linker {
        Some(linker) => linker,
        None => install_linker(&compiler)?,
    };
    linker::publish(&linker)?;
    Ok(Toolchain { compiler, linker })
}

/// The commands that a person has to run where we can not.
fn by_hand(
    need: Need,
    way: Way,
    tools: &[String],
    compiler: Option<&Compiler>,
    linked: bool,
) -> anyhow::Result<Vec<String>> {
    let mut steps = Vec::new();
    if matches!(need, Need::Run | Need::Demo) && !tools.is_empty() {
        steps.push(format!(
            "# programs that tests and demo run (names of Debian's packages)\nsudo {}",
            package::install_line(tools)
        ));
    }
    match compiler {
        None if way == Way::Debian => steps.push(compiler_by_hand()),
        Some(compiler) if !linked && linker::llvm_prefix(compiler.llvm()?).is_none() => {
            let llvm = compiler.llvm()?;
            let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
            steps.push(format!(
                "# the linker: Debian's packages or those of https://apt.llvm.org, or any LLVM {llvm} named by LLVM_PREFIX,\n\
                 # or a bpf-linker for LLVM {llvm} or later on the PATH (https://github.com/aya-rs/bpf-linker/releases)\n\
                 sudo {}\n{}",
                package::install_line(&package::llvm(llvm)),
                line(&linker::install_command(llvm, &prefix)?),
            ));
        }
        _ => {}
    }
    Ok(steps)
}

/// Both ways to a compiler, for a person.
fn compiler_by_hand() -> String {
    let mut packages = names(package::COMPILER);
    packages.extend(package::llvm(22));
    format!(
        "# a compiler with `core` for BPF, on Debian 12\nsudo apt-get update\nsudo {}\n{}\n\
         # or elsewhere, with rustup\n{}",
        package::install_line(&packages),
        line(&link_command()),
        line(&nightly_command()),
    )
}

fn install_compiler(way: Way) -> anyhow::Result<Compiler> {
    match way {
        Way::Debian => {
            package::install(&names(package::COMPILER))?;
            if command::find("rustup").is_some() {
                run(&mut link_command())?;
            }
        }
        Way::Rustup => run(&mut nightly_command())?,
    }
    Compiler::find()
        .with_context(|| format!("there is still no compiler with `core` for BPF; by hand:\n{}", compiler_by_hand()))
}

fn install_linker(compiler: &Compiler) -> anyhow::Result<PathBuf> {
    let llvm = compiler.llvm()?;
    if linker::llvm_prefix(llvm).is_none() {
        if let Some(obstacle) = package::obstacle() {
            // Only after `--way rustup` has just brought the compiler; otherwise this was told before.
            let steps = by_hand(Need::Build, Way::Rustup, &[], Some(compiler), false)?;
            bail!("{obstacle}, so this is for you; then start again\n{}", steps.join("\n"));
        }
        package::install(&package::llvm(llvm))?;
    }
    linker::install(compiler)
}

fn names(packages: &[&str]) -> Vec<String> {
    packages.iter().map(|name| (*name).to_owned()).collect()
}

fn link_command() -> Command {
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "link", LINKED, "/usr"]);
    rustup
}

fn nightly_command() -> Command {
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src,clippy"]);
    rustup
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_for_a_person_name_both_ways() {
        let steps = by_hand(Need::Run, Way::Debian, &names(&["jq"]), None, false).expect("steps");
        assert!(steps[0].contains("jq"), "{steps:?}");
        let tools_can_wait = by_hand(Need::Test, Way::Debian, &names(&["jq"]), None, false).expect("steps");
        assert_eq!(tools_can_wait, steps[1..]);
        let text = &steps[1];
        for wanted in
            ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev", "libpolly-22-dev", "link bpf /usr", "rust-src"]
        {
            assert!(text.contains(wanted), "`{wanted}` is missing in\n{text}");
        }
    }

    #[test]
    fn our_linker_is_found_first() {
        let version = "rustc 1.96.0\nLLVM version: 22.1.8".to_owned();
        let Some(mut compiler) = Compiler::find() else {
            assert_eq!(command::find("rustup"), None, "{version}");
            return;
        };
        compiler.version = version;
        let toolchain = Toolchain { compiler, linker: PathBuf::from("/opt/linker/bin/bpf-linker") };
        for command in [toolchain.command("cargo"), toolchain.bpf_cargo("build")] {
            let (_, path) = command.get_envs().find(|(name, _)| *name == "PATH").expect("PATH is set");
            assert!(path.expect("a value").to_string_lossy().starts_with("/opt/linker/bin:"));
        }
    }
}
