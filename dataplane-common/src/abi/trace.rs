//! Traced packets: which ones subscribers want, how many of them, and the record of each.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{ADDRESS_WORDS, CHAINS, FIELD_WORDS, Key, KeyFlags, Limit, Span, flow::RowLayout};

/// Bytes of a frame that a record has room for: an Ethernet frame of 1514 bytes with three tags.
pub const TRACE_RECORD_BYTES: usize = 1528;
/// Bytes of the ring that sightings go through.
pub const TRACE_RING: usize = 1 << 20;
/// Boxes that may be watched for at a time.
pub const TRACE_FILTERS: usize = 16;

/// A box of packets: masked comparisons with the words of a [`Key`], as the entries of the filter make them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceFilter {
    /// Which bits of [`Key::address`] count.
    pub address_mask: [u64; ADDRESS_WORDS],
    /// What they must be.
    pub address: [u64; ADDRESS_WORDS],
    /// Which bits of [`Key::fields`] count.
    pub field_mask: [u32; FIELD_WORDS],
    /// What they must be.
    pub fields: [u32; FIELD_WORDS],
    /// The reasons that count, a bit each by their numbers.
    pub reasons: u64,
    /// Source ports.
    pub source_port: [u16; 2],
    /// Destination ports.
    pub destination_port: [u16; 2],
    /// Lengths of the IP packet.
    pub length: [u16; 2],
    /// Zero.
    pub reserved: u16,
    /// [`KeyFlags`] that the packet must have.
    pub needs: u16,
    /// Passed over for a packet whose random number is below this; 0: never. See [`skips`].
    pub skips: u32,
    /// Zero.
    pub reserved_too: u32,
}

impl TraceFilter {
    /// Every packet.
    pub const ALL: Self = Self {
        address_mask: [0; ADDRESS_WORDS],
        address: [0; ADDRESS_WORDS],
        field_mask: [0; FIELD_WORDS],
        fields: [0; FIELD_WORDS],
        reasons: u64::MAX,
        source_port: [0, u16::MAX],
        destination_port: [0, u16::MAX],
        length: [0, u16::MAX],
        reserved: 0,
        needs: 0,
        skips: 0,
        reserved_too: 0,
    };

    /// Whether a packet that ends for a reason, by its number, is in the box. One number for all comparisons: a branch for
    /// each would double the paths that the verifier follows.
    #[inline(always)]
    pub fn matches(&self, key: &Key, reason: u32) -> bool {
        let mut differs = 0;
        let mut word = 0;
        while word < ADDRESS_WORDS {
            differs |= (key.address[word] ^ self.address[word]) & self.address_mask[word];
            word += 1;
        }
        word = 0;
        while word < FIELD_WORDS {
            differs |= u64::from((key.fields[word] ^ self.fields[word]) & self.field_mask[word]);
            word += 1;
        }
        let needs = u32::from(self.needs);
        differs |= u64::from(needs & !key.flags.bits());
        differs |= outside(self.source_port, (key.mixed >> 48) as u16);
        differs |= outside(self.destination_port, (key.mixed >> 32) as u16);
        let length = if key.length > u32::from(u16::MAX) { u16::MAX } else { key.length as u16 };
        differs |= outside(self.length, length);
        differs == 0 && self.reasons >> (reason & 63) & 1 != 0
    }
}

/// The random number behind another: a linear congruential generator with a full period (Knuth, Numerical Recipes), whose first
/// bits are good enough to choose by. The kernel's own would cost more than all else that an unwatched packet does.
#[inline(always)]
pub const fn draw(before: u32) -> u32 {
    before.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)
}

/// Below which random numbers packets are passed over, so that one in so many is not; 0 and 1: each.
pub const fn skips(one_in: u32) -> u32 {
    match one_in {
        0 | 1 => 0,
        _ => u32::MAX - u32::MAX / one_in + 1,
    }
}

/// Not 0 when a value is not between two others.
#[inline(always)]
fn outside([low, high]: [u16; 2], value: u16) -> u64 {
    u64::from(value.wrapping_sub(low) > high.wrapping_sub(low))
}

impl Key {
    /// The key of a packet of which only the ingress link is known: no filter matches less than that.
    #[inline(always)]
    pub fn blank(&mut self, iif: u32) {
        self.address = [0; ADDRESS_WORDS];
        self.mixed = super::mixed::of(0, 0, 0, iif, 0);
        self.fields = [0; FIELD_WORDS];
        self.fields[super::field::IIF] = iif;
        self.length = 0;
        self.offset = 0;
        self.flags = KeyFlags::empty();
    }
}

/// What subscribers want: one element, which the controller writes before it loads programs that read it, and when a subscriber
/// comes or goes. A packet may see it half written, and reach a subscriber that did not want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceConfig {
    /// The rate limit of all records together. The kernel half writes [`Limit::full`].
    pub limit: Limit,
    /// How many of the boxes are in use.
    pub count: u32,
    /// How many bytes of a frame a record has.
    pub bytes: u32,
    /// The least of [`TraceFilter::skips`]: a packet whose random number is below it writes no trace context.
    pub skips: u32,
    /// Zero.
    pub reserved: u32,
    /// The boxes.
    pub filters: [TraceFilter; TRACE_FILTERS],
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self {
            limit: Limit::default(),
            count: 0,
            bytes: 0,
            skips: 0,
            reserved: 0,
            filters: [TraceFilter::default(); TRACE_FILTERS],
        }
    }
}

/// What the packet at hand has met. One for each CPU; a packet begins with an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceContext {
    /// The result of each chain: 0 where it was not evaluated, else [`chain_trace`].
    pub chains: [u32; CHAINS],
    /// What the lookup of the route gave: a [`super::Target`], or [`chain_trace::NONE`].
    pub target: u32,
    /// The adjacency, by its index, or [`chain_trace::NONE`].
    pub adjacency: u32,
    /// The boxes that show it, a bit each.
    pub filters: u32,
    /// The number that was drawn for it.
    pub chance: u32,
    /// Whether a box may show it: 0 or 1. If not, nothing of the rest is written.
    pub traced: u32,
    /// Zero.
    pub reserved: u32,
    /// Packets without a record, because the ring was full or the limit was reached. Kept from packet to packet.
    pub missed: u64,
}

/// The result of a chain as a number: the counter of the rule that decided, and flags.
pub mod chain_trace {
    /// The chain was evaluated.
    pub const EVALUATED: u32 = 1 << 31;
    /// A rule decided, whose counter is below; else the policy did.
    pub const RULE: u32 = 1 << 30;
    /// Bits of the counter.
    pub const COUNTER: u32 = 0xff_ffff;
    /// No target, no adjacency.
    pub const NONE: u32 = u32::MAX;
}

/// The row of the flow table that a packet has, as the packet's path left it, and the state of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowTrace {
    /// The family whose table it is in, 4 or 6; 0: the packet has no row, and nothing of the rest is written.
    pub family: u32,
    /// Not zero: the row carried the packet.
    pub carried: u32,
    /// See [`super::FlowControl::epoch`].
    pub epoch: u32,
    /// See [`super::FlowControl::arming`].
    pub arming: u32,
    /// See [`super::FlowControl::lease`].
    pub lease: u32,
    /// The moment of the packet ([`super::flow::MOMENT`]).
    pub now: u32,
    /// The words of the row; of IPv4 the first ones.
    pub words: [u64; RowLayout::V6.words],
}

/// A packet, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceRecord {
    /// When: nanoseconds of the monotonic clock.
    pub time: u64,
    /// A bit for each box that shows it.
    pub filters: u32,
    /// Number of the reason.
    pub reason: u32,
    /// The port.
    pub port: u32,
    /// The interface it came in through: the port, or a VLAN device on it.
    pub iif: u32,
    /// The interface it goes out through; 0 where there is none.
    pub oif: u32,
    /// Which tier judged it: 0 XDP, 1 tc.
    pub tier: u32,
    /// Bytes of the whole frame.
    pub length: u32,
    /// Bytes of it that are here, from the beginning.
    pub captured: u32,
    /// Where its IP header begins; 0 where none was read.
    pub offset: u32,
    /// See [`TraceContext::chains`].
    pub chains: [u32; CHAINS],
    /// See [`TraceContext::target`].
    pub target: u32,
    /// See [`TraceContext::adjacency`].
    pub adjacency: u32,
    /// Zero.
    pub reserved: u32,
    /// Its row of the flow table.
    pub flow: FlowTrace,
    /// The frame as it came in; what is behind [`TraceRecord::captured`] is of no meaning.
    pub bytes: [u8; TRACE_RECORD_BYTES],
}

impl From<Span> for [u16; 2] {
    fn from(span: Span) -> Self {
        [span.low, span.high]
    }
}

#[cfg(test)]
mod tests {
    use super::{draw, skips};

    #[test]
    fn one_in_so_many_numbers_is_not_skipped() {
        assert_eq!((skips(0), skips(1)), (0, 0));
        for one_in in [2_u32, 3, 10, 1000, 1_000_000, u32::MAX] {
            let kept = (1_u64 << 32) - u64::from(skips(one_in));
            let wanted = (1_u64 << 32) / u64::from(one_in);
            assert!(kept == wanted || kept + 1 == wanted, "1 in {one_in}: {kept} numbers of {wanted}");
        }
    }

    #[test]
    fn as_many_are_drawn_as_requested() {
        for one_in in [2, 10, 1000] {
            let numbers = core::iter::successors(Some(draw(0)), |number| Some(draw(*number)));
            let shown = numbers.take(1_000_000).filter(|number| *number >= skips(one_in)).count();
            let wanted = 1_000_000 / one_in as usize;
            assert!(shown.abs_diff(wanted) < wanted / 5, "1 in {one_in}: {shown}");
        }
    }
}
