//! The forwarding information base: what the elements of `FIB4` and `FIB6` mean, and how they are searched.
//!
//! IPv4 is a table of 16-bit entries by the first 24 bits (where it is small: 16, then 8 more) with groups of 256 behind it.
//! IPv6 is an index by the first bits, and behind it trees of lines of eight sorted words, a cache line each. An entry is a
//! [`Target`], or with [`BRANCH`] the number of what it leads to. Both generations of a table lie in one map;
//! [`super::Control`] says where the live one begins.

use core::hint::black_box;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::Address6;

/// An address that a table is keyed by, in the host's byte order.
pub trait Prefixed: Copy + Ord + Mixed {
    /// Bits of an address.
    const BITS: u32;
    /// As a number in a type that takes both families.
    fn widen(self) -> u128;
}

/// Something with a well-mixed number, for filters and flow hashes.
pub trait Mixed {
    /// That number.
    fn mix(self) -> u32;
}

impl Prefixed for u32 {
    const BITS: u32 = 32;

    fn widen(self) -> u128 {
        u128::from(self)
    }
}

impl Mixed for u32 {
    #[inline(always)]
    fn mix(self) -> u32 {
        let hash = self.wrapping_mul(0x9e37_79b1);
        (hash ^ (hash >> 15)).wrapping_mul(0x85eb_ca77)
    }
}

impl Prefixed for u128 {
    const BITS: u32 = 128;

    fn widen(self) -> u128 {
        self
    }
}

impl Mixed for Address6 {
    #[inline(always)]
    fn mix(self) -> u32 {
        let half = self.high ^ self.low.rotate_left(23);
        ((half >> 32) as u32 ^ (half as u32).rotate_left(13)).mix()
    }
}

impl Mixed for u128 {
    #[inline(always)]
    fn mix(self) -> u32 {
        Address6::from(self).mix()
    }
}

/// What kind of route matched; the numbers are ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum RouteKind {
    /// Nothing matched, or a throw route did.
    None = 0,
    /// To the next hops of a group.
    Unicast = 1,
    /// An address of this machine, anycast addresses included.
    Local = 2,
    /// A broadcast address.
    Broadcast = 3,
    /// A multicast group.
    Multicast = 4,
    /// Dropped silently.
    Blackhole = 5,
    /// Answered with host unreachable.
    Unreachable = 6,
    /// Answered with administratively prohibited.
    Prohibit = 7,
    /// The mirror can not say: the kernel must.
    Kernel = 8,
}

/// What a lookup finds: a route kind and, for unicast, a next-hop group. 15 bits: below 16 a kind, from
/// there on a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Target(u16);

impl Target {
    /// Nothing matched.
    pub const NONE: Self = Self(0);
    /// The kernel must say.
    pub const KERNEL: Self = Self(RouteKind::Kernel as u16);
    /// The number of the first group.
    const FIRST_GROUP: u16 = 16;
    /// How many groups can be told apart.
    pub const GROUPS: u32 = (BRANCH - Self::FIRST_GROUP) as u32;

    /// A route of `kind`; `group` counts for unicast only. A group that has no number is the kernel's.
    pub const fn new(kind: RouteKind, group: u32) -> Self {
        match kind {
            RouteKind::Unicast if group < Self::GROUPS => Self(Self::FIRST_GROUP + group as u16),
            RouteKind::Unicast => Self::KERNEL,
            kind => Self(kind as u16),
        }
    }

    /// As a number, for functions that the verifier looks at by themselves, and as it is stored.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0 as u32
    }

    /// From that number.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw as u16)
    }

    /// What kind of route it is.
    #[inline(always)]
    pub const fn kind(self) -> RouteKind {
        // First what nearly every packet has.
        if self.0 >= Self::FIRST_GROUP {
            return RouteKind::Unicast;
        }
        match self.0 {
            0 => RouteKind::None,
            2 => RouteKind::Local,
            3 => RouteKind::Broadcast,
            4 => RouteKind::Multicast,
            5 => RouteKind::Blackhole,
            6 => RouteKind::Unreachable,
            7 => RouteKind::Prohibit,
            _ => RouteKind::Kernel,
        }
    }

    /// Index of the next-hop group.
    #[inline(always)]
    pub const fn group(self) -> u32 {
        self.0.wrapping_sub(Self::FIRST_GROUP) as u32
    }
}

/// In an entry: not a target, but the number of a group (IPv4) or an escape (IPv6).
pub const BRANCH: u16 = 1 << 15;

/// Entries of an element of `FIB4`.
pub const BLOCK: usize = 256;
/// An element of `FIB4`.
pub type Block = [u16; BLOCK];
/// Blocks at the start of a generation: a bit filter over local addresses, where a clear bit means "not local".
pub const LOCAL_BLOCKS: u32 = 8;

/// How one generation of `FIB4` is laid out: local filter, first level, groups.
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
        if wide { 1 << 16 } else { 1 << 8 }
    }

    /// Blocks of one generation.
    pub const fn blocks(self) -> u32 {
        LOCAL_BLOCKS + Self::first_blocks(self.wide) + self.groups
    }
}

/// Where blocks are read.
pub trait Blocks {
    /// An entry of a block.
    fn entry(&self, block: u32, entry: u8) -> u16;
}

/// The longest match for `address` in the generation whose first block is `live`.
#[inline(always)]
pub fn lookup4(blocks: &impl Blocks, live: u32, wide: bool, address: u32) -> Target {
    let first = live + LOCAL_BLOCKS;
    let groups = first + Layout4::first_blocks(wide);
    let mut entry = if wide {
        blocks.entry(first + (address >> 16), (address >> 8) as u8)
    } else {
        let entry = blocks.entry(first + (address >> 24), (address >> 16) as u8);
        if entry & BRANCH == 0 {
            return Target(entry);
        }
        blocks.entry(groups + u32::from(entry & !BRANCH), (address >> 8) as u8)
    };
    if entry & BRANCH != 0 {
        entry = blocks.entry(groups + u32::from(entry & !BRANCH), address as u8);
    }
    Target(entry)
}

/// Whether `address` may be one of this machine's: `false` is certain, `true` needs a lookup.
#[inline(always)]
pub fn may_be_local(blocks: &impl Blocks, live: u32, address: u32) -> bool {
    let (block, entry, bit) = local_bit(address);
    blocks.entry(live + block, entry) & bit != 0
}

/// Block, entry and bit of an address in the filter over local addresses.
#[inline(always)]
pub const fn local_bit(address: u32) -> (u32, u8, u16) {
    let bit = address.wrapping_mul(0x9e37_79b1) >> 17;
    (bit >> 12, (bit >> 4) as u8, 1 << (bit & 15))
}

/// Words of an element of `FIB6`.
pub const WORDS: usize = 8;
/// An element of `FIB6`: one cache line.
pub type Line = [u64; WORDS];
/// Roots, of 32 bits, in a line.
const ROOTS: u32 = 16;
/// Lines of the index by the first 16 bits.
pub const INDEX_LINES: u32 = (1 << 16) / ROOTS;
/// Lines of the index by the 20 bits behind `2000::/3`.
pub const GLOBAL_LINES: u32 = (1 << 20) / ROOTS;
/// In a root: a tree, else a target.
pub const TREE: u32 = 1 << 31;
/// The upper bits of a root whose tree is one line.
const ONE_LINE: u32 = TREE >> TREE_LINE.count_ones();
/// Bits of a root that name the first line of its tree, counted from the start of the map.
pub const TREE_LINE: u32 = (1 << 22) - 1;
/// Levels of the largest tree.
const LEVELS: u32 = 6;

/// How one generation of `FIB6` is laid out: index, index of `2000::/3`, escapes, lines of the trees. In all but the last, a
/// line is 16 roots: a target, or [`TREE`], the size of a tree and where it begins.
///
/// A tree is sorted words of 48 bits of address and 16 of what begins there, as a complete tree of lines: the children of
/// line `n` are lines `9n + 1` to `9n + 9`. The trees of the index tell addresses apart by their bits 16 to 64. Where that
/// is not enough there is an escape, a root by number, whose tree goes on with bits 64 to 112, and then 112 to 128.
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
        if wide { INDEX_LINES + GLOBAL_LINES } else { INDEX_LINES }
    }

    /// Where the trees begin.
    pub const fn tree_line(self) -> u32 {
        Self::escape_line(self.wide) + self.escapes / ROOTS
    }

    /// Lines of one generation.
    pub const fn total(self) -> u32 {
        self.tree_line() + self.lines
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

    /// What a root says of the first 48 bits of `key`: its target, or what the last word at or before them in its tree says.
    #[inline(always)]
    fn search(&self, root: u32, key: u64) -> u16
    where
        Self: Sized,
    {
        search6(self, root, key)
    }
}

/// The root with this number among those that begin at a line.
#[inline(always)]
fn root(lines: &impl Lines, first: u32, number: u32) -> u32 {
    let word = lines.line(first + number / ROOTS).map_or(0, |line| lines.word(line, number as usize / 2 % WORDS));
    (word >> (32 * (number & 1))) as u32
}

/// What the index says of an address whose first half is `high`.
#[inline(always)]
pub fn index6(lines: &impl Lines, live: u32, wide: bool, high: u64) -> u32 {
    if wide && high >> 61 == 1 {
        root(lines, live + INDEX_LINES, (high >> 41) as u32 & 0xf_ffff)
    } else {
        root(lines, live, (high >> 48) as u32)
    }
}

/// The longest match where the index says it all, or a tree of one line does, as that of a small table; else the root with
/// which [`search_on6`] goes on.
#[inline(always)]
pub fn near6(lines: &impl Lines, live: u32, wide: bool, address: Address6) -> Result<Target, u32> {
    let root = index6(lines, live, wide, address.high);
    if root & TREE == 0 {
        return Ok(Target(root as u16));
    }
    let only = if root >> TREE_LINE.count_ones() == ONE_LINE { lines.line(root & TREE_LINE) } else { None };
    let Some(only) = only else { return Err(root) };
    let found = best(lines, only, below(lines, only, beyond(address.high << 16)), 0) as u16;
    if found & BRANCH == 0 { Ok(Target(found)) } else { Err(root) }
}

/// The longest match for `address` in the generation whose first line is `live`.
#[inline(always)]
pub fn lookup6(lines: &impl Lines, live: u32, wide: bool, address: Address6) -> Target {
    search_on6(lines, live, wide, index6(lines, live, wide, address.high), address)
}

/// The same, from the root that the index has for `address`.
#[inline(always)]
pub fn search_on6(lines: &impl Lines, live: u32, wide: bool, first: u32, address: Address6) -> Target {
    let Address6 { high, low } = address;
    let found = lines.search(first, high << 16);
    if found & BRANCH == 0 {
        return Target(found);
    }
    let escapes = live + Layout6::escape_line(wide);
    let found = lines.search(root(lines, escapes, u32::from(found & !BRANCH)), low);
    if found & BRANCH == 0 {
        return Target(found);
    }
    Target(lines.search(root(lines, escapes, u32::from(found & !BRANCH)), low << 48))
}

/// See [`Lines::search`].
#[inline(always)]
pub fn search6(lines: &impl Lines, root: u32, key: u64) -> u16 {
    if root & TREE == 0 {
        return root as u16;
    }
    let (begin, count) = (root & TREE_LINE, tree_lines((root & !TREE) >> TREE_LINE.count_ones()));
    let beyond = beyond(key);
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

/// What words of a tree are less than, when they begin at or before the first 48 bits of `key`. The lowest bit of a word is no
/// part of its address: without it, the sign of a difference tells which is less, and no branch has to. Made before it is
/// used: LLVM would do a part of it for each word.
#[inline(always)]
fn beyond(key: u64) -> u64 {
    black_box(((key | 0xffff) >> 1).wrapping_add(1))
}

/// How many words of a line are less than that.
#[inline(always)]
fn below<L: Lines>(lines: &L, line: L::Line, beyond: u64) -> u64 {
    let one = |slot| (lines.word(line, slot) >> 1).wrapping_sub(beyond) >> 63;
    // Written out: LLVM then knows that there are at most eight, and leaves out the mask in `best`.
    one(0) + one(1) + one(2) + one(3) + one(4) + one(5) + one(6) + one(7)
}

/// The last of so many words of a line; what is known already if that is none.
#[inline(always)]
fn best<L: Lines>(lines: &L, line: L::Line, below: u64, known: u64) -> u64 {
    if below == 0 { known } else { lines.word(line, (below as usize - 1) & (WORDS - 1)) }
}
