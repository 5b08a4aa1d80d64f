//! Route lookups alone: a run looks [`LOOKUPS`] keys up, in one of several ways.

#![expect(
    unsafe_code,
    reason = "elements of maps and the questions to the kernel are raw memory; the verifier checks each use"
)]

use core::ptr::NonNull;

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, bpf_fib_lookup as Question, xdp_action, xdp_md},
    btf_maps::{Array, LpmTrie, PerCpuArray, lpm_trie::Key},
    helpers::bpf_fib_lookup,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use dataplane_common::{
    abi::{BASE_ENTRIES, BASE_LINES, BaseLines, Block, Blocks, LOCALS, Line, Lines, ROOTS, WORDS, lookup4, lookup6},
    wire::Address6,
};
use dataplane_tests_ebpf::LOOKUPS;

/// Keys less one; their number is a power of two.
#[unsafe(no_mangle)]
static KEYS: Global<u32> = Global::new(0);
/// Whether the next key is chosen by what the last lookup gave: 1 for yes.
#[unsafe(no_mangle)]
static DEPENDENT: Global<u32> = Global::new(0);
/// The live generation of the IPv4 table, as [`dataplane_common::abi::Control`] says it.
#[unsafe(no_mangle)]
static LIVE4: Global<u32> = Global::new(0);
/// The same of the IPv6 table.
#[unsafe(no_mangle)]
static LIVE6: Global<u32> = Global::new(0);
/// Interface that packets come from, for the kernel's lookup.
#[unsafe(no_mangle)]
static INGRESS: Global<u32> = Global::new(0);

/// Bytes of a question.
const LENGTH: i32 = 64;
const _: () = assert!(size_of::<Question>() == LENGTH as usize);

const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// [`dataplane_common::abi::Fib4Base`], in words of eight bytes. Looked up, as all here: the project's own program knows its
/// address.
#[btf_map]
static FIB4_BASE: Array<[u64; BASE_ENTRIES / 4], 1, MAPPED> = Array::new();
#[btf_map]
static FIB6_BASE: Array<[u64; BASE_LINES as usize * WORDS], 1, MAPPED> = Array::new();
#[btf_map]
static FIB4: Array<Block, 2, MAPPED> = Array::new();
#[btf_map]
static FIB6: Array<Line, 2, MAPPED> = Array::new();
#[btf_map]
static TRIE4: LpmTrie<[u8; 4], u32, 1> = LpmTrie::new();
#[btf_map]
static TRIE6: LpmTrie<[u8; 16], u32, 1> = LpmTrie::new();
/// IPv4 keys in the machine's byte order.
#[btf_map]
static KEYS4: Array<u32, 1> = Array::new();
/// IPv6 keys, high half first, in the machine's byte order.
#[btf_map]
static KEYS6: Array<[u64; 2], 1> = Array::new();
/// Keys looked up so far on each CPU, and the sum of what was found.
#[btf_map]
static FOUND: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

struct Table4;

impl Blocks for Table4 {
    #[inline(always)]
    fn locals(&self, four: u32) -> u64 {
        let Some(base_line) = FIB4_BASE.get_ptr(0) else { return 0 };
        let word = base_line.cast::<u64>().wrapping_add(four as usize & (2 * LOCALS / 4 - 1));
        // SAFETY: the filters of both generations are at the beginning.
        unsafe { word.read_volatile() }
    }

    #[inline(always)]
    fn root(&self, number: u32) -> u16 {
        let Some(base_line) = FIB4_BASE.get_ptr(0) else { return 0 };
        let roots = base_line.cast::<u16>().wrapping_add(2 * LOCALS);
        // SAFETY: the entries of both generations are behind the filters, and the mask leaves no other.
        unsafe { roots.wrapping_add(number as usize & (2 * ROOTS - 1)).read_volatile() }
    }

    #[inline(always)]
    fn entry(&self, block: u32, entry: u8) -> u16 {
        let Some(block) = FIB4.get_ptr(block) else { return 0 };
        let entry = block.cast::<u16>().wrapping_add(usize::from(entry));
        // SAFETY: a block has an entry for each value of eight bits.
        unsafe { entry.read_volatile() }
    }
}

struct Table6;

impl Lines for Table6 {
    type Line = NonNull<u64>;

    #[inline(always)]
    fn line(&self, line: u32) -> Option<NonNull<u64>> {
        if line < BASE_LINES {
            return self.base_line(line);
        }
        NonNull::new(FIB6.get_ptr(line - BASE_LINES)?.cast::<u64>().cast_mut())
    }

    #[inline(always)]
    fn word(&self, line: NonNull<u64>, slot: usize) -> u64 {
        let word = line.as_ptr().wrapping_add(slot & (WORDS - 1));
        // SAFETY: the line was found, and has this many words.
        unsafe { word.read_volatile() }
    }
}

impl BaseLines for Table6 {
    #[inline(always)]
    fn root(&self, number: u32) -> u32 {
        let Some(base_line) = FIB6_BASE.get_ptr(0) else { return 0 };
        let root = base_line.cast::<u32>().wrapping_add(number as usize & (2 * ROOTS - 1));
        // SAFETY: both generations of the index are at the beginning, and the mask leaves no other root.
        unsafe { root.read_volatile() }
    }

    #[inline(always)]
    fn base_line(&self, line: u32) -> Option<NonNull<u64>> {
        if line >= BASE_LINES {
            return None;
        }
        NonNull::new(FIB6_BASE.get_ptr(0)?.cast::<Line>().wrapping_add(line as usize).cast::<u64>().cast_mut())
    }
}

/// Looks [`LOOKUPS`] keys up with `find`.
#[inline(always)]
fn run<K: 'static>(key: impl Fn(u32) -> Option<&'static K>, find: impl Fn(&K) -> u32) -> u32 {
    let Some(found) = FOUND.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: a slot of this CPU, and no other run is let in between.
    let found = unsafe { &mut *found };
    let (mut next, mut sum, dependent) = (found[0] as u32, found[1], DEPENDENT.load());
    for _ in 0..LOOKUPS {
        let Some(key) = key(next & KEYS.load()) else { return xdp_action::XDP_ABORTED };
        let target = find(key);
        sum = sum.wrapping_add(u64::from(target));
        // No target has that bit, but the processor must wait to know.
        next = next.wrapping_add(1) ^ (dependent & target >> 31);
    }
    *found = [u64::from(next), sum];
    xdp_action::XDP_PASS
}

#[inline(always)]
fn key4(index: u32) -> Option<&'static u32> {
    KEYS4.get(index)
}

#[inline(always)]
fn key6(index: u32) -> Option<&'static [u64; 2]> {
    KEYS6.get(index)
}

/// Keys alone.
#[xdp]
fn route_empty4(_ctx: XdpContext) -> u32 {
    run(key4, |key| key & 1)
}

/// Keys alone.
#[xdp]
fn route_empty6(_ctx: XdpContext) -> u32 {
    run(key6, |key| (key[0] ^ key[1]) as u32 & 1)
}

/// The project's own table.
#[xdp]
fn route_narrow4(_ctx: XdpContext) -> u32 {
    run(key4, |key| lookup4(&Table4, LIVE4.load(), false, *key).raw())
}

/// The project's own table, in its large form.
#[xdp]
fn route_wide4(_ctx: XdpContext) -> u32 {
    run(key4, |key| lookup4(&Table4, LIVE4.load(), true, *key).raw())
}

/// The project's own table.
#[xdp]
fn route_narrow6(_ctx: XdpContext) -> u32 {
    run(key6, |key| found6(key[0], key[1], 0))
}

/// The project's own table, in its large form.
#[xdp]
fn route_wide6(_ctx: XdpContext) -> u32 {
    run(key6, |key| found6(key[0], key[1], 1))
}

/// A function of its own, as in the kernel half: the verifier looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn found6(high: u64, low: u64, wide: u32) -> u32 {
    let (live, address) = (LIVE6.load(), Address6 { high, low });
    if wide == 0 { lookup6(&Table6, live, false, address).raw() } else { lookup6(&Table6, live, true, address).raw() }
}

/// The kernel's map for longest prefixes.
#[xdp]
fn route_trie4(_ctx: XdpContext) -> u32 {
    run(key4, |key| TRIE4.get(&Key::new(32, key.to_be_bytes())).copied().unwrap_or(0))
}

/// The kernel's map for longest prefixes.
#[xdp]
fn route_trie6(_ctx: XdpContext) -> u32 {
    run(key6, |key| {
        let bits = (u128::from(key[0]) << 64 | u128::from(key[1])).to_be_bytes();
        TRIE6.get(&Key::new(128, bits)).copied().unwrap_or(0)
    })
}

/// The kernel's own tables; 1 for each address that has a route, and a neighbour behind it.
#[xdp]
fn route_kernel4(XdpContext { ctx }: XdpContext) -> u32 {
    // SAFETY: any bytes are a question.
    let mut question: Question = unsafe { core::mem::zeroed() };
    (question.family, question.l4_protocol, question.ifindex) = (2, 17, INGRESS.load());
    run(key4, |key| {
        let mut question = question;
        question.__bindgen_anon_3.ipv4_src = u32::from_be_bytes([198, 18, 1, 9]).to_be();
        question.__bindgen_anon_4.ipv4_dst = key.to_be();
        ask(ctx, &mut question)
    })
}

/// The kernel's own tables, as [`route_kernel4`].
#[xdp]
fn route_kernel6(XdpContext { ctx }: XdpContext) -> u32 {
    // SAFETY: any bytes are a question.
    let mut question: Question = unsafe { core::mem::zeroed() };
    (question.family, question.l4_protocol, question.ifindex) = (10, 17, INGRESS.load());
    run(key6, |key| {
        let mut question = question;
        question.__bindgen_anon_3.ipv6_src = [0x2001_0db8_u32.to_be(), 1_u32.to_be(), 0, 9_u32.to_be()];
        let word = |half: u64, shift: u32| ((half >> shift) as u32).to_be();
        question.__bindgen_anon_4.ipv6_dst = [word(key[0], 32), word(key[0], 0), word(key[1], 32), word(key[1], 0)];
        ask(ctx, &mut question)
    })
}

#[inline(always)]
fn ask(ctx: *mut xdp_md, question: &mut Question) -> u32 {
    // SAFETY: the question is on the stack, and as long as it says.
    let answer = unsafe { bpf_fib_lookup(ctx.cast(), question, LENGTH, 0) };
    u32::from(answer == 0)
}
