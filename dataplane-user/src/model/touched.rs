//! What changed since the model was last lowered, so that only what depends on it need be lowered again.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane_common::abi::Ifindex;
use dataplane_common::wire::Mac;

use super::{Event, Family, Prefix};

/// More prefixes than this are not followed one by one.
const SINGLE: usize = 50_000;

/// What of a model changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Links, their features, addresses, settings or routing rules: there are few, and all are looked at again.
    pub links: bool,
    /// Neighbours that came, changed or went.
    pub neighbours: BTreeSet<(Ifindex, IpAddr)>,
    /// Hosts behind bridges that came, moved or went, by bridge.
    pub hosts: BTreeSet<(Ifindex, Mac)>,
    /// IPv4 routes.
    pub routes4: TouchedRoutes<u32>,
    /// IPv6 routes.
    pub routes6: TouchedRoutes<u128>,
}

/// Prefixes whose routes changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TouchedRoutes<A: Family> {
    /// These, by table.
    Some(BTreeSet<(u32, Prefix<A>)>),
    /// So many that all are looked at.
    All,
}

impl<A: Family> Default for TouchedRoutes<A> {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl Touched {
    /// Everything.
    pub fn all() -> Self {
        Self { links: true, routes4: TouchedRoutes::All, routes6: TouchedRoutes::All, ..Self::default() }
    }

    /// Adds what an announcement may change.
    pub fn announce(&mut self, event: &Event) {
        match event {
            Event::Neighbour(neighbour) => drop(self.neighbours.insert((neighbour.ifindex, neighbour.address))),
            Event::NeighbourGone(ifindex, address) => drop(self.neighbours.insert((*ifindex, *address))),
            Event::Fdb(entry) => drop(self.hosts.insert((entry.bridge, entry.mac))),
            Event::Route4(route, _) | Event::Route4Gone(route) => self.routes4.add(route.table, route.destination),
            Event::Route6(route, _) | Event::Route6Gone(route) => self.routes6.add(route.table, route.destination),
            _ => self.links = true,
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl<A: Family> TouchedRoutes<A> {
    /// Whether a prefix is among them.
    pub fn contains(&self, table: u32, prefix: Prefix<A>) -> bool {
        match self {
            Self::Some(prefixes) => prefixes.contains(&(table, prefix)),
            Self::All => true,
        }
    }

    /// One more.
    pub fn add(&mut self, table: u32, prefix: Prefix<A>) {
        if let Self::Some(prefixes) = self {
            prefixes.insert((table, prefix));
            if prefixes.len() > SINGLE {
                *self = Self::All;
            }
        }
    }
}
