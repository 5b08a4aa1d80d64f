//! Builds the kernel half and leaves its object in `OUT_DIR/dataplane`, where `kernel::object` embeds it.

use std::{
    env,
    process::{self, Command, Stdio},
};

use anyhow::Context as _;
use aya_build::{Package, Toolchain};

fn main() -> anyhow::Result<()> {
    // Compiled in pieces, the kernel half is no longer what the verifier takes.
    if env::var_os("CARGO_INCREMENTAL").is_some_and(|value| value != "0") {
        let again = Command::new(env::current_exe()?).env("CARGO_INCREMENTAL", "0").status()?;
        process::exit(again.code().unwrap_or(1));
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../dataplane-ebpf");
    println!("cargo:rerun-if-changed=../dataplane-common/src");
    let toolchain = if linked("bpf") { Toolchain::Custom("bpf") } else { Toolchain::Nightly };
    aya_build::build_ebpf([Package { name: "dataplane-ebpf", root_dir: root, ..Package::default() }], toolchain)
        .context("the kernel half did not build; run `cargo xtask setup`, which finds or installs its toolchain")
}

/// Whether rustup knows a toolchain of this name (`cargo xtask setup` links Debian's BPF-capable one as `bpf`).
fn linked(name: &str) -> bool {
    Command::new("rustup")
        .args(["run", name, "rustc", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
