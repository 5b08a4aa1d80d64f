//! The maps that routes and rules are in, as memory: they are made anew, together, where these outgrow them.

use std::{
    io,
    sync::atomic::{AtomicU16, AtomicU64, Ordering},
};

use aya::maps::Map;
use dataplane_common::abi::{BASE_ENTRIES, BASE_LINES, BLOCK, Control, Filter, NextHopGroup, WORDS, map};

use super::{
    Object, TableError,
    mmap::{Mapping, Word},
    table::Rows,
};
use crate::{
    fib::{ChainedMemory, DirectTable, Memory as _, Painter as _, RangeTree, TableSizes},
    filter::{Image, Patch},
    lower::{TargetChanges, Targets},
};

/// Tables of both families and the groups that they name, those of the filter, and which generation of each is live.
pub struct GrowableMaps {
    control: Rows<{ size_of::<Control>() }>,
    fib4: DirectTable<ChainedMemory<Mapping<AtomicU16>>>,
    fib6: RangeTree<ChainedMemory<Mapping<AtomicU64>>>,
    groups: Rows<{ size_of::<NextHopGroup>() }>,
    /// One element.
    filters: Rows<{ 2 * size_of::<Filter>() }>,
    /// Both generations of the tables of the filter.
    filter: Mapping<AtomicU64>,
    live: Control,
    /// What `filters` holds.
    chains: [Filter; 2],
}

/// A bank of the filter that is written, and not live.
#[derive(Debug)]
#[must_use = "what is staged is not live"]
pub struct Staged {
    bank: u32,
}

impl Staged {
    /// For a plane without a kernel.
    #[cfg(test)]
    pub(crate) fn new(bank: u32) -> Self {
        Self { bank }
    }

    /// Which it is.
    pub fn bank(&self) -> u32 {
        self.bank
    }

    /// Packets were run through it, and met what the rules say.
    pub fn verified(self) -> Verified {
        Verified(self)
    }

    /// No packets can be run through it, or it was live before, in other maps.
    pub fn untried(self) -> Verified {
        Verified(self)
    }
}

/// A bank of the filter that may go live.
#[derive(Debug)]
#[must_use = "what is verified is not live yet"]
pub struct Verified(Staged);

/// An array map as memory. The map stays with the object: programs that are loaded later name it by its descriptor.
pub(super) fn memory<T: Word>(object: &Object, name: &'static str, words: usize) -> Result<Mapping<T>, TableError> {
    let failed = |error| TableError::Memory { name, bytes: words * size_of::<T>(), error };
    let Map::Array(map) = object.map(name)? else { return Err(failed(io::ErrorKind::Unsupported.into())) };
    Mapping::new(map.fd(), words).map_err(failed)
}

impl GrowableMaps {
    /// Takes the maps out of an object, which was loaded with these sizes. There are no routes, and no family is mirrored.
    pub fn take(object: &mut Object, sizes: TableSizes) -> Result<Self, TableError> {
        let blocks = 2 * sizes.ipv4.blocks() as usize;
        let lines = 2 * sizes.ipv6.total() as usize;
        Ok(Self {
            control: Rows::take(object, map::CONTROL)?,
            fib4: {
                let base = memory(object, map::FIB4_BASE, BASE_ENTRIES)?;
                DirectTable::new(ChainedMemory::new(base, memory(object, map::FIB4, blocks * BLOCK)?), sizes.ipv4)
            },
            fib6: {
                let base = memory(object, map::FIB6_BASE, BASE_LINES as usize * WORDS)?;
                RangeTree::new(ChainedMemory::new(base, memory(object, map::FIB6, lines * WORDS)?), sizes.ipv6)
            },
            groups: Rows::take(object, map::GROUPS)?,
            filters: Rows::take(object, map::FILTERS)?,
            filter: memory(object, map::FILTER, 2 * sizes.filter as usize * WORDS)?,
            live: Control::default(),
            chains: [Filter::EMPTY; 2],
        })
    }

    /// Nothing is to be done for a while: memory that is at hand is let go.
    ///
    /// # Errors
    /// The kernel has no memory left to say so.
    pub fn rest(&mut self) -> io::Result<()> {
        self.fib4.memory().parts().into_iter().try_for_each(Mapping::rest)?;
        self.fib6.memory().parts().into_iter().try_for_each(Mapping::rest)?;
        self.filter.rest()
    }

    /// The bank of the filter that is live.
    fn bank(&self) -> u32 {
        self.live.filter & 1
    }

    /// Which generations are live.
    pub fn live(&self) -> Control {
        self.live
    }

    /// Makes other generations live.
    pub(super) fn go_live(&mut self, control: Control) -> Result<(), TableError> {
        self.control.write(0, &control)?;
        self.live = control;
        Ok(())
    }

    /// The families that are mirrored are those of other maps.
    pub fn continue_from(&mut self, other: &Self) -> Result<(), TableError> {
        self.go_live(Control { mirror: other.live.mirror, ..self.live })
    }

    /// Writes the idle generation of the filter and makes it live.
    ///
    /// # Errors
    /// As [`Self::stage_filter`].
    pub fn load_filter(&mut self, image: &Image) -> Result<(), TableError> {
        let staged = self.stage_filter(image)?;
        self.flip_filter(staged.untried())
    }

    /// Makes a generation of the filter that was staged live.
    ///
    /// # Errors
    /// The kernel refused.
    #[expect(clippy::needless_pass_by_value, reason = "a bank goes live once: it is given away")]
    pub fn flip_filter(&mut self, verified: Verified) -> Result<(), TableError> {
        let Verified(Staged { bank }) = verified;
        self.go_live(Control { filter: Control::after(self.live.filter, bank), ..self.live })
    }

    /// Writes the idle generation of the filter, which no program may be reading, and returns which that is.
    ///
    /// # Errors
    /// The kernel refused, or [`TableSizes::filter`] is too small for it.
    pub fn stage_filter(&mut self, image: &Image) -> Result<Staged, TableError> {
        let idle = self.bank() ^ 1;
        let half = self.room_for(image)?;
        self.copy(idle as usize * half, &image.words);
        let base = idle * (half / WORDS) as u32;
        self.write_filter(idle, &Filter { base, ..image.filter })?;
        Ok(Staged { bank: idle })
    }

    /// Changes the live generation of the filter to an image that was amended.
    ///
    /// # Errors
    /// There is no room for what is new, or the kernel refused; packets meet what they met before.
    pub fn patch_filter(&mut self, image: &Image, patch: &Patch) -> Result<(), TableError> {
        let half = self.room_for(image)?;
        let live = self.bank() as usize * half;
        self.copy(live + patch.appended_from, &image.words[patch.appended_from..]);
        for (at, to) in &patch.pointer_writes {
            // Whoever is led there finds it written.
            self.filter.word(live + at).store(*to, Ordering::Release);
        }
        if patch.header_changed {
            let base = self.bank() * (half / WORDS) as u32;
            self.write_filter(self.bank(), &Filter { base, ..image.filter })?;
        }
        // What the verdict cache holds is of before.
        self.go_live(Control { filter: Control::after(self.live.filter, self.bank()), ..self.live })
    }

    /// The other generation is written with what it holds.
    fn write_filter(&mut self, generation: u32, filter: &Filter) -> Result<(), TableError> {
        let mut chains = self.chains;
        chains[generation as usize & 1] = *filter;
        self.filters.write(0, &chains)?;
        self.chains = chains;
        Ok(())
    }

    /// The words of a generation of the filter, if they are enough for an image.
    fn room_for(&self, image: &Image) -> Result<usize, TableError> {
        let half = self.filter.size() / 2;
        if image.words.len() > half {
            let bytes = image.words.len() * size_of::<u64>();
            return Err(TableError::Memory { name: map::FILTER, bytes, error: io::ErrorKind::OutOfMemory.into() });
        }
        Ok(half)
    }

    /// Writes words of the filter that no program reads yet.
    fn copy(&mut self, to: usize, words: &[u64]) {
        let mut values = words.iter();
        self.filter.each(to..to + words.len(), |word| {
            values.by_ref().take(1).for_each(|value| word.store(*value, Ordering::Relaxed));
        });
    }

    /// Programs that still read these maps leave everything to the kernel.
    pub fn retire(mut self) -> Result<(), TableError> {
        self.go_live(Control { mirror: 0, ..self.live })
    }

    /// Writes a next-hop group.
    pub fn write_group(&mut self, index: u32, group: &NextHopGroup) -> Result<(), TableError> {
        self.groups.write(index, group)
    }

    /// All of IPv4: the idle generation, which no program may be reading, then the flip.
    pub fn load_fib4(&mut self, targets: &Targets<u32>) -> Result<(), TableError> {
        let fib4 = self.fib4.load(targets.iter());
        self.go_live(Control { fib4, ..self.live })
    }

    /// All of IPv6, in the same way.
    pub fn load_fib6(&mut self, targets: &Targets<u128>) -> Result<(), TableError> {
        let fib6 = self.fib6.load(targets.iter());
        self.go_live(Control { fib6, ..self.live })
    }

    /// Some IPv4 prefixes, in the live generation.
    pub fn change_fib4(&mut self, changes: &TargetChanges<u32>) {
        self.fib4.change(changes.iter().map(|(prefix, target)| (*prefix, *target)));
    }

    /// Some IPv6 prefixes, in the live generation.
    pub fn change_fib6(&mut self, changes: &TargetChanges<u128>) {
        self.fib6.change(changes.iter().map(|(prefix, target)| (*prefix, *target)));
    }

    /// No packet is being judged that began before this.
    pub fn grace_passed(&mut self) {
        self.fib4.grace_passed();
        self.fib6.grace_passed();
    }

    /// How many places of the tables of IPv4 and IPv6 are left to the kernel, for want of room.
    pub fn overflowed(&self) -> [usize; 2] {
        [self.fib4.overflowed(), self.fib6.overflowed()]
    }
}
