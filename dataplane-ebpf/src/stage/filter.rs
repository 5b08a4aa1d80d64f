//! The chains.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{ChainId, Control, Ifindex, Port},
    decide::{self, Datagram, Family, Frame},
};

use crate::{
    features,
    hook::Hook,
    maps,
    pipeline::{Step, stop},
    scan::{ChainVerdict, scan},
    trace,
};

/// A packet on its way through the chains.
pub struct Filter<'h, H> {
    hook: &'h H,
    ipv6: bool,
    generation: u32,
}

/// Gathers the fields that rules may match. Costs nothing when no chain is in use.
#[inline(always)]
pub fn prepare<'h, F: Family, H: Hook>(
    hook: &'h H,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
    control: Control,
) -> Step<Filter<'h, H>> {
    if trace::needs_key()
        && let Some(key) = maps::key()
    {
        // These headers have been read before: the verifier is to see one way on from here, and no other.
        let Some(dscp) = F::dscp(hook, frame.offset) else { return stop(Reason::Truncated) };
        let transport = decide::transport(hook, packet, frame.offset);
        decide::key::<F>(key, port.ifindex, frame, (packet, dscp), transport);
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
        self.judge(ChainId::Prerouting, 0, Reason::FilterPrerouting)
    }

    /// To this machine.
    #[inline(always)]
    pub fn input(&self) -> Step<()> {
        if !features::INPUT.on() || self.hook.chains_done().all() {
            return ControlFlow::Continue(());
        }
        self.judge(ChainId::Input, 0, Reason::FilterInput)
    }

    /// Through this machine, out of `oif`.
    #[inline(always)]
    pub fn forward(&self, oif: Ifindex) -> Step<()> {
        if !features::FORWARD.on() || self.hook.chains_done().all() {
            return ControlFlow::Continue(());
        }
        self.judge(ChainId::Forward, oif, Reason::FilterForward)
    }

    #[inline(always)]
    fn judge(&self, chain: ChainId, oif: Ifindex, reason: Reason) -> Step<()> {
        let verdict = scan(self.ipv6, self.generation, chain.number(), oif, self.hook.length() as u64);
        if features::LOGGING.on() {
            self.hook.log_packet(chain.number());
        }
        match verdict {
            ChainVerdict::Accept => ControlFlow::Continue(()),
            ChainVerdict::Drop => stop(reason),
            ChainVerdict::Unreadable => stop(Reason::Unreadable),
        }
    }
}
