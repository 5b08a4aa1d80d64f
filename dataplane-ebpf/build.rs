//! Passes the linker the features of the kernels that we support.

fn main() {
    println!("cargo:rerun-if-changed=linker");
    // Every kernel that we support reads words at any address; without this each of them becomes four loads and shifts.
    println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
    // BPF has no conditional moves: where LLVM makes a select of two branches, or one question of two, that becomes branches
    // again, and more of them than there were.
    for threshold in ["bonus-inst", "two-entry-phi-node-folding", "phi-node-folding"] {
        println!("cargo:rustc-link-arg-bins=--llvm-args=-{threshold}-threshold=0");
    }
}
