//! Memory that tables are painted in.

use std::ops::Range;

/// Words that the kernel half may be reading. They need not all be at hand at once.
pub trait Memory {
    /// An integer that can be written while it is read.
    type Word;

    /// How many words there are.
    fn size(&self) -> usize;

    /// Words from the first of `range` on, as far as they are at hand together: at least one, none beyond `range`.
    fn some(&mut self, range: Range<usize>) -> &[Self::Word];

    /// One word.
    fn word(&mut self, at: usize) -> &Self::Word {
        &self.some(at..at + 1)[0]
    }

    /// Goes through the words of `range` in their order.
    fn each(&mut self, mut range: Range<usize>, mut work: impl FnMut(&Self::Word)) {
        while !range.is_empty() {
            let words = self.some(range.clone());
            words.iter().for_each(&mut work);
            range.start += words.len();
        }
    }
}

impl<W> Memory for Vec<W> {
    type Word = W;

    fn size(&self) -> usize {
        self.len()
    }

    fn some(&mut self, range: Range<usize>) -> &[W] {
        &self[range]
    }
}

/// The base part, and the dynamic part behind it.
#[derive(Debug)]
pub struct ChainedMemory<M> {
    base: M,
    dynamic: M,
}

impl<M: Memory> ChainedMemory<M> {
    /// One memory from two.
    pub fn new(base: M, dynamic: M) -> Self {
        Self { base, dynamic }
    }

    /// Both of them.
    pub fn parts(&mut self) -> [&mut M; 2] {
        [&mut self.base, &mut self.dynamic]
    }
}

impl<M: Memory> Memory for ChainedMemory<M> {
    type Word = M::Word;

    fn size(&self) -> usize {
        self.base.size() + self.dynamic.size()
    }

    fn some(&mut self, Range { start, end }: Range<usize>) -> &[M::Word] {
        let base = self.base.size();
        if start < base { self.base.some(start..end.min(base)) } else { self.dynamic.some(start - base..end - base) }
    }
}
