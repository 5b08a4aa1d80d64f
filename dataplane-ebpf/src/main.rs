//! The kernel half: XDP and tc programs around one pipeline.
//!
//! `pipeline` decides, the hooks act: only they know whether a packet is a frame in a driver's ring or an skb.

#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the macros of aya hand over contexts by value")]

mod features;
mod hook;
mod license;
mod maps;
mod output;
mod pipeline;
mod rewrite;
mod scan;
mod stage;
mod tables;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// At the driver.
#[xdp(frags)]
fn ingress(context: XdpContext) -> u32 {
    hook::xdp::run(&context)
}

/// In the kernel's stand-in for drivers without XDP. Without `frags`, so that the kernel makes every skb linear for us: for
/// programs with `frags` it copies scattered skbs without their link header (Linux 6.18, `skb_pp_cow_data`), and we would
/// judge a header of random bytes.
#[xdp]
fn ingress_generic(context: XdpContext) -> u32 {
    hook::xdp::run(&context)
}

/// At tc ingress of a port without XDP: the same pipeline on the skb.
#[classifier]
fn tc_ingress(context: TcContext) -> i32 {
    hook::tc::run(&context)
}

/// At tc ingress behind XDP: what XDP left open.
#[classifier]
fn tc_behind_xdp(context: TcContext) -> i32 {
    hook::tc::run_behind_xdp(&context)
}

/// At tc egress: chain output, for packets of this machine.
#[classifier]
fn tc_egress(context: TcContext) -> i32 {
    hook::tc::run_output(&context)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that can get here.
    loop {}
}
