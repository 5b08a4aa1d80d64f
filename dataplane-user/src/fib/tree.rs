//! The IPv6 table: an index by the first bits, trees of sorted words behind it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

use dataplane_common::{
    abi::{
        BASE_LINES, BASE_TREE_LINE, BASE_TREES, BRANCH, BaseLines, INDEX_LINES, Layout6, Lines, TREE, TREE_LINE,
        Target, WORDS, lookup6, lookup6_base, tree_class, tree_lines,
    },
    wire::Address6,
};

use super::{
    Entry, Memory, Painter, PrefixTrie, sorted,
    sweep::{Routes, sweep, within},
};
use crate::{model::Prefix, parallel::both};

/// Paints `FIB6_BASE` and, behind it, `FIB6`.
#[derive(Debug)]
pub struct RangeTree<M> {
    memory: M,
    layout: Layout6,
    trie: PrefixTrie<u128>,
    /// The live generation, 0 or 1.
    generation: u32,
    /// Lines and escapes in use.
    room: Room,
    /// Places whose routes found no room.
    overflowed: BTreeSet<Prefix<u128>>,
}

/// What is free, in one generation.
#[derive(Debug, Default)]
struct Room {
    /// Lines that were never used begin here, counted from the first tree.
    unused: u32,
    /// So many trees of one line that are near were used.
    base_line: u32,
    /// Trees by the class of their size, by their first line.
    free: BTreeMap<u32, Vec<u32>>,
    /// Out of use, but maybe still read.
    retired: Vec<(u32, u32)>,
    unused_escapes: u32,
    free_escapes: Vec<u16>,
    retired_escapes: Vec<u16>,
}

impl<M: Memory<Word = AtomicU64>> RangeTree<M> {
    /// On memory full of zeros, for the base part and two generations of the dynamic part. The first is live, and empty.
    ///
    /// # Panics
    /// When the memory is too small.
    pub fn new(memory: M, layout: Layout6) -> Self {
        let lines = BASE_LINES + 2 * layout.total();
        assert!(memory.size() >= lines as usize * WORDS, "memory for two generations");
        assert!(lines <= TREE_LINE, "a root names a line with 22 bits");
        assert!(layout.escapes <= u32::from(BRANCH), "an entry names an escape with 15 bits");
        let (room, overflowed) = (Room::default(), BTreeSet::new());
        Self { memory, layout, trie: PrefixTrie::default(), generation: 0, room, overflowed }
    }

    /// What it paints in.
    pub fn memory(&mut self) -> &mut M {
        &mut self.memory
    }

    /// Lines of trees that are in use or may still be read.
    pub fn lines(&self) -> usize {
        let free: u32 = self.room.free.iter().map(|(class, trees)| tree_lines(*class) * trees.len() as u32).sum();
        (self.room.unused + self.room.base_line - free) as usize
    }

    /// Escapes in use.
    pub fn escapes(&self) -> usize {
        let room = &self.room;
        room.unused_escapes as usize - room.free_escapes.len() - room.retired_escapes.len()
    }

    /// Writes one root; its neighbour in the word stays. One writer, so nothing is lost between.
    fn write_root(&mut self, first: u32, number: u32, root: u32) {
        let word = self.memory.word(first as usize * WORDS + number as usize / 2);
        let shift = 32 * (number & 1);
        let kept = word.load(Ordering::Relaxed) & !(u64::from(u32::MAX) << shift);
        // What the root leads to is written before it.
        word.store(kept | u64::from(root) << shift, Ordering::Release);
    }

    fn read_root(&mut self, first: u32, number: u32) -> u32 {
        let word = self.memory.word(first as usize * WORDS + number as usize / 2).load(Ordering::Relaxed);
        (word >> (32 * (number & 1))) as u32
    }

    /// Where the far part of the live generation begins.
    fn dynamic_start(&self) -> u32 {
        BASE_LINES + self.generation * self.layout.total()
    }

    fn escape_line(&self) -> u32 {
        self.dynamic_start() + Layout6::escape_line(self.layout.wide)
    }

    /// The index that `region` is in: where it begins, how many bits it takes, and how many of them are counted.
    fn index(&self, region: Prefix<u128>) -> (u32, u8, u32) {
        if self.layout.wide && GLOBAL.contains(&region.first()) && region.length() >= GLOBAL_LENGTH {
            (self.dynamic_start(), GLOBAL_LENGTH + 20, (1 << 20) - 1)
        } else {
            (self.generation * INDEX_LINES, 16, u32::MAX)
        }
    }

    /// Writes the index for `region`, whose routes are `routes`, and what lies behind it.
    fn paint(&mut self, routes: &[Entry<u128>], region: Prefix<u128>, cover: u16, fresh: bool) {
        let (first, resolution, mask) = self.index(region);
        let cuts = sweep(routes, region, resolution, cover, |inside, block, cover| {
            let room = (self.room.unused, self.room.unused_escapes);
            self.plant(inside, block, cover, 64).unwrap_or_else(|| {
                debug_assert!(room.0 <= self.room.unused && room.1 <= self.room.unused_escapes);
                self.overflowed.insert(block);
                Target::KERNEL.raw()
            })
        });
        let number = |address: u128| (address >> (128 - resolution)) as u32 & mask;
        for (position, (start, value)) in cuts.iter().enumerate() {
            let end = cuts.get(position + 1).map_or(number(region.last()), |(next, _)| number(*next) - 1);
            for number in number(*start)..=end {
                if fresh {
                    self.write_root(first, number, *value);
                    continue;
                }
                let before = self.read_root(first, number);
                if before != *value {
                    self.write_root(first, number, *value);
                    self.retire(before);
                }
            }
        }
    }

    /// A new tree for the routes in `region`, down to blocks of `resolution` bits; its root. `None` if there is no room, and
    /// then nothing is used up.
    fn plant(&mut self, routes: &[Entry<u128>], region: Prefix<u128>, cover: u16, resolution: u8) -> Option<u32> {
        let mut complete = true;
        let cuts = sweep(routes, region, resolution, cover, |inside, block, cover| {
            if !complete {
                return Target::KERNEL.raw();
            }
            let deeper = (resolution + 48).min(128);
            let escape = self.take_escape().and_then(|escape| {
                let Some(root) = self.plant(inside, block, cover, deeper) else {
                    self.room.free_escapes.push(escape);
                    return None;
                };
                let first = self.escape_line();
                self.write_root(first, u32::from(escape), root);
                Some(u32::from(BRANCH | escape))
            });
            complete = escape.is_some();
            escape.unwrap_or(Target::KERNEL.raw())
        });
        if complete && let Some(root) = self.write_tree(&cuts, resolution) {
            return Some(root);
        }
        // No program has seen what was written so far.
        let escapes = cuts.iter().map(|cut| cut.1 as u16).filter(|value| value & BRANCH != 0).collect();
        self.retire_escapes(escapes);
        None
    }

    /// Writes the words of a tree; its root.
    fn write_tree(&mut self, cuts: &[(u128, u32)], resolution: u8) -> Option<u32> {
        let class = tree_class(u32::try_from(cuts.len().div_ceil(WORDS)).ok()?)?;
        let line = self.take_lines(class)?;
        let low = u32::from(128 - resolution);
        let word = |(start, value): &(u128, u32)| {
            let bits = if resolution == 128 { (*start as u64) << 48 } else { ((start >> low) as u64) << 16 };
            bits | u64::from(*value as u16)
        };
        let last = !0xffff | cuts.last().map_or(0, |(_, value)| u64::from(*value as u16));
        // What is left of the last line reads as the last interval going on.
        let mut words = cuts.iter().map(word).chain(std::iter::repeat(last));
        self.write_node(line, 0, tree_lines(class), &mut words);
        Some(TREE | class << TREE_LINE.count_ones() | line)
    }

    /// Writes a line and those below it, in the order of their words.
    fn write_node(&mut self, first: u32, node: u32, count: u32, words: &mut dyn Iterator<Item = u64>) {
        if node >= count {
            return;
        }
        for slot in 0..WORDS as u32 {
            self.write_node(first, node * 9 + 1 + slot, count, words);
            let place = (first + node) as usize * WORDS + slot as usize;
            let word = words.next().unwrap_or(u64::MAX);
            self.memory.word(place).store(word, Ordering::Relaxed);
        }
        self.write_node(first, node * 9 + 9, count, words);
    }

    fn take_lines(&mut self, class: u32) -> Option<u32> {
        if let Some(line) = self.room.free.get_mut(&class).and_then(Vec::pop) {
            return Some(line);
        }
        let (begin, lines, base_line) = (self.room.unused, tree_lines(class), self.room.base_line);
        // Large tables do not use the base part: so their programs need no branch for where a tree is.
        if lines == 1 && base_line < BASE_TREES && !self.layout.wide {
            self.room.base_line += 1;
            return Some(BASE_TREE_LINE + self.generation * BASE_TREES + base_line);
        }
        let fits = begin + lines <= self.layout.lines;
        fits.then(|| {
            self.room.unused += lines;
            self.dynamic_start() + self.layout.tree_line() + begin
        })
    }

    fn take_escape(&mut self) -> Option<u16> {
        self.room.free_escapes.pop().or_else(|| {
            let next = (self.room.unused_escapes < self.layout.escapes).then_some(self.room.unused_escapes as u16)?;
            self.room.unused_escapes += 1;
            Some(next)
        })
    }

    /// Takes a tree out of use, and the escapes that it leads to.
    fn retire(&mut self, root: u32) {
        if root & TREE == 0 {
            return;
        }
        let (line, class) = (root & TREE_LINE, (root & !TREE) >> TREE_LINE.count_ones());
        self.room.retired.push((class, line));
        let words = line as usize * WORDS..(line + tree_lines(class)) as usize * WORDS;
        let mut escapes = BTreeSet::new();
        self.memory.each(words, |word| {
            let value = word.load(Ordering::Relaxed) as u16;
            escapes.extend((value & BRANCH != 0).then_some(value));
        });
        self.retire_escapes(escapes);
    }

    fn retire_escapes(&mut self, escapes: BTreeSet<u16>) {
        for escape in escapes {
            let escape = escape & !BRANCH;
            self.room.retired_escapes.push(escape);
            let root = self.read_root(self.escape_line(), u32::from(escape));
            self.retire(root);
        }
    }

    /// The index entries that `prefix` is in or that are in it, as regions of one index each.
    fn regions(&self, prefix: Prefix<u128>) -> Vec<Prefix<u128>> {
        let whole = prefix.length() >= GLOBAL_LENGTH || !self.layout.wide;
        let pieces = if whole {
            vec![prefix]
        } else {
            let pieces = [(0, 3), (1 << 125, GLOBAL_LENGTH), (1 << 126, 2), (1 << 127, 1)];
            let pieces = pieces.map(|(first, length)| Prefix::new(first, length));
            // A prefix shorter than a piece either has all of it inside or nothing.
            let inside: Vec<_> = pieces.into_iter().filter(|piece| prefix.contains(piece.first())).collect();
            if inside.is_empty() { vec![prefix] } else { inside }
        };
        pieces.into_iter().map(|piece| Prefix::new(piece.first(), piece.length().min(self.index(piece).1))).collect()
    }
}

/// Length of `2000::/3`.
const GLOBAL_LENGTH: u8 = 3;
/// What global addresses begin with.
const GLOBAL: std::ops::Range<u128> = 1 << 125..1 << 126;

impl<M: Memory<Word = AtomicU64>> Painter for RangeTree<M> {
    type Address = u128;

    fn trie(&self) -> &PrefixTrie<u128> {
        &self.trie
    }

    fn load(&mut self, routes: impl IntoIterator<Item = (Prefix<u128>, Target)>) -> u32 {
        let routes = sorted(routes);
        self.generation ^= 1;
        self.room = Room::default();
        self.overflowed.clear();
        let paint = || {
            for region in self.regions(Prefix::all()) {
                let (inside, cover) = within(&routes, region);
                self.paint(inside, region, cover, true);
            }
        };
        (self.trie, ()) = both(routes.len(), || PrefixTrie::from_sorted(&routes), paint);
        self.layout.live(self.generation)
    }

    fn enter(&mut self, prefix: Prefix<u128>, target: Option<Target>) -> bool {
        match target.map(|target| target.raw() as u16) {
            Some(target) => self.trie.insert(prefix, target) != Some(target),
            None => self.trie.remove(prefix).is_some(),
        }
    }

    fn region(&self, prefix: Prefix<u128>) -> Prefix<u128> {
        Prefix::new(prefix.first(), prefix.length().min(self.index(prefix).1))
    }

    fn repaint(&mut self, region: Prefix<u128>) {
        for region in self.regions(region) {
            if !self.overflowed.is_empty() {
                self.overflowed.retain(|place| !region.contains(place.first()));
            }
            let mut routes = Routes::new();
            let cover = self.trie.inside(region, &mut routes);
            self.paint(&routes, region, cover, false);
        }
    }

    fn grace_passed(&mut self) {
        for (class, line) in self.room.retired.drain(..) {
            self.room.free.entry(class).or_default().push(line);
        }
        self.room.free_escapes.append(&mut self.room.retired_escapes);
        for place in std::mem::take(&mut self.overflowed) {
            self.repaint(place);
        }
    }

    fn overflowed(&self) -> usize {
        self.overflowed.len()
    }

    fn lookup(&mut self, address: u128) -> Target {
        let live = self.layout.live(self.generation);
        let (lines, address) = (Reader(RefCell::new(&mut self.memory)), Address6::from(address));
        let wide = self.layout.wide;
        let target = lookup6(&lines, live, wide, address);
        debug_assert_eq!(
            lookup6_base(&lines, live, wide, address).unwrap_or(target),
            target,
            "both ways lead to the same"
        );
        target
    }
}

/// Reads as the kernel half does.
struct Reader<'a, M>(RefCell<&'a mut M>);

impl<M: Memory<Word = AtomicU64>> Lines for Reader<'_, M> {
    type Line = usize;

    fn line(&self, line: u32) -> Option<usize> {
        Some(line as usize * WORDS)
    }

    fn word(&self, line: usize, slot: usize) -> u64 {
        self.0.borrow_mut().word(line + slot).load(Ordering::Acquire)
    }
}

impl<M: Memory<Word = AtomicU64>> BaseLines for Reader<'_, M> {
    fn root(&self, number: u32) -> u32 {
        let word = self.0.borrow_mut().word(number as usize / 2).load(Ordering::Acquire);
        (word >> (32 * (number & 1))) as u32
    }

    fn base_line(&self, line: u32) -> Option<usize> {
        (line < BASE_LINES).then(|| line as usize * WORDS)
    }
}
