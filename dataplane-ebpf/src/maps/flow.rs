//! The flow table. The controller writes who a row is for and how it is translated, the kernel half what it has seen.

#![expect(unsafe_code, reason = "map elements are reached through pointers")]

use core::{mem::offset_of, ptr::NonNull};

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray},
    helpers::bpf_ktime_get_coarse_ns,
    macros::btf_map,
};
use dataplane_common::{
    abi::{
        FlowContext, FlowControl,
        flow::{MOMENT, RowLayout, row},
    },
    decide::{Family, V4, V6},
    wire::{Address6, Ipv4, Ipv6},
};

use super::{MAPPED, find};

/// No section: whatever loads an object writes these again, and rows would count for that moment that do not any more.
#[btf_map]
static FLOW_CONTROL: Array<FlowControl, 1, MAPPED> = Array::new();
/// How many rows there are is set when the map is made.
#[btf_map]
static FLOWS4: Array<[u64; RowLayout::V4.words], 1, MAPPED> = Array::new();
#[btf_map]
static FLOWS6: Array<[u64; RowLayout::V6.words], 1, MAPPED> = Array::new();
/// The flow of the packet at hand.
#[btf_map]
static FLOW_CONTEXT: PerCpuArray<FlowContext, 1> = PerCpuArray::new();

/// A family with its part of the flow table.
pub trait Flows: Family {
    /// Where the words of a row are.
    const LAYOUT: RowLayout;
    /// Where [`FlowControl`] has the number of rows.
    const MASK: usize;

    /// Bytes of the header that rows carry.
    const HEADER: usize;

    /// The destination address out of the first words of both addresses.
    fn destination(words: [u64; 2]) -> Self::Address;

    /// A row.
    fn row(index: u32) -> Option<Row>;
}

impl Flows for V4 {
    const LAYOUT: RowLayout = RowLayout::V4;
    const MASK: usize = offset_of!(FlowControl, mask4);
    const HEADER: usize = size_of::<Ipv4>();

    #[inline(always)]
    fn destination([both, _]: [u64; 2]) -> u32 {
        (both >> 32) as u32
    }

    #[inline(always)]
    fn row(index: u32) -> Option<Row> {
        find::<_, u64>(&FLOWS4, index).map(Row)
    }
}

impl Flows for V6 {
    const LAYOUT: RowLayout = RowLayout::V6;
    const MASK: usize = offset_of!(FlowControl, mask6);
    const HEADER: usize = size_of::<Ipv6>();

    #[inline(always)]
    fn destination([high, low]: [u64; 2]) -> Address6 {
        Address6 { high, low }
    }

    #[inline(always)]
    fn row(index: u32) -> Option<Row> {
        find::<_, u64>(&FLOWS6, index).map(Row)
    }
}

/// A row, in its place: others write it meanwhile, so each word is read once.
#[derive(Clone, Copy)]
pub struct Row(NonNull<u64>);

impl Row {
    /// A word.
    #[inline(always)]
    pub fn word(self, at: usize) -> u64 {
        // SAFETY: the row was found, and callers name words that it has.
        unsafe { self.0.as_ptr().wrapping_add(at).read_volatile() }
    }

    /// Writes a word that is the kernel half's.
    #[inline(always)]
    pub fn set(self, at: usize, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.as_ptr().wrapping_add(at).write_volatile(value) };
    }

    /// A part of a word, `byte` bytes from its start.
    #[inline(always)]
    pub fn part<T: Part>(self, at: usize, byte: usize) -> T {
        let place = self.0.as_ptr().wrapping_add(at).wrapping_byte_add(byte).cast::<T>();
        // SAFETY: as above; a part of a word that the row has.
        unsafe { place.read_volatile() }
    }

    /// Writes a part of a word that is the kernel half's.
    #[inline(always)]
    pub fn set_part<T: Part>(self, at: usize, byte: usize, value: T) {
        let place = self.0.as_ptr().wrapping_add(at).wrapping_byte_add(byte).cast::<T>();
        // SAFETY: as above.
        unsafe { place.write_volatile(value) };
    }

    /// Counts a packet that it carried. CPUs that carry packets of one direction at the same moment may count one between them.
    #[inline(always)]
    pub fn count(self) {
        let packets: u32 = self.part(row::LEASE, row::lease::PACKETS);
        self.set_part(row::LEASE, row::lease::PACKETS, packets.wrapping_add(1));
    }
}

/// Numbers that parts of a word are.
pub trait Part: Copy {}

impl Part for u8 {}
impl Part for u16 {}
impl Part for u32 {}

/// The moment of this tick ([`dataplane_common::abi::flow::MOMENT`]), as it was stored last.
static mut NOW: u32 = 0;

/// The moment, where this tick was checked (`liveness::controller_gone`).
#[inline(always)]
pub fn moment() -> u32 {
    let now = &raw const NOW;
    // SAFETY: a word of a static, which other CPUs write as a whole.
    unsafe { now.read_volatile() }
}

/// Keeps the moment of this tick.
#[inline(always)]
pub fn store_moment() {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let word = &raw mut NOW;
    // SAFETY: as above.
    unsafe { word.write_volatile((now >> MOMENT) as u32) };
}

/// The state of the whole table. The controller writes it meanwhile, so each word is read once.
#[derive(Clone, Copy)]
pub struct FlowState(NonNull<FlowControl>);

impl FlowState {
    #[inline(always)]
    fn word(self, offset: usize) -> u32 {
        let word = self.0.as_ptr().cast::<u32>().wrapping_byte_add(offset);
        // SAFETY: the element was found, and callers name words that it has.
        unsafe { word.read_volatile() }
    }

    /// Rows that were armed in it carry packets.
    #[inline(always)]
    pub fn epoch(self) -> u32 {
        self.word(offset_of!(FlowControl, epoch))
    }

    /// The same where rows may be armed; else 0.
    #[inline(always)]
    pub fn arming(self) -> u32 {
        self.word(offset_of!(FlowControl, arming))
    }

    /// How long a row stays armed, in moments.
    #[inline(always)]
    pub fn lease(self) -> u32 {
        self.word(offset_of!(FlowControl, lease))
    }

    /// The number of rows of a family, minus one.
    #[inline(always)]
    pub fn mask<F: Flows>(self) -> u32 {
        self.word(F::MASK)
    }

    /// The table's random number.
    #[inline(always)]
    pub fn seed(self) -> u64 {
        // SAFETY: the element was found, and has this word.
        let seed = unsafe { &raw const (*self.0.as_ptr()).seed };
        // SAFETY: as above.
        unsafe { seed.read_volatile() }
    }
}

/// The state of the whole table.
#[inline(always)]
pub fn flow_state() -> Option<FlowState> {
    find::<_, FlowControl>(&FLOW_CONTROL, 0).map(FlowState)
}

/// The flow of the packet at hand.
#[inline(always)]
pub fn flow_context() -> Option<NonNull<FlowContext>> {
    find::<_, FlowContext>(&FLOW_CONTEXT, 0)
}
