//! Values, lists of them, and sets.

use super::Names;
use crate::{
    lower::filter::{FilterFault, Interval, Unsupported, merged},
    model::{OwnDynamic, OwnSet, Place, Step},
    rule::{Element, Item, ItemKind, LinkPattern, Range, SetName, Test, Timeout, Value, Values},
};

/// The first place for what is read (`NFT_REG32_00`).
pub(super) const FIRST: Place = 8;
/// `IFNAMSIZ`.
pub(super) const NAME_BYTES: usize = 16;
/// nft's number for a type without a name.
const TYPE_INTEGER: u32 = 4;

/// Values first and last, as numbers.
pub(super) type Span = Interval;

/// What a field holds: nft's number of its type, and its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind(pub u32, pub usize);

impl Kind {
    /// Of so many bytes.
    pub(super) const fn plain(bytes: usize) -> Self {
        Self(TYPE_INTEGER, bytes)
    }

    pub(super) const fn of(kind: ItemKind) -> Self {
        match kind {
            ItemKind::Ipv4 => Self(7, 4),
            ItemKind::Ipv6 => Self(8, 16),
            ItemKind::Ether => Self(9, 6),
            ItemKind::Protocol => Self(12, 1),
            ItemKind::Service => Self(13, 2),
            ItemKind::Mark => Self(19, 4),
            ItemKind::Link => Self(41, NAME_BYTES),
        }
    }

    pub(super) fn bytes(self, value: u128) -> Vec<u8> {
        value.to_be_bytes()[16 - self.1..].to_vec()
    }

    /// Places that a value takes.
    pub(super) const fn places(self) -> Place {
        self.1.div_ceil(4) as Place
    }

    /// The highest value.
    fn last(self) -> u128 {
        u128::MAX >> (128 - 8 * self.1)
    }
}

/// The ranges of a list.
pub(super) fn spans<T: Value>(ranges: &[Range<T>]) -> Vec<Span> {
    ranges.iter().map(|range| range.ends()).map(|(low, high)| (low.bits(), high.bits())).collect()
}

/// The names that begin so, or are so, as numbers of sixteen bytes.
pub(super) fn name_span(name: &str) -> Option<Span> {
    let (start, open) = name.strip_suffix('*').map_or((name, false), |start| (start, true));
    if start.len() >= NAME_BYTES {
        return None;
    }
    let mut bytes = [0; NAME_BYTES];
    bytes[..start.len()].copy_from_slice(start.as_bytes());
    let low = u128::from_be_bytes(bytes);
    let rest = if start.is_empty() { u128::MAX } else { u128::MAX >> (8 * start.len()) };
    Some((low, if open { low | rest } else { low }))
}

/// Names of links that patterns stand for.
pub(super) fn link_spans<'p>(patterns: impl IntoIterator<Item = &'p LinkPattern>, names: Names<'_>) -> Vec<Span> {
    patterns.into_iter().flat_map(|pattern| (names.links)(pattern)).filter_map(|name| name_span(&name)).collect()
}

/// Compares what is in the first place with any of the spans, or with none of them.
pub(super) fn compare(kind: Kind, negated: bool, spans: Vec<Span>) -> Vec<Step> {
    let spans = merged(spans);
    match spans[..] {
        // A name that no link can have.
        [] if negated => Vec::new(),
        [] => vec![Step::Compare(FIRST, false, vec![0; kind.1])],
        [(low, high)] if low == high => vec![Step::Compare(FIRST, negated, kind.bytes(low))],
        [(0, high)] if high == kind.last() && !negated => Vec::new(),
        [(low, high)] => match prefix(kind, low, high) {
            Some(mask) => {
                vec![Step::Mask(FIRST, kind.bytes(mask)), Step::Compare(FIRST, negated, kind.bytes(low))]
            }
            None => vec![Step::Within(FIRST, negated, kind.bytes(low), kind.bytes(high))],
        },
        _ => {
            let intervals = spans.iter().any(|(low, high)| low != high);
            let elements = spans.iter().map(|(low, high)| vec![(kind.bytes(*low), kind.bytes(*high))]).collect();
            vec![Step::In(
                FIRST,
                negated,
                OwnSet { fields: vec![(kind.0, kind.1)], intervals, elements, ..OwnSet::default() },
            )]
        }
    }
}

/// The mask of the block that has exactly these values.
fn prefix(kind: Kind, low: u128, high: u128) -> Option<u128> {
    let host = low ^ high;
    let aligned = low & host == 0 && host & host.wrapping_add(1) == 0;
    (aligned && (kind.1 == 4 || kind.1 == NAME_BYTES)).then_some(kind.last() & !host)
}

/// The same for a test of values in the rule or in a set.
pub(super) fn compared<T: Value>(kind: Kind, test: &Test<Range<T>>, number: impl Fn(Span) -> Span) -> Vec<Step> {
    match test.values() {
        Values::Listed(ranges) => compare(kind, test.negated(), spans(ranges).into_iter().map(number).collect()),
        Values::Set(name) => vec![in_set(test.negated(), name)],
    }
}

pub(super) fn in_set(negated: bool, name: &SetName) -> Step {
    Step::InSet(FIRST, negated, name.as_str().to_owned())
}

/// A set with a name. `times_out`: some rule gives its elements a time.
pub(super) fn named(name: &SetName, names: Names<'_>, times_out: bool) -> Result<OwnSet, FilterFault> {
    let unknown = || FilterFault::Unsupported(Unsupported::Set(name.to_string()));
    if let Some((kind, dynamic)) = (names.dynamic)(name) {
        let fields = kind.kinds().iter().map(|kind| Kind::of(*kind)).map(|kind| (kind.0, kind.1)).collect();
        let filled = OwnDynamic {
            timeout: dynamic.timeout.map(Timeout::millis),
            times_out: dynamic.timeout.is_some() || times_out,
            size: dynamic.size,
        };
        let name = Some(name.as_str().to_owned());
        return Ok(OwnSet { name, fields, intervals: false, elements: Vec::new(), dynamic: Some(filled) });
    }
    let (kind, elements) = (names.sets)(name).ok_or_else(unknown)?;
    let kinds: Vec<_> = kind.kinds().iter().map(|kind| Kind::of(*kind)).collect();
    let set = joined(&kinds, elements, names);
    Ok(OwnSet { name: Some(name.as_str().to_owned()), ..set })
}

/// Elements of several fields, or of one.
pub(super) fn joined(kinds: &[Kind], elements: &[Element], names: Names<'_>) -> OwnSet {
    let mut rows: Vec<Vec<Span>> = elements.iter().flat_map(|element| alternatives(element, names)).collect();
    if kinds.len() == 1 {
        let spans = merged(rows.into_iter().flatten().collect());
        rows = spans.into_iter().map(|span| vec![span]).collect();
    } else {
        rows.sort_unstable();
        rows.dedup();
    }
    let bytes =
        |row: Vec<Span>| kinds.iter().zip(row).map(|(kind, (low, high))| (kind.bytes(low), kind.bytes(high))).collect();
    let fields = kinds.iter().map(|kind| (kind.0, kind.1)).collect();
    OwnSet { fields, intervals: true, elements: rows.into_iter().map(bytes).collect(), ..OwnSet::default() }
}

/// An element, once for each name of its links.
fn alternatives(element: &Element, names: Names<'_>) -> Vec<Vec<Span>> {
    let mut rows = vec![Vec::new()];
    for item in &element.0 {
        let spans = alternatives_of(item, names.links);
        rows = rows.iter().flat_map(|row| spans.iter().map(move |span| [&row[..], &[*span]].concat())).collect();
    }
    rows
}

/// The values of an item, with the names that a pattern stands for.
pub(super) fn alternatives_of(item: &Item, links: &dyn Fn(&LinkPattern) -> Vec<String>) -> Vec<Span> {
    match item {
        Item::Ipv4(range) => spans(&[*range]),
        Item::Ipv6(range) => spans(&[*range]),
        Item::Ether(range) => spans(&[*range]),
        Item::Protocol(range) => spans(&[*range]),
        Item::Service(range) => spans(&[*range]),
        Item::Mark(range) => spans(&[*range]),
        Item::Link(pattern) => links(pattern).iter().filter_map(|name| name_span(name)).collect(),
    }
}
