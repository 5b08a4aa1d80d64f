//! What rules come to at the driver: all of them, one beside the others, and those that are like one.

use std::vec;

use dataplane_common::abi::{CHAINS, Ifindex};

use super::{Chains, InstalledRule};
use crate::{
    lower::filter::{
        ChainRules, Entry, FilterError, FilterFault, Known, LoweredFilter, LoweredRule, SetNumbers, lower_remaining,
        lower_rule, order,
    },
    parallel::shares,
    rule::{ChainName, Fragments, LinkPattern, Rule, SetName},
};

/// What rules come to that take nothing but themselves, in their order. Each part is let go of when all of it is taken.
struct LoweredAlone {
    /// Boxes of some thousand rules, and how many each of these has; `None`: the rule takes more than itself.
    parts: vec::IntoIter<(vec::IntoIter<Entry>, vec::IntoIter<Option<usize>>)>,
    part: (vec::IntoIter<Entry>, vec::IntoIter<Option<usize>>),
}

/// Rules of a part.
const PART: usize = 4096;

impl LoweredAlone {
    fn new(rules: &[InstalledRule]) -> Self {
        let lower = |rules: &[InstalledRule]| {
            let (mut boxes, mut counts) = (Vec::with_capacity(rules.len()), Vec::with_capacity(rules.len()));
            for rule in rules {
                let own = rule.lower();
                counts.push(own.as_ref().map(Vec::len));
                boxes.extend(own.into_iter().flatten());
            }
            (boxes.into_iter(), counts.into_iter())
        };
        let parts = shares(rules, |share| share.chunks(PART).map(lower).collect::<Vec<_>>());
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        Self { parts: parts.into_iter(), part: Default::default() }
    }

    /// Appends the boxes of the next rule, if it takes nothing but itself.
    fn append_next(&mut self, boxes: &mut Vec<Entry>) -> bool {
        while self.part.1.as_slice().is_empty() {
            let Some(part) = self.parts.next() else { return false };
            self.part = part;
        }
        let count = self.part.1.next().flatten();
        boxes.extend(self.part.0.by_ref().take(count.unwrap_or(0)));
        count.is_some()
    }
}

impl Chains {
    /// The boxes of rules of a chain, with their orders and counters, as far as they may be the same as `sought` for packets that
    /// cannot be read, but for the rule with one order. `lower` gives the boxes of a rule.
    pub(in crate::daemon) fn alike<'c, L: Fn(&Rule) -> Vec<Entry> + 'c>(
        &'c self,
        chain: ChainName,
        but: u32,
        sought: &Entry,
        lower: L,
    ) -> impl Iterator<Item = (Entry, u32, u32)> + use<'c, L> {
        let bloom_bits = sought.bloom_bits();
        let placed = self.rules(chain).iter().zip(&self.orders[chain.index()]).filter(move |(_, order)| **order != but);
        let alike = placed.filter(move |(installed, _)| installed.unreadable.may_have(bloom_bits));
        alike.flat_map(move |(installed, order)| {
            lower(&installed.rule).into_iter().map(|entry| (entry, *order, installed.counter))
        })
    }

    /// A box of a rule, with all that is not the rule's own.
    pub(in crate::daemon) fn placed(&self, entry: &Entry, order: u32, counter: u32) -> Entry {
        Entry { order, counter, strict: self.fragments == Fragments::DropUnreadable, ..*entry }
    }

    /// What the chains come to at the driver, with the links that fit a pattern now.
    pub(in crate::daemon) fn lower(
        &self,
        links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
    ) -> Result<LoweredFilter, FilterError> {
        let in_kernel = self.are_in_kernel();
        let here: [&[InstalledRule]; CHAINS] =
            std::array::from_fn(|index| if in_kernel { self.early(index) } else { &self.rules[index] });
        // Most rules; the others follow.
        let mut known = here.map(LoweredAlone::new);
        let rules: [Vec<(&Rule, u32)>; CHAINS] = std::array::from_fn(|index| {
            here[index].iter().map(|installed| (&*installed.rule, installed.counter)).collect()
        });
        let chains = std::array::from_fn(|index| ChainRules {
            policy: self.driver_policy(index, in_kernel),
            fragments: self.fragments,
            rules: &rules[index],
        });
        let sets = |name: &SetName| self.elements(name);
        let mut was_known = here.map(|rules| vec![false; rules.len()]);
        let mut known = |chain: ChainName, position: usize, boxes: &mut Vec<Entry>| {
            let is_known = known[chain.index()].append_next(boxes);
            was_known[chain.index()][position] = is_known;
            is_known
        };
        let lowered = lower_remaining(chains, links, &sets, &mut known)?;
        for ((rules, was_known), entries) in here.into_iter().zip(was_known).zip(&lowered.entries) {
            let mut boxes = entries.chunk_by(|one, next| one.order == next.order).peekable();
            for (position, installed) in rules.iter().enumerate() {
                let own = boxes.next_if(|boxes| boxes[0].order == order(position)).unwrap_or_default();
                if !was_known[position] {
                    installed.note(own);
                }
            }
        }
        Ok(lowered)
    }

    /// What a rule comes to beside those that are lowered already, with the links that fit a pattern and the numbers of sets.
    pub(in crate::daemon) fn lower_rule(
        &self,
        rule: &Rule,
        links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
        numbers: &SetNumbers,
    ) -> Result<LoweredRule, FilterFault> {
        lower_rule(rule, links, &|name| self.elements(name), numbers)
    }

    /// The type and the elements of a set.
    pub(super) fn elements(&self, name: &SetName) -> Option<Known<'_>> {
        let set = self.sets.get(name)?;
        Some((&set.kind, set.listed()?))
    }
}
