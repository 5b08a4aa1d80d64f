//! A program of its own, at the kernel's lookup of sockets: it gives new connections and datagrams to the socket of the entry
//! that matches. The kernel runs it where it found no connected socket.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "maps, the context, and functions with a name of their own")]
#![expect(clippy::needless_pass_by_value, reason = "the macros of aya hand over contexts by value")]

mod license;

use core::ptr::{self, NonNull, read_volatile};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_map_type::BPF_MAP_TYPE_SOCKMAP, bpf_sk_lookup},
    btf_maps::{Array, PerCpuArray},
    helpers::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release},
    macros::{btf_map, sk_lookup},
    programs::SkLookupContext,
};
use dataplane_common::steer::{
    self, NO_ENTRY, STEER_CLASSES, SteerCounter, SteerEntry, SteerPorts, SteerRange, SteerShape, SteerTable,
};

/// `SK_DROP` and `SK_PASS` (`enum sk_action`).
const DROP: u32 = 0;
const PASS: u32 = 1;
/// `AF_INET6`.
const AF_INET6: u32 = 10;
/// What `bpf_sk_assign` says where another program has taken a socket.
const EEXIST: i64 = -17;

/// Sockets by index. As aya's, but with values of 64 bits: the controller reads the cookies of sockets.
#[repr(C)]
struct Sockets {
    r#type: *const [i32; BPF_MAP_TYPE_SOCKMAP as usize],
    key: *const u32,
    value: *const u64,
    max_entries: *const [i32; steer::STEER_ENTRIES as usize],
}

// SAFETY: the loader makes a map of it; nothing is behind the pointers.
unsafe impl Sync for Sockets {}

#[btf_map]
static STEER_SOCKETS: Sockets =
    Sockets { r#type: ptr::null(), key: ptr::null(), value: ptr::null(), max_entries: ptr::null() };
#[btf_map]
static STEER_ENTRIES: Array<SteerEntry, { steer::STEER_ENTRIES as usize }> = Array::new();
#[btf_map]
static STEER_COUNTERS: PerCpuArray<SteerCounter, { steer::STEER_ENTRIES as usize }> = PerCpuArray::new();
#[btf_map]
static STEER_RANGES: Array<SteerRange, 1> = Array::new();
#[btf_map]
static STEER_PORTS: Array<SteerPorts, 1> = Array::new();
/// Overridden by the loader: the words of a [`SteerShape`].
#[unsafe(no_mangle)]
static STEER_SHAPE: [u64; SteerShape::WORDS] = [0; SteerShape::WORDS];

/// The socket of an entry, for each new connection and datagram.
#[sk_lookup]
fn steer(context: SkLookupContext) -> u32 {
    let Some(entry) = entry_of(context.lookup) else { return PASS };
    decide(&context, entry)
}

/// The index of the entry that matches.
#[inline(always)]
fn entry_of(lookup: *const bpf_sk_lookup) -> Option<u32> {
    // SAFETY: the kernel hands it over. Each field is read by itself, as the kernel allows it.
    let family = read(unsafe { &raw const (*lookup).family });
    // SAFETY: as above.
    let protocol = read(unsafe { &raw const (*lookup).protocol });
    // SAFETY: as above.
    let port = read(unsafe { &raw const (*lookup).local_port });
    let class = steer::class(protocol, family == AF_INET6)?;
    let ranges = halves(shape(class as usize));
    if ranges[0] >= ranges[1] {
        return None;
    }
    let address = if family == AF_INET6 {
        [pair(lookup, 0), pair(lookup, 2)]
    } else {
        // SAFETY: as above.
        steer::address4(u32::from_be(read(unsafe { &raw const (*lookup).local_ip4 })))
    };
    let entry = steer::find(&Maps, ranges, halves(shape(STEER_CLASSES)), address, port);
    (entry != NO_ENTRY).then_some(entry)
}

/// Gives the lookup to the socket of an entry, and counts it.
#[inline(always)]
fn decide(context: &SkLookupContext, entry: u32) -> u32 {
    let Some(row) = find_element::<_, SteerEntry>(&STEER_ENTRIES, entry) else { return PASS };
    // SAFETY: elements of arrays stay where they are.
    let flags = read(unsafe { &raw const (*row.as_ptr()).flags });
    if flags & SteerEntry::USED == 0 {
        return PASS;
    }
    let assigned = assign(context, entry);
    if assigned == Some(EEXIST) {
        return PASS;
    }
    let counter = find_element::<_, SteerCounter>(&STEER_COUNTERS, entry);
    // By the place of a counter among its words.
    let count = |word: usize| {
        if let Some(counter) = counter {
            let place = counter.as_ptr().cast::<u64>().wrapping_add(word);
            // SAFETY: the element is this CPU's own.
            let value = unsafe { place.read() };
            // SAFETY: as above.
            unsafe { place.write(value.wrapping_add(1)) };
        }
    };
    if assigned == Some(0) {
        count(0);
        return PASS;
    }
    if flags & SteerEntry::OR_DROP == 0 {
        count(1);
        return PASS;
    }
    count(2);
    DROP
}

/// Has the kernel take the socket of an entry; `None` where it has none.
#[inline(always)]
fn assign(context: &SkLookupContext, entry: u32) -> Option<i64> {
    let socket = find_element::<_, core::ffi::c_void>(&STEER_SOCKETS, entry)?;
    // SAFETY: the socket was found in the map, and is not released yet.
    let assigned = unsafe { bpf_sk_assign(context.as_ptr(), socket.as_ptr(), 0) };
    // SAFETY: it is not used any more.
    unsafe { bpf_sk_release(socket.as_ptr()) };
    Some(assigned)
}

/// Reads a field of the context or of an element once, as wide as it is.
#[inline(always)]
fn read<T>(place: *const T) -> T {
    // SAFETY: a field of what the kernel handed over, or of an element of an array, which stays where it is.
    unsafe { read_volatile(place) }
}

/// Two words of the local address of IPv6, as a number.
#[inline(always)]
fn pair(lookup: *const bpf_sk_lookup, word: usize) -> u64 {
    // SAFETY: the kernel hands it over, and allows to read a word at a time.
    let upper = read(unsafe { &raw const (*lookup).local_ip6[word] });
    // SAFETY: as above.
    let lower = read(unsafe { &raw const (*lookup).local_ip6[word + 1] });
    u64::from(u32::from_be(upper)) << 32 | u64::from(u32::from_be(lower))
}

/// A word of the shape.
#[inline(always)]
fn shape(word: usize) -> u64 {
    // SAFETY: a read of an initialised static, which the compiler must not foresee.
    unsafe { read_volatile(&raw const STEER_SHAPE[word]) }
}

#[inline(always)]
const fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// The element of a map with four-byte keys.
#[inline(always)]
fn find_element<M, T>(map: &'static M, index: u32) -> Option<NonNull<T>> {
    // SAFETY: every map here has such keys, and elements of the type that its caller names.
    let element = unsafe { bpf_map_lookup_elem((&raw const *map).cast_mut().cast(), (&raw const index).cast()) };
    NonNull::new(element.cast())
}

/// The maps of the search.
struct Maps;

impl SteerTable for Maps {
    #[inline(always)]
    fn range(&self, index: u32) -> Option<&SteerRange> {
        // SAFETY: elements of arrays stay where they are; nothing writes them while this program is attached.
        find_element(&STEER_RANGES, index).map(|range| unsafe { range.as_ref() })
    }

    #[inline(always)]
    fn ports(&self, index: u32) -> Option<&SteerPorts> {
        // SAFETY: as above.
        find_element(&STEER_PORTS, index).map(|ports| unsafe { ports.as_ref() })
    }

    #[inline(always)]
    fn range_step(&self, at: u32, step: u32, end: u32, address: [u64; 2]) -> u32 {
        steer_range_step(at, u64::from(step) << 32 | u64::from(end), address[0], address[1])
    }

    #[inline(always)]
    fn port_step(&self, at: u32, step: u32, end: u32, port: u32) -> u32 {
        steer_port_step(at, step, end, port)
    }
}

/// A step of the search for an address: global, so that the verifier walks it once and forgets what it found.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn steer_range_step(at: u32, step_and_end: u64, upper: u64, lower: u64) -> u32 {
    let [end, step] = halves(step_and_end);
    steer::range_step(&Maps, at, step, end, [upper, lower])
}

/// A step of the search for a port.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn steer_port_step(at: u32, step: u32, end: u32, port: u32) -> u32 {
    steer::port_step(&Maps, at, step, end, port)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that can get here.
    loop {}
}
