//! The rows of the flow table and the words that say how they count, as memory that outlives the object.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{Map, MapData, MapError};
use dataplane_common::abi::{FlowControl, flow::RowLayout, map};

use super::{TableError, mmap::Mapping, object::pinned};
use crate::fib::{Memory as _, TableSizes};

/// The word of [`FlowControl`] that holds the epoch, and the one in which rows are armed.
const EPOCH: usize = 1;
/// Words of a [`FlowControl`].
const WORDS: usize = size_of::<FlowControl>() / size_of::<u64>();

/// The maps of the flow table.
#[derive(Debug)]
pub struct FlowMaps {
    control: FlowSwitch,
    v4: Mapping<AtomicU64>,
    v6: Mapping<AtomicU64>,
}

/// The words that say how rows count. When it is dropped, none does any more.
#[derive(Debug)]
pub struct FlowSwitch(Mapping<AtomicU64>);

impl FlowMaps {
    /// Those that are pinned in a directory, of these sizes.
    ///
    /// # Errors
    /// There are none, or the kernel refused.
    pub fn open(routing: &Path, sizes: TableSizes) -> Result<Self, TableError> {
        let words = |layout: RowLayout| sizes.flows as usize * layout.words;
        Ok(Self {
            control: FlowSwitch(mapping(routing, map::FLOW_CONTROL, WORDS)?),
            v4: mapping(routing, map::FLOWS4, words(RowLayout::V4))?,
            v6: mapping(routing, map::FLOWS6, words(RowLayout::V6))?,
        })
    }

    /// The switch, and the memory of both families.
    pub fn parts(self) -> (FlowSwitch, (Mapping<AtomicU64>, Mapping<AtomicU64>)) {
        (self.control, (self.v4, self.v6))
    }
}

impl FlowSwitch {
    /// Writes what has changed: packets read these words all the time. What is looked for is written before what is armed counts.
    pub fn write(&mut self, control: &FlowControl) {
        let words: [u64; WORDS] = zerocopy::transmute!(*control);
        for at in [0, 2, 3, EPOCH] {
            let word = self.0.word(at);
            if word.load(Ordering::Relaxed) != words[at] {
                word.store(words[at], Ordering::Release);
            }
        }
    }
}

impl Drop for FlowSwitch {
    fn drop(&mut self) {
        // No row is ever armed in epoch 0.
        self.0.word(EPOCH).store(0, Ordering::Release);
    }
}

fn mapping(routing: &Path, name: &'static str, words: usize) -> Result<Mapping<AtomicU64>, TableError> {
    let path: PathBuf = pinned(routing, name);
    let opened = MapData::from_pin(&path).and_then(|data| match Map::from_map_data(data)? {
        Map::Array(data) => Ok(data),
        _ => Err(MapError::InvalidMapType { map_type: 0 }),
    });
    let data = opened.map_err(|error| TableError::Map { name, error })?;
    Mapping::new(data.fd(), words).map_err(|error| TableError::Memory { name, bytes: words * size_of::<u64>(), error })
}
