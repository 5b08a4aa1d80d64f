//! What a mirror has missed: how it differs from what the kernel lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use super::{Family, Link, Model, Routes, Snapshot, Touched, TouchedRoutes};

/// How many are named.
const EXAMPLES: usize = 3;

/// Things that differ, each counted once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// How many.
    pub count: usize,
    /// Some of them, for people.
    pub examples: Vec<String>,
}

impl Missed {
    fn add(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(name());
        }
    }

    fn keyed<K: Ord + Copy + Debug, V: PartialEq>(
        &mut self,
        what: &str,
        ours: &BTreeMap<K, V>,
        kernel: &BTreeMap<K, V>,
        known: impl Fn(&K) -> bool,
    ) {
        let keys: BTreeSet<K> = ours.keys().chain(kernel.keys()).copied().collect();
        for key in keys.into_iter().filter(|key| known(key) && ours.get(key) != kernel.get(key)) {
            self.add(|| format!("{what} {key:?}"));
        }
    }

    fn routes<A: Family>(&mut self, ours: &Routes<A>, kernel: &Routes<A>, announced: &TouchedRoutes<A>) {
        let differing = ours.difference(kernel).into_iter();
        for (table, prefix) in differing.filter(|(table, prefix)| !announced.contains(*table, *prefix)) {
            self.add(|| format!("route {prefix} table {table}"));
        }
    }

    /// Counts what another has, too.
    pub fn join(&mut self, other: Self) {
        self.count += other.count;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
    }
}

impl Model {
    /// How this differs from what the kernel lists of one kind, but for what was `announced` while it did. How well a
    /// neighbour is known does not count, only its link address, nor the XDP programs of a link: the kernel does not announce
    /// every step of the one, and nothing of a program that came by a BPF link.
    pub fn missed(&self, listed: &Snapshot, announced: &Touched) -> Missed {
        let mut missed = Missed::default();
        match listed {
            Snapshot::Routes4(routes) => missed.routes(&self.routes4, routes, &announced.routes4),
            Snapshot::Routes6(routes) => missed.routes(&self.routes6, routes, &announced.routes6),
            Snapshot::Neighbours(_) => {
                let mut kernel = Self::default();
                kernel.replace(listed.clone(), &mut Touched::default());
                let neighbours = |model: &Self| {
                    let known = model.neighbours.iter().filter_map(|(key, one)| Some((*key, one.resolved()?)));
                    known.collect::<BTreeMap<_, _>>()
                };
                let known = |key: &_| !announced.neighbours.contains(key);
                missed.keyed("neighbour", &neighbours(self), &neighbours(&kernel), known);
            }
            Snapshot::Fdb(entries) => {
                let mut kernel = self.fdb.clone();
                let differing = kernel.replace(entries.clone());
                for (_, host) in differing.difference(&announced.hosts) {
                    missed.add(|| format!("host {host} behind a bridge"));
                }
            }
            _ if announced.links => {}
            few => {
                let mut kernel = self.links_only();
                kernel.replace_links(few.clone());
                self.missed_links(&kernel, &mut missed);
            }
        }
        missed
    }

    fn missed_links(&self, kernel: &Self, missed: &mut Missed) {
        let links = |model: &Self| {
            let plain = model.links.iter().map(|(key, link)| (*key, Link { xdp: Vec::new(), ..link.clone() }));
            plain.collect::<BTreeMap<_, _>>()
        };
        missed.keyed("link", &links(self), &links(kernel), |_| true);
        missed.keyed("setting", &self.netconf, &kernel.netconf, |_| true);
        missed.keyed("features", &self.features, &kernel.features, |_| true);
        if self.ipsec != kernel.ipsec {
            missed.add(|| "policies of IPsec".to_owned());
        }
        for address in self.addresses.symmetric_difference(&kernel.addresses) {
            missed.add(|| format!("address {}", address.address));
        }
        for rule in self.routing_rules.difference(&kernel.routing_rules) {
            missed.add(|| format!("routing rule {rule} of {}", rule.version));
        }
    }

    /// The same without what there may be much of.
    fn links_only(&self) -> Self {
        Self {
            links: self.links.clone(),
            addresses: self.addresses.clone(),
            routing_rules: self.routing_rules.clone(),
            netconf: self.netconf.clone(),
            features: self.features.clone(),
            ipsec: self.ipsec.clone(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lower::sample,
        model::{Event, Neighbour, NeighbourState, Placement, Prefix, RouteType, TABLE_MAIN, XdpFeatures},
    };

    #[test]
    fn each_thing_is_named_once() {
        let mut ours = Model::default();
        let link = Link { ifindex: 2, name: "eth0".to_owned(), ..Link::default() };
        let address = "198.18.0.2".parse().expect("an address");
        let neighbour = |state| {
            let mac = Some(dataplane_common::wire::Mac([2, 0, 0, 0, 0, 1]));
            Neighbour { ifindex: 2, address, state, mac, tended: false }
        };
        ours.apply(Event::Link(link.clone()));
        ours.apply(Event::Neighbour(neighbour(NeighbourState::REACHABLE)));
        let none = Touched::default();
        let found = |listed: Snapshot| ours.missed(&listed, &none).examples;
        let empty: [&str; 0] = [];
        assert_eq!(found(Snapshot::Links(vec![link.clone()])), empty);
        assert_eq!(found(Snapshot::Links(vec![Link { accept_local: true, ..link }])), ["link 2"]);
        assert_eq!(found(Snapshot::Links(Vec::new())), ["link 2"]);
        assert_eq!(found(Snapshot::Features(vec![(2, XdpFeatures::BASIC)])), ["features 2"]);
        let stale = Snapshot::Neighbours(vec![neighbour(NeighbourState::STALE)]);
        assert_eq!(found(stale), empty, "the link address is the same");
        let failed = Snapshot::Neighbours(vec![neighbour(NeighbourState::FAILED)]);
        assert_eq!(found(failed.clone()), ["neighbour (2, 198.18.0.2)"]);
        let mut announced = Touched::default();
        announced.announce(&Event::NeighbourGone(2, address));
        assert_eq!(ours.missed(&failed, &announced), Missed::default(), "it was announced meanwhile");
    }

    #[test]
    fn routes_are_counted_but_for_those_announced() {
        let ours = Model::default();
        let mut kernel = Model::default();
        for network in 1..=5 {
            let route = sample::plain(TABLE_MAIN, Prefix::new(network << 24, 8), RouteType::Unicast);
            kernel.apply(Event::Route4(route, Placement::Last));
        }
        let listed = Snapshot::Routes4(kernel.routes4.clone());
        let missed = ours.missed(&listed, &Touched::default());
        assert_eq!((missed.count, missed.examples.len()), (5, EXAMPLES));
        assert_eq!(missed.examples[0], "route 1.0.0.0/8 table 254");
        let mut announced = Touched::default();
        announced.routes4.add(TABLE_MAIN, Prefix::new(3 << 24, 8));
        assert_eq!(ours.missed(&listed, &announced).count, 4);
        assert_eq!(kernel.missed(&listed, &Touched::default()), Missed::default());
    }
}
