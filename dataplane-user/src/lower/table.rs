//! A forwarding table as sorted cuts of the address space, and how it is written down.

use dataplane_common::abi::{FIB_CHUNKS, FIB_INTERVALS, Fib, Fib4, Fib6, Prefixed, RouteKind, Target};

use crate::model::{Family, Prefix};

/// Local intervals up to this size enter the filter address by address.
const LOCAL_ADDRESSES: u128 = 1024;

/// One family's table: where each interval begins, and what it maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<A> {
    cuts: Vec<(A, Target)>,
    /// Addresses of this machine outside the loopback network; `None`: too many to tell.
    local: Option<Vec<A>>,
}

impl<A: Family> Default for Table<A> {
    fn default() -> Self {
        Self { cuts: vec![(A::default(), Target::NONE)], local: Some(Vec::new()) }
    }
}

impl<A: Family> Table<A> {
    /// From ascending cuts, the first of them at address 0. `None` if there are more than a map has room for.
    pub fn new(cuts: Vec<(A, Target)>) -> Option<Self> {
        let fits = (1..=FIB_INTERVALS).contains(&cuts.len());
        fits.then(|| Self { local: local(&cuts), cuts })
    }

    /// Where each interval begins, ascending, and what it maps to.
    pub fn cuts(&self) -> &[(A, Target)] {
        &self.cuts
    }

    /// What the kernel half would find.
    pub fn lookup(&self, address: A) -> Target {
        let behind = self.cuts.partition_point(|(start, _)| *start <= address);
        self.cuts[behind - 1].1
    }

    /// Writes one generation. Nobody may be reading it.
    pub fn write_into<F: Store<Address = A>>(&self, fib: &mut F) {
        let parts = fib.parts();
        for ((start, target), cut) in parts.starts.iter_mut().zip(parts.targets.iter_mut()).zip(&self.cuts) {
            *start = cut.0.pack();
            *target = cut.1;
        }
        let mut position = 0;
        for (chunk, index) in parts.index.iter_mut().enumerate() {
            let first = (chunk as u128) << (A::BITS - FIB_CHUNKS.trailing_zeros());
            while self.cuts.get(position + 1).is_some_and(|(start, _)| start.widen() <= first) {
                position += 1;
            }
            let end = first + ((1 << (A::BITS - FIB_CHUNKS.trailing_zeros())) - 1);
            let inside = self.cuts[position + 1..].iter().take_while(|(start, _)| start.widen() <= end).count();
            *index = [position as u32, (position + inside) as u32];
        }
        match &self.local {
            None => parts.local.fill(u32::MAX),
            Some(addresses) => {
                parts.local.fill(0);
                for address in addresses {
                    fib.set_local(*address);
                }
            }
        }
    }
}

/// The addresses of this machine. The loopback network stays out: its addresses are refused on the wire before anybody
/// asks whose they are, and it would fill the filter.
fn local<A: Family>(cuts: &[(A, Target)]) -> Option<Vec<A>> {
    let loopback = u32::from_be_bytes([127, 0, 0, 0]);
    let loopback = A::from_ip(loopback.to_ip()).map(|address| Prefix::new(address, 8));
    let mut addresses = Vec::new();
    for (position, (start, target)) in cuts.iter().enumerate() {
        if target.kind() != RouteKind::Local || loopback.is_some_and(|prefix| prefix.contains(*start)) {
            continue;
        }
        let end = cuts.get(position + 1)?.0;
        if end.widen() - start.widen() > LOCAL_ADDRESSES {
            return None;
        }
        let mut address = *start;
        while address < end {
            addresses.push(address);
            address = address.next()?;
        }
    }
    Some(addresses)
}

/// A table in memory that the kernel half reads.
pub trait Store: Fib<Address: Family> {
    /// Its fields.
    fn parts(&mut self) -> Parts<'_, Self::Address>;
}

/// The fields of [`Fib4`] or [`Fib6`].
pub struct Parts<'a, A: Prefixed> {
    index: &'a mut [[u32; 2]],
    local: &'a mut [u32],
    starts: &'a mut [A::Words],
    targets: &'a mut [Target],
}

macro_rules! store {
    ($($name:ty),+) => {$(
        impl Store for $name {
            fn parts(&mut self) -> Parts<'_, Self::Address> {
                Parts {
                    index: &mut self.index,
                    local: &mut self.local,
                    starts: &mut self.starts,
                    targets: &mut self.targets,
                }
            }
        }
    )+};
}

store!(Fib4, Fib6);
