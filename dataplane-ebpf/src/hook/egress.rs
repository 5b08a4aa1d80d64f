//! At tc egress: what the kernel forwards, and what begins on this machine.

#![expect(unsafe_code, reason = "fields of the skb")]

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use dataplane_common::{
    Reason,
    abi::{self, EgressPermit},
};

use super::{
    gather::gather,
    tc::{Skb, stamp},
};
use crate::{
    egress_permit::{self, EgressVerdict},
    features, flow_lookup, maps, output,
    packet::Hook as _,
    trace::emit,
};

/// Enforces the permit of packets that the kernel forwards, and evaluates chain output for those that begin here.
#[inline(always)]
pub fn run(context: &TcContext) -> i32 {
    if features::FORWARD.on() || features::FLOWS.on() {
        match judge_egress(context) {
            EgressVerdict::Own => {}
            EgressVerdict::Pass => return TC_ACT_UNSPEC,
            EgressVerdict::Encapsulate => {
                stamp(context.skb.skb, EgressPermit::NONE);
                return TC_ACT_UNSPEC;
            }
            EgressVerdict::Drop => return TC_ACT_SHOT,
        }
    }
    if features::OUTPUT.on() { run_output(context) } else { TC_ACT_UNSPEC }
}

/// What becomes of a packet at its way out. One that goes has been judged: a device below, which it comes to next, need not.
#[inline(always)]
fn judge_egress(context: &TcContext) -> EgressVerdict {
    let skb = context.skb.skb;
    // SAFETY: the context is the program's own.
    let permit = EgressPermit::from_raw(u32::from(unsafe { (*skb).tc_index } as u16));
    if permit == EgressPermit::NONE {
        return EgressVerdict::Own;
    }
    // SAFETY: as above.
    let iif = unsafe { (*skb).ingress_ifindex };
    // SAFETY: as above.
    let oif = unsafe { (*skb).ifindex };
    let judge_egress = egress_permit::judge_egress(permit, iif, oif);
    if judge_egress == EgressVerdict::Drop {
        // At the port that it would leave through; other links count together.
        let slot = maps::port(oif).map_or(abi::ELSEWHERE, |(slot, _)| slot);
        // SAFETY: as above.
        let bytes = unsafe { (*skb).len };
        maps::count(slot, Reason::FilterEgress, bytes.into());
    } else if judge_egress != EgressVerdict::Own {
        if features::FLOWS.on() && permit.flow_epoch() != 0 {
            witness_skb(skb, permit.flow_epoch());
        }
        // What carries it through a tunnel has none.
        stamp(skb, maps::egress_classes().map_or(EgressPermit::NONE, EgressPermit::any));
    }
    judge_egress
}

/// See [`flow_lookup::witness`]. A global function, for the room that the headers take.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn witness_skb(skb: *mut __sk_buff, epoch: u32) -> u32 {
    flow_lookup::witness(skb, epoch);
    0
}

/// Chain output, for the packets that begin here.
#[inline(always)]
fn run_output(context: &TcContext) -> i32 {
    // SAFETY: the context is the program's own.
    let forwarded = unsafe { (*context.skb.skb).ingress_ifindex } != 0;
    if forwarded {
        return TC_ACT_UNSPEC;
    }
    gather(context);
    let skb = Skb::new(context);
    let Some((slot, port)) = maps::port(skb.ifindex()) else { return TC_ACT_UNSPEC };
    match output::judge(&skb, port) {
        None => TC_ACT_UNSPEC,
        Some(reason) => {
            maps::count(slot, reason, skb.length() as u64);
            emit::end(&skb, reason as u32);
            TC_ACT_SHOT
        }
    }
}
