//! The memory of one generation.

use dataplane_common::abi::{
    CHAINS, CLASSES, Features, Filter, SLOT_PROBES, Tables, WORDS, bloom_bit, narrow_hash, narrow_slot, shift,
    slot_index,
};

/// Tables that a chain and class can get in place.
pub(super) const FREE_TABLES: u32 = 8;

/// Tables of a chain and class from which on a search costs more than the verdict cache.
const MANY_TABLES: u32 = 4;

/// One generation, as it is written into the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Whole lines.
    pub words: Vec<u64>,
    /// Where the tables are; its base is 0.
    pub filter: Filter,
    /// Where the tables of each set are, by its number.
    pub(super) sets: Vec<Tables>,
    /// Free lines behind the tables of each chain and class.
    pub(super) free_tables: [[u32; CLASSES]; CHAINS],
}

impl Image {
    /// What of the kernel half it wants: a search of many tables costs more than the verdict cache.
    pub fn features(&self) -> Features {
        let most = self.filter.tables.iter().flatten().map(|tables| tables.count).max();
        if most >= Some(MANY_TABLES) { Features::VERDICTS } else { Features::empty() }
    }

    /// How many lines it takes.
    pub fn lines(&self) -> u32 {
        (self.words.len() / WORDS) as u32
    }
}

/// A generation in the making. Line 0 stays unused: the number means that there is nothing.
pub(super) struct Builder {
    words: Vec<u64>,
    /// The free second half of a line whose first half holds an IPv4 entry.
    half: Option<u32>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { words: vec![0; WORDS], half: None }
    }
}

impl Builder {
    /// New lines, all zero.
    pub(super) fn lines(&mut self, count: u32) -> u32 {
        let first = self.words.len() / WORDS;
        self.words.resize(self.words.len() + count as usize * WORDS, 0);
        first as u32
    }

    /// New units of half a line that follow each other; from the beginning of a line when they are pairs.
    pub(super) fn units(&mut self, count: u32, pairs: bool) -> u32 {
        if count == 1
            && !pairs
            && let Some(unit) = self.half.take()
        {
            return unit;
        }
        let first = 2 * self.lines(count.div_ceil(2));
        if count % 2 == 1 {
            self.half = Some(first + count);
        }
        first
    }

    /// A line.
    pub(super) fn line(&mut self, line: u32) -> &mut [u64] {
        &mut self.words[line as usize * WORDS..][..WORDS]
    }

    /// Writes words at a place.
    pub(super) fn write(&mut self, word: u32, words: &[u64]) {
        self.words[word as usize..][..words.len()].copy_from_slice(words);
    }

    /// A word.
    pub(super) fn word(&mut self, word: usize) -> &mut u64 {
        &mut self.words[word]
    }

    /// Goes on where an image ends.
    pub(super) fn appending_to(words: Vec<u64>) -> Self {
        Self { words, half: None }
    }

    /// All lines.
    pub(super) fn into_words(self) -> Vec<u64> {
        self.words
    }

    pub(super) fn finish(self, filter: &Filter, sets: Vec<Tables>) -> Image {
        Image { words: self.words, filter: *filter, sets, free_tables: [[FREE_TABLES; CLASSES]; CHAINS] }
    }
}

/// How many slots there are for so many tags.
pub(super) fn slots_for(count: usize) -> usize {
    (2 * count).next_power_of_two().max(WORDS)
}

/// A hash table: what each slot leads to is a list.
pub(super) struct Slots<T> {
    traces: Vec<u64>,
    /// With the place of the slot.
    items: Vec<(u32, T)>,
}

impl<T: Ord> Slots<T> {
    /// With so many slots, a power of two.
    pub(super) fn new(count: usize) -> Self {
        Self { traces: vec![0; count], items: Vec::new() }
    }

    /// Adds to the slot of a tag.
    pub(super) fn add(&mut self, tag: u32, item: T) {
        let shift = shift(self.traces.len());
        let slot = slot_index(tag, shift);
        self.traces[slot as usize] |= bloom_bit(tag, shift);
        self.items.push((slot, item));
    }

    /// The longest list.
    pub(super) fn longest(&self) -> usize {
        let mut lengths = vec![0; self.traces.len()];
        for (place, _) in &self.items {
            lengths[*place as usize] += 1;
        }
        lengths.into_iter().max().unwrap_or(0)
    }

    /// Writes the slots, each with the number that `number_of` gives its list, which is sorted; returns what tables say of them.
    pub(super) fn write(
        mut self,
        builder: &mut Builder,
        mut number_of: impl FnMut(&mut Builder, &[(u32, T)]) -> u32,
    ) -> u64 {
        self.items.sort_unstable();
        let count = self.traces.len();
        let lines = builder.lines((count / WORDS) as u32);
        for list in self.items.chunk_by(|(a, _), (b, _)| a == b) {
            let (slot, number) = (list[0].0, number_of(builder, list));
            builder.write(lines * WORDS as u32 + slot, &[self.traces[slot as usize] | u64::from(number)]);
        }
        u64::from(shift(count)) << 32 | u64::from(lines)
    }
}

/// Writes the slots of a narrow set: open, linear, none farther than [`SLOT_PROBES`] from its home.
pub(super) fn write_narrow(builder: &mut Builder, values: &[u32]) -> u64 {
    let mut slots = vec![0; slots_for(values.len())];
    while !values.iter().all(|value| settle(&mut slots, *value)) {
        slots = vec![0; 2 * slots.len()];
    }
    let lines = builder.lines((slots.len() / WORDS) as u32);
    builder.write(lines * WORDS as u32, &slots);
    (slots.len() as u64 - 1) << 32 | u64::from(lines)
}

fn settle(slots: &mut [u64], value: u32) -> bool {
    let (home, mask) = (narrow_hash(value), slots.len() as u32 - 1);
    let mut places = (0..SLOT_PROBES).map(|probe| (home.wrapping_add(probe) & mask) as usize);
    places.find(|place| slots[*place] == 0).is_some_and(|place| {
        slots[place] = narrow_slot(value);
        true
    })
}
