//! A few bits of a hash for each rule: which rules may have a box that is like another.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::lower::filter::Entry;

/// [`Entry::bloom_bits`] of some entries of a rule; all bits while these are not known.
#[derive(Debug)]
pub(super) struct Bloom(AtomicU64);

impl Default for Bloom {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Clone for Bloom {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.bits()))
    }
}

impl PartialEq for Bloom {
    fn eq(&self, other: &Self) -> bool {
        self.bits() == other.bits()
    }
}

impl Eq for Bloom {}

impl Bloom {
    fn bits(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes the entries, in place of those of before.
    pub(super) fn note(&self, entries: impl Iterator<Item = Entry>) {
        self.0.store(entries.fold(0, |bits, entry| bits | entry.bloom_bits()), Ordering::Relaxed);
    }

    /// Whether one of the entries may have these bits.
    pub(super) fn may_have(&self, bits: u64) -> bool {
        self.bits() & bits == bits
    }
}
