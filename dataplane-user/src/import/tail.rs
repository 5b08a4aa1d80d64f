//! What a packet meets behind the last rule of a chain.

use std::collections::HashMap;

use super::chain::{Chain, Says};
use super::inline::DEEPEST;
use crate::rule::Policy;

/// For each chain the policy that a packet meets behind its last rule: no rule follows what leads there, on any way.
pub(super) fn tails(chains: &[Chain], named: &HashMap<(&str, &str), usize>) -> Vec<Option<Policy>> {
    // Who leads to a chain, and whether something follows there.
    let mut callers: Vec<Vec<(usize, bool)>> = vec![Vec::new(); chains.len()];
    for (caller, chain) in chains.iter().enumerate() {
        let last = chain.lines.last().map(|line| &line.place);
        for line in &chain.lines {
            let (name, follows) = match &line.says {
                Says::Jump(name) => (name, last != Some(&line.place)),
                Says::Goto(name) => (name, false),
                Says::Return | Says::Action(_) => continue,
            };
            if let Some(index) = named.get(&(chain.table.as_str(), name.as_str())) {
                callers[*index].push((caller, follows));
            }
        }
    }
    let mut tails: Vec<_> = chains.iter().map(|chain| chain.hook.map(|hook| hook.policy)).collect();
    // One more level of jumps each time; none where chains lead back to themselves.
    for _ in 0..DEEPEST {
        let found: Vec<_> = (0..chains.len())
            .filter(|index| tails[*index].is_none())
            .filter_map(|index| {
                let mut ends = callers[index].iter().map(|(caller, follows)| tails[*caller].filter(|_| !follows));
                let first = ends.next().flatten()?;
                ends.all(|end| end == Some(first)).then_some((index, first))
            })
            .collect();
        if found.is_empty() {
            break;
        }
        for (index, policy) in found {
            tails[index] = Some(policy);
        }
    }
    tails
}
