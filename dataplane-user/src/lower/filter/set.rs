//! Sets to the elements that the kernel half looks up.

use std::collections::{BTreeMap, HashMap};

use dataplane_common::abi::Ifindex;

use super::{
    Elements, Unsupported,
    bits::{Interval, merged, prefixes},
};
use crate::rule::{Element, Item, ItemKind, LinkPattern, SetName, SetType, Value};

/// What is known of a set: its type and its elements.
pub type Known<'s> = (&'s SetType, &'s [Element]);

/// The numbers of sets that rules match: places in [`super::LoweredFilter::sets`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetNumbers {
    /// By name, and whether ports are among the matched fields.
    named: HashMap<(SetName, bool), u32>,
    /// Of lists in rules: intervals of numbers with so many bits.
    listed: HashMap<(Vec<Interval>, u32), u32>,
    /// How many numbers are given away.
    count: u32,
}

impl SetNumbers {
    /// Adds those that a rule was lowered with beside these.
    pub fn extend(&mut self, new: Self) {
        self.named.extend(new.named);
        self.listed.extend(new.listed);
        self.count += new.count;
    }
}

/// The sets that rules match, as far as they have been met.
pub(super) struct Sets<'s, 'n> {
    known: &'s dyn Fn(&SetName) -> Option<Known<'s>>,
    /// What has a number already.
    before: &'n SetNumbers,
    new: SetNumbers,
    elements: Vec<Elements>,
}

impl<'s, 'n> Sets<'s, 'n> {
    pub(super) fn new(known: &'s dyn Fn(&SetName) -> Option<Known<'s>>, before: &'n SetNumbers) -> Self {
        Self { known, before, new: SetNumbers::default(), elements: Vec::new() }
    }

    /// The sets that had no number before, and their numbers.
    pub(super) fn into_new(self) -> (Vec<Elements>, SetNumbers) {
        (self.elements, self.new)
    }

    /// The number of a named set of items of one kind, which are no links.
    pub(super) fn named(&mut self, name: &SetName, asked: ItemKind) -> Result<u32, Unsupported> {
        self.joined(name, SetType::new(vec![asked]), true, &|_| Vec::new())
    }

    /// The number of a named set of this type, with its ports or without.
    pub(super) fn joined(
        &mut self,
        name: &SetName,
        asked: Option<SetType>,
        ports: bool,
        links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
    ) -> Result<u32, Unsupported> {
        let (_, elements) = self.known(name, asked)?;
        let key = (name.clone(), ports);
        if let Some(number) = self.before.named.get(&key).or_else(|| self.new.named.get(&key)) {
            return Ok(*number);
        }
        let number = self.listed_joined(elements, ports, links);
        self.new.named.insert(key, number);
        Ok(number)
    }

    /// The number of a set of these elements, with their ports or without.
    pub(super) fn listed_joined(
        &mut self,
        elements: &[Element],
        ports: bool,
        links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
    ) -> u32 {
        self.add(elements_of(elements, ports, links))
    }

    /// The number of a set of these intervals of numbers with so many bits.
    pub(super) fn listed(&mut self, intervals: impl Iterator<Item = Interval>, bits: u32) -> u32 {
        let key = (merged(intervals.collect()), bits);
        if let Some(number) = self.before.listed.get(&key).or_else(|| self.new.listed.get(&key)) {
            return *number;
        }
        let mut elements = Elements { narrow: bits <= 32, tables: BTreeMap::new() };
        for interval in &key.0 {
            insert(&mut elements, &[parts(*interval, bits)]);
        }
        let number = self.add(elements);
        self.new.listed.insert(key, number);
        number
    }

    /// The patterns of a set of links.
    pub(super) fn patterns(&self, name: &SetName) -> Result<Vec<LinkPattern>, Unsupported> {
        let (_, elements) = self.known(name, SetType::new(vec![ItemKind::Link]))?;
        let pattern = |item: &Item| if let Item::Link(pattern) = item { Some(pattern.clone()) } else { None };
        Ok(elements.iter().flat_map(|element| &element.0).filter_map(pattern).collect())
    }

    fn known(&self, name: &SetName, asked: Option<SetType>) -> Result<Known<'s>, Unsupported> {
        let (kind, elements) = (self.known)(name).ok_or_else(|| Unsupported::Set(name.to_string()))?;
        if Some(kind) == asked.as_ref() {
            return Ok((kind, elements));
        }
        let asked = asked.map_or_else(String::new, |asked| asked.to_string());
        Err(Unsupported::SetType { set: name.to_string(), kind: kind.to_string(), asked })
    }

    fn add(&mut self, elements: Elements) -> u32 {
        self.elements.push(elements);
        self.new.count += 1;
        self.before.count + self.new.count - 1
    }
}

/// One word or two, as value and mask.
type Part = Vec<(u64, u64)>;

/// The blocks of an interval.
fn parts((low, high): Interval, bits: u32) -> Vec<Part> {
    let halves = |number: u128| [(number >> 64) as u64, number as u64];
    let part = |(value, mask): (u128, u128)| -> Part {
        let words = halves(value).into_iter().zip(halves(mask));
        if bits > 64 { words.collect() } else { words.skip(1).collect() }
    };
    prefixes((low, high), u128::MAX >> (128 - bits)).into_iter().map(part).collect()
}

/// Puts in what is in a block of each component.
fn insert(elements: &mut Elements, components: &[Vec<Part>]) {
    let mut products: Vec<Part> = vec![Part::new()];
    for blocks in components {
        products = products
            .iter()
            .flat_map(|product| blocks.iter().map(move |block| product.iter().chain(block).copied().collect()))
            .collect();
    }
    for product in products {
        let (mut value, mut mask) = ([0; 6], [0; 6]);
        for (at, (bits, counted)) in product.into_iter().enumerate() {
            (value[at], mask[at]) = (bits, counted);
        }
        elements.tables.entry(mask).or_default().insert(value);
    }
}

fn elements_of(listed: &[Element], ports: bool, links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>) -> Elements {
    let items = |element: &Element| -> Vec<Item> {
        element.0.iter().filter(|item| ports || item.kind() != ItemKind::Service).cloned().collect()
    };
    let narrow = |items: &[Item]| matches!(items, [item] if !matches!(item.kind(), ItemKind::Ipv6 | ItemKind::Ether));
    // Of an empty set it makes no difference.
    let narrow = listed.first().is_some_and(|first| narrow(&items(first)));
    let mut elements = Elements { narrow, tables: BTreeMap::new() };
    for element in listed {
        let components: Vec<_> = items(element).iter().map(|item| blocks(item, links)).collect();
        insert(&mut elements, &components);
    }
    elements
}

fn blocks(item: &Item, links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>) -> Vec<Part> {
    fn of<T: Value>(range: &crate::rule::Range<T>) -> Vec<Part> {
        let (low, high) = range.ends();
        parts((low.bits(), high.bits()), T::BITS)
    }
    match item {
        Item::Ipv4(range) => of(range),
        Item::Ipv6(range) => of(range),
        Item::Ether(range) => of(range),
        Item::Protocol(range) => of(range),
        Item::Service(range) => of(range),
        Item::Mark(range) => of(range),
        Item::Link(pattern) => links(pattern).into_iter().map(|index| vec![(index.into(), u32::MAX.into())]).collect(),
    }
}
