//! The tables of routes: `dataplane_common::abi` says what is in them, and how they are searched.

#![expect(unsafe_code, reason = "map elements are reached through pointers")]

use core::{arch::asm, ptr::NonNull};

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use dataplane_common::abi::{
    BASE_ENTRIES, BASE_LINES, BaseLines, Block, Blocks, Fib4Base, Fib6Base, LOCALS, Line, Lines, ROOTS, Target, WORDS,
    search6,
};

use super::{MAPPED, find};

/// In sections, as [`super::CONTROL`].
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.base4")]
static mut FIB4_BASE: Aligned<Fib4Base> = Aligned([0; BASE_ENTRIES]);
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.base6")]
static mut FIB6_BASE: Fib6Base = [[0; WORDS]; BASE_LINES as usize];
#[btf_map]
static FIB4: Array<Block, 2, MAPPED> = Array::new();
#[btf_map]
static FIB6: Array<Line, 2, MAPPED> = Array::new();

/// Read in words of eight bytes, too.
#[repr(align(8))]
struct Aligned<T>(T);

/// The IPv4 table. The controller writes it meanwhile, so each entry is read once.
pub struct Table4;

impl Blocks for Table4 {
    #[inline(always)]
    fn locals(&self, four: u32) -> u64 {
        let word = (&raw const FIB4_BASE).cast::<u64>().wrapping_add(four as usize & (2 * LOCALS / 4 - 1));
        // SAFETY: the filters of both generations are at the beginning.
        unsafe { word.read_volatile() }
    }

    #[inline(always)]
    fn root(&self, number: u32) -> u16 {
        let roots = (&raw const FIB4_BASE).cast::<u16>().wrapping_add(2 * LOCALS);
        // SAFETY: the entries of both generations are behind the filters, and the mask leaves no other.
        unsafe { roots.wrapping_add(number as usize & (2 * ROOTS - 1)).read_volatile() }
    }

    #[inline(always)]
    fn entry(&self, block: u32, entry: u8) -> u16 {
        let Some(block) = find::<_, Block>(&FIB4, block) else { return Target::KERNEL.raw() as u16 };
        let entry = block.cast::<u16>().as_ptr().wrapping_add(usize::from(entry));
        // SAFETY: a block has an entry for each value of eight bits.
        unsafe { entry.read_volatile() }
    }
}

/// The IPv6 table. The controller writes it meanwhile, so each word is read once.
pub struct Table6;

impl Lines for Table6 {
    type Line = NonNull<u64>;

    #[inline(always)]
    fn line(&self, line: u32) -> Option<NonNull<u64>> {
        self.base_line(line).or_else(|| find::<_, u64>(&FIB6, line - BASE_LINES))
    }

    #[inline(always)]
    fn word(&self, line: NonNull<u64>, slot: usize) -> u64 {
        let word = line.as_ptr().wrapping_add(slot & (WORDS - 1));
        // SAFETY: the line was found, and has this many words.
        unsafe { word.read_volatile() }
    }

    #[inline(always)]
    fn after(&self, mut word: u64) -> u64 {
        // SAFETY: a register that is named.
        unsafe { asm!("{word} += 1", word = inout(reg) word, options(pure, nomem, nostack)) };
        word
    }

    #[inline(always)]
    fn search(&self, root: u32, key: u64) -> u16 {
        search_tree(root, key) as u16
    }
}

impl BaseLines for Table6 {
    #[inline(always)]
    fn root(&self, number: u32) -> u32 {
        let root = (&raw const FIB6_BASE).cast::<u32>().wrapping_add(number as usize & (2 * ROOTS - 1));
        // SAFETY: both generations of the index are at the beginning, and the mask leaves no other root.
        unsafe { root.read_volatile() }
    }

    #[inline(always)]
    fn base_line(&self, line: u32) -> Option<NonNull<u64>> {
        if line >= BASE_LINES {
            return None;
        }
        let line = (&raw mut FIB6_BASE).cast::<Line>().wrapping_add(line as usize);
        // SAFETY: no static is at address 0; LLVM would check.
        Some(unsafe { NonNull::new_unchecked(line.cast()) })
    }
}

/// One tree of the IPv6 table. It is searched up to three times for an address, and the verifier would follow each combination.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search_tree(root: u32, key: u64) -> u32 {
    u32::from(search6(&Table6, root, key))
}
