//! The rows of the flow table and the words that say how they count, as memory that outlives the object.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{Map, MapData, MapError};
use dataplane_common::abi::{FlowControl, flow::RowLayout, map};
use zerocopy::IntoBytes as _;

use super::{TableError, mmap::Mapping, object::pinned};
use crate::fib::{Memory as _, TableSizes};

/// The word of [`FlowControl`] that holds the epoch, and the one in which rows are armed.
const EPOCH: usize = 1;
/// An epoch that no row is ever armed in ([`FlowControl::next_epoch`]), and in which none is.
const NO_EPOCH: [u32; 2] = [0x100, 0];

/// Puts that into the words of a [`FlowControl`].
pub(super) fn forbid(control: &mut [u64]) {
    let [epoch, arming] = NO_EPOCH.map(u32::to_ne_bytes);
    let mut word = [0; 8];
    word[..4].copy_from_slice(&epoch);
    word[4..].copy_from_slice(&arming);
    control[EPOCH] = u64::from_ne_bytes(word);
}

/// The maps of the flow table.
#[derive(Debug)]
pub struct FlowMaps {
    control: FlowSwitch,
    v4: Mapping<AtomicU64>,
    v6: Mapping<AtomicU64>,
}

/// The words that say how rows count. When it is dropped, none does any more.
#[derive(Debug)]
pub struct FlowSwitch {
    memory: Mapping<AtomicU64>,
    written: [u64; size_of::<FlowControl>() / size_of::<u64>()],
}

impl FlowMaps {
    /// Those that are pinned in a directory, of these sizes.
    ///
    /// # Errors
    /// There are none, or the kernel refused.
    pub fn open(routing: &Path, sizes: TableSizes) -> Result<Self, TableError> {
        let words = |layout: RowLayout| sizes.flows as usize * layout.words;
        let memory = mapping(routing, map::FLOW_CONTROL, size_of::<FlowControl>() / size_of::<u64>())?;
        Ok(Self {
            control: FlowSwitch { memory, written: [0; 4] },
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
    /// Writes it. What is looked for is written before what is armed counts.
    pub fn write(&mut self, control: &FlowControl) {
        let bytes = control.as_bytes();
        let words: Vec<_> =
            bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())).collect();
        for at in [0, 2, 3, EPOCH] {
            if let Some(word) = words.get(at) {
                self.memory.word(at).store(*word, Ordering::Release);
                self.written[at] = *word;
            }
        }
    }

    /// Whether it is as it was written: programs that are loaded write it, too (`Object::finish`), so that no row counts.
    pub fn is_as_written(&mut self) -> bool {
        let written = self.written;
        (0..written.len()).all(|at| self.memory.word(at).load(Ordering::Acquire) == written[at])
    }
}

impl Drop for FlowSwitch {
    fn drop(&mut self) {
        let mut words = [0; 4];
        forbid(&mut words);
        self.memory.word(EPOCH).store(words[EPOCH], Ordering::Release);
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
