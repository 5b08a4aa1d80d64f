//! The flow table: which row is for a packet, whether that carries it, and the witness that arms it.
//!
//! Both searches are global functions at the hooks: the verifier looks at them once, and what they find stands in
//! [`maps::flow_context`].

#![expect(unsafe_code, reason = "the flow of the packet stands in a map, where the verifier does not follow it")]

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes_relative};
use dataplane_common::{
    Reason,
    abi::{
        ADDRESS_WORDS, FlowContext, Ifindex,
        flow::{CLOSING, FLOW_PROBES, NO_ROW, RowLayout, RowState, home, ports, row, swapped, twin},
    },
    decide::{self, Family, FlowTime, RowVerdict, V4, V6},
    wire::{Address6, Bytes, EtherType, IPV4_FRAGMENT_MASK, IPV4_MORE_FRAGMENTS, Ipv4, Ipv6, protocol},
};

use crate::{
    features, liveness,
    maps::{self, FlowState, Flows, Row},
};

/// `BPF_HDR_START_NET` (`include/uapi/linux/bpf.h`): from the network header on.
const START_NET: u32 = 1;

/// What [`look_up`] needs to know of a packet beside its bytes, in one word: the interface, the family, and what the IP header
/// has.
#[derive(Clone, Copy)]
pub struct Query(u64);

impl Query {
    /// For a packet that came in through `iif`.
    #[inline(always)]
    pub const fn new(iif: Ifindex, family: u32, protocol: u64, ttl: u64, dscp: u32) -> Self {
        Self(
            (iif as u64) << 32
                | (dscp as u64 & 0x3f) << 24
                | (ttl & 0xff) << 16
                | (protocol & 0xff) << 8
                | family as u64,
        )
    }

    /// As one number, for global functions.
    #[inline(always)]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// See [`Self::raw`].
    #[inline(always)]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

/// Finds the row for a packet whose transport header is at `at`, with `left` bytes from there, and writes to
/// [`maps::flow_context`] what the row does with it. The addresses stand there already.
#[inline(always)]
pub fn look_up<B: Bytes>(packet: &B, at: usize, left: usize, query: Query) {
    if query.0 & 0xff == u64::from(V6::NUMBER) {
        look_up_row::<V6, B>(packet, at, left, query);
    } else {
        look_up_row::<V4, B>(packet, at, left, query);
    }
}

#[inline(always)]
fn look_up_row<F: Flows, B: Bytes>(packet: &B, at: usize, left: usize, query: Query) {
    let (Some(context), Some(flows)) = (maps::flow_context(), maps::flow_state()) else { return };
    let context = context.as_ptr();
    let header = decide::flow_header(packet, query.0 >> 8 & 0xff, at, left);
    // It also says what moment it is.
    if header.is_none() || liveness::controller_gone() {
        return;
    }
    // SAFETY: the slot is this CPU's own.
    let addresses = unsafe { (*context).addresses };
    let Some(index) = search::<F>(flows, &addresses, header.ports()) else { return };
    let Some(found) = F::row(index) else { return };
    let state = RowState::of(found.word(row::WAY), found.word(row::STAGE), found.word(row::LEASE));
    let time = FlowTime { epoch: flows.epoch(), now: maps::moment(), lease: flows.lease() };
    let verdict = decide::judge_row(&state, time, (query.0 >> 32) as Ifindex, header);
    // From the side that answers it is invalid, or a new connection: not translated, and for this machine where its address is.
    if verdict == RowVerdict::Closing && header.opens() && found.word(F::LAYOUT.ports) & ports::REPLY != 0 {
        return;
    }
    // SAFETY: as above.
    unsafe { (*context).row = u64::from(index) };
    if verdict == RowVerdict::Carry {
        let new = F::LAYOUT.new_addresses;
        let second = if F::LAYOUT.addresses == 1 { 0 } else { found.word(new + 1) };
        // SAFETY: as above.
        unsafe { (*context).destination = [found.word(new), second] };
        // SAFETY: as above.
        unsafe { (*context).carried = 1 };
        return;
    }
    // SAFETY: as above.
    unsafe { (*context).reason = settle::<F>(found, verdict, query) };
}

/// Notes at a row that the kernel gets the packet; returns the number of the reason.
#[inline(always)]
fn settle<F: Flows>(found: Row, verdict: RowVerdict, query: Query) -> u64 {
    let reason = match verdict {
        RowVerdict::Closing => Reason::FlowClosing,
        RowVerdict::Renew => Reason::FlowRenew,
        RowVerdict::Carry | RowVerdict::Unarmed => Reason::FlowUnarmed,
    };
    if !features::DRY_RUN.on() {
        if verdict == RowVerdict::Closing {
            close(found);
            if let Some(other) = F::row(twin::row(found.word(F::LAYOUT.twin))) {
                close(other);
            }
        }
        found.set_part(row::STAGE, row::stage::TTL, (query.0 >> 16) as u8);
        found.set_part(row::STAGE, row::stage::DSCP, (query.0 >> 24) as u8);
        if verdict == RowVerdict::Renew {
            found.set_part(row::STAGE, row::stage::ARMED, 0_u16);
        }
    }
    reason as u64
}

/// From now on: the controller opens the row again where the connection then goes on (a forged FIN, RST or SYN ends nothing).
#[inline(always)]
fn close(row: Row) {
    let known: u8 = row.part(row::STAGE, row::stage::CLOSING);
    if known != CLOSING {
        row.set_part(row::LEASE, row::lease::WITNESS, maps::moment());
        row.set_part(row::STAGE, row::stage::CLOSING, CLOSING);
    }
}

/// The row for a flow.
#[inline(always)]
fn search<F: Flows>(flows: FlowState, addresses: &[u64; ADDRESS_WORDS], ports: u64) -> Option<u32> {
    let RowLayout { addresses: count, ports: at, .. } = F::LAYOUT;
    let (mask, home) = (flows.mask::<F>(), home(flows.seed(), addresses, count, ports));
    for probe in 0..FLOW_PROBES {
        let index = home.wrapping_add(probe) & mask;
        let row = F::row(index)?;
        let word = row.word(at);
        if ports::agree(word, ports) && same(row, addresses, count) {
            return Some(index);
        }
        if ports::is_free(word) {
            return None;
        }
    }
    None
}

#[inline(always)]
fn same(row: Row, addresses: &[u64; ADDRESS_WORDS], count: usize) -> bool {
    let mut differ = row.word(0) ^ addresses[0];
    let mut at = 1;
    while at < count {
        differ |= row.word(at) ^ addresses[at];
        at += 1;
    }
    differ == 0
}

/// Forgets the packet before.
#[inline(always)]
pub fn begin(context: *mut FlowContext) {
    // SAFETY: the slot is this CPU's own.
    unsafe { (*context).row = NO_ROW };
    // SAFETY: as above.
    unsafe { (*context).carried = 0 };
    // SAFETY: as above.
    unsafe { (*context).reason = 0 };
}

/// Keeps the addresses of the packet at hand.
#[inline(always)]
pub fn store_addresses<F: Family>(context: *mut FlowContext, destination: F::Address, source: F::Address) {
    // SAFETY: the slot is this CPU's own.
    F::fill(unsafe { &mut (*context).addresses }, destination, source);
}

/// The destination that the packet at hand is routed by, where a row carries it; else `other`.
#[inline(always)]
pub fn destination<F: Flows>(other: F::Address) -> F::Address {
    let Some(context) = maps::flow_context() else { return other };
    // SAFETY: the slot is this CPU's own.
    let words = unsafe { &raw const (*context.as_ptr()).destination };
    // SAFETY: as above.
    F::destination(unsafe { words.read_volatile() })
}

/// Whether a row carries the packet at hand. Read anew each time, as all that stands in a map.
#[inline(always)]
pub fn is_carried() -> bool {
    maps::flow_context().is_some_and(|context| {
        // SAFETY: a word of the context, which is this CPU's own.
        let carried = unsafe { &raw const (*context.as_ptr()).carried };
        // SAFETY: as above.
        unsafe { carried.read_volatile() != 0 }
    })
}

/// Why the packet at hand, which has a row, is the kernel's; none if it has no row, or is carried.
#[inline(always)]
pub fn reason() -> Option<Reason> {
    let context = maps::flow_context()?;
    // SAFETY: as above.
    let reason = unsafe { &raw const (*context.as_ptr()).reason };
    // SAFETY: as above.
    match unsafe { reason.read_volatile() } {
        0 => None,
        number if number == Reason::FlowClosing as u64 => Some(Reason::FlowClosing),
        number if number == Reason::FlowRenew as u64 => Some(Reason::FlowRenew),
        _ => Some(Reason::FlowUnarmed),
    }
}

/// The row that carries the packet at hand.
#[inline(always)]
pub fn carrier<F: Flows>() -> Option<Row> {
    let context = maps::flow_context()?;
    // SAFETY: as above.
    let index = unsafe { &raw const (*context.as_ptr()).row };
    // SAFETY: as above.
    F::row(unsafe { index.read_volatile() } as u32)
}

/// A packet leaves that the kernel has let through: arms the row of its direction, for the epoch that the packet carried up.
pub fn witness(skb: *mut __sk_buff, epoch: u32) {
    let Some(flows) = maps::flow_state() else { return };
    let arming = flows.arming();
    if arming & 0xff != epoch || liveness::controller_gone() {
        return;
    }
    // SAFETY: the context is the program's own.
    let kind = unsafe { (*skb).protocol } as u16;
    if kind == EtherType::IPV4.0.raw() {
        arm::<V4>(skb, flows, arming);
    } else if kind == EtherType::IPV6.0.raw() {
        arm::<V6>(skb, flows, arming);
    }
}

/// What leaves, as a row of its direction has it: the words of addresses and ports that it came to have, TTL and DSCP.
struct Departure {
    addresses: [u64; ADDRESS_WORDS],
    ports: u64,
    ttl: u8,
    dscp: u8,
}

/// A family whose packets are read when they leave.
trait Departs: Flows {
    /// Reads one; none if no row carries such.
    fn departure(skb: *mut __sk_buff) -> Option<Departure>;
}

/// Reads from the network header on, wherever that is.
#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the context is the program's own, and there is room for as many bytes.
    let done = unsafe { bpf_skb_load_bytes_relative(skb.cast(), 0, (&raw mut bytes).cast(), N as u32, START_NET) };
    (done == 0).then_some(bytes)
}

#[inline(always)]
const fn word(bytes: [u8; 4]) -> u64 {
    u32::from_be_bytes(bytes) as u64
}

impl Departs for V4 {
    #[inline(always)]
    fn departure(skb: *mut __sk_buff) -> Option<Departure> {
        const LENGTH: usize = size_of::<Ipv4>();
        let bytes = load::<{ LENGTH + 4 }>(skb)?;
        let fragment = u16::from_be_bytes([bytes[6], bytes[7]]) & (IPV4_FRAGMENT_MASK | IPV4_MORE_FRAGMENTS);
        let number = u64::from(bytes[9]);
        if bytes[0] != 0x45 || fragment != 0 || !has_rows(number) {
            return None;
        }
        let source = word([bytes[12], bytes[13], bytes[14], bytes[15]]);
        let destination = word([bytes[16], bytes[17], bytes[18], bytes[19]]);
        Some(Departure {
            addresses: [destination << 32 | source, 0, 0, 0],
            ports: word([bytes[20], bytes[21], bytes[22], bytes[23]]) << 32 | number << ports::PROTOCOL,
            ttl: bytes[8],
            dscp: bytes[1] >> 2,
        })
    }
}

impl Departs for V6 {
    #[inline(always)]
    fn departure(skb: *mut __sk_buff) -> Option<Departure> {
        const LENGTH: usize = size_of::<Ipv6>();
        let bytes = load::<{ LENGTH + 4 }>(skb)?;
        let number = u64::from(bytes[6]);
        if !has_rows(number) {
            return None;
        }
        let address = |at: usize| {
            let half = |at: usize| {
                word([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) << 32
                    | word([bytes[at + 4], bytes[at + 5], bytes[at + 6], bytes[at + 7]])
            };
            Address6 { high: half(at), low: half(at + 8) }
        };
        let mut addresses = [0; ADDRESS_WORDS];
        V6::fill(&mut addresses, address(24), address(8));
        Some(Departure {
            addresses,
            ports: word([bytes[40], bytes[41], bytes[42], bytes[43]]) << 32 | number << ports::PROTOCOL,
            ttl: bytes[7],
            dscp: (bytes[0] << 4 | bytes[1] >> 4) >> 2,
        })
    }
}

/// Whether connections of this protocol have rows.
#[inline(always)]
const fn has_rows(number: u64) -> bool {
    matches!(number, protocol::TCP | protocol::UDP)
}

#[inline(always)]
fn arm<F: Departs>(skb: *mut __sk_buff, flows: FlowState, epoch: u32) {
    // SAFETY: the context is the program's own.
    let iif = unsafe { (*skb).ingress_ifindex };
    // SAFETY: as above.
    let oif = unsafe { (*skb).ifindex };
    // What begins on this machine says nothing of what is forwarded.
    if iif == 0 {
        return;
    }
    let Some(seen) = F::departure(skb) else { return };
    // The answer to it is what the row of the other direction is for.
    let [source, destination] = ports::pair(seen.ports);
    let answer = ports::of(destination, source, ports::protocol(seen.ports));
    let addresses = swapped(seen.addresses, F::LAYOUT.addresses);
    let Some(other) = search::<F>(flows, &addresses, answer).and_then(F::row) else { return };
    let Some(found) = F::row(twin::row(other.word(F::LAYOUT.twin))) else { return };
    let stage = found.word(row::STAGE);
    let (ttl, dscp) = ((stage >> (8 * row::stage::TTL)) as u8, (stage >> (8 * row::stage::DSCP)) as u8);
    let closing = (stage >> (8 * row::stage::CLOSING)) as u8 == CLOSING;
    // Rules that write TTL or DSCP would be passed by.
    if closing || ttl.wrapping_sub(1) != seen.ttl || dscp != seen.dscp {
        return;
    }
    found.set(row::WAY, u64::from(iif) << 32 | u64::from(oif));
    found.set_part(row::LEASE, row::lease::WITNESS, maps::moment());
    found.set_part(row::STAGE, row::stage::ARMED, epoch as u16);
}
