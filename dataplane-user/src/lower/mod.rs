//! The model becomes the contents of the maps. Pure: the same model and the same history give the same contents.

mod adjacency;
pub mod filter;
mod index;
mod port;
mod route;
mod table;
mod vlan;

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::{
    ADJACENCIES, Adjacency, Control, FIB_INTERVALS, Features, GROUPS, Ifindex, NextHopGroup, PORT_PROBES, Port,
    RouteKind, Tag, Target, VLANS, VlanKey,
};

use crate::model::{Attachment, Family, IpVersion, Model};
use adjacency::{Path, Who};
use index::Indices;
use route::{Leaf, Paths};

pub use table::{Parts, Store, Table};

/// What the maps of ports and routes should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// By slot.
    pub ports: BTreeMap<u32, Port>,
    /// VLAN devices on ports.
    pub vlans: BTreeMap<VlanKey, Port>,
    /// By index.
    pub groups: BTreeMap<u32, NextHopGroup>,
    /// By index.
    pub adjacencies: BTreeMap<u32, Adjacency>,
    /// IPv4.
    pub fib4: Table<u32>,
    /// IPv6.
    pub fib6: Table<u128>,
    /// Devices that XDP transmits on.
    pub egress: BTreeSet<Ifindex>,
    /// [`Control::mirror`].
    pub mirror: u32,
    /// What ports and routes ask of the program; the filter adds its own.
    pub features: Features,
    /// What could not be done, for the operator. Packets concerned are left to the kernel.
    pub problems: Vec<Problem>,
}

impl Default for Want {
    /// Empty maps.
    fn default() -> Self {
        Self {
            ports: BTreeMap::new(),
            vlans: BTreeMap::new(),
            groups: BTreeMap::new(),
            adjacencies: BTreeMap::new(),
            fib4: Table::default(),
            fib6: Table::default(),
            egress: BTreeSet::new(),
            mirror: 0,
            features: Features::empty(),
            problems: Vec::new(),
        }
    }
}

/// Why the kernel has to do what we could not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// There are routing rules.
    #[error(
        "{0} has routing rules beyond the default ones, so the kernel forwards {0} itself; `ip rule` lists them, delete \
         those that are not needed"
    )]
    PolicyRouting(IpVersion),
    /// A port belongs to a VRF.
    #[error(
        "{name} belongs to a VRF, whose routes are not mirrored, so the kernel forwards everything itself; detach {name}"
    )]
    Vrf {
        /// Which port.
        name: String,
    },
    /// The table does not fit.
    #[error(
        "the {version} routes make {found} intervals and there is room for {FIB_INTERVALS}, so the kernel forwards \
         {version} itself; aggregate routes"
    )]
    RoutesFull {
        /// Of which family.
        version: IpVersion,
        /// How many intervals there are.
        found: usize,
    },
    /// More distinct sets of next hops than fit.
    #[error(
        "the {0} routes have more distinct next hops than fit ({GROUPS} sets, {ADJACENCIES} next hops), so the kernel \
         forwards {0} itself; use fewer gateways"
    )]
    NextHopsFull(IpVersion),
    /// More neighbours on connected networks than fit.
    #[error(
        "{left} {version} neighbours on connected networks are beyond the room for next hops ({GROUPS} sets, {ADJACENCIES} \
         next hops), so the kernel forwards to these itself; split the network"
    )]
    NeighboursFull {
        /// Of which family.
        version: IpVersion,
        /// How many are left out.
        left: usize,
    },
    /// More VLAN devices than fit.
    #[error(
        "{left} VLAN devices are beyond the room for {VLANS}, so their packets are left to the kernel; detach a port"
    )]
    VlansFull {
        /// How many are left out.
        left: usize,
    },
    /// No slot for a port.
    #[error(
        "no slot is free for the port with index {ifindex} (tried {PORT_PROBES}), so its packets are left to the kernel; detach another"
    )]
    PortsFull {
        /// Which port.
        ifindex: Ifindex,
    },
}

impl Problem {
    /// The command that cures it, or shows what to cure.
    pub fn cure(&self) -> &'static str {
        match self {
            Self::PolicyRouting(IpVersion::V4) => "ip rule list  # delete with `ip rule del` those that are not needed",
            Self::PolicyRouting(IpVersion::V6) => {
                "ip -6 rule list  # delete with `ip -6 rule del` those that are not needed"
            }
            Self::Vrf { .. } => "ip link show type vrf  # and `dataplane detach` their members",
            Self::RoutesFull { .. } | Self::NextHopsFull(_) => "ip route show  # aggregate routes, use fewer gateways",
            Self::NeighboursFull { .. } => "ip neigh show  # split the network",
            Self::VlansFull { .. } => "ip -d link show type vlan  # and `dataplane detach` a port with many of them",
            Self::PortsFull { .. } => "dataplane port list  # detach what is not needed",
        }
    }
}

/// Turns models into [`Want`]s; remembers which index stands for what.
#[derive(Clone, Debug)]
pub struct Lowering {
    slots: port::Slots,
    groups: Indices<Path>,
    adjacencies: Indices<Who>,
}

impl Lowering {
    /// For empty maps. Ports in `kept` keep the slots that an earlier daemon gave them, so their counters stay theirs.
    pub fn new(kept: BTreeMap<Ifindex, u32>) -> Self {
        Self { slots: port::Slots::new(kept), groups: Indices::new(GROUPS), adjacencies: Indices::new(ADJACENCIES) }
    }

    /// What the maps should hold for `model` with these `ports` attached.
    pub fn lower(&mut self, model: &Model, ports: &BTreeMap<Ifindex, Attachment>) -> Want {
        let mut want = Want { mirror: Control::MIRROR_V4 | Control::MIRROR_V6, ..Want::default() };
        self.lower_ports(model, ports, &mut want);
        want.vlans = vlan::vlans(model, ports, &mut want.problems);
        want.egress = adjacency::egress(model);

        self.groups.begin();
        self.adjacencies.begin();
        want.fib4 = self.lower_routes(model, &mut want);
        want.fib6 = self.lower_routes(model, &mut want);
        self.groups.end();
        self.adjacencies.end();

        let indices: BTreeMap<Who, u32> = self.adjacencies.iter().map(|(who, index)| (*who, index)).collect();
        want.adjacencies =
            indices.iter().map(|(who, index)| (*index, adjacency::adjacency(model, &want.egress, *who))).collect();
        want.groups = self.groups.iter().map(|(path, index)| (index, adjacency::group(path, &indices))).collect();

        want.features |= port::features(want.ports.values().chain(want.vlans.values()));
        let tagged = want.adjacencies.values().any(|adjacency| adjacency.tags[0] != Tag::NONE);
        want.features.set(Features::VLANS, tagged || !want.vlans.is_empty());
        let ipv6 = model.addresses.iter().any(|address| address.address.is_ipv6() && !address.address.is_loopback());
        want.features.set(Features::IPV6, ipv6);
        want.features.set(Features::MULTIPATH, want.groups.values().any(|group| group.slots > 1));
        want
    }

    /// No packet that began before the last [`Want`] was written is still being judged: indices that it gave back may be
    /// used again.
    pub fn grace_passed(&mut self) {
        self.slots.grace_passed();
        self.groups.grace_passed();
        self.adjacencies.grace_passed();
    }

    fn lower_ports(&mut self, model: &Model, ports: &BTreeMap<Ifindex, Attachment>, want: &mut Want) {
        let present =
            || ports.iter().filter_map(|(ifindex, attachment)| Some((model.links.get(ifindex)?, *attachment)));
        let slots = self.slots.assign(present().map(|(link, _)| link.ifindex), &mut want.problems);
        for (link, attachment) in present() {
            if let Some(slot) = slots.get(&link.ifindex) {
                want.ports.insert(*slot, port::port(model, link, attachment));
            }
            if model.enslaved(link, &["vrf"]) {
                want.problems.push(Problem::Vrf { name: link.name.clone() });
                want.mirror = 0;
            }
        }
    }

    /// One family's table. Where it can not be complete it is empty and the family's bit in `mirror` is off.
    fn lower_routes<A: Family>(&mut self, model: &Model, want: &mut Want) -> Table<A> {
        let table = self.try_routes(model, &mut want.problems).unwrap_or_else(|problem| {
            want.problems.push(problem);
            want.mirror &= !A::MIRROR;
            // What is for this machine is still told from what is not: they meet different chains.
            self.try_routes(&model.local_only(), &mut Vec::new()).unwrap_or_default()
        });
        if model.policy_routing(A::VERSION) {
            want.problems.push(Problem::PolicyRouting(A::VERSION));
            want.mirror &= !A::MIRROR;
        }
        table
    }

    fn try_routes<A: Family>(&mut self, model: &Model, problems: &mut Vec<Problem>) -> Result<Table<A>, Problem> {
        let mut paths = Paths::default();
        let intervals = route::intervals::<A>(model, &mut paths);
        // Routes come first: what they need must fit, and neighbours take what room is left.
        for (_, leaf) in &intervals {
            if let Leaf::Path(number) = leaf {
                self.claim(paths.get(*number)).ok_or(Problem::NextHopsFull(A::VERSION))?;
            }
        }
        let mut left = 0;
        let mut room = FIB_INTERVALS.saturating_sub(intervals.len());
        let cuts = route::cut_out_neighbours(model, &mut paths, &intervals, |host| {
            let fits = room >= 2 && self.claim(host).is_some();
            if fits {
                room -= 2;
            } else {
                left += 1;
            }
            fits
        });
        if left != 0 {
            problems.push(Problem::NeighboursFull { version: A::VERSION, left });
        }
        let found = cuts.len();
        let targets = cuts.into_iter().map(|(start, leaf)| {
            let target = match leaf {
                Leaf::Kind(kind) => Target::new(kind, 0),
                // Claimed above, so it has an index; without one the kernel would have to say.
                Leaf::Path(number) => self
                    .claim(paths.get(number))
                    .map_or(Target::new(RouteKind::Kernel, 0), |index| Target::new(RouteKind::Unicast, index)),
            };
            (start, target)
        });
        Table::new(targets.collect()).ok_or(Problem::RoutesFull { version: A::VERSION, found })
    }

    /// The group of a path, with an adjacency for each member. A group without room for its members is not used.
    fn claim(&mut self, path: &Path) -> Option<u32> {
        for (who, _) in &path.hops {
            self.adjacencies.claim(who)?;
        }
        self.groups.claim(path)
    }
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
