//! The IPv4 table: what its words mean, and how it is searched.
//!
//! Entries of 16 bits, by the first 24 bits of an address, with blocks of 256 entries behind them. With few routes the first
//! level takes only 16 bits and lies in the base part, and the next 8 bits have blocks too.

use super::{
    BRANCH, Target,
    fib::{SECOND, dynamic_start, generation},
};

/// Entries of an element of `FIB4`.
pub const BLOCK: usize = 256;
/// An element of `FIB4`.
pub type Block = [u16; BLOCK];

/// Bits of an address that the filter over local addresses looks at, when they are mixed.
const LOCAL_BITS: u32 = 15;
/// Half words of the filter over local addresses in one generation: a clear bit means "not local".
pub const LOCALS: usize = 1 << LOCAL_BITS >> 4;
/// Entries by the first 16 bits.
pub const ROOTS: usize = 1 << 16;
/// `FIB4_BASE`: the filter over local addresses, and the entries by the first 16 bits, each in both generations.
pub type Fib4Base = [u16; BASE_ENTRIES];
/// Half words of [`Fib4Base`].
pub const BASE_ENTRIES: usize = 2 * (LOCALS + ROOTS);

/// How one generation of `FIB4` is laid out: first level, if it takes 24 bits, and groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout4 {
    /// The first level takes 24 bits instead of 16.
    pub wide: bool,
    /// Room for groups, at most [`BRANCH`].
    pub groups: u32,
}

impl Layout4 {
    /// Blocks of the first level.
    #[inline(always)]
    pub const fn first_blocks(wide: bool) -> u32 {
        if wide { 1 << 16 } else { 0 }
    }

    /// Blocks of one generation.
    pub const fn blocks(self) -> u32 {
        Self::first_blocks(self.wide) + self.groups
    }

    /// What [`super::Control`] says when this generation, 0 or 1, is live.
    pub const fn live(self, generation: u32) -> u32 {
        if generation == 0 { 0 } else { self.blocks() | SECOND }
    }
}

/// Where the table is read.
pub trait Blocks {
    /// Four half words of the filters over local addresses, by their number in [`Fib4Base`].
    fn locals(&self, four: u32) -> u64;
    /// An entry by the first 16 bits, by its number among those of both generations.
    fn root(&self, number: u32) -> u16;
    /// An entry of a block of `FIB4`.
    fn entry(&self, block: u32, entry: u8) -> u16;
}

/// The longest match for `address` in the live generation.
#[inline(always)]
pub fn lookup4(blocks: &impl Blocks, live: u32, wide: bool, address: u32) -> Target {
    let groups = dynamic_start(live) + Layout4::first_blocks(wide);
    let mut entry = if wide {
        blocks.entry(dynamic_start(live) + (address >> 16), (address >> 8) as u8)
    } else {
        let entry = blocks.root(generation(live) << 16 | address >> 16);
        if entry & BRANCH == 0 {
            return Target::from_raw(u32::from(entry));
        }
        blocks.entry(groups + u32::from(entry & !BRANCH), (address >> 8) as u8)
    };
    if entry & BRANCH != 0 {
        entry = blocks.entry(groups + u32::from(entry & !BRANCH), address as u8);
    }
    Target::from_raw(u32::from(entry))
}

/// Whether `address` may be one of this machine's: `false` is certain, `true` needs a lookup.
#[inline(always)]
pub fn may_be_local(blocks: &impl Blocks, live: u32, address: u32) -> bool {
    let bit = local_bit(address);
    let fours = (LOCALS / 4).trailing_zeros();
    blocks.locals(generation(live) << fours | bit >> 6) >> (bit & 63) & 1 != 0
}

/// Number of the bit of an address in the filter over local addresses.
#[inline(always)]
pub const fn local_bit(address: u32) -> u32 {
    address.wrapping_mul(0x9e37_79b1) >> (u32::BITS - LOCAL_BITS)
}
