//! Sets that rules match: tables of elements, one for each combination of masks.

use super::{
    ADDRESS_WORDS, Hash, Key, Lines, WORDS, extra, field,
    hash::{slot, word},
};

/// How far from its home a value of a narrow set may be.
pub const SLOT_PROBES: u32 = 8;
/// Sets that one rule can match.
pub const RULE_SETS: usize = 3;
/// Words of an element of a set.
pub const ELEMENT_WORDS: usize = 6;

/// The sets of an entry's extra fields: how many, and which must not contain the packet.
#[inline(always)]
pub fn sets<L: Lines>(lines: &L, base: u32, unit: u32) -> u64 {
    word(lines, base + unit / 2 + 1, extra::LENGTH) >> 32
}

/// A set of an entry's extra fields: its tables (line of the first `<< 32`, how many), and its selectors.
#[inline(always)]
pub fn set<L: Lines>(lines: &L, base: u32, unit: u32, number: usize) -> (u64, u64) {
    let at = extra::SETS + 2 * number;
    (word(lines, base + unit / 2 + 1, at), word(lines, base + unit / 2 + 1, at + 1))
}

/// What a component of an element is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Selector {
    /// No more components.
    End = 0,
    /// IPv4 destination.
    Destination4 = 1,
    /// IPv4 source.
    Source4 = 2,
    /// IPv6 destination: two words.
    Destination6 = 3,
    /// IPv6 source: two words.
    Source6 = 4,
    /// Destination port.
    DestinationPort = 5,
    /// Source port.
    SourcePort = 6,
    /// Protocol.
    Protocol = 7,
    /// Way in.
    Iif = 8,
    /// Way out.
    Oif = 9,
    /// Link destination.
    LinkDestination = 10,
    /// Link source.
    LinkSource = 11,
}

impl Selector {
    /// Words of an element that it takes.
    pub const fn words(self) -> usize {
        match self {
            Self::End => 0,
            Self::Destination6 | Self::Source6 => 2,
            _ => 1,
        }
    }

    /// The same of the selector with a number, which takes some. Without a branch: the verifier would follow each sum of them.
    #[inline(always)]
    const fn words_of(number: u64) -> usize {
        // 3 and 4 take two.
        let differs = ((number + 1) >> 1) ^ 2;
        1 + (differs.wrapping_sub(1) >> 63) as usize
    }
}

/// The words to look up in a set. Masks say which of them count.
pub type Sought = [u64; WORDS];

/// What a selector picks from a packet: its first word and, where it takes two, its second.
#[inline(always)]
fn pick(key: &Key, selector: u64) -> (u64, u64) {
    let link = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let fields = &key.fields;
    let number = |at: usize| field::key_order(at, fields[at]);
    let word = match selector {
        1 => key.address[0] >> 32,
        2 => key.address[0] & 0xffff_ffff,
        // By a number: LLVM would keep a pointer to each word on the stack.
        3 | 4 => {
            let first = 2 * (selector as usize - 3);
            return (key.address[first % ADDRESS_WORDS], key.address[(first + 1) % ADDRESS_WORDS]);
        }
        5 => key.mixed >> 32 & 0xffff,
        6 => key.mixed >> 48,
        7 => key.mixed >> 24 & 0xff,
        8 => u64::from(fields[field::IIF]),
        9 => u64::from(fields[field::OIF]),
        10 => {
            let (first, middle) = (number(field::LINK_DESTINATION), number(field::LINK_MIDDLE));
            link(first >> 16, first << 16 | middle >> 16)
        }
        _ => link(number(field::LINK_MIDDLE) & 0xffff, number(field::LINK_SOURCE)),
    };
    (word, 0)
}

/// Notes in a key what its selectors pick, the first in the lowest byte. Behind the last word one more is overwritten, which no
/// mask covers.
#[inline(always)]
pub fn seek(key: &mut Key, selectors: u64) {
    let mut at = 0;
    let mut component = 0;
    while component < ELEMENT_WORDS {
        let selector = selectors >> (8 * component) & 0xff;
        if selector == Selector::End as u64 {
            break;
        }
        let (first, second) = pick(key, selector);
        key.sought[at % WORDS] = first;
        key.sought[(at + 1) % WORDS] = second;
        at += Selector::words_of(selector);
        component += 1;
    }
}

/// Elements of one table that may share a slot.
pub const MAX_CHAIN: u32 = 8;

/// Where the one word of a narrow element, below 2^32, is looked for.
#[inline(always)]
pub const fn narrow_hash(value: u32) -> u32 {
    let mixed = (value ^ value >> 16).wrapping_mul(0x7feb_352d);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x846c_a68b);
    mixed ^ mixed >> 16
}

/// Whether the slots of a narrow table have a value: linear, from its home on.
#[inline(always)]
pub fn has<L: Lines>(lines: &L, base: u32, slots: u64, value: u32) -> bool {
    let (mask, home) = ((slots >> 32) as u32, narrow_hash(value));
    let mut probe = 0;
    while probe < SLOT_PROBES {
        let slot = home.wrapping_add(probe) & mask;
        let found = word(lines, base + slots as u32 + slot / WORDS as u32, slot as usize % WORDS);
        if found == 0 || found == narrow_slot(value) {
            return found != 0;
        }
        probe += 1;
    }
    false
}

/// The slot of a value: never 0.
#[inline(always)]
pub const fn narrow_slot(value: u32) -> u64 {
    (value as u64) << 32 | 1
}

/// Whether the table of a set at a line holds what is sought. Its line has six masks, its slots, and in the last word whether
/// it is narrow: of one word below 2^32, which is the slot itself. Otherwise the number of a slot is the line of an element:
/// its words, and the line of the next in that slot, or 0. `has_value` looks into narrow slots ([`has`]), and `is_same` says
/// whether an element is the one ([`is_element`]).
#[inline(always)]
pub fn holds<L: Lines>(
    lines: &L,
    base: u32,
    set: u32,
    sought: &Sought,
    (has_value, is_same): (impl Fn(u64, u32) -> bool, impl Fn(u32) -> bool),
) -> bool {
    let Some(line) = lines.line(base + set) else { return false };
    let slots = lines.word(line, set_table::SLOTS);
    if lines.word(line, set_table::NARROW) != 0 {
        return has_value(slots, (sought[0] & lines.word(line, 0)) as u32);
    }
    let mut hash = Hash::START;
    let mut at = 0;
    while at < ELEMENT_WORDS {
        hash = hash.with(sought[at] & lines.word(line, at));
        at += 1;
    }
    let mut element = slot(lines, base, slots, hash.tag());
    let mut chained = 0;
    while element != 0 && chained < MAX_CHAIN {
        if is_same(element) {
            return true;
        }
        element = word(lines, base + element, set_table::NEXT) as u32;
        chained += 1;
    }
    false
}

/// Whether the element at a line is what is sought in the table of a set.
#[inline(always)]
pub fn is_element<L: Lines>(lines: &L, base: u32, set: u32, element: u32, sought: &Sought) -> bool {
    let (Some(set), Some(element)) = (lines.line(base + set), lines.line(base + element)) else { return false };
    (0..ELEMENT_WORDS).all(|at| !element_differs(lines, (set, element), sought, at))
}

/// Whether word `at` of an element is another than that which is sought in the table of a set.
#[inline(always)]
pub fn element_differs<L: Lines>(lines: &L, (set, element): (L::Line, L::Line), sought: &Sought, at: usize) -> bool {
    sought[at % WORDS] & lines.word(set, at) != lines.word(element, at)
}

/// Which words of the line of a set's table, and of an element, are what; the first six are masks, or values.
pub mod set_table {
    /// Of a table: as [`crate::abi::table::SLOTS`]; of a narrow one: number of slots less one `<< 32`, line of the first slot.
    pub const SLOTS: usize = super::ELEMENT_WORDS;
    /// Of an element: the line of the next in its slot, or 0.
    pub const NEXT: usize = super::ELEMENT_WORDS;
    /// Of a table: whether its slots hold whole elements.
    pub const NARROW: usize = 7;
}

#[cfg(test)]
mod tests {
    use super::Selector::{self, *};

    #[test]
    fn words_are_the_same_by_number() {
        let all: [Selector; 11] = [
            Destination4,
            Source4,
            Destination6,
            Source6,
            DestinationPort,
            SourcePort,
            Protocol,
            Iif,
            Oif,
            LinkDestination,
            LinkSource,
        ];
        for selector in all {
            assert_eq!(Selector::words_of(selector as u64), selector.words(), "{selector:?}");
        }
    }
}
