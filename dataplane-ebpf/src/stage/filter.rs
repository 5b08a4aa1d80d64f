//! The chains.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{ChainId, Control, Ifindex},
    decide::{self, Datagram, Family, Frame},
};

use crate::{
    features, maps,
    packet::Hook,
    scan::{ChainVerdict, recall_or_scan},
    trace::note,
    verdict::{Step, stop},
};

/// A packet on its way through the chains.
pub struct Filter<'h, H> {
    hook: &'h H,
    ipv6: bool,
    generation: u32,
}

/// Gathers the fields that rules may match; the packet came in through `iif`, 0 where it began here: a closure, since LLVM would
/// keep a number that is read earlier. Costs nothing when no chain is in use.
#[inline(always)]
pub fn prepare<'h, F: Family, H: Hook>(
    hook: &'h H,
    iif: impl Fn() -> Ifindex,
    frame: &Frame,
    packet: &Datagram<F::Address>,
    control: Control,
) -> Step<Filter<'h, H>> {
    if (features::FILTERING.on() || note::traced())
        && let Some(key) = maps::key()
    {
        // These headers have been read before: the verifier is to see one way on from here, and no other.
        let Some(dscp) = F::dscp(hook, frame.offset) else { return stop(Reason::Truncated) };
        let transport = decide::transport(hook, packet, frame.offset);
        decide::key::<F>(key, iif(), frame, (packet, dscp), transport);
        if frame.offset == 0 {
            decide::bare(key);
        } else {
            let Some(ethernet) = hook.header(0) else { return stop(Reason::Truncated) };
            decide::ethernet(key, ethernet);
        }
    }
    ControlFlow::Continue(Filter { hook, ipv6: F::NUMBER == 6, generation: control.filter })
}

impl<H: Hook> Filter<'_, H> {
    /// Before the route is known.
    #[inline(always)]
    pub fn prerouting(&self) -> Step<()> {
        if !features::PREROUTING.on() || self.hook.chains_done().prerouting() {
            return ControlFlow::Continue(());
        }
        self.judge(ChainId::Prerouting, 0, (Reason::FilterPrerouting, Reason::Unreadable))
    }

    /// To this machine.
    #[inline(always)]
    pub fn input(&self) -> Step<()> {
        if !features::INPUT.on() || self.hook.chains_done().all() {
            return ControlFlow::Continue(());
        }
        self.judge(ChainId::Input, 0, (Reason::FilterInput, Reason::Unreadable))
    }

    /// Through this machine, out of `oif`.
    #[inline(always)]
    pub fn forward(&self, oif: Ifindex) -> Step<()> {
        if !features::FORWARD.on() || self.hook.chains_done().all() {
            return ControlFlow::Continue(());
        }
        self.judge(ChainId::Forward, oif, (Reason::FilterForward, Reason::Unreadable))
    }

    /// From this machine, out of `oif`.
    #[inline(always)]
    pub fn output(&self, oif: Ifindex) -> Step<()> {
        self.judge(ChainId::Output, oif, (Reason::FilterOutput, Reason::UnreadableOutput))
    }

    #[inline(always)]
    fn judge(&self, chain: ChainId, oif: Ifindex, (dropped, unreadable): (Reason, Reason)) -> Step<()> {
        let verdict = recall_or_scan(self.ipv6, self.generation, chain.number(), oif, self.hook.length() as u64);
        if features::LOGGING.on() {
            self.hook.log_packet(chain.number());
        }
        match verdict {
            ChainVerdict::Accept => ControlFlow::Continue(()),
            ChainVerdict::Drop => stop(dropped),
            ChainVerdict::Unreadable => stop(unreadable),
        }
    }
}
