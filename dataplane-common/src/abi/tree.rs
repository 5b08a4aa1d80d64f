//! The IPv6 table: what its words mean, and how it is searched.
//!
//! An index by the first 16 bits of an address, and behind it trees of lines of eight sorted words, a cache line each. Where
//! there are many routes, `2000::/3` has an index of its own.

use core::hint::black_box;

use super::{
    BRANCH, Target,
    fib::{SECOND, dynamic_start, generation},
};
use crate::wire::Address6;

/// Words of an element of `FIB6`.
pub const WORDS: usize = 8;
/// An element of `FIB6`: one cache line.
pub type Line = [u64; WORDS];
/// Roots, of 32 bits, in a line.
const ROOTS: u32 = 16;
/// Lines of the index by the first 16 bits.
pub const INDEX_LINES: u32 = (1 << 16) / ROOTS;
/// Lines of the index by the 20 bits behind `2000::/3`.
const GLOBAL_LINES: u32 = (1 << 20) / ROOTS;
/// Trees of one line that a generation has near.
pub const BASE_TREES: u32 = 1024;
/// Where they begin.
pub const BASE_TREE_LINE: u32 = 2 * INDEX_LINES;
/// Lines of [`Fib6Base`]. The lines of `FIB6` are counted on from there.
pub const BASE_LINES: u32 = BASE_TREE_LINE + 2 * BASE_TREES;
/// `FIB6_BASE`: the index by the first 16 bits, and trees of one line, each in both generations.
pub type Fib6Base = [Line; BASE_LINES as usize];
/// In a root: a tree, else a target.
pub const TREE: u32 = 1 << 31;
/// The upper bits of a root whose tree is one line.
const ONE_LINE: u32 = TREE >> TREE_LINE.count_ones();
/// Bits of a root that name the first line of its tree.
pub const TREE_LINE: u32 = (1 << 22) - 1;
/// Levels of the largest tree.
const LEVELS: u32 = 6;

/// How one generation of `FIB6` is laid out: index of `2000::/3`, escapes, lines of the trees. In all but the last, as in the
/// index of the base part, a line is 16 roots: a target, or [`TREE`], the size of a tree and where it begins.
///
/// A tree is sorted words of 48 bits of address and 16 of what begins there, as a complete tree of lines: the children of line
/// `n` are lines `9n + 1` to `9n + 9`. The trees of the index distinguish addresses by their bits 16 to 64. Where that is not
/// enough there is an escape, a root by number, whose tree goes on with bits 64 to 112, and then 112 to 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout6 {
    /// There is an index of `2000::/3`.
    pub wide: bool,
    /// Room for escapes; a multiple of 16, at most [`BRANCH`].
    pub escapes: u32,
    /// Room for lines of trees.
    pub lines: u32,
}

impl Layout6 {
    /// Where the escapes begin.
    #[inline(always)]
    pub const fn escape_line(wide: bool) -> u32 {
        if wide { GLOBAL_LINES } else { 0 }
    }

    /// Where the trees begin.
    pub const fn tree_line(self) -> u32 {
        Self::escape_line(self.wide) + self.escapes / ROOTS
    }

    /// Lines of one generation.
    pub const fn total(self) -> u32 {
        self.tree_line() + self.lines
    }

    /// What [`super::Control`] says when this generation, 0 or 1, is live.
    pub const fn live(self, generation: u32) -> u32 {
        if generation == 0 { 0 } else { self.total() | SECOND }
    }
}

/// How many lines a tree has, by the class of its size: each number up to 256, then each multiple of 256.
#[inline(always)]
pub const fn tree_lines(class: u32) -> u32 {
    if class < 256 { class + 1 } else { (class - 254) << 8 }
}

/// The class of the smallest tree with room for `lines`; `None` if there is none so large.
pub const fn tree_class(lines: u32) -> Option<u32> {
    let class = if lines <= 256 { lines.saturating_sub(1) } else { lines.div_ceil(256) + 254 };
    if class < 512 { Some(class) } else { None }
}

/// Where lines are read.
pub trait Lines {
    /// A line that was found.
    type Line: Copy;
    /// The line with this number.
    fn line(&self, line: u32) -> Option<Self::Line>;
    /// A word of it; `slot` is less than [`WORDS`].
    fn word(&self, line: Self::Line, slot: usize) -> u64;

    /// The number after `word`, made so that LLVM does not see how.
    #[inline(always)]
    fn after(&self, word: u64) -> u64 {
        black_box(word.wrapping_add(1))
    }

    /// What a root says of the first 48 bits of `key`: its target, or what the last word at or before them in its tree says.
    #[inline(always)]
    fn search(&self, root: u32, key: u64) -> u16
    where
        Self: Sized,
    {
        search6(self, root, key)
    }
}

/// Where the table is read.
pub trait BaseLines: Lines {
    /// An entry of the index by the first 16 bits, by its number among those of both generations.
    fn root(&self, number: u32) -> u32;
    /// The line with this number, if it is in the base part.
    fn base_line(&self, line: u32) -> Option<Self::Line>;
}

/// The root with this number among those that begin at a line.
#[inline(always)]
fn root(lines: &impl Lines, first: u32, number: u32) -> u32 {
    let word = lines.line(first + number / ROOTS).map_or(0, |line| lines.word(line, number as usize / 2 % WORDS));
    (word >> (32 * (number & 1))) as u32
}

/// What the index says of an address whose first half is `high`.
#[inline(always)]
fn index6(lines: &impl BaseLines, live: u32, wide: bool, high: u64) -> u32 {
    if wide && high >> 61 == 1 {
        root(lines, BASE_LINES + dynamic_start(live), (high >> 41) as u32 & 0xf_ffff)
    } else {
        lines.root(generation(live) << 16 | (high >> 48) as u32)
    }
}

/// The longest match where the index says it all, or a tree of one line does, as that of a small table; else the root with
/// which [`search_on6`] goes on.
#[inline(always)]
pub fn lookup6_base(lines: &impl BaseLines, live: u32, wide: bool, address: Address6) -> Result<Target, u32> {
    let root = index6(lines, live, wide, address.high);
    // The number of a line alone, if the tree is that line; what is no tree becomes more than any line.
    let only = if !wide {
        lines.base_line(root.wrapping_sub(TREE))
    } else if root >> TREE_LINE.count_ones() == ONE_LINE {
        lines.line(root & TREE_LINE)
    } else {
        None
    };
    let Some(only) = only else {
        return if root & TREE == 0 { Ok(Target::from_raw(root & 0xffff)) } else { Err(root) };
    };
    let beyond = beyond(lines, address.high << 16);
    let below = if wide { below(lines, only, beyond) } else { below_in_halves(lines, only, beyond) };
    let found = best(lines, only, below, 0) as u16;
    if found & BRANCH == 0 { Ok(Target::from_raw(u32::from(found))) } else { Err(root) }
}

/// The longest match for `address` in the live generation.
#[inline(always)]
pub fn lookup6(lines: &impl BaseLines, live: u32, wide: bool, address: Address6) -> Target {
    search_on6(lines, live, wide, index6(lines, live, wide, address.high), address)
}

/// The same, from the root that the index has for `address`.
#[inline(always)]
pub fn search_on6(lines: &impl Lines, live: u32, wide: bool, first: u32, address: Address6) -> Target {
    let Address6 { high, low } = address;
    let found = lines.search(first, high << 16);
    if found & BRANCH == 0 {
        return Target::from_raw(u32::from(found));
    }
    let escapes = BASE_LINES + dynamic_start(live) + Layout6::escape_line(wide);
    let found = lines.search(root(lines, escapes, u32::from(found & !BRANCH)), low);
    if found & BRANCH == 0 {
        return Target::from_raw(u32::from(found));
    }
    Target::from_raw(u32::from(lines.search(root(lines, escapes, u32::from(found & !BRANCH)), low << 48)))
}

/// See [`Lines::search`].
#[inline(always)]
pub fn search6(lines: &impl Lines, root: u32, key: u64) -> u16 {
    if root & TREE == 0 {
        return root as u16;
    }
    let (begin, count) = (root & TREE_LINE, tree_lines((root & !TREE) >> TREE_LINE.count_ones()));
    let beyond = beyond(lines, key);
    let (mut node, mut found) = (0, 0);
    for _ in 0..LEVELS {
        if node >= count {
            break;
        }
        let Some(line) = lines.line(begin + node) else { break };
        let below = below(lines, line, beyond);
        found = best(lines, line, below, found);
        node = node * 9 + 1 + below as u32;
    }
    found as u16
}

/// The bound that words of a tree are less than, when they begin at or before the first 48 bits of `key`. The lowest bit of a
/// word is no part of its address: without it, the sign of a difference is the comparison, and no branch is needed. Computed
/// before it is used: LLVM would repeat a part of it for each word.
#[inline(always)]
fn beyond(lines: &impl Lines, key: u64) -> u64 {
    lines.after((key | 0xffff) >> 1)
}

/// Whether a word of a line is less than that: 1 or 0.
#[inline(always)]
fn is_below<L: Lines>(lines: &L, line: L::Line, beyond: u64, slot: usize) -> u64 {
    (lines.word(line, slot) >> 1).wrapping_sub(beyond) >> 63
}

/// How many words of a line are less than that.
#[inline(always)]
fn below<L: Lines>(lines: &L, line: L::Line, beyond: u64) -> u64 {
    let one = |slot| is_below(lines, line, beyond, slot);
    // Written out: LLVM then knows that there are at most eight, and leaves out the mask in `best`.
    one(0) + one(1) + one(2) + one(3) + one(4) + one(5) + one(6) + one(7)
}

/// The same with a branch, for lines whose first half nearly always is enough, as it is where there are few routes.
#[inline(always)]
fn below_in_halves<L: Lines>(lines: &L, line: L::Line, beyond: u64) -> u64 {
    let one = |slot| is_below(lines, line, beyond, slot);
    if one(4) == 0 {
        return one(0) + one(1) + one(2) + one(3);
    }
    5 + one(5) + one(6) + one(7)
}

/// The last of so many words of a line; what is known already if that is none.
#[inline(always)]
fn best<L: Lines>(lines: &L, line: L::Line, below: u64, known: u64) -> u64 {
    if below == 0 { known } else { lines.word(line, (below as usize - 1) & (WORDS - 1)) }
}
