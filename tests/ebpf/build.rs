//! Tells cargo that the object depends on the linker, and the linker what the kernel understands.
//!
//! The instruction set is what `generic` stands for in LLVM 20 and later: v3. The linker takes `--cpu` once, and rustc gives it.

fn main() {
    if let Ok(linker) = which::which("bpf-linker") {
        println!("cargo:rerun-if-changed={}", linker.display());
    }
    println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
}
