//! Builds generator, floors and sink and leaves their object in `OUT_DIR/bench`, where `bench::object` embeds it.

use std::process::{Command, Stdio};

use anyhow::Context as _;
use aya_build::{Package, Toolchain};

fn main() -> anyhow::Result<()> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf");
    println!("cargo:rerun-if-changed=build.rs");
    let toolchain = if linked("bpf") { Toolchain::Custom("bpf") } else { Toolchain::Nightly };
    aya_build::build_ebpf([Package { name: "dataplane-tests-ebpf", root_dir: root, ..Package::default() }], toolchain)
        .context(
            "the programs of the benches did not build; run `cargo xtask setup`, which finds or installs its toolchain",
        )
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
