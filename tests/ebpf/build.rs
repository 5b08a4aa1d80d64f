//! Tells the linker what the kernel understands.

fn main() {
    println!("cargo:rerun-if-changed=../../dataplane-ebpf/linker");
    // Every kernel that we support reads words at any address; without this each of them becomes four loads and shifts.
    println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
}
