//! What lowering keeps for each family, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_common::abi::Ifindex;

use super::order::Order;
use super::{Lowering, Problem, TargetChanges, Targets, Update, Want};
use crate::model::{Family, Model, Routes, Touched, TouchedRoutes};

/// What is remembered for one family.
#[derive(Clone, Debug, Default)]
pub(super) struct FamilyState<A: Family> {
    /// In which order tables are looked up.
    pub(super) order: Order<A>,
    /// Neighbours by address.
    pub(super) hosts: BTreeSet<(A, Ifindex)>,
    /// For how many of them there was no room.
    pub(super) left: usize,
    /// Why the mirror has nothing but local addresses.
    pub(super) full: Option<Full>,
}

/// A table that did not fit.
#[derive(Clone, Debug)]
pub(super) struct Full {
    pub(super) problem: Problem,
    /// `Routes::renewals` then: no need to try again before that changes.
    pub(super) renewals: u64,
}

impl Full {
    pub(super) fn new<A: Family>(problem: Problem, routes: &Routes<A>) -> Self {
        Self { problem, renewals: routes.renewals() }
    }

    /// Whether it is worth a try.
    pub(super) fn may_fit<A: Family>(&self, routes: &Routes<A>) -> bool {
        routes.renewals() != self.renewals
    }
}

impl<A: Family> FamilyState<A> {
    /// What this family has to say of its state.
    pub(super) fn judge(&self, want: &mut Want) {
        if self.left != 0 {
            want.problems.push(Problem::NeighboursFull { version: A::VERSION, left: self.left });
        }
        if let Some(full) = &self.full {
            want.mirror &= !A::MIRROR;
            want.problems.push(full.problem.clone());
        }
    }

    /// Takes in what the routing rules say now. Says whether the order of tables is another one.
    pub(super) fn reorder(&mut self, model: &Model) -> bool {
        let order = Order::new(model.table_order::<A>());
        let changed = self.order != order;
        self.order = order;
        changed
    }

    /// Takes in which neighbours came and went.
    pub(super) fn follow(&mut self, model: &Model, touched: &BTreeSet<(Ifindex, IpAddr)>) {
        for (dev, ip) in touched {
            let Some(address) = A::from_ip(*ip) else { continue };
            if model.neighbours.contains_key(&(*dev, *ip)) {
                self.hosts.insert((address, *dev));
            } else {
                self.hosts.remove(&(address, *dev));
            }
        }
    }

    /// Takes all neighbours.
    pub(super) fn relist(&mut self, model: &Model) {
        self.hosts = model.neighbours.keys().filter_map(|(dev, ip)| Some((A::from_ip(*ip)?, *dev))).collect();
    }
}

/// A family, with its part of everything.
pub(super) trait PerFamily: Family {
    /// Its number among the holders of an index.
    const INDEX: usize;

    fn state(lowering: &mut Lowering) -> &mut FamilyState<Self>;
    fn targets(want: &mut Want) -> &mut Targets<Self>;
    fn changes(update: &mut Update) -> &mut TargetChanges<Self>;
    fn touched(touched: &Touched) -> &TouchedRoutes<Self>;
}

macro_rules! per_family {
    ($native:ty, $number:literal, $side:ident, $fib:ident, $routes:ident) => {
        impl PerFamily for $native {
            const INDEX: usize = $number;

            fn state(lowering: &mut Lowering) -> &mut FamilyState<Self> {
                &mut lowering.$side
            }

            fn targets(want: &mut Want) -> &mut Targets<Self> {
                &mut want.$fib
            }

            fn changes(update: &mut Update) -> &mut TargetChanges<Self> {
                &mut update.$fib
            }

            fn touched(touched: &Touched) -> &TouchedRoutes<Self> {
                &touched.$routes
            }
        }
    };
}

per_family!(u32, 0, side4, fib4, routes4);
per_family!(u128, 1, side6, fib6, routes6);

/// What turns `before` into `after`.
pub(super) fn changes<K: Ord + Copy, V: PartialEq + Copy>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) -> BTreeMap<K, Option<V>> {
    let gone = before.keys().filter(|key| !after.contains_key(key)).map(|key| (*key, None));
    let new = after.iter().filter(|(key, value)| before.get(key) != Some(value));
    gone.chain(new.map(|(key, value)| (*key, Some(*value)))).collect()
}
