//! Chain forward for packets that go up: the kernel may forward them, by what the mirror does not know yet.
//!
//! At ingress the chain is evaluated for one link of each class of egress links. A packet that it drops for all of them ends
//! here. For all others the result travels with the packet ([`EgressPermit`]), and tc egress enforces it.

#![expect(unsafe_code, reason = "answers stand in a map, where the verifier does not follow them")]

use dataplane_common::{
    Reason,
    abi::{
        AF_INET, AF_INET6, CLASS_BITS, ChainId, EgressLink, EgressLinkFlags, EgressPermit, Ifindex, Key, MAX_CLASSES,
        fib_result, field,
    },
    wire::Be16,
};

use crate::{
    features, maps,
    packet::Hook,
    scan::{self, ChainVerdict},
};

const FORWARD: u32 = ChainId::Forward.number();

/// The end of a packet that is not sent: a reason, the permit for tc egress, and whether a rule of chain forward dropped it
/// only now.
#[derive(Clone, Copy)]
pub struct Disposition(u32);

impl Disposition {
    const JUST_DROPPED: u32 = 1 << 8;

    const fn new(reason: u32, permit: EgressPermit) -> Self {
        Self(reason | permit.raw() << 16)
    }

    /// With another permit.
    const fn with(self, permit: EgressPermit) -> Self {
        Self(self.0 & 0xffff | permit.raw() << 16)
    }

    /// As one number, for global functions.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// See [`Self::raw`].
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The number of the reason.
    #[inline(always)]
    pub const fn reason(self) -> u32 {
        self.0 & 0xff
    }

    /// The permit for tc egress.
    #[inline(always)]
    pub const fn permit(self) -> EgressPermit {
        EgressPermit::from_raw(self.0 >> 16)
    }

    /// Drops a packet that the kernel would send, at this moment, through a link that is younger than the classes: it has no tc
    /// egress program, or one that does not know it. `lookup` runs the kernel's lookup.
    #[inline(always)]
    #[must_use]
    pub fn withhold_unknown_link(self, lookup: impl Fn() -> u32) -> Self {
        if features::FORWARD.on() && self.permit().depends() && Reason::is_for_others(self.reason()) && lookup() != 0 {
            return Self(Reason::FilterForward as u32);
        }
        self
    }

    /// Logs or rejects the packet as the rule that dropped it wants.
    #[inline(always)]
    pub fn log<H: Hook>(self, hook: &H) {
        if features::FORWARD.on() && features::LOGGING.on() && self.0 & Self::JUST_DROPPED != 0 {
            hook.log_packet(FORWARD);
        }
    }
}

/// What becomes of a packet that was not sent.
#[inline(always)]
pub fn judge<H: Hook>(hook: &H, reason: Reason) -> Disposition {
    let end = if features::FORWARD.on() {
        Disposition(check_forward(reason as u32, hook.length() as u64))
    } else {
        Disposition::new(reason as u32, EgressPermit::NONE)
    };
    let end = if features::FLOWS.on() { Disposition(with_flow_epoch(end.raw())) } else { end };
    if features::BRIDGES.on() { Disposition(with_mark(end.raw())) } else { end }
}

/// A [`Disposition`] with some permit if the packet was judged: the bridge that gets it next, which is a port too, sees that
/// ([`is_judged`]). One that was not judged has none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn with_mark(end: u32) -> u32 {
    let end = Disposition::from_raw(end);
    if Reason::is_unjudged(end.reason()) {
        return end.with(EgressPermit::NONE).raw();
    }
    if end.permit() != EgressPermit::NONE {
        return end.raw();
    }
    end.with(maps::egress_classes().map_or(EgressPermit::NONE, EgressPermit::any)).raw()
}

/// Whether a port of this daemon has judged a packet with this permit.
#[inline(always)]
pub fn is_judged(permit: EgressPermit) -> bool {
    permit != EgressPermit::NONE && maps::egress_classes().is_some_and(|classes| permit.is_of(classes))
}

/// A [`Disposition`] with the epoch of the flow table, by which tc egress knows under which rules netfilter has judged the
/// packet. A global function, as the chain.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn with_flow_epoch(end: u32) -> u32 {
    let end = Disposition::from_raw(end);
    let (Some(classes), Some(flows)) = (maps::egress_classes(), maps::flow_state()) else { return end.raw() };
    if !Reason::may_be_forwarded(end.reason()) {
        return end.raw();
    }
    let permit = if features::FORWARD.on() { end.permit() } else { EgressPermit::any(classes) };
    // Chain forward has dropped what has no permit.
    if permit == EgressPermit::NONE { end.raw() } else { end.with(permit.with_flow_epoch(flows.epoch())).raw() }
}

/// An [`Disposition`]. A global function: there are many ways to it.
///
/// Every word that it keeps is missing below: the search of the chain is the deepest call of all. So the classes are looked up
/// again where they are needed, and reason and length are one word.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn check_forward(reason: u32, bytes: u64) -> u32 {
    disposition(u64::from(reason) | bytes << 8).0
}

#[inline(always)]
fn disposition(end: u64) -> Disposition {
    let reason = || (end & 0xff) as u32;
    let unchecked = || Disposition::new(reason(), EgressPermit::NONE);
    if !Reason::may_be_forwarded(reason()) {
        return unchecked();
    }
    let Some(key) = maps::key() else { return unchecked() };
    let generation = maps::control(4).filter;
    // Chain forward has let it take this way out; else it is not known.
    let known = key.fields[field::OIF];
    if known != 0 {
        let Some(classes) = maps::egress_classes() else { return unchecked() };
        if classes.alike != 0 {
            return Disposition::new(reason(), EgressPermit::any(classes));
        }
        if classes.count > CLASS_BITS {
            let class = maps::egress_link(known).map_or(u32::from(u8::MAX), |link| link.class[0].into());
            return Disposition::new(reason(), EgressPermit::one(classes, class));
        }
    }
    evaluate_classes(key, generation);
    let (bits, accepted) = evaluated(key);
    let Some(classes) = maps::egress_classes() else { return unchecked() };
    if accepted == 0 && Reason::is_for_others(reason()) {
        // No way out would change it: the rule counts, logs and rejects.
        let verdict = scan::scan(is_ipv6(key), generation, FORWARD, classes.links[0], end >> 8);
        let reason = if verdict == ChainVerdict::Unreadable { Reason::Unreadable } else { Reason::FilterForward };
        return Disposition(reason as u32 | Disposition::JUST_DROPPED);
    }
    let beyond = u32::from(classes.count > MAX_CLASSES as u32) << (CLASS_BITS - 1);
    let anywhere = classes.alike != 0 && accepted != 0;
    // Classes that were not evaluated share the last bit.
    let permit = if anywhere { EgressPermit::any(classes) } else { EgressPermit::some(classes, bits & !beyond) };
    Disposition::new(reason(), permit)
}

/// Whether the key is that of an IPv6 packet. Read anew each time: one loop for both families, and no word kept.
#[inline(always)]
fn is_ipv6(key: &Key) -> bool {
    let network = &raw const key.fields[field::NETWORK];
    // SAFETY: a word of this CPU's own key.
    unsafe { network.read_volatile() >> 24 == 6 }
}

/// Evaluates chain forward for a link of each class. What has been answered so far stands in memory: the verifier would follow
/// each combination of answers.
#[inline(always)]
fn evaluate_classes(key: &mut Key, generation: u32) {
    let answers = &raw mut key.search.egress_classes;
    // SAFETY: a word of this CPU's own key.
    unsafe { answers.write_volatile(0) };
    let mut at = 0;
    while at < MAX_CLASSES {
        let Some(classes) = maps::egress_classes() else { break };
        if at as u32 >= classes.count {
            break;
        }
        let refused = scan::refuses(is_ipv6(key), generation, FORWARD, classes.links[at]);
        let bit = if (at as u32) < CLASS_BITS { at } else { CLASS_BITS as usize - 1 };
        // SAFETY: as above.
        let before = unsafe { answers.read_volatile() };
        // SAFETY: as above.
        unsafe { answers.write_volatile((before | refused << bit) + ((refused ^ 1) << 8)) };
        at += 1;
    }
}

/// The bits of the classes of ways out that chain forward lets the packet at hand take, and how many it lets it take.
#[inline(always)]
fn evaluated(key: &Key) -> (u32, u32) {
    let answers = &raw const key.search.egress_classes;
    // SAFETY: as above.
    let answers = unsafe { answers.read_volatile() };
    (!answers & 0xff, answers >> 8)
}

/// Whether the kernel would send the packet at hand through a link that is not known as a way out.
#[inline(always)]
pub fn is_unknown_link<H: Hook>(hook: &H) -> bool {
    let (Some(key), Some(query)) = (maps::key(), maps::kernel_lookup()) else { return true };
    let network = key.fields[field::NETWORK];
    let (ipv6, class) = (key.family() == 6, network >> 8 & 0x3f);
    query.params.family = (if ipv6 { AF_INET6 } else { AF_INET }) as u8;
    query.params.protocol = (network >> 16) as u8;
    query.params.source_port = Be16::from_bytes(((key.mixed >> 48) as u16).to_be_bytes());
    query.params.destination_port = Be16::from_bytes(((key.mixed >> 32) as u16).to_be_bytes());
    query.params.length = 1;
    query.params.ifindex = key.fields[field::IIF];
    // As `FibLookup::service` has them.
    query.params.service = if ipv6 { (class << 22).to_be() } else { (class << 26).to_be() };
    let words = |high: u64, low: u64| [(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32];
    let (to, from) = if ipv6 {
        (words(key.address[0], key.address[1]), words(key.address[2], key.address[3]))
    } else {
        (words(key.address[0] & !0xffff_ffff, 0), words(key.address[0] << 32, 0))
    };
    for at in 0..4 {
        query.params.destination[at] = to[at].to_be();
        query.params.source[at] = from[at].to_be();
    }
    matches!(hook.fib_lookup(query, 0), fib_result::SUCCESS | fib_result::NO_NEIGHBOUR)
        && maps::egress_link(query.params.ifindex).is_none()
}

/// What tc egress does with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum EgressVerdict {
    /// It came in through no port: chain output may have something to say.
    Own,
    /// It goes.
    Pass,
    /// It goes into a tunnel: what carries it is this machine's own packet.
    Encapsulate,
    /// Chain forward does not let it take this way out.
    Drop,
}

/// Whether a packet with this permit, which came in through `iif` (0 where the kernel does not know) may leave through `oif`.
#[inline(always)]
pub fn judge_egress(permit: EgressPermit, iif: Ifindex, oif: Ifindex) -> EgressVerdict {
    let Some(classes) = maps::egress_classes() else { return EgressVerdict::Own };
    if !permit.is_of(classes) {
        return EgressVerdict::Own;
    }
    let enters = |link: &EgressLink| link.flags().contains(EgressLinkFlags::TUNNEL);
    if permit.is_any() {
        // Only chain output wants to know.
        let enters = features::OUTPUT.on() && maps::egress_link(oif).is_some_and(enters);
        return if enters { EgressVerdict::Encapsulate } else { EgressVerdict::Pass };
    }
    // A packet that a tunnel delivered still has the permit of the packet that carried it.
    if iif != 0 && maps::egress_link(iif).is_some_and(|link| link.flags().contains(EgressLinkFlags::FOREIGN)) {
        return EgressVerdict::Own;
    }
    match maps::egress_link(oif) {
        Some(link) if !permit.allows(link) => EgressVerdict::Drop,
        Some(link) if enters(link) => EgressVerdict::Encapsulate,
        Some(_) => EgressVerdict::Pass,
        // The link is younger than the rules: the chain has not been evaluated for it.
        None => EgressVerdict::Drop,
    }
}
