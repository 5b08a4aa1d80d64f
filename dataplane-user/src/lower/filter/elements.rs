//! What a set holds, before it is laid out in tables.

use std::collections::{BTreeMap, HashSet};

use dataplane_common::abi::ELEMENT_WORDS;

/// The words of an element.
pub type Words = [u64; ELEMENT_WORDS];

/// The elements of a set: by masks, the values (already masked) that are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements {
    /// Whether each is one word below 2^32.
    pub narrow: bool,
    /// Values by their masks.
    pub tables: BTreeMap<Words, HashSet<Words>>,
}

impl Elements {
    /// Whether they hold what is sought.
    pub fn hold(&self, sought: &Words) -> bool {
        self.tables.iter().any(|(mask, values)| values.contains(&std::array::from_fn(|at| sought[at] & mask[at])))
    }
}
