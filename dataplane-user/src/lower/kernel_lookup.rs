//! The tables for lookups in the kernel: the adjacency of each neighbour, and the addresses of this machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use dataplane_common::abi::{Features, Ifindex, NeighbourKey};

use super::{Lowering, Update, adjacency::NextHopKey};
use crate::model::{Address, Family, Model, Neighbour, Routes, Touched};

/// The key of an address.
fn key(ifindex: Ifindex, address: IpAddr) -> NeighbourKey {
    match address {
        IpAddr::V4(v4) => NeighbourKey::v4(ifindex, v4.into()),
        IpAddr::V6(v6) => NeighbourKey::v6(ifindex, u128::from(v6).into()),
    }
}

impl Lowering {
    /// Whether the least MTU of the routes is another one. All tables count: rules may lead to any of them.
    pub(super) fn follow_route_mtu(&mut self, model: &Model) -> bool {
        let renewals = [model.routes4.renewals(), model.routes6.renewals()];
        if self.route_mtu.0 == renewals {
            return false;
        }
        let least = [least_mtu(&model.routes4), least_mtu(&model.routes6)];
        std::mem::replace(&mut self.route_mtu, (renewals, least)).1 != least
    }

    /// Keeps in line what is found by the next hop that the kernel names.
    pub(super) fn update_neighbours(&mut self, model: &Model, touched: &Touched, ports: bool, update: &mut Update) {
        let inquires = super::port::features(self.want.ports.values().chain(self.want.vlans.values()));
        let inquires = inquires.contains(Features::KERNEL_LOOKUP);
        if ports {
            let mut wanted = if inquires { Self::all_neighbours(model) } else { BTreeMap::new() };
            if model.proxies_neighbours() {
                let key =
                    |(dev, address): &(Ifindex, Ipv6Addr)| NeighbourKey::proxied(*dev, u128::from(*address).into());
                wanted.extend(model.proxies.iter().map(|proxy| (key(proxy), Found::Ours)));
            }
            let known: Vec<_> = self.want.neighbours.keys().chain(wanted.keys()).copied().collect();
            for key in known {
                self.set_neighbour(key, wanted.get(&key).copied(), update);
            }
        } else if inquires {
            for (ifindex, address) in &touched.neighbours {
                let known = model.neighbours.get(&(*ifindex, *address)).and_then(Neighbour::resolved);
                let next_hop = known.map(|_| NextHopKey { dev: *ifindex, via: Some(*address) });
                self.set_neighbour(key(*ifindex, *address), next_hop.map(Found::NextHopKey), update);
            }
        }
    }

    fn all_neighbours(model: &Model) -> BTreeMap<NeighbourKey, Found> {
        let neighbours = model.neighbours.iter().filter(|(_, neighbour)| neighbour.resolved().is_some());
        let neighbours = neighbours.map(|((dev, address), _)| {
            (key(*dev, *address), Found::NextHopKey(NextHopKey { dev: *dev, via: Some(*address) }))
        });
        let ours = model.addresses.iter().flat_map(|address| ours(model, address));
        neighbours.chain(ours.map(|key| (key, Found::Ours))).collect()
    }

    fn set_neighbour(&mut self, key: NeighbourKey, found: Option<Found>, update: &mut Update) {
        let index = match found {
            Some(Found::Ours) => Some(NeighbourKey::OURS),
            // Beyond the room the neighbour stays unknown, and the kernel sends.
            Some(Found::NextHopKey(next_hop)) => self.next_hops.serve(next_hop),
            None => None,
        };
        let before = match index {
            Some(index) => self.want.neighbours.insert(key, index),
            None => self.want.neighbours.remove(&key),
        };
        if let Some(before) = before.filter(|before| *before != NeighbourKey::OURS) {
            self.next_hops.release_served(before);
        }
        if before != index {
            update.neighbours.insert(key, index);
        }
    }
}

fn least_mtu<A: Family>(routes: &Routes<A>) -> u32 {
    routes.infos().filter_map(|(_, info)| info.mtu).min().unwrap_or(0)
}

/// What is found by a key.
#[derive(Clone, Copy)]
enum Found {
    NextHopKey(NextHopKey),
    Ours,
}

/// The keys of an address in a VRF, and of the broadcast address of its network: the mirror knows only those in table local.
fn ours(model: &Model, address: &Address) -> Vec<NeighbourKey> {
    let Some(link) = model.links.get(&address.ifindex) else { return Vec::new() };
    let domain = model.domain(link);
    if domain == link && domain.kind.as_deref() != Some("vrf") {
        return Vec::new();
    }
    let mut keys = vec![key(domain.ifindex, address.address)];
    if let (IpAddr::V4(v4), 0..=30) = (address.address, address.length) {
        let hosts = u32::MAX >> address.length;
        keys.push(NeighbourKey::v4(domain.ifindex, u32::from(v4) | hosts));
    }
    keys
}
