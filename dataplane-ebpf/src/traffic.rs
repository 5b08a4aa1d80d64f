//! Programs of their own, for `dataplane bench`: a generator that the kernel runs on frames of its making
//! (`BPF_PROG_TEST_RUN`), and a sink that counts what arrives.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "packet bytes and elements of maps are raw pointers; the verifier checks each use")]
#![expect(clippy::needless_pass_by_value, reason = "the macros of aya hand over contexts by value")]

mod license;

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    btf_maps::{Array, PerCpuArray},
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_redirect, bpf_xdp_adjust_tail},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use dataplane_common::traffic::{
    self, STAMP4, STAMP6, TIME_BUCKETS, TRAFFIC_CPUS, TRAFFIC_HEADERS, TRAFFIC_PORT, TRAFFIC_SHORTEST, TrafficCount,
    TrafficFrame, TrafficProgress,
};

/// How many frames there are.
#[unsafe(no_mangle)]
static TRAFFIC_TOTAL: Global<u32> = Global::new(1);
/// Bytes of the frames that the kernel hands over, which are cut to their lengths.
#[unsafe(no_mangle)]
static TRAFFIC_ROOM: Global<u32> = Global::new(0);
/// The interface that they leave by.
#[unsafe(no_mangle)]
static TRAFFIC_EGRESS: Global<u32> = Global::new(0);

#[btf_map]
static TRAFFIC_FRAMES: Array<TrafficFrame, { traffic::TRAFFIC_FRAMES }> = Array::new();
#[btf_map]
static TRAFFIC_PROGRESS: Array<TrafficProgress, TRAFFIC_CPUS> = Array::new();
#[btf_map]
static TRAFFIC_COUNT: PerCpuArray<TrafficCount, 1> = PerCpuArray::new();
#[btf_map]
static TRAFFIC_TIMES: PerCpuArray<u64, TIME_BUCKETS> = PerCpuArray::new();

/// What is this late is sent no more: a pause is no reason for a burst (ns).
const LATE: u64 = 1_000_000;

/// Writes one frame and sends it out.
#[xdp]
fn generate(context: XdpContext) -> u32 {
    try_generate(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn try_generate(context: &XdpContext) -> Option<u32> {
    // SAFETY: the helper has no argument and no effect.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let progress = TRAFFIC_PROGRESS.get_ptr_mut(cpu as u32)?;
    // SAFETY: the element of this CPU, where one run after the other takes place.
    let progress = unsafe { &mut *progress };
    let stamped = progress.sent & progress.mask == 0;
    let now = if stamped || progress.interval != 0 { clock() } else { 0 };
    if progress.interval != 0 {
        if now < progress.due {
            return Some(xdp_action::XDP_DROP);
        }
        let due = progress.due.wrapping_add(progress.interval);
        progress.due = if due.wrapping_add(LATE) < now { now } else { due };
    }
    let frame = TRAFFIC_FRAMES.get(progress.next as u32)?;
    let next = progress.next + 1;
    progress.next = if next < u64::from(TRAFFIC_TOTAL.load()) { next } else { 0 };
    copy(context, frame)?;
    if stamped {
        if progress.first[0] == 0 {
            progress.first = [now, progress.sent];
        }
        progress.last = [now, progress.sent];
        stamp(context, frame.stamp, now as u32)?;
    }
    let (length, room) = (frame.length, TRAFFIC_ROOM.load());
    if length < room {
        // SAFETY: the packet is not read or written from here on.
        let cut = unsafe { bpf_xdp_adjust_tail(context.ctx, length.wrapping_sub(room).cast_signed()) };
        if cut != 0 {
            return None;
        }
    }
    progress.sent += 1;
    progress.bytes += u64::from(length);
    // SAFETY: the helper only notes the interface down for this CPU.
    let action = unsafe { bpf_redirect(TRAFFIC_EGRESS.load(), 0) };
    Some(action.cast_unsigned() as u32)
}

#[inline(always)]
fn clock() -> u64 {
    // SAFETY: the helper has no argument and no effect.
    unsafe { bpf_ktime_get_ns() }
}

/// Writes what differs from frame to frame: a page that comes back holds what the last packet became. What is behind is zero
/// from the beginning, and stays it.
#[inline(always)]
fn copy(context: &XdpContext, frame: &TrafficFrame) -> Option<()> {
    let last = frame.words[TRAFFIC_SHORTEST / 8];
    for index in 0..TRAFFIC_SHORTEST / 8 {
        put(context, 8 * index, frame.words[index])?;
    }
    put(context, TRAFFIC_SHORTEST / 8 * 8, last as u32)?;
    if context.data() + TRAFFIC_HEADERS <= context.data_end() {
        put(context, TRAFFIC_SHORTEST, (last >> 32) as u32)?;
        put(context, TRAFFIC_HEADERS - 8, frame.words[TRAFFIC_HEADERS / 8 - 1])?;
    }
    Some(())
}

#[inline(always)]
fn stamp(context: &XdpContext, at: u32, now: u32) -> Option<()> {
    let value = u64::from(!now) << 32 | u64::from(now);
    if at == STAMP4 as u32 { put(context, STAMP4, value) } else { put(context, STAMP6, value) }
}

#[inline(always)]
fn put<T>(context: &XdpContext, at: usize, value: T) -> Option<()> {
    let place = context.data() + at;
    if place + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: inside of the packet, as just checked.
    unsafe { (place as *mut T).write_unaligned(value) };
    Some(())
}

#[inline(always)]
fn get<T: Copy>(context: &XdpContext, at: usize) -> Option<T> {
    let place = context.data() + at;
    if place + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: inside of the packet, as just checked.
    Some(unsafe { (place as *const T).read_unaligned() })
}

/// Counts and drops what a generator made; all else goes on.
#[xdp]
fn sink(context: XdpContext) -> u32 {
    if receive(&context).is_some() { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

#[inline(always)]
fn receive(context: &XdpContext) -> Option<()> {
    const UDP: u8 = 17;
    const DISCARD: u16 = TRAFFIC_PORT.to_be();
    // At fixed places, which the verifier follows with less.
    let (port, stamp, length) = match u16::from_be(get(context, 12)?) {
        0x0800 if get::<u8>(context, 14)? == 0x45 && get::<u8>(context, 23)? == UDP => {
            let length = 14 + u64::from(u16::from_be(get(context, 16)?));
            (get::<u16>(context, STAMP4 - 6)?, get::<u64>(context, STAMP4)?, length)
        }
        0x86dd if get::<u8>(context, 20)? == UDP => {
            let length = 54 + u64::from(u16::from_be(get(context, 18)?));
            (get::<u16>(context, STAMP6 - 6)?, get::<u64>(context, STAMP6)?, length)
        }
        _ => return None,
    };
    let time = stamp as u32;
    if port != DISCARD || (stamp >> 32) as u32 != !time {
        return None;
    }
    let count = TRAFFIC_COUNT.get_ptr_mut(0)?;
    // SAFETY: the element of this CPU; its softirq does not interrupt itself.
    let count = unsafe { &mut *count };
    count.packets += 1;
    count.bytes += length;
    if time != 0 {
        let times = TRAFFIC_TIMES.get_ptr_mut(traffic::time_bucket((clock() as u32).wrapping_sub(time)))?;
        // SAFETY: as above.
        unsafe { *times += 1 };
    }
    Some(())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that can get here.
    loop {}
}
