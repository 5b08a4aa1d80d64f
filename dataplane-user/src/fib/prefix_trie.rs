//! Routes by prefix: a binary trie without nodes that have neither a route nor two children.

use smallvec::{SmallVec, smallvec};

use super::sweep::{Entry, Routes};
use crate::model::{Family, Prefix};

/// Addresses with access to their bits.
pub trait Bits: Family {
    /// Bit `index`, counted from the most significant.
    fn bit(self, index: u8) -> usize;
    /// How many leading bits both have in common.
    fn common(self, other: Self) -> u8;
}

macro_rules! bits {
    ($($native:ty),+) => {$(
        impl Bits for $native {
            fn bit(self, index: u8) -> usize {
                (self >> (<$native>::BITS - 1 - u32::from(index))) as usize & 1
            }

            fn common(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }
        }
    )+};
}

bits!(u32, u128);

/// No node.
const NIL: u32 = u32::MAX;
/// The node of the prefix of all addresses, which is always there.
const ROOT: u32 = 0;
/// No route.
const ABSENT: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
struct Node<A> {
    first: A,
    children: [u32; 2],
    target: u16,
    length: u8,
}

/// Routes by prefix. 16 bytes (IPv4) or 32 (IPv6) for a node, and at most two nodes for a route.
#[derive(Clone, Debug)]
pub struct PrefixTrie<A> {
    nodes: Vec<Node<A>>,
    free: Vec<u32>,
    routes: usize,
}

impl<A: Bits> Default for PrefixTrie<A> {
    fn default() -> Self {
        let root = Node { first: A::default(), children: [NIL; 2], target: ABSENT, length: 0 };
        Self { nodes: vec![root], free: Vec::new(), routes: 0 }
    }
}

impl<A: Bits> PrefixTrie<A> {
    /// From routes in ascending order, each prefix once.
    pub(super) fn from_sorted(entries: &[Entry<A>]) -> Self {
        let mut trie = Self::default();
        trie.nodes.reserve(entries.len() + entries.len() / 2);
        // The way to the last node.
        let mut path = vec![ROOT];
        for entry in entries {
            trie.routes += 1;
            if entry.length == 0 {
                trie.nodes[0].target = entry.target;
                continue;
            }
            let mut beside = NIL;
            let mut common = 0;
            while let Some(&last) = path.last() {
                let node = trie.nodes[last as usize];
                let shared = node.first.common(entry.first).min(node.length);
                if shared == node.length {
                    break;
                }
                (beside, common) = (last, shared.max(common));
                path.pop();
            }
            let mut parent = *path.last().unwrap_or(&ROOT);
            if beside != NIL && common > trie.nodes[parent as usize].length {
                let branch = trie.add(Entry { first: entry.first, length: common, target: ABSENT });
                trie.nodes[branch as usize].first = Prefix::new(entry.first, common).first();
                trie.link(branch, beside);
                trie.link(parent, branch);
                path.push(branch);
                parent = branch;
            }
            let node = trie.add(*entry);
            trie.link(parent, node);
            path.push(node);
        }
        trie
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.routes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.routes == 0
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node<A>>() + self.free.capacity() * size_of::<u32>()
    }

    fn add(&mut self, entry: Entry<A>) -> u32 {
        let node = Node { first: entry.first, children: [NIL; 2], target: entry.target, length: entry.length };
        if let Some(index) = self.free.pop() {
            self.nodes[index as usize] = node;
            return index;
        }
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    /// Makes `child` a child of `parent`, in place of the former one.
    fn link(&mut self, parent: u32, child: u32) {
        let side = self.nodes[child as usize].first.bit(self.nodes[parent as usize].length);
        self.nodes[parent as usize].children[side] = child;
    }

    /// Adds or replaces a route; what its target was.
    pub(super) fn insert(&mut self, prefix: Prefix<A>, target: u16) -> Option<u16> {
        let mut at = ROOT;
        let entry = Entry { first: prefix.first(), length: prefix.length(), target };
        loop {
            let node = &mut self.nodes[at as usize];
            if node.length == entry.length {
                let before = std::mem::replace(&mut node.target, target);
                self.routes += usize::from(before == ABSENT);
                return (before != ABSENT).then_some(before);
            }
            let child = node.children[entry.first.bit(node.length)];
            let Some(below) = self.nodes.get(child as usize).copied() else {
                break;
            };
            let common = below.first.common(entry.first).min(below.length).min(entry.length);
            if common == below.length {
                at = child;
                continue;
            }
            if common == entry.length {
                let between = self.add(entry);
                self.link(between, child);
                self.link(at, between);
                self.routes += 1;
                return None;
            }
            let first = Prefix::new(entry.first, common).first();
            let branch = self.add(Entry { first, length: common, target: ABSENT });
            self.link(branch, child);
            self.link(at, branch);
            at = branch;
            break;
        }
        let leaf = self.add(entry);
        self.link(at, leaf);
        self.routes += 1;
        None
    }

    /// Removes a route; what its target was.
    pub(super) fn remove(&mut self, prefix: Prefix<A>) -> Option<u16> {
        let (mut above, mut parent, mut at) = (ROOT, ROOT, ROOT);
        while self.nodes[at as usize].length < prefix.length() {
            let child = self.nodes[at as usize].children[prefix.first().bit(self.nodes[at as usize].length)];
            let node = self.nodes.get(child as usize)?;
            if node.length > prefix.length() || node.first.common(prefix.first()) < node.length {
                return None;
            }
            (above, parent, at) = (parent, at, child);
        }
        let before = std::mem::replace(&mut self.nodes[at as usize].target, ABSENT);
        if before == ABSENT {
            return None;
        }
        self.routes -= 1;
        if self.splice(parent, at) {
            self.splice(above, parent);
        }
        Some(before)
    }

    /// Takes a node out that has no route and at most one child; whether its parent lost a child by that.
    fn splice(&mut self, parent: u32, at: u32) -> bool {
        let node = self.nodes[at as usize];
        let side = node.first.bit(self.nodes[parent as usize].length.min(A::BITS as u8 - 1));
        let only = match node.children {
            _ if at == ROOT || node.target != ABSENT => return false,
            [NIL, child] | [child, NIL] => child,
            _ => return false,
        };
        self.nodes[parent as usize].children[side] = only;
        self.free.push(at);
        only == NIL
    }

    /// The routes inside `region`, itself included, appended in ascending order, and the target of the longest route
    /// around it.
    pub(super) fn inside(&self, region: Prefix<A>, found: &mut Routes<A>) -> u16 {
        let (mut cover, mut at) = (0, ROOT);
        while self.nodes[at as usize].length < region.length() {
            let node = &self.nodes[at as usize];
            if node.target != ABSENT {
                cover = node.target;
            }
            let child = node.children[region.first().bit(node.length)];
            let Some(below) = self.nodes.get(child as usize) else { return cover };
            if below.first.common(region.first()) < below.length.min(region.length()) {
                return cover;
            }
            at = child;
        }
        let mut waiting: SmallVec<[u32; 16]> = smallvec![at];
        while let Some(at) = waiting.pop() {
            let node = &self.nodes[at as usize];
            if node.target != ABSENT {
                found.push(Entry { first: node.first, length: node.length, target: node.target });
            }
            waiting.extend(node.children.into_iter().rev().filter(|child| *child != NIL));
        }
        cover
    }

    /// All routes in ascending order.
    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<Entry<A>> {
        let mut found = Routes::with_capacity(self.routes);
        self.inside(Prefix::all(), &mut found);
        found.into_vec()
    }
}
