//! Routes: the tables of a family become one that answers as the kernel's lookup does.

use std::collections::{BTreeSet, HashMap};

use dataplane_common::abi::{Ifindex, NextHopGroup, RouteKind};

use super::adjacency::{Hop, NextHopKey, Path};
use super::order::{Best, Order};
use crate::model::{Candidates, Family, IpVersion, Link, Model, NextHopFlags, Prefix, RouteInfo, RouteType};

/// What a prefix maps to, before paths have indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FibEntry {
    /// No next hop.
    Kind(RouteKind),
    /// A path of [`Paths`].
    Path(usize),
}

/// What the routes of one prefix come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BestRoute {
    FibEntry(FibEntry),
    /// On to the next table.
    Throw,
}

/// The distinct paths of all routes.
#[derive(Default)]
pub(super) struct Paths {
    all: Vec<Path>,
    known: HashMap<Path, usize>,
}

impl Paths {
    /// The number of a path.
    pub(super) fn number(&mut self, path: Path) -> usize {
        *self.known.entry(path).or_insert_with_key(|path| {
            self.all.push(path.clone());
            self.all.len() - 1
        })
    }

    /// All.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Path> {
        self.all.iter()
    }

    /// Whether a path is among them.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.known.contains_key(path)
    }

    /// The path of a number.
    pub(super) fn get(&self, number: usize) -> &Path {
        &self.all[number]
    }
}

/// A prefix around the current position: its last address, its table, and what it hides there.
type Open<A> = (A, usize, Best);

/// What all prefixes of a family come to: `route` gets every prefix of the tables, in order, and `host` every neighbour that
/// is to be cut out of the on-link prefix around it.
pub(super) fn all<A: Family>(
    model: &Model,
    order: &Order<A>,
    hosts: &BTreeSet<(A, Ifindex)>,
    paths: &mut Paths,
    mut route: impl FnMut(Prefix<A>, FibEntry),
    mut host: impl FnMut(A, FibEntry),
) {
    let mut best = vec![Best::None; order.tables().len()];
    // Innermost last.
    let mut open: Vec<Open<A>> = Vec::new();
    let mut known = HashMap::new();
    let mut tables: Vec<_> = order.tables().iter().map(|table| A::routes(model).table(*table).peekable()).collect();
    let mut edges = order.edges().iter().copied().peekable();
    let mut hosts = hosts.iter().copied().peekable();
    loop {
        // An outer prefix comes before those inside it, and a prefix in all its tables at once.
        let next = tables.iter_mut().filter_map(|rows| rows.peek().map(|(prefix, _)| *prefix)).min();
        let place = hosts.peek().map(|(address, _)| Prefix::new(*address, A::BITS as u8));
        let Some(prefix) = next.into_iter().chain(place).chain(edges.peek().copied()).min() else { return };
        while let Some((_, table, hidden)) = open.pop_if(|(last, ..)| *last < prefix.first()) {
            best[table] = hidden;
        }
        let mut decides = edges.next_if_eq(&prefix).is_some();
        for (table, rows) in tables.iter_mut().enumerate() {
            let Some((_, candidates)) = rows.next_if(|(other, _)| *other == prefix) else { continue };
            // What one route comes to does not depend on its prefix.
            let choice = match candidates.numbers() {
                [number] => *known.entry(*number).or_insert_with(|| choose(model, prefix, candidates, paths)),
                _ => choose(model, prefix, candidates, paths),
            };
            if let Some(choice) = choice {
                open.push((prefix.last(), table, best[table].replace((prefix.length(), choice))));
                decides = true;
            }
        }
        let entry = order.resolve(prefix, &best);
        if decides {
            route(prefix, entry);
        }
        while let Some((address, dev)) =
            hosts.next_if(|(address, _)| place == Some(prefix) && prefix.contains(*address))
        {
            if let Some(entry) = cut_out(paths, entry, address, dev) {
                host(address, entry);
            }
        }
    }
}

/// What one prefix comes to; `None` if it means nothing.
pub(super) fn one<A: Family>(
    model: &Model,
    order: &Order<A>,
    hosts: &BTreeSet<(A, Ifindex)>,
    paths: &mut Paths,
    prefix: Prefix<A>,
) -> Option<FibEntry> {
    let longest = |table: &u32| {
        A::routes(model)
            .around(*table, prefix)
            .find_map(|(outer, candidates)| Some((outer.length(), choose(model, outer, candidates, paths)?)))
    };
    let best: Vec<Best> = order.tables().iter().map(longest).collect();
    let entry = order.resolve(prefix, &best);
    if prefix.is_host() {
        let address = prefix.first();
        let devs = hosts.range((address, 0)..=(address, Ifindex::MAX));
        if let Some(host) = devs.copied().find_map(|(address, dev)| cut_out(paths, entry, address, dev)) {
            return Some(host);
        }
    }
    let decides = best.iter().flatten().any(|(length, _)| *length == prefix.length());
    (decides || order.edges().contains(&prefix)).then_some(entry)
}

/// The prefixes that a change of the routes of `prefix` in `table` may matter for: itself, those inside it in other tables
/// that do not settle their addresses before, and neighbours.
pub(super) fn depending<A: Family>(
    model: &Model,
    order: &Order<A>,
    hosts: &BTreeSet<(A, Ifindex)>,
    table: u32,
    prefix: Prefix<A>,
) -> impl Iterator<Item = Prefix<A>> {
    let others = order.tables().iter().filter(move |other| **other != table);
    let inside = others.flat_map(move |other| {
        let rows = A::routes(model).inside(*other, prefix);
        let open = rows.filter(move |(inner, routes)| !order.settles(*inner, *other, table, *routes));
        open.map(|(inner, _)| inner)
    });
    let edges = order.edges().iter().copied().filter(move |edge| prefix.covers(*edge));
    let hosts = hosts.range((prefix.first(), 0)..=(prefix.last(), Ifindex::MAX));
    let hosts = hosts.map(|(address, _)| Prefix::new(*address, A::BITS as u8));
    std::iter::once(prefix).chain(inside).chain(edges).chain(hosts)
}

/// Routes through any of these links, by table and prefix.
pub(super) fn through<A: Family>(
    model: &Model,
    order: &Order<A>,
    devs: &BTreeSet<Ifindex>,
) -> impl Iterator<Item = (u32, Prefix<A>)> {
    let routes = A::routes(model);
    let infos = routes.infos().filter(|(_, info)| info.next_hops.iter().any(|hop| devs.contains(&hop.dev)));
    let infos: BTreeSet<u32> = infos.map(|(number, _)| number).collect();
    let tables = if infos.is_empty() { &[] } else { order.tables() };
    tables.iter().flat_map(move |table| {
        let infos = infos.clone();
        let rows = routes.table(*table);
        let through = rows.filter(move |(_, some)| some.numbers().iter().any(|number| infos.contains(number)));
        through.map(|(prefix, _)| (*table, prefix))
    })
}

/// A single address in an on-link prefix: that of a neighbour on the very link that the prefix is on, so a better route is
/// never overridden.
fn cut_out<A: Family>(paths: &mut Paths, around: FibEntry, address: A, dev: Ifindex) -> Option<FibEntry> {
    let FibEntry::Path(number) = around else { return None };
    let outer = paths.get(number);
    let hop = Hop { next_hop: NextHopKey { dev, via: Some(address.to_ip()) }, weight: 1, dead: false };
    let host = (outer.on_link() == Some(dev)).then(|| Path { hops: vec![hop], mtu: outer.mtu })?;
    Some(FibEntry::Path(paths.number(host)))
}

/// What the routes of one prefix come to; `None` if none of them is alive, so that a shorter prefix decides
/// (`fib_table_lookup` in `net/ipv4/fib_trie.c`, `fib6_table_lookup` in `net/ipv6/route.c`).
fn choose<A: Family>(
    model: &Model,
    prefix: Prefix<A>,
    routes: Candidates<'_, A>,
    paths: &mut Paths,
) -> Option<BestRoute> {
    const KERNEL: BestRoute = BestRoute::FibEntry(FibEntry::Kind(RouteKind::Kernel));
    if routes.iter().any(|route| route.tos != 0 || route.source != Prefix::all()) {
        return Some(KERNEL);
    }
    let mut living = routes.iter().filter(|route| route.is_alive());
    let route = living.next()?;
    // Among equals the kernel looks at the state of their neighbours: IPv6 always, IPv4 for default routes.
    let mut equals = living.take_while(|other| other.priority == route.priority);
    let weighs = A::SIBLINGS || prefix.length() == 0;
    if weighs && equals.any(|other| other.kind != route.kind || route.kind == RouteType::Unicast) {
        return Some(KERNEL);
    }
    let kind = match route.kind {
        RouteType::Throw => return Some(BestRoute::Throw),
        RouteType::Unicast => {
            let entry = path(model, route).map(|path| FibEntry::Path(paths.number(path)));
            return Some(entry.map_or(KERNEL, BestRoute::FibEntry));
        }
        RouteType::Local | RouteType::Anycast => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::Blackhole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Other(_) => RouteKind::Kernel,
    };
    Some(BestRoute::FibEntry(FibEntry::Kind(kind)))
}

/// The path of a unicast route; `None` if it has something that only the kernel can do.
fn path<A: Family>(model: &Model, route: &RouteInfo<A>) -> Option<Path> {
    let living = || route.next_hops.iter().filter(|hop| !hop.flags.contains(NextHopFlags::DEAD));
    if living().any(|hop| hop.encap || !usable(model, hop.dev)) {
        return None;
    }
    // With several hops, the destination as next hop would need a group for each destination.
    let understood = match living().count() {
        0 => false,
        1 => true,
        _ => living().all(|hop| hop.via.is_some()),
    };
    // One way has no need of a weight, and routes that differ in nothing else share a group.
    let single = route.next_hops.len() == 1;
    let hops = route.next_hops.iter().map(|hop| Hop {
        next_hop: NextHopKey { dev: hop.dev, via: hop.via },
        weight: if single { 1 } else { hop.weight },
        dead: hop.flags.contains(NextHopFlags::DEAD),
    });
    understood.then(|| Path { hops: hops.collect(), mtu: mtu(model, route) })
}

/// What bounds the packets of a route, for [`NextHopGroup::longest`]. IPv6 looks at the device first, and only at the route if
/// its MTU is locked (`ip6_dst_mtu_maybe_forward` in `include/net/ip6_route.h`), and once more at the route on the way out. For
/// IPv4 a route's MTU is in force even if it is larger (`ip_dst_mtu_maybe_forward` in `include/net/ip.h`). What IPv6 takes for
/// a device's may be less than the device's; of several ways, the least: the kernel gets what is longer.
fn mtu<A: Family>(model: &Model, route: &RouteInfo<A>) -> u32 {
    if A::VERSION == IpVersion::V4 || route.mtu_locked && route.mtu.is_some() {
        return route.mtu.unwrap_or_default();
    }
    let narrow = route.next_hops.iter().filter_map(|hop| model.links.get(&hop.dev)?.narrow_ipv6());
    narrow.chain(route.mtu).min().map_or(0, |mtu| mtu | NextHopGroup::WITHIN_DEVICE)
}

/// Whether packets can be routed through a link by us.
pub(super) fn usable(model: &Model, dev: Ifindex) -> bool {
    let able = |link: &Link| !link.loopback && link.kind.as_deref() != Some("vrf");
    model.links.get(&dev).is_some_and(able)
}
