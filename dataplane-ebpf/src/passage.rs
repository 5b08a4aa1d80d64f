//! Chain forward for packets that go up: the kernel may forward them, by what the mirror does not know yet.
//!
//! At ingress the chain is asked about one link of each class of ways out. What it drops whatever the way out ends here; all
//! else travels with the packet ([`Passage`]), and tc egress holds it to that.

#![expect(unsafe_code, reason = "answers stand in a map, where the verifier does not follow them")]

use dataplane_common::{
    Reason,
    abi::{
        AF_INET, AF_INET6, Asked, Ifindex, Key, Passage, WAY_BITS, WAY_CLASSES, WayFlags, WayOut, Ways, answer, rest,
    },
    wire::Be16,
};

use crate::{
    features,
    hook::Hook,
    maps,
    scan::{self, Finding},
};

/// Number of chain forward.
const FORWARD: u32 = 2;

/// How a packet ends that is not sent: a reason, what tc egress is told, and whether a rule of chain forward dropped it only now.
#[derive(Clone, Copy)]
pub struct End(u32);

impl End {
    const JUST_DROPPED: u32 = 1 << 8;

    const fn new(reason: u32, passage: Passage) -> Self {
        Self(reason | passage.raw() << 16)
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

    /// What tc egress is told.
    #[inline(always)]
    pub const fn passage(self) -> Passage {
        Passage::from_raw(self.0 >> 16)
    }

    /// Holds a packet back that the kernel would send, at this moment, through a link that is younger than the classes: no tc
    /// egress is there, or none that knows it. `lookup` asks the kernel.
    #[inline(always)]
    #[must_use]
    pub fn held_back(self, lookup: impl Fn() -> u32) -> Self {
        if features::FORWARD.on() && self.passage().depends() && Reason::is_for_others(self.reason()) && lookup() != 0 {
            return Self(Reason::FilterForward as u32);
        }
        self
    }

    /// Says to the controller what the rule that dropped it wants said.
    #[inline(always)]
    pub fn tell<H: Hook>(self, hook: &H) {
        if features::FORWARD.on() && features::TELLING.on() && self.0 & Self::JUST_DROPPED != 0 {
            hook.tell(FORWARD);
        }
    }
}

/// What becomes of a packet that was not sent.
#[inline(always)]
pub fn judge<H: Hook>(hook: &H, reason: Reason) -> End {
    if features::FORWARD.on() {
        End(ask_forward(reason as u32, hook.length() as u64))
    } else {
        End::new(reason as u32, Passage::NONE)
    }
}

/// An [`End`]. A global function: there are many ways to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask_forward(reason: u32, bytes: u64) -> u32 {
    find_end(reason, bytes).0
}

#[inline(always)]
fn find_end(reason: u32, bytes: u64) -> End {
    let unasked = End::new(reason, Passage::NONE);
    if !Reason::may_be_forwarded(reason) {
        return unasked;
    }
    let (Some(ways), Some(key)) = (maps::ways(), maps::key()) else { return unasked };
    let (ipv6, generation) = (key.family() == 6, maps::control(4).filter);
    // Chain forward has let it take this way out; else it is not known.
    let known = key.rest[rest::OIF];
    if known != 0 && ways.alike != 0 {
        return End::new(reason, Passage::any(ways));
    }
    if known != 0 && ways.count > WAY_BITS {
        let class = maps::way_out(known).map_or(u32::from(u8::MAX), |way| way.class[0].into());
        return End::new(reason, Passage::one(ways, class));
    }
    let (bits, accepted) = ask(ways, key, ipv6, generation);
    if accepted == 0 && Reason::is_for_others(reason) {
        // No way out would change it: the rule counts, logs and rejects.
        let finding = scan::scan(ipv6, generation, FORWARD, ways.links[0], bytes);
        let reason = if finding == Finding::Unreadable { Reason::Unreadable } else { Reason::FilterForward };
        return End(reason as u32 | End::JUST_DROPPED);
    }
    let anywhere = ways.alike != 0 && accepted != 0;
    End::new(reason, if anywhere { Passage::any(ways) } else { Passage::some(ways, bits) })
}

/// The bits of the classes of ways out that chain forward lets the packet at hand take, and whether that is any. What has been
/// answered so far stands in memory: the verifier would follow each combination of answers.
#[inline(always)]
fn ask(ways: &Ways, key: &mut Key, ipv6: bool, generation: u32) -> (u32, u32) {
    let answers = &raw mut key.search.ways;
    // SAFETY: a word of this CPU's own key.
    unsafe { answers.write_volatile(0) };
    let mut at = 0;
    while at < WAY_CLASSES {
        if at as u32 >= ways.count {
            break;
        }
        let refused = scan::refuses(ipv6, generation, FORWARD, ways.links[at]);
        let bit = if (at as u32) < WAY_BITS { at } else { WAY_BITS as usize - 1 };
        // SAFETY: as above.
        let before = unsafe { answers.read_volatile() };
        // SAFETY: as above.
        unsafe { answers.write_volatile((before | refused << bit) + ((refused ^ 1) << 8)) };
        at += 1;
    }
    // SAFETY: as above.
    let answers = unsafe { answers.read_volatile() };
    // Classes that nobody was asked about share the last bit.
    let beyond = u32::from(ways.count > WAY_CLASSES as u32) << (WAY_BITS - 1);
    (!(answers | beyond) & 0xff, answers >> 8)
}

/// Whether the kernel would send the packet at hand through a link that is not known as a way out. `lookup` hands it the
/// question.
#[inline(always)]
pub fn is_young(lookup: impl Fn(&mut Asked) -> i64) -> bool {
    let (Some(key), Some(asked)) = (maps::key(), maps::asked()) else { return true };
    let network = key.rest[rest::NETWORK];
    let (ipv6, class) = (key.family() == 6, network >> 8 & 0x3f);
    asked.inquiry.family = (if ipv6 { AF_INET6 } else { AF_INET }) as u8;
    asked.inquiry.protocol = (network >> 16) as u8;
    asked.inquiry.source_port = Be16::from_bytes(((key.mixed >> 48) as u16).to_be_bytes());
    asked.inquiry.destination_port = Be16::from_bytes(((key.mixed >> 32) as u16).to_be_bytes());
    asked.inquiry.length = 1;
    asked.inquiry.ifindex = key.rest[rest::IIF];
    // As `Inquiry::service` has them.
    asked.inquiry.service = if ipv6 { (class << 22).to_be() } else { (class << 26).to_be() };
    let words = |high: u64, low: u64| [(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32];
    let (to, from) = if ipv6 {
        (words(key.address[0], key.address[1]), words(key.address[2], key.address[3]))
    } else {
        (words(key.address[0] & !0xffff_ffff, 0), words(key.address[0] << 32, 0))
    };
    for at in 0..4 {
        asked.inquiry.destination[at] = to[at].to_be();
        asked.inquiry.source[at] = from[at].to_be();
    }
    matches!(lookup(asked), answer::SUCCESS | answer::NO_NEIGHBOUR) && maps::way_out(asked.inquiry.ifindex).is_none()
}

/// What tc egress does with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It came in through no port: chain output may have something to say.
    Own,
    /// It goes.
    Go,
    /// It goes into a tunnel: what carries it is this machine's own packet.
    Enter,
    /// Chain forward does not let it take this way out.
    Stay,
}

/// Whether a packet with this passage, which came in through `iif` (0 where the kernel does not know) may leave through `oif`.
#[inline(always)]
pub fn leave(passage: Passage, iif: Ifindex, oif: Ifindex) -> Leave {
    let Some(ways) = maps::ways() else { return Leave::Own };
    if !passage.is_of(ways) {
        return Leave::Own;
    }
    let enters = |way: &WayOut| way.flags().contains(WayFlags::TUNNEL);
    if passage.is_any() {
        // Only chain output wants to know.
        let enters = features::OUTPUT.on() && maps::way_out(oif).is_some_and(enters);
        return if enters { Leave::Enter } else { Leave::Go };
    }
    // What a tunnel delivered still has the passage of what carried it.
    if iif != 0 && maps::way_out(iif).is_some_and(|way| way.flags().contains(WayFlags::FOREIGN)) {
        return Leave::Own;
    }
    match maps::way_out(oif) {
        Some(way) if !passage.allows(way) => Leave::Stay,
        Some(way) if enters(way) => Leave::Enter,
        Some(_) => Leave::Go,
        // Younger than the rules: the chain has not been asked about it.
        None => Leave::Stay,
    }
}
