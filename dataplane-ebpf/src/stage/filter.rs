//! The chains.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Control, Ifindex, Port},
    decide::{self, Datagram, Family, Frame},
};

use crate::{
    features,
    hook::Hook,
    maps,
    pipeline::{Step, stop},
    scan::{Finding, scan},
    trace,
};

/// A packet on its way through the chains.
pub struct Filter<'h, H> {
    hook: &'h H,
    ipv6: bool,
    generation: u32,
}

/// Gathers what rules may ask for. Costs nothing when no chain is in use.
#[inline(always)]
pub fn prepare<'h, F: Family, H: Hook>(
    hook: &'h H,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
    control: Control,
) -> Step<Filter<'h, H>> {
    if trace::keyed()
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
        if !features::PREROUTING.on() || self.hook.met().prerouting() {
            return ControlFlow::Continue(());
        }
        self.ask(0, 0, Reason::FilterPrerouting)
    }

    /// To this machine.
    #[inline(always)]
    pub fn input(&self) -> Step<()> {
        if !features::INPUT.on() || self.hook.met().all() {
            return ControlFlow::Continue(());
        }
        self.ask(1, 0, Reason::FilterInput)
    }

    /// Through this machine, out of `oif`.
    #[inline(always)]
    pub fn forward(&self, oif: Ifindex) -> Step<()> {
        if !features::FORWARD.on() || self.hook.met().all() {
            return ControlFlow::Continue(());
        }
        self.ask(2, oif, Reason::FilterForward)
    }

    #[inline(always)]
    fn ask(&self, chain: u32, oif: Ifindex, reason: Reason) -> Step<()> {
        let finding = scan(self.ipv6, self.generation, chain, oif, self.hook.length() as u64);
        if features::TELLING.on() {
            self.hook.tell(chain);
        }
        match finding {
            Finding::Accept => ControlFlow::Continue(()),
            Finding::Drop => stop(reason),
            Finding::Unreadable => stop(Reason::Unreadable),
        }
    }
}
