//! Traced packets: the context of each on its path, and the records that subscribers get.

pub mod emit;
pub mod note;
