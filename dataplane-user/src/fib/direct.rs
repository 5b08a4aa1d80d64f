//! The IPv4 table: entries by the first bits, groups of 256 behind them.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    ops::Range,
    sync::atomic::{AtomicU16, Ordering},
};

use dataplane_common::abi::{
    BASE_ENTRIES, BLOCK, BRANCH, Blocks, LOCALS, Layout4, ROOTS, RouteKind, Target, local_bit, lookup4,
};

use super::{
    Entry, Memory, Painter, PrefixTrie, sorted,
    sweep::{Routes, sweep},
};
use crate::{model::Prefix, parallel::both};

/// Local routes with up to this many addresses enter the filter address by address.
const LOCAL_ADDRESSES: u32 = 1024;

/// Paints `FIB4_BASE` and, behind it, `FIB4`.
#[derive(Debug)]
pub struct DirectTable<M> {
    memory: M,
    layout: Layout4,
    trie: PrefixTrie<u32>,
    /// The live generation, 0 or 1.
    generation: u32,
    /// Groups that were never used in this generation begin here.
    unused: u32,
    free: Vec<u16>,
    /// Out of use, but maybe still read.
    retired: Vec<u16>,
    /// Places whose routes found no group.
    overflowed: BTreeSet<Prefix<u32>>,
}

impl<M: Memory<Word = AtomicU16>> DirectTable<M> {
    /// On memory full of zeros, for the base part and two generations of the dynamic part. The first is live, and empty.
    ///
    /// # Panics
    /// When the memory is too small.
    pub fn new(memory: M, layout: Layout4) -> Self {
        assert!(memory.size() >= BASE_ENTRIES + 2 * layout.blocks() as usize * BLOCK, "memory for two generations");
        assert!(layout.groups <= u32::from(BRANCH), "an entry names a group with 15 bits");
        Self {
            memory,
            layout,
            trie: PrefixTrie::default(),
            generation: 0,
            unused: 0,
            free: Vec::new(),
            retired: Vec::new(),
            overflowed: BTreeSet::new(),
        }
    }

    /// What it paints in.
    pub fn memory(&mut self) -> &mut M {
        &mut self.memory
    }

    /// Groups in use.
    pub fn groups(&self) -> usize {
        self.unused as usize - self.free.len() - self.retired.len()
    }

    /// How many bits the first level takes.
    fn resolution(&self) -> u8 {
        if self.layout.wide { 24 } else { 16 }
    }

    /// Where the entries begin that a group's number, or none, stands for.
    fn entries(&self, group: Option<u16>) -> usize {
        let dynamic_start =
            |block: u32| BASE_ENTRIES + (self.generation * self.layout.blocks() + block) as usize * BLOCK;
        match group {
            Some(group) => dynamic_start(Layout4::first_blocks(self.layout.wide) + u32::from(group)),
            None if self.layout.wide => dynamic_start(0),
            None => 2 * LOCALS + self.generation as usize * ROOTS,
        }
    }

    /// Where the filter over local addresses is.
    fn locals(&self) -> Range<usize> {
        let first = self.generation as usize * LOCALS;
        first..first + LOCALS
    }

    /// Writes `region`, whose routes are `routes`. `table` is where its entries are, one for each `resolution` bits; `fresh`:
    /// no program reads them yet, and what they hold means nothing.
    fn paint(
        &mut self,
        routes: &[Entry<u32>],
        region: Prefix<u32>,
        cover: u16,
        (group, resolution): (Option<u16>, u8),
        fresh: bool,
    ) {
        let table = self.entries(group);
        let shift = 32 - resolution;
        // Entries of a group are counted from its first address, those of the first level from 0.
        let mask = if group.is_some() { BLOCK - 1 } else { usize::MAX };
        let place = |address: u32| table + ((address >> shift) as usize & mask);
        let cuts = sweep(routes, region, resolution, cover, |inside, block, cover| {
            let here = self.memory.word(place(block.first())).load(Ordering::Relaxed);
            let known = (!fresh && here & BRANCH != 0).then_some(here & !BRANCH);
            let Some(group) = known.or_else(|| self.take()) else {
                self.overflowed.insert(block);
                return Target::KERNEL.raw();
            };
            self.overflowed.remove(&block);
            self.paint(inside, block, cover, (Some(group), resolution + 8), known.is_none());
            u32::from(BRANCH | group)
        });
        for (position, (start, value)) in cuts.iter().enumerate() {
            let end = cuts.get(position + 1).map_or(place(region.last()), |(next, _)| place(*next) - 1);
            self.fill(place(*start)..=end, *value as u16, fresh, resolution);
        }
    }

    fn fill(&mut self, entries: std::ops::RangeInclusive<usize>, value: u16, fresh: bool, resolution: u8) {
        if fresh {
            self.memory.each(*entries.start()..entries.end() + 1, |entry| entry.store(value, Ordering::Relaxed));
            return;
        }
        for place in entries {
            let before = self.memory.word(place).load(Ordering::Relaxed);
            if before != value {
                // What the entry leads to is written before the entry.
                self.memory.word(place).store(value, Ordering::Release);
                self.retire(before, resolution + 8);
            }
        }
    }

    /// A block that no program reads.
    fn take(&mut self) -> Option<u16> {
        self.free.pop().or_else(|| {
            let next = (self.unused < self.layout.groups).then_some(self.unused as u16)?;
            self.unused += 1;
            Some(next)
        })
    }

    /// Takes out of use what an entry led to; `resolution` is that of the entries there.
    fn retire(&mut self, entry: u16, resolution: u8) {
        if entry & BRANCH == 0 {
            return;
        }
        let group = entry & !BRANCH;
        self.retired.push(group);
        if resolution < 32 {
            let table = self.entries(Some(group));
            for place in table..table + BLOCK {
                let behind = self.memory.word(place).load(Ordering::Relaxed);
                self.retire(behind, resolution + 8);
            }
        }
    }

    /// Enters the addresses of a local route, and what else no host has, into the bloom filter. The loopback network and groups
    /// stay out: these sources are refused on the wire before they are looked up, and would fill the filter.
    fn enter_local(&mut self, route: Entry<u32>) {
        let kind = Target::from_raw(u32::from(route.target)).kind();
        let local = matches!(kind, RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast);
        if !local || route.first >> 24 == 127 || route.first >> 24 >= 224 {
            return;
        }
        let last = route.prefix().last();
        if last - route.first >= LOCAL_ADDRESSES {
            self.memory.each(self.locals(), |word| word.store(u16::MAX, Ordering::Release));
            return;
        }
        for address in route.first..=last {
            let bit = local_bit(address);
            let at = self.locals().start + (bit / u16::BITS) as usize;
            self.memory.word(at).fetch_or(1 << (bit % u16::BITS), Ordering::Release);
        }
    }
}

impl<M: Memory<Word = AtomicU16>> Painter for DirectTable<M> {
    type Address = u32;

    fn trie(&self) -> &PrefixTrie<u32> {
        &self.trie
    }

    fn load(&mut self, routes: impl IntoIterator<Item = (Prefix<u32>, Target)>) -> u32 {
        let routes = sorted(routes);
        self.generation ^= 1;
        self.unused = 0;
        self.free.clear();
        self.retired.clear();
        self.overflowed.clear();
        self.memory.each(self.locals(), |word| word.store(0, Ordering::Relaxed));
        let paint = || {
            for route in &routes {
                self.enter_local(*route);
            }
            self.paint(&routes, Prefix::all(), 0, (None, self.resolution()), true);
        };
        (self.trie, ()) = both(routes.len(), || PrefixTrie::from_sorted(&routes), paint);
        self.layout.live(self.generation)
    }

    fn enter(&mut self, prefix: Prefix<u32>, target: Option<Target>) -> bool {
        let Some(target) = target.map(|target| target.raw() as u16) else { return self.trie.remove(prefix).is_some() };
        let new = self.trie.insert(prefix, target) != Some(target);
        if new {
            self.enter_local(Entry { first: prefix.first(), length: prefix.length(), target });
        }
        new
    }

    fn region(&self, prefix: Prefix<u32>) -> Prefix<u32> {
        Prefix::new(prefix.first(), prefix.length().min(self.resolution()))
    }

    fn repaint(&mut self, region: Prefix<u32>) {
        if !self.overflowed.is_empty() {
            self.overflowed.retain(|place| !region.contains(place.first()));
        }
        let mut routes = Routes::new();
        let cover = self.trie.inside(region, &mut routes);
        self.paint(&routes, region, cover, (None, self.resolution()), false);
    }

    fn grace_passed(&mut self) {
        self.free.append(&mut self.retired);
        for place in std::mem::take(&mut self.overflowed) {
            self.repaint(self.region(place));
        }
    }

    fn overflowed(&self) -> usize {
        self.overflowed.len()
    }

    fn lookup(&mut self, address: u32) -> Target {
        lookup4(&Reader(RefCell::new(&mut self.memory)), self.layout.live(self.generation), self.layout.wide, address)
    }
}

/// Reads as the kernel half does.
struct Reader<'a, M>(RefCell<&'a mut M>);

impl<M: Memory<Word = AtomicU16>> Reader<'_, M> {
    fn read(&self, at: usize) -> u16 {
        self.0.borrow_mut().word(at).load(Ordering::Acquire)
    }
}

impl<M: Memory<Word = AtomicU16>> Blocks for Reader<'_, M> {
    fn locals(&self, four: u32) -> u64 {
        let word = |place: usize| u64::from(self.read(4 * four as usize + place)) << (u16::BITS as usize * place);
        (0..4).map(word).sum()
    }

    fn root(&self, number: u32) -> u16 {
        self.read(2 * LOCALS + number as usize)
    }

    fn entry(&self, block: u32, entry: u8) -> u16 {
        self.read(BASE_ENTRIES + block as usize * BLOCK + usize::from(entry))
    }
}
