//! bpf-linker: found and proven, or built once and kept.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash as _, Hasher as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::{
    command::{self, run},
    compiler::{Compiler, TARGET},
};

const NAME: &str = "bpf-linker";
const VERSION: &str = "0.13.0";
/// The LLVM versions that this version of bpf-linker can be built for.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// The machine code for BPF in an ELF header (`EM_BPF`, elf.h).
const MACHINE: u8 = 247;

/// Smallest program that goes the whole way: core, panic handler, section, BTF.
const PROBE: &str = r#"#![no_std]
#![no_main]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub extern "C" fn probe(ctx: *mut u8) -> u32 {
    if core::hint::black_box(ctx).is_null() { 1 } else { 2 }
}
"#;

/// Where things that outlive `cargo clean` are kept: `$XDG_CACHE_HOME/dataplane` or `~/.cache/dataplane`.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => PathBuf::from(dir),
        None => env::home_dir().context("no home directory to keep bpf-linker in: set XDG_CACHE_HOME")?.join(".cache"),
    };
    Ok(base.join("dataplane"))
}

/// The folder that `cargo install --root` gets for a linker of this LLVM.
pub(crate) fn install_root(llvm: u32) -> anyhow::Result<PathBuf> {
    Ok(cache()?.join(format!("{NAME}-{VERSION}-llvm-{llvm}")))
}

/// A linker that was seen to link what this compiler produces: from the PATH, or the one that we built.
pub(crate) fn find(compiler: &Compiler) -> anyhow::Result<Option<PathBuf>> {
    let own = install_root(compiler.llvm()?)?.join("bin").join(NAME);
    for file in command::find(NAME).into_iter().chain(own.is_file().then_some(own)) {
        match proven(compiler, &file) {
            Ok(()) => return Ok(Some(file)),
            Err(error) => println!("{} does not fit: {error:#}", file.display()),
        }
    }
    Ok(None)
}

/// The LLVM to build against: `LLVM_PREFIX`, or Debian's place for that version.
pub(crate) fn llvm_prefix(llvm: u32) -> Option<PathBuf> {
    let named = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let debian = Path::new("/usr/lib").join(format!("llvm-{llvm}"));
    // Of llvm-N-dev and of libpolly-N-dev.
    let needed = ["include/llvm-c/Core.h", "lib/libPolly.a"];
    named.or_else(|| needed.iter().all(|file| debian.join(file).is_file()).then_some(debian))
}

/// The command that builds a linker for this LLVM.
pub(crate) fn install_command(llvm: u32, prefix: &Path) -> anyhow::Result<Command> {
    if !LLVM.contains(&llvm) {
        bail!(
            "bpf-linker {VERSION} can be built for LLVM {} to {}, and this rustc has LLVM {llvm}: take another nightly",
            LLVM.start(),
            LLVM.end()
        );
    }
    let mut cargo = Command::new("cargo");
    cargo.env("LLVM_PREFIX", prefix);
    cargo.args(["install", NAME, "--version", VERSION, "--locked", "--force", "--no-default-features"]);
    cargo.args(["--features", &format!("llvm-{llvm}"), "--root"]).arg(install_root(llvm)?);
    Ok(cargo)
}

/// Builds the linker (about a minute) and proves it.
pub(crate) fn install(compiler: &Compiler) -> anyhow::Result<PathBuf> {
    let llvm = compiler.llvm()?;
    let prefix = llvm_prefix(llvm).with_context(|| format!("LLVM {llvm} is not installed: set LLVM_PREFIX to it"))?;
    let root = install_root(llvm)?;
    println!("building {NAME} {VERSION} for LLVM {llvm}, once; it is kept in {}", root.display());
    run(&mut install_command(llvm, &prefix)?)?;
    let file = root.join("bin").join(NAME);
    proven(compiler, &file).context("the linker that was just built does not work")?;
    Ok(file)
}

/// Makes plain `cargo build` work too: dataplane-ebpf/linker looks in this one place first.
pub(crate) fn publish(linker: &Path) -> anyhow::Result<()> {
    let place = cache()?.join(NAME);
    let bin = place.join("bin");
    let link = bin.join(NAME);
    let linker = fs::canonicalize(linker).with_context(|| format!("can not find {}", linker.display()))?;
    if fs::canonicalize(&link).is_ok_and(|known| known == linker) {
        return Ok(());
    }
    if place.is_symlink() {
        fs::remove_file(&place).with_context(|| format!("{} can not be replaced", place.display()))?;
    }
    fs::create_dir_all(&bin).with_context(|| format!("can not make {}", bin.display()))?;
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("{} can not be replaced", link.display()))?;
    }
    symlink(&linker, &link).with_context(|| format!("can not link {} to {}", link.display(), linker.display()))?;
    println!("linked {} -> {}: plain `cargo build` finds it there", link.display(), linker.display());
    Ok(())
}

/// Links a small program, unless this very pair of compiler and linker is known to work.
fn proven(compiler: &Compiler, linker: &Path) -> anyhow::Result<()> {
    let linker = &fs::canonicalize(linker).with_context(|| format!("can not find {}", linker.display()))?;
    let about = fs::metadata(linker).with_context(|| format!("can not read {}", linker.display()))?;
    let pair = format!("{}\n{}\n{} bytes, {:?}\n", compiler.version, linker.display(), about.len(), about.modified()?);
    let mut hasher = DefaultHasher::new();
    pair.hash(&mut hasher);
    let proofs = cache()?.join("proven");
    let proof = proofs.join(format!("{:016x}", hasher.finish()));
    if fs::read_to_string(&proof).is_ok_and(|known| known == pair) {
        return Ok(());
    }
    println!("trying {} with {}", linker.display(), compiler.describe());
    probe(compiler, linker)?;
    fs::create_dir_all(&proofs).and_then(|()| fs::write(&proof, &pair)).context("can not keep the proof")
}

fn probe(compiler: &Compiler, linker: &Path) -> anyhow::Result<()> {
    let dir = env::temp_dir().join(format!("dataplane-probe-{}", std::process::id()));
    let outcome = probe_in(&dir, compiler, linker);
    // Nothing depends on it; a leftover in the temporary folder does no harm.
    let _ = fs::remove_dir_all(&dir);
    outcome
}

fn probe_in(dir: &Path, compiler: &Compiler, linker: &Path) -> anyhow::Result<()> {
    let manifest =
        "[package]\nname = \"probe\"\nedition = \"2024\"\n[profile.release]\npanic = \"abort\"\n[workspace]\n";
    fs::create_dir_all(dir.join("src"))?;
    fs::write(dir.join("Cargo.toml"), manifest)?;
    fs::write(dir.join("src/main.rs"), PROBE)?;
    let flags = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"].join("\x1f");
    let output = compiler
        .cargo("build")
        .args(["--quiet", "--release"])
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .output()?;
    if !output.status.success() {
        bail!("a small program does not link:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let object = fs::read(dir.join("target").join(TARGET).join("release/probe"))?;
    if !is_bpf(&object) {
        bail!("what it produced is no BPF object");
    }
    Ok(())
}

fn is_bpf(object: &[u8]) -> bool {
    object.starts_with(b"\x7fELF") && object.get(18) == Some(&MACHINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpf_object_is_one() {
        let mut object = [0_u8; 64];
        object[..4].copy_from_slice(b"\x7fELF");
        assert!(!is_bpf(&object));
        object[18] = 247;
        assert!(is_bpf(&object));
        assert!(!is_bpf(&object[..18]));
        assert!(!is_bpf(b"BC\xc0\xde"));
    }

    #[test]
    fn an_llvm_that_the_linker_does_not_know_is_refused() {
        let error = install_command(30, Path::new("/opt/llvm")).expect_err("LLVM 30").to_string();
        assert!(error.contains("LLVM 30"), "{error}");
        let line = command::line(&install_command(22, Path::new("/usr/lib/llvm-22")).expect("LLVM 22"));
        assert!(line.starts_with("LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0"), "{line}");
        assert!(line.contains("--features llvm-22"), "{line}");
    }
}
