//! The kernel half: XDP and tc programs around one pipeline, and observers of what the kernel loses behind them.
//!
//! `pipeline` decides, the hooks act: only they know whether a packet is a frame in a driver's ring or an skb.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::needless_pass_by_value, reason = "the macros of aya hand over contexts by value")]

mod crossing;
mod egress_permit;
mod features;
mod fib_lookup;
mod flow_lookup;
mod hook;
mod license;
mod link_address;
mod liveness;
mod loss;
mod maps;
mod output;
mod packet;
mod packet_log;
mod pipeline;
mod rewrite;
mod rx_handler;
mod scan;
mod stage;
mod switching;
mod tables;
mod trace;
mod translate;
mod verdict;

use aya_ebpf::{
    macros::{classifier, raw_tracepoint, xdp},
    programs::{RawTracePointContext, TcContext, XdpContext},
};

// All that a hook does is one function with the program that is handed over: else each program begins with a call, of which
// there may be eight inside each other, and LLVM does not see that by itself in large ones.

/// At the driver.
#[xdp(frags)]
#[inline(always)]
fn ingress(context: XdpContext) -> u32 {
    features::jump_pad();
    hook::xdp::run(&context)
}

/// In the kernel's stand-in for drivers without XDP. Without `frags`, so that the kernel makes every skb linear for us: for
/// programs with `frags` it copies scattered skbs without their link header (Linux 6.18, `skb_pp_cow_data`), and we would
/// judge a header of random bytes.
#[xdp]
#[inline(always)]
fn ingress_generic(context: XdpContext) -> u32 {
    features::jump_pad();
    hook::xdp::run(&context)
}

/// At tc ingress of a port without XDP: the same pipeline on the skb.
#[classifier]
#[inline(always)]
fn tc_ingress(context: TcContext) -> i32 {
    features::jump_pad();
    hook::tc::run(&context)
}

/// At tc ingress behind XDP: what XDP left open.
#[classifier]
#[inline(always)]
fn tc_behind_xdp(context: TcContext) -> i32 {
    features::jump_pad();
    hook::tc::run_behind_xdp(&context)
}

/// At tc egress: chain output, for packets of this machine; and the permit of chain forward, for packets that the kernel
/// forwards.
#[classifier]
#[inline(always)]
fn tc_egress(context: TcContext) -> i32 {
    features::jump_pad();
    hook::egress::run(&context)
}

/// Never attached: which rule of a generation of the filter decides on a packet, before that is live.
#[xdp]
fn self_test(context: XdpContext) -> u32 {
    hook::self_test::run(&context)
}

/// Behind a device's turn to transmit what XDP redirected to it, of any device of the machine (`bq_xmit_all` in
/// kernel/bpf/devmap.c). The arguments: from which device, to which, how many frames were sent, how many not, why.
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
fn lost_in_transmit(context: RawTracePointContext) -> i32 {
    let lost: i32 = context.arg(3);
    if lost > 0 {
        loss::count(context.arg(0), u64::from(lost.cast_unsigned()), loss::To::Device(context.arg(1)));
    }
    0
}

/// Behind a redirect that the kernel did not follow, of one frame (`xdp_do_redirect` in net/core/filter.c). The first argument
/// says from which device, the last one under which index of the map.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
fn lost_in_redirect(context: RawTracePointContext) -> i32 {
    loss::count(context.arg(0), 1, loss::To::Index(context.arg(6)));
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that can get here.
    loop {}
}
