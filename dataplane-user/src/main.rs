//! The binary `dataplane`.

fn main() {}
