//! One step of a search: the lookup in a table, the match of an entry. Each half of the program puts the steps together.

use super::{
    ADDRESS_WORDS, CatchAll, FIELD_WORDS, Hash, Key, Lines, Prefilter, entry, extra,
    hash::{slot, word},
    table,
};

/// Entries that one masked key can have.
pub const RUN: u32 = 1 << 20;

/// A search on its way. It is here, not on a stack, because the verifier follows what is there through every turn of a loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Search {
    /// Line at which the generation begins.
    pub base: u32,
    /// Line of the first table.
    pub first: u32,
    /// Line of the first of the tables that `left` covers.
    pub at: u32,
    /// Line of the first table behind those.
    pub table: u32,
    /// The line behind the last.
    pub end: u32,
    /// Which tables have something for the packet.
    pub prefilter: Prefilter,
    /// The next entry of the run at hand; 0 when there is none.
    pub unit: u32,
    /// Bits of the tables that remain to be searched, from `at` on.
    pub left: u64,
    /// Order of the first rule that counts.
    pub from: u64,
    /// Order of the rule found; from [`Self::NONE`] on when none is.
    pub best: u64,
    /// Its word [`entry::RULE`].
    pub rule: u64,
    /// What is found when the search begins anew.
    pub catch_all: CatchAll,
    /// Bytes to count at rules.
    pub bytes: u64,
    /// The first rules that log or reject: the lower halves of their words [`entry::RULE`]; 0 when there are none.
    pub log_rules: [u32; 2],
    /// Line of the first table of the set at hand.
    pub set: u32,
    /// Whether it holds the packet.
    pub in_set: u32,
    /// Not 0: nothing is counted, logged or rejected.
    pub quiet: u32,
    /// Ways out that chain forward has refused: bits of their classes, and above them how many it has accepted.
    pub egress_classes: u32,
    /// Not 0: more of the packet was read than a row of the verdict cache has.
    pub beyond: u32,
    /// Zero.
    pub reserved: u32,
}

impl Search {
    /// Beyond the order of every rule.
    pub const NONE: u64 = 1 << 32;

    /// From the first table on: found is what no table has.
    #[inline(always)]
    pub const fn rewind(&mut self) {
        self.table = self.first;
        self.best = self.catch_all.order;
        self.rule = self.catch_all.rule;
    }

    /// Whether no rule was found.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.best >= Self::NONE
    }

    /// What was found, as [`super::chain_trace`] has it.
    #[inline(always)]
    pub const fn trace_word(&self) -> u32 {
        let found = super::chain_trace::EVALUATED | super::chain_trace::RULE | (self.rule & entry::COUNTER) as u32;
        if self.is_empty() { super::chain_trace::EVALUATED } else { found }
    }
}

/// What one look into a table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Nothing in it fits, nor in the tables behind it: all of them come later.
    Over,
    /// No entry has this masked key.
    Nothing,
    /// The unit at which the run begins.
    Run(u32),
}

/// Looks into the table at a line. `best` is the order of what was found so far.
#[inline(always)]
pub fn probe<L: Lines>(lines: &L, base: u32, table: u32, key: &Key, ipv6: bool, best: u64) -> Probe {
    let Some(line) = lines.line(base + table) else { return Probe::Over };
    if lines.word(line, table::FIRST) >= best {
        return Probe::Over;
    }
    let mut hash = Hash::START.with(key.mixed & lines.word(line, table::MIXED));
    hash = hash.with(key.address[0] & lines.word(line, 0));
    if ipv6 {
        hash = hash.with(key.address[1] & lines.word(line, 1));
        hash = hash.with(key.address[2] & lines.word(line, 2));
        hash = hash.with(key.address[3] & lines.word(line, 3));
    }
    match slot(lines, base, lines.word(line, table::SLOTS), hash.tag()) {
        0 => Probe::Nothing,
        run => Probe::Run(run),
    }
}

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryMatch {
    /// Nothing more in this run.
    End,
    /// Not this one.
    Next,
    /// This one, if the rest at the unit (0: there is none) agrees; and whether it is the last of its run.
    Fits {
        /// Its place in the order of rules.
        order: u32,
        /// Its word [`entry::RULE`].
        rule: u64,
        /// Whether it is the last of its run.
        last: bool,
    },
}

/// The mask of a prefix of up to 32 bits.
#[inline(always)]
pub const fn mask32(length: u64) -> u64 {
    (0xffff_ffff_0000_0000 >> length) & 0xffff_ffff
}

/// The mask of a prefix of up to 64 bits.
#[inline(always)]
pub const fn mask64(length: u64) -> u64 {
    // No shift may be by 64.
    !(!0 >> (length >> 1) >> (length - (length >> 1)))
}

/// All ones when `flag` is 1, and zero when it is 0.
#[inline(always)]
const fn all(flag: u64) -> u64 {
    0_u64.wrapping_sub(flag)
}

/// Not zero when `value` is not in the span of the two halves of `span`'s lower 32 bits.
#[inline(always)]
const fn outside(value: u64, span: u64) -> u64 {
    (value.wrapping_sub(span >> 16 & 0xffff) | (span & 0xffff).wrapping_sub(value)) >> 63
}

/// Matches the entry at a unit (an IPv4 entry is a unit, an IPv6 entry two). Orders below `from` and from `best` on do not
/// count.
///
/// `ipv6` is for IPv6 entries, and says whether their addresses differ from the packet's ([`differ`]). All comparisons become
/// one number: the verifier follows every branch.
#[inline(always)]
pub fn match_entry<L: Lines>(
    lines: &L,
    base: u32,
    unit: u32,
    key: &Key,
    (from, best): (u64, u64),
    ipv6: Option<impl Fn() -> u64>,
) -> EntryMatch {
    let Some(line) = lines.line(base + unit / 2) else { return EntryMatch::End };
    let first = if ipv6.is_some() { 0 } else { (unit as usize & 1) * 4 };
    let behind = first + if ipv6.is_some() { ADDRESS_WORDS } else { 1 };
    let numbers = lines.word(line, behind + entry::NUMBERS);
    let order = numbers >> 32;
    if order >= best {
        return EntryMatch::End;
    }
    let mut differs = order.wrapping_sub(from) >> 63;
    if let Some(differ) = ipv6 {
        differs |= differ();
    } else {
        let (destination, source) = (numbers >> 24 & 0x3f, numbers >> 16 & 0x3f);
        differs |= (key.address[0] ^ lines.word(line, first)) & (mask32(destination) << 32 | mask32(source));
    }
    let ports = lines.word(line, behind + entry::PORTS);
    differs |= outside(key.mixed >> 48, ports >> 32) | outside(key.mixed >> 32 & 0xffff, ports);
    differs |= (key.mixed >> 24 ^ numbers >> 8) & 0xff & all(numbers >> 4 & 1);
    differs |= numbers & 0xf & !u64::from(key.flags.bits());
    let last = numbers & entry::LAST != 0;
    if differs != 0 {
        return if last { EntryMatch::End } else { EntryMatch::Next };
    }
    EntryMatch::Fits { order: order as u32, rule: lines.word(line, behind + entry::RULE), last }
}

/// Not zero when the addresses of the IPv6 entry at a unit are not those of the packet.
#[inline(always)]
pub fn differ<L: Lines>(lines: &L, base: u32, unit: u32, key: &Key) -> u64 {
    let Some(line) = lines.line(base + unit / 2) else { return 1 };
    let lengths = lines.word(line, entry::LENGTHS_V6);
    let (mut differs, mut at) = (0, 0);
    while at < ADDRESS_WORDS {
        differs |= (key.address[at] ^ lines.word(line, at)) & mask64(lengths >> (8 * at) & 0x7f);
        at += 1;
    }
    differs
}

/// Not 0 when the rest at a unit reads more of a packet than a row of the verdict cache has.
#[inline(always)]
pub fn reads_beyond<L: Lines>(lines: &L, base: u32, unit: u32) -> u32 {
    u32::from(word(lines, base + unit / 2 + 1, extra::LENGTH) & extra::BEYOND != 0)
}

/// Whether the extra fields at a unit match a packet. [`super::holds`] looks up its sets.
#[inline(always)]
pub fn agrees<L: Lines>(lines: &L, base: u32, unit: u32, key: &Key) -> bool {
    let Some(line) = lines.line(base + unit / 2) else { return false };
    let mut at = 0;
    let mut differs = 0;
    while at < FIELD_WORDS {
        let pair = lines.word(line, at);
        differs |= (key.fields[at] ^ pair as u32) & (pair >> 32) as u32;
        at += 1;
    }
    if differs != 0 {
        return false;
    }
    let spans = word(lines, base + unit / 2 + 1, extra::LENGTH);
    // Jumbograms and packets still to be cut are longer than a span can say.
    let length = if key.length > 0xffff { 0xffff } else { u64::from(key.length) };
    spans >> 16 & 0xffff <= length && length <= spans & 0xffff
}
