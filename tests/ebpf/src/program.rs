//! The programs and their maps.

#![expect(unsafe_code, reason = "packet bytes and per-CPU slots are raw pointers in BPF; the verifier checks each use")]

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    btf_maps::{Array, DevMapHash, PerCpuArray},
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use dataplane_common::wire::{Be16, decrement_ttl};
use dataplane_tests_ebpf::{IPV4_LENGTH, IPV6_LENGTH, MARK, Mix, Progress, TEMPLATE_LENGTH, aim_flow, aim4, aim6};

/// Which packets to send: a [`Mix`].
#[unsafe(no_mangle)]
static MIX: Global<u32> = Global::new(Mix::Ipv4 as u32);
/// Destinations less one; their number is a power of two.
#[unsafe(no_mangle)]
static MASK: Global<u32> = Global::new(0);
/// Interface that leads to the device under test, in the generator's namespace.
#[unsafe(no_mangle)]
static EGRESS: Global<u32> = Global::new(0);
/// Where the null redirect of tc sends everything, in the namespace of the device under test.
#[unsafe(no_mangle)]
static EXIT_TC: Global<u32> = Global::new(0);
/// An IPv4 frame without destination and source port.
#[unsafe(no_mangle)]
static TEMPLATE4: [Global<u64>; TEMPLATE_LENGTH / 8] = [const { Global::new(0) }; TEMPLATE_LENGTH / 8];
/// An IPv6 frame without destination and source port.
#[unsafe(no_mangle)]
static TEMPLATE6: [Global<u64>; TEMPLATE_LENGTH / 8] = [const { Global::new(0) }; TEMPLATE_LENGTH / 8];

/// IPv4 destinations, as loaded from the wire; the loader gives the number.
#[btf_map]
static DESTINATIONS4: Array<u32, { 1 << 20 }> = Array::new();
/// IPv6 destinations.
#[btf_map]
static DESTINATIONS6: Array<[u32; 4], { 1 << 20 }> = Array::new();
/// Flows of [`Mix::Flows`], as [`aim_flow`] takes them.
#[btf_map]
static FLOWS: Array<[u32; 4], { 1 << 20 }> = Array::new();
/// Packets sent by each CPU, which is the sequence number too, and when.
#[btf_map]
static SENT: PerCpuArray<Progress, 1> = PerCpuArray::new();
/// Packets that reached the sink on each CPU.
#[btf_map]
static RECEIVED: PerCpuArray<u64, 1> = PerCpuArray::new();
/// Slot 0: where the null redirect sends everything.
#[btf_map]
static EXIT: DevMapHash<1> = DevMapHash::new();

/// Writes every header of one packet and sends it to the device under test.
#[xdp]
fn generate(mut ctx: XdpContext) -> u32 {
    try_generate(&mut ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn try_generate(ctx: &mut XdpContext) -> Option<u32> {
    let progress = SENT.get_ptr_mut(0)?;
    // SAFETY: a slot of this CPU, and no other run of the generator is let in between.
    let progress = unsafe { &mut *progress };
    let sequence = progress[0];
    if sequence & (MARK - 1) == 0 {
        mark(progress);
    }
    match MIX.load() {
        mix if mix == Mix::Ipv4 as u32 => send4::<IPV4_LENGTH>(ctx, sequence)?,
        mix if mix == Mix::Ipv6 as u32 => send6(ctx, sequence)?,
        mix if mix == Mix::Flows as u32 => send_flow(ctx, sequence)?,
        // As long as the other kind: a recycled page may end in a checksum of that.
        _ if sequence & 1 == 0 => send4::<IPV6_LENGTH>(ctx, sequence >> 1)?,
        _ => send6(ctx, sequence >> 1)?,
    }
    progress[0] = sequence + 1;
    // SAFETY: the helper only notes the interface down for this CPU.
    let action = unsafe { bpf_redirect(EGRESS.load(), 0) };
    Some(action.cast_unsigned() as u32)
}

/// Notes the time down; the first mark of a run is the one that finds no start.
#[inline(always)]
fn mark(progress: &mut Progress) {
    // SAFETY: the helper has no argument and no effect.
    let now = unsafe { bpf_ktime_get_ns() };
    let sequence = progress[0];
    if progress[1] == 0 {
        [progress[1], progress[2]] = [now, sequence];
    }
    [progress[3], progress[4]] = [now, sequence];
}

#[inline(always)]
fn send4<const N: usize>(ctx: &mut XdpContext, flow: u64) -> Option<()> {
    let index = flow as u32 & MASK.load();
    let destination = *DESTINATIONS4.get(index)?;
    let frame = copy::<N>(ctx, &TEMPLATE4)?;
    aim4(frame, destination, port(index));
    Some(())
}

#[inline(always)]
fn send_flow(ctx: &mut XdpContext, sequence: u64) -> Option<()> {
    let flow = *FLOWS.get(sequence as u32 & MASK.load())?;
    aim_flow(copy::<IPV4_LENGTH>(ctx, &TEMPLATE4)?, flow);
    Some(())
}

#[inline(always)]
fn send6(ctx: &mut XdpContext, flow: u64) -> Option<()> {
    let index = flow as u32 & MASK.load();
    let destination = *DESTINATIONS6.get(index)?;
    let frame = copy::<IPV6_LENGTH>(ctx, &TEMPLATE6)?;
    aim6(frame, destination, port(index));
    Some(())
}

/// Source port of a flow, in network order: 1024 to 5119.
#[inline(always)]
const fn port(index: u32) -> u16 {
    (1024 + (index & 0xfff) as u16).to_be()
}

/// Writes a template over the packet, in words: a recycled page still holds what the last packet became.
#[inline(always)]
fn copy<'a, const N: usize>(
    ctx: &'a mut XdpContext,
    template: &'static [Global<u64>; TEMPLATE_LENGTH / 8],
) -> Option<&'a mut [u8; N]> {
    let data = ctx.data();
    if data + N > ctx.data_end() {
        return None;
    }
    let words = data as *mut u64;
    for (index, word) in template.iter().enumerate().take(N / 8) {
        // SAFETY: N bytes were checked against the packet's end, and this word lies within them.
        let place = unsafe { words.add(index) };
        // SAFETY: the same word.
        unsafe { place.write_unaligned(word.load()) };
    }
    let rest = template[N / 8].load();
    let tail = (data + N / 8 * 8) as *mut u32;
    // SAFETY: both lengths leave at least four bytes behind the last whole word.
    unsafe { tail.write_unaligned(rest as u32) };
    if N % 8 == 6 {
        // SAFETY: and the longer one leaves six.
        let end = unsafe { tail.add(1) }.cast::<u16>();
        // SAFETY: the last two of these.
        unsafe { end.write_unaligned((rest >> 32) as u16) };
    }
    // SAFETY: N bytes were checked; nobody else holds the packet while the program runs.
    Some(unsafe { &mut *(data as *mut [u8; N]) })
}

/// Counts and drops: the end of the chain, and in the device under test half of it.
#[xdp]
fn sink(_ctx: XdpContext) -> u32 {
    count();
    xdp_action::XDP_DROP
}

/// Counts and lets the packet into the stack, where something else looks at it.
#[xdp]
fn pass(_ctx: XdpContext) -> u32 {
    count();
    xdp_action::XDP_PASS
}

/// Sends everything out of one interface, untouched: what a redirect costs before any router does work.
#[xdp]
fn null(_ctx: XdpContext) -> u32 {
    EXIT.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED)
}

/// The same, and what every router has to do: addresses of the link written, TTL or hop limit and IPv4 checksum changed.
#[xdp]
fn rewrite(mut ctx: XdpContext) -> u32 {
    try_rewrite(&mut ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn try_rewrite(ctx: &mut XdpContext) -> Option<u32> {
    let start = ctx.data();
    if start + IPV4_LENGTH > ctx.data_end() {
        return None;
    }
    // SAFETY: inside the packet, as just checked; nobody else holds it while the program runs.
    let frame = unsafe { &mut *(start as *mut [u8; IPV4_LENGTH]) };
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0]);
    if frame[14] >> 4 == 6 {
        frame[21] -= 1;
    } else {
        frame[22] -= 1;
        let checksum = decrement_ttl(Be16::from_bytes([frame[24], frame[25]]));
        [frame[24], frame[25]] = checksum.raw().to_ne_bytes();
    }
    EXIT.redirect(0, 0).ok()
}

/// As [`null`], on an skb.
#[classifier]
fn null_tc(_ctx: TcContext) -> i32 {
    // SAFETY: the helper only notes the interface down for this CPU.
    let action = unsafe { bpf_redirect(EXIT_TC.load(), 0) };
    action as i32
}

#[inline(always)]
fn count() {
    if let Some(received) = RECEIVED.get_ptr_mut(0) {
        // SAFETY: a slot of this CPU; NAPI does not preempt itself.
        unsafe { *received += 1 };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
