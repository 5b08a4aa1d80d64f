//! What two models of one machine differ in: what a mirror has missed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use super::{Family, Link, Model, Routes};

impl Model {
    /// What differs between this and what the kernel has, each thing once, for people. How well a neighbour is known does not
    /// count, only its link address, nor the XDP programs of a link: the kernel does not announce every step of the one, and
    /// nothing of a program that came by a BPF link.
    pub fn differences(&self, kernel: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let neighbours = |model: &Self| {
            let known = model.neighbours.iter().filter_map(|(key, one)| Some((*key, one.resolved()?)));
            known.collect::<BTreeMap<_, _>>()
        };
        let links = |model: &Self| {
            let plain = model.links.iter().map(|(key, link)| (*key, Link { xdp: Vec::new(), ..link.clone() }));
            plain.collect::<BTreeMap<_, _>>()
        };
        keyed("link", &links(self), &links(kernel), &mut found);
        keyed("neighbour", &neighbours(self), &neighbours(kernel), &mut found);
        keyed("setting", &self.netconf, &kernel.netconf, &mut found);
        keyed("features", &self.features, &kernel.features, &mut found);
        for address in self.addresses.symmetric_difference(&kernel.addresses) {
            found.push(format!("address {}", address.address));
        }
        for rule in self.routing_rules.symmetric_difference(&kernel.routing_rules) {
            found.push(format!("routing rule {rule:?}"));
        }
        routes(&self.routes4, &kernel.routes4, &mut found);
        routes(&self.routes6, &kernel.routes6, &mut found);
        found
    }
}

fn keyed<K: Ord + Copy + Debug, V: PartialEq>(
    what: &str,
    ours: &BTreeMap<K, V>,
    kernel: &BTreeMap<K, V>,
    found: &mut Vec<String>,
) {
    let keys: BTreeSet<K> = ours.keys().chain(kernel.keys()).copied().collect();
    let differing = keys.into_iter().filter(|key| ours.get(key) != kernel.get(key));
    found.extend(differing.map(|key| format!("{what} {key:?}")));
}

fn routes<A: Family>(ours: &Routes<A>, kernel: &Routes<A>, found: &mut Vec<String>) {
    if ours == kernel {
        return;
    }
    let (ours, kernel) = (by_prefix(ours), by_prefix(kernel));
    let names: BTreeSet<&String> = ours.keys().chain(kernel.keys()).collect();
    let differing = names.into_iter().filter(|name| ours.get(*name) != kernel.get(*name));
    found.extend(differing.cloned());
}

fn by_prefix<A: Family>(routes: &Routes<A>) -> BTreeMap<String, Vec<String>> {
    let mut sorted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for route in routes.iter() {
        let name = format!("route {} table {}", route.destination, route.table);
        sorted.entry(name).or_default().push(format!("{route:?}"));
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, Neighbour, NeighbourState, XdpFeatures};

    #[test]
    fn each_thing_is_named_once() {
        let mut ours = Model::default();
        let link = Link { ifindex: 2, name: "eth0".to_owned(), ..Link::default() };
        let address = "198.18.0.2".parse().expect("an address");
        let neighbour = |state| {
            Event::Neighbour(Neighbour {
                ifindex: 2,
                address,
                state,
                mac: Some(dataplane_common::wire::Mac([2, 0, 0, 0, 0, 1])),
            })
        };
        ours.apply(Event::Link(link.clone()));
        ours.apply(neighbour(NeighbourState::REACHABLE));
        let mut kernel = ours.clone();
        assert_eq!(ours.differences(&kernel), Vec::<String>::new());
        kernel.apply(neighbour(NeighbourState::STALE));
        assert_eq!(ours.differences(&kernel), Vec::<String>::new(), "the link address is the same");
        kernel.apply(neighbour(NeighbourState::FAILED));
        kernel.apply(Event::Link(Link { accept_local: true, ..link }));
        kernel.apply(Event::Features(2, XdpFeatures::BASIC));
        let found = ours.differences(&kernel);
        assert_eq!(found, ["link 2", "neighbour (2, 198.18.0.2)", "features 2"]);
    }
}
