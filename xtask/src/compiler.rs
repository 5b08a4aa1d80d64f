//! The compiler of the kernel half: any rustc that can give us `core` for BPF.

use std::{path::Path, process::Command};

use anyhow::Context as _;

use crate::command::{self, answer};

/// The BPF target of a little-endian machine.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The name under which rustup knows Debian's compiler.
pub(crate) const LINKED: &str = "bpf";

/// A compiler with `core` for BPF.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    way: Way,
    /// The output of `rustc -vV`.
    pub(crate) version: String,
    /// The root of its installation.
    sysroot: String,
}

/// How the compiler is called; in the order that dataplane-user/build.rs tries them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Debian's, with a prebuilt `core`, linked into rustup.
    Linked,
    /// rustup's nightly, which builds `core` from rust-src.
    Nightly,
    /// No rustup here: the only rustc there is, with a prebuilt `core`.
    Current,
}

impl Compiler {
    /// The compiler that dataplane-user/build.rs will take, if it has `core` for BPF.
    pub(crate) fn find() -> Option<Self> {
        if command::find("rustup").is_none() {
            return Self::of(Way::Current);
        }
        Self::of(Way::Linked).or_else(|| Self::of(Way::Nightly))
    }

    fn of(way: Way) -> Option<Self> {
        let directories =
            answer(way.call("rustc").args(["--print", "sysroot", "--print", "target-libdir", "--target", TARGET]))?;
        let (sysroot, libdir) = directories.split_once('\n')?;
        let has_core = match way {
            Way::Nightly => Path::new(sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file(),
            Way::Linked | Way::Current => holds_core(Path::new(libdir)),
        };
        let version = answer(way.call("rustc").arg("-vV"))?;
        has_core.then(|| Self { way, version, sysroot: sysroot.to_owned() })
    }

    /// The major version of its LLVM; bpf-linker's must not be older.
    pub(crate) fn llvm(&self) -> anyhow::Result<u32> {
        llvm(&self.version).with_context(|| format!("rustc names no LLVM version:\n{}", self.version))
    }

    /// A cargo command of this compiler for the BPF target.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut cargo = self.way.call("cargo");
        cargo.args([verb, "--target", TARGET]);
        if self.way == Way::Nightly {
            cargo.args(["-Z", "build-std=core"]);
        }
        // Set by the cargo that runs us, for its own compiler.
        cargo.env_remove("RUSTC").env_remove("RUSTC_WORKSPACE_WRAPPER");
        cargo
    }

    /// Whether clippy is there for it.
    pub(crate) fn has_clippy(&self) -> bool {
        Path::new(&self.sysroot).join("bin/clippy-driver").is_file()
    }

    /// In a few words.
    pub(crate) fn describe(&self) -> String {
        let release = self.version.lines().next().unwrap_or_default();
        match self.way {
            Way::Linked => format!("{release}, rustup toolchain `{LINKED}`, prebuilt core"),
            Way::Nightly => format!("{release}, rustup toolchain `nightly`, core from rust-src"),
            Way::Current => format!("{release}, no rustup, prebuilt core"),
        }
    }
}

impl Way {
    fn call(self, program: &str) -> Command {
        let toolchain = match self {
            Self::Linked => LINKED,
            Self::Nightly => "nightly",
            Self::Current => return Command::new(program),
        };
        let mut command = Command::new("rustup");
        command.args(["run", toolchain, program]);
        command
    }
}

fn holds_core(libdir: &Path) -> bool {
    let Ok(files) = libdir.read_dir() else { return false };
    files.flatten().any(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

fn llvm(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read() {
        assert_eq!(llvm("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8"), Some(22));
        assert_eq!(llvm("rustc 1.96.0\nrelease: 1.96.0"), None);
        assert_eq!(llvm("LLVM version: none"), None);
    }

    #[test]
    fn a_folder_without_core_is_none() {
        assert!(!holds_core(Path::new("/nonexistent")));
        assert!(!holds_core(Path::new(env!("CARGO_MANIFEST_DIR"))));
    }
}
