//! Lowering against what the kernel's lookup would say.

mod group;
mod rules;

use std::cmp::Reverse;

use dataplane_common::abi::{self, Adjacency, AdjacencyFlags, Features, NeighbourKey, PortFlags, RouteKind, Target};
use dataplane_common::wire::Mac;
use proptest::prelude::*;

use super::sample::{self, GATEWAYS, Spec, add, attached, device, gateway, mac, plain, spec};
use super::*;
use crate::model::{
    Address, Event, Family, IpVersion, Link, Neighbour, NeighbourState, NextHop, NextHopFlags, Placement, Prefix,
    Route, RouteType, Routes, RoutingRule, Snapshot, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN, XdpFeatures,
};

/// What becomes of an address: a kind and, for unicast, the link and link address to send to.
type Outcome = (RouteKind, Option<(Ifindex, Mac)>);

fn outcome(want: &Want, target: Target) -> Outcome {
    let hop = (target.kind() == RouteKind::Unicast).then(|| {
        let adjacency = want.adjacencies[&want.groups[&target.group()].members[0].into()];
        (adjacency.ifindex, adjacency.destination)
    });
    (target.kind(), hop)
}

/// The families whose mirror decides.
fn families(want: &Want) -> u32 {
    want.mirror & (Control::MIRROR_V4 | Control::MIRROR_V6)
}

/// The longest match among `specs`, those of table local first among equals, then the lowest metric.
fn longest<A: Family>(specs: &[Spec], tables: &[u32], at: A) -> Option<Spec> {
    let matching = specs.iter().filter(|spec| tables.contains(&spec.table) && spec.prefix::<A>().contains(at));
    let ends = [RouteType::Blackhole, RouteType::Unreachable, RouteType::Prohibit, RouteType::Throw];
    let living = matching.filter(|spec| ends.contains(&spec.kind) || !spec.dead);
    living.max_by_key(|spec| (spec.prefix::<A>().length(), spec.table, Reverse(spec.priority))).copied()
}

/// The route that the kernel takes when it looks into these groups of tables, one after the other.
fn ask<A: Family>(specs: &[Spec], order: &[&[u32]], at: A) -> Option<(RouteType, u8)> {
    let found =
        order.iter().filter_map(|tables| longest(specs, tables, at)).find(|spec| spec.kind != RouteType::Throw)?;
    Some((found.kind, if found.kind == RouteType::Unicast { found.gateway } else { 0 }))
}

fn naive<A: Family>(specs: &[Spec], at: A) -> Outcome {
    // IPv6 has no rule for table default.
    let order: &[&[u32]] = &[&[TABLE_LOCAL], &[TABLE_MAIN], &[TABLE_DEFAULT]];
    let separate = ask(specs, if A::BITS == 32 { order } else { &order[..2] }, at);
    let merged = ask(specs, &[&[TABLE_LOCAL, TABLE_MAIN], &[TABLE_DEFAULT]], at);
    if A::MERGED_LOCAL && merged != separate {
        return (RouteKind::Kernel, None);
    }
    becomes(separate, at)
}

/// What becomes of an address with a route of this kind, through this gateway.
fn becomes<A: Family>(found: Option<(RouteType, u8)>, at: A) -> Outcome {
    let Some((kind, through)) = found else { return (RouteKind::None, None) };
    let neighbour = (1..=GATEWAYS).find(|number| gateway::<A>(*number) == at && device(*number) == device(through));
    match kind {
        RouteType::Unicast if through == 0 => {
            (RouteKind::Unicast, Some((device(0), neighbour.map(mac).unwrap_or_default())))
        }
        RouteType::Unicast => (RouteKind::Unicast, Some((device(through), mac(through)))),
        RouteType::Local => (RouteKind::Local, None),
        RouteType::Broadcast => (RouteKind::Broadcast, None),
        RouteType::Blackhole => (RouteKind::Blackhole, None),
        RouteType::Unreachable => (RouteKind::Unreachable, None),
        RouteType::Prohibit => (RouteKind::Prohibit, None),
        other => panic!("no row makes {other:?}"),
    }
}

/// Wherever something may change, and next to it.
fn probes<A: Family>(specs: &[Spec]) -> Vec<A> {
    let mut edges: Vec<A> = (1..=GATEWAYS).map(gateway).collect();
    edges.extend([A::default(), Prefix::<A>::all().last()]);
    edges.extend(specs.iter().flat_map(|spec| [spec.prefix::<A>().first(), spec.prefix::<A>().last()]));
    let behind: Vec<A> = edges.iter().filter_map(|edge| edge.next()).collect();
    let low = A::host_mask(A::BITS as u8 - 1);
    let before = edges.iter().filter(|edge| edge.widen() & 1 == 1).map(|edge| edge.without(low));
    before.chain(behind).chain(edges.iter().copied()).collect()
}

/// One route for each place: what becomes of several in one place is for rows.
fn distinct<A: Family>(mut specs: Vec<Spec>) -> Vec<Spec> {
    let mut seen = BTreeSet::new();
    specs.retain(|spec| seen.insert((spec.table, spec.prefix::<A>(), spec.priority)));
    specs
}

fn check<A: Family>(specs: Vec<Spec>, targets: impl Fn(&Want) -> &Targets<A>) {
    let specs = distinct::<A>(specs);
    let mut model = sample::model();
    add::<A>(&mut model, &specs);
    let want = Lowering::new([].into()).lower(&model, &attached(&model));
    assert_eq!(want.problems, []);
    assert_eq!(families(&want), Control::MIRROR_V4 | Control::MIRROR_V6);
    for at in probes::<A>(&specs) {
        let expected = naive(&specs, at);
        assert_eq!(outcome(&want, targets(&want).lookup(at)), expected, "{} with {specs:?}", at.to_ip());
    }
}

proptest! {
    #[test]
    fn ipv4_table_answers_as_the_kernel(specs in prop::collection::vec(spec(), 0..24)) {
        check(specs, |want| &want.fib4);
    }

    #[test]
    fn ipv6_table_answers_as_the_kernel(specs in prop::collection::vec(spec(), 0..24)) {
        check(specs, |want| &want.fib6);
    }
}

const PREFIX: &str = "198.51.100.0/24";
const INSIDE: &str = "198.51.100.9";

fn v4(text: &str) -> u32 {
    text.parse::<std::net::Ipv4Addr>().expect("an address").to_bits()
}

fn prefix(text: &str) -> Prefix<u32> {
    let (address, length) = text.split_once('/').expect("a prefix");
    Prefix::new(v4(address), length.parse().expect("a length"))
}

fn hop(gateway: u8) -> NextHop {
    let via = (gateway != 0).then(|| sample::gateway::<u32>(gateway).to_ip());
    NextHop { via, dev: device(gateway), weight: 1, flags: NextHopFlags::empty(), encap: false }
}

fn unicast(hops: &[NextHop]) -> Route<u32> {
    let mut route = plain(TABLE_MAIN, prefix(PREFIX), RouteType::Unicast);
    route.next_hops = hops.to_vec();
    route
}

/// A route with something changed.
fn with<A: Family>(mut route: Route<A>, change: impl FnOnce(&mut Route<A>)) -> Route<A> {
    change(&mut route);
    route
}

#[test]
fn what_we_do_not_understand_is_the_kernels() {
    let dead = |gateway| NextHop { flags: NextHopFlags::DEAD, ..hop(gateway) };
    let kernel = RouteKind::Kernel;
    let default = |gateway| Route { destination: Prefix::all(), ..unicast(&[hop(gateway)]) };
    let rows: Vec<(&str, Vec<Route<u32>>, RouteKind)> = vec![
        ("one way", vec![unicast(&[hop(1)])], RouteKind::Unicast),
        ("on-link", vec![unicast(&[hop(0)])], RouteKind::Unicast),
        ("two ways", vec![unicast(&[hop(1), hop(2)])], RouteKind::Unicast),
        ("two ways, one on-link", vec![unicast(&[hop(1), hop(0)])], kernel),
        ("two ways, one on-link but dead", vec![unicast(&[hop(1), dead(0)])], RouteKind::Unicast),
        ("all dead", vec![unicast(&[dead(1), dead(2)])], RouteKind::None),
        (
            "carrier lost, not ignored",
            vec![unicast(&[NextHop { flags: NextHopFlags::LINKDOWN, ..hop(1) }])],
            RouteKind::Unicast,
        ),
        ("a tunnel", vec![unicast(&[NextHop { encap: true, ..hop(1) }])], kernel),
        ("an unknown link", vec![unicast(&[NextHop { dev: 99, ..hop(1) }])], kernel),
        ("no way told", vec![unicast(&[])], kernel),
        ("by TOS", vec![with(unicast(&[hop(1)]), |route| route.tos = 0x10), unicast(&[hop(2)])], kernel),
        ("from a source", vec![with(unicast(&[hop(1)]), |route| route.source = prefix("10.0.0.0/8"))], kernel),
        (
            "two metrics",
            vec![with(unicast(&[hop(1)]), |route| route.priority = 9), unicast(&[hop(2)])],
            RouteKind::Unicast,
        ),
        ("equals", vec![unicast(&[hop(1)]), unicast(&[hop(2)])], RouteKind::Unicast),
        ("default routes that are equals", vec![default(1), default(2)], kernel),
        ("a type of tomorrow", vec![with(unicast(&[]), |route| route.kind = RouteType::Other(77))], kernel),
        ("anycast", vec![with(unicast(&[]), |route| route.kind = RouteType::Anycast)], RouteKind::Local),
        ("a group", vec![with(unicast(&[hop(0)]), |route| route.kind = RouteType::Multicast)], RouteKind::Multicast),
    ];
    for (name, routes, expected) in rows {
        let mut model = sample::model();
        for route in routes {
            model.apply(Event::Route4(route, Placement::Last));
        }
        let want = Lowering::new([].into()).lower(&model, &attached(&model));
        assert_eq!(want.fib4.lookup(v4(INSIDE)).kind(), expected, "{name}");
    }
}

#[test]
fn equal_ipv6_routes_are_the_kernels_unless_identical() {
    let destination = Prefix::new(sample::address::<u128>((2, 0)), 64);
    for (kind, expected) in [(RouteType::Unicast, RouteKind::Kernel), (RouteType::Multicast, RouteKind::Multicast)] {
        let mut model = sample::model();
        for dev in [2, 3] {
            let next_hops = vec![NextHop { dev, ..hop(0) }];
            let route = with(plain(TABLE_LOCAL, destination, kind), |route| route.next_hops = next_hops);
            model.apply(Event::Route6(route, Placement::Last));
        }
        let want = Lowering::new([].into()).lower(&model, &attached(&model));
        assert_eq!(want.fib6.lookup(destination.first()).kind(), expected, "{kind:?}");
    }
}

type Tweak<'a> = &'a dyn Fn(&mut Model);

#[test]
fn adjacencies_follow_link_and_neighbour() {
    let (resolved, xdp, tc) = (AdjacencyFlags::RESOLVED, AdjacencyFlags::XDP_TRANSMIT, AdjacencyFlags::TC_TRANSMIT);
    let all = resolved | xdp | tc;
    let link = |model: &mut Model, change: fn(&mut Link)| change(model.links.get_mut(&3).expect("link 3"));
    let state = |model: &mut Model, state| {
        let key = (3, gateway::<u32>(1).to_ip());
        model.neighbours.get_mut(&key).expect("gateway 1").state = state;
    };
    let rows: &[(&str, Tweak<'_>, AdjacencyFlags)] = &[
        ("all is well", &|_| {}, all),
        ("stale", &|model| state(model, NeighbourState::STALE), all),
        ("failed", &|model| state(model, NeighbourState::FAILED), xdp | tc),
        ("incomplete", &|model| state(model, NeighbourState::INCOMPLETE), xdp | tc),
        ("no ARP", &|model| state(model, NeighbourState::NOARP), xdp | tc),
        ("no neighbour", &|model| model.neighbours.clear(), xdp | tc),
        ("link down", &|model| link(model, |link| link.up = false), resolved),
        ("no Ethernet", &|model| link(model, |link| link.ethernet = false), AdjacencyFlags::empty()),
        ("no XDP frames", &|model| model.apply(Event::Features(3, XdpFeatures::BASIC)), resolved | tc),
        ("no features known", &|model| model.features.clear(), resolved | tc),
        (
            "in a bridge",
            &|model| {
                let bridge = Link { ifindex: 9, kind: Some("bridge".into()), ..Link::default() };
                model.apply(Event::Link(bridge));
                link(model, |link| link.master = Some(9));
            },
            resolved,
        ),
    ];
    for (name, tweak, expected) in rows {
        let mut model = sample::model();
        model.apply(Event::Route4(unicast(&[hop(1)]), Placement::First));
        tweak(&mut model);
        let want = Lowering::new([].into()).lower(&model, &BTreeMap::new());
        let group = want.groups[&want.fib4.lookup(v4(INSIDE)).group()];
        let adjacency = want.adjacencies[&group.members[0].into()];
        assert_eq!((adjacency.flags(), adjacency.ifindex), (*expected, 3), "{name}");
        assert_eq!(want.egress.contains(&3), expected.contains(xdp), "{name}");
    }
}

#[test]
fn what_does_not_fit_or_is_not_followed_goes_to_the_kernel() {
    // One set of next hops more than there is room for.
    let mut model = sample::model();
    for number in 0..=abi::GROUPS {
        let via = Some(std::net::Ipv4Addr::from_bits(v4("10.0.0.0") + number).into());
        let destination = Prefix::new(number << 12, 24);
        let route = Route { destination, ..unicast(&[NextHop { via, ..hop(1) }]) };
        model.apply(Event::Route4(route, Placement::First));
    }
    let own = Prefix::new(v4("192.0.2.1"), 32);
    let local = plain(TABLE_LOCAL, own, RouteType::Local);
    model.apply(Event::Route4(local, Placement::First));
    let want = Lowering::new([].into()).lower(&model, &attached(&model));
    assert_eq!(
        (families(&want), &want.problems[..]),
        (Control::MIRROR_V6, &[Problem::NextHopsFull(IpVersion::V4)][..])
    );
    assert_eq!(want.fib4.lookup(v4("192.0.2.1")).kind(), RouteKind::Local, "still ours");
    assert_eq!(want.fib4.lookup(v4("10.0.0.1")).kind(), RouteKind::None, "the kernel's");

    // Neighbours beyond the room stay with the prefix, which the kernel resolves.
    let mut model = sample::model();
    let destination = prefix("10.0.0.0/8");
    model.apply(Event::Route4(Route { destination, ..unicast(&[hop(0)]) }, Placement::First));
    for number in 0..abi::ADJACENCIES {
        let address = std::net::Ipv4Addr::from_bits(v4("10.0.0.0") + 2 * number).into();
        model.neighbours.insert(
            (2, address),
            Neighbour { ifindex: 2, address, state: NeighbourState::STALE, mac: Some(mac(1)), tended: false },
        );
    }
    let want = Lowering::new([].into()).lower(&model, &attached(&model));
    let problem = Problem::NeighboursFull { version: IpVersion::V4, left: 1 };
    assert_eq!((families(&want), &want.problems[..]), (Control::MIRROR_V4 | Control::MIRROR_V6, &[problem][..]));
    assert_eq!(outcome(&want, want.fib4.lookup(v4("10.0.0.2"))).1, Some((2, mac(1))));
    assert_eq!(outcome(&want, want.fib4.lookup(v4("10.0.127.254"))).1, Some((2, Mac::default())));
}

#[test]
fn with_routing_rules_the_kernel_looks_up() {
    let rule = |version| RoutingRule { selector: vec![1], ..RoutingRule::new(version, 100, 7) };
    let both = Control::MIRROR_V4 | Control::MIRROR_V6;
    let mut model = sample::model();
    let mtu = with(unicast(&[hop(1)]), |route| (route.table, route.info.mtu) = (7, Some(1400)));
    model.apply(Event::Route4(mtu, Placement::First));
    model.apply(Event::RoutingRule(rule(IpVersion::V4)));
    let mut lowering = Lowering::new([].into());
    let want = lowering.lower(&model, &attached(&model));
    assert_eq!((families(&want), &want.problems[..]), (both, &[][..]));
    assert!(want.features.contains(Features::KERNEL_LOOKUP | Features::SOURCES));
    let port = want.ports[&2];
    assert_eq!(port.flags() & (PortFlags::KERNEL_LOOKUP_V4 | PortFlags::KERNEL_LOOKUP_V6), PortFlags::KERNEL_LOOKUP_V4);
    assert_eq!((port.domain, port.route_mtu), (2, [1400, 0]));
    // Neighbours are found by address, on whatever link and in whatever network.
    let known = model.neighbours.iter().filter(|(_, neighbour)| neighbour.resolved().is_some());
    assert!(known.clone().count() > 0 && want.neighbours.len() == known.clone().count());
    for ((dev, _), neighbour) in known {
        let key = match neighbour.address {
            IpAddr::V4(v4) => NeighbourKey::v4(*dev, v4.into()),
            IpAddr::V6(v6) => NeighbourKey::v6(*dev, u128::from(v6).into()),
        };
        let adjacency = want.adjacencies[&want.neighbours[&key]];
        assert_eq!((adjacency.ifindex, Some(adjacency.destination)), (*dev, neighbour.mac), "{neighbour:?}");
    }

    // Addresses that are local by a table that a rule may lead to.
    assert!(!want.features.contains(Features::ELSEWHERE));
    let local = with(unicast(&[]), |route| {
        (route.table, route.info.kind) = (7, RouteType::Local);
        (route.destination, route.info.protocol) = (Prefix::new(0xc633_6409, 32), 3);
    });
    model.apply(Event::Route4(local.clone(), Placement::First));
    assert!(lowering.lower(&model, &attached(&model)).features.contains(Features::ELSEWHERE));
    model.apply(Event::Route4Gone(local));
    assert!(!lowering.lower(&model, &attached(&model)).features.contains(Features::ELSEWHERE));

    // What only the kernel's own path follows is left to it.
    model.apply(Event::RoutingRule(RoutingRule { suppresses: Some(0), ..rule(IpVersion::V6) }));
    let want = lowering.lower(&model, &attached(&model));
    assert_eq!(
        (families(&want), &want.problems[..]),
        (Control::MIRROR_V4, &[Problem::PolicyRouting(IpVersion::V6)][..])
    );

    // A VRF's rule alone changes nothing for others; a port in the VRF uses its table, and knows its addresses.
    let mut model = sample::model();
    for version in [IpVersion::V4, IpVersion::V6] {
        model.apply(Event::RoutingRule(RoutingRule { l3mdev: true, ..rule(version) }));
    }
    model.apply(Event::Link(Link { ifindex: 9, kind: Some("vrf".into()), ..Link::default() }));
    let want = lowering.lower(&model, &attached(&model));
    assert_eq!((want.neighbours.len(), want.features.contains(Features::KERNEL_LOOKUP)), (0, false));
    model.links.get_mut(&2).expect("link 2").master = Some(9);
    let address = "198.18.0.1".parse().expect("an address");
    model.apply(Event::Address(Address { ifindex: 2, address, length: 24, peer: None }));
    let want = lowering.lower(&model, &attached(&model));
    assert_eq!((families(&want), &want.problems[..]), (both, &[][..]));
    let flags = PortFlags::KERNEL_LOOKUP_V4 | PortFlags::KERNEL_LOOKUP_V6 | PortFlags::IN_VRF;
    assert!(want.ports[&2].flags().contains(flags) && want.ports[&2].domain == 9, "{:?}", want.ports[&2]);
    for ours in ["198.18.0.1", "198.18.0.255"] {
        assert_eq!(want.neighbours.get(&NeighbourKey::v4(9, v4(ours))), Some(&NeighbourKey::OURS), "{ours}");
    }
}

#[test]
fn ports_and_features_follow_links_and_settings() {
    use crate::model::{Netconf, NetconfScope};
    let mut model = sample::model();
    let netconf = |version, scope| Netconf {
        version,
        scope,
        forwarding: None,
        rp_filter: None,
        force_forwarding: None,
        proxy_ndp: None,
    };
    let (v4, v6) = (IpVersion::V4, IpVersion::V6);
    // A port without an address may have a client that waits for one; so may any where a program reads raw sockets.
    let plain = Lowering::new([].into()).lower(&model, &attached(&model));
    assert_eq!(plain.features, Features::CLIENTS);
    for (ifindex, address) in [(2, "192.0.2.1"), (3, "192.0.2.2")] {
        let address = address.parse().expect("an address");
        model.apply(Event::Address(Address { ifindex, address, length: 24, peer: None }));
    }
    let read = Model { raw_readers: true, ..model.clone() };
    assert_eq!(Lowering::new([].into()).lower(&read, &attached(&read)).features, Features::CLIENTS);
    let plain = Lowering::new([].into()).lower(&model, &attached(&model));
    assert_eq!(plain.features, Features::empty());
    assert_eq!(plain.ports[&2].flags(), PortFlags::TC | PortFlags::XDP);

    model.links.get_mut(&2).expect("link 2").kind = Some("veth".into());
    model.links.get_mut(&3).expect("link 3").ethernet = false;
    model.apply(Event::Netconf(Netconf { forwarding: Some(true), ..netconf(v4, NetconfScope::Interface(2)) }));
    model.apply(Event::Netconf(Netconf { rp_filter: Some(1), ..netconf(v4, NetconfScope::Interface(2)) }));
    model.apply(Event::Netconf(Netconf { rp_filter: Some(2), ..netconf(v4, NetconfScope::All) }));
    model.apply(Event::Netconf(Netconf { force_forwarding: Some(true), ..netconf(v6, NetconfScope::Interface(3)) }));
    model.apply(Event::Route4(unicast(&[hop(1), hop(2)]), Placement::First));
    let want = Lowering::new([(3, 5)].into()).lower(&model, &attached(&model));
    let (first, second) = (want.ports[&2], want.ports[&5]);
    let both = PortFlags::TC | PortFlags::XDP;
    assert_eq!(first.flags(), both | PortFlags::FORWARDING_V4 | PortFlags::PARTIAL_CHECKSUMS);
    assert_eq!(second.flags(), both | PortFlags::FORWARDING_V6 | PortFlags::NO_ETHERNET);
    assert_eq!((first.rp_filter, second.rp_filter), (2, 2), "the larger one of all and the interface");
    let expected = Features::RP_FILTER | Features::PARTIAL_CHECKSUMS | Features::NO_ETHERNET | Features::MULTIPATH;
    assert_eq!(want.features, expected);
    model.apply(Event::Netconf(Netconf { forwarding: Some(true), ..netconf(v6, NetconfScope::All) }));
    assert!(model.forwarding(v6, 2) && model.forwarding(v6, 3) && !model.forwarding(v4, 3));
}

#[test]
fn local_routes_of_the_operator_are_a_feature() {
    let local = |protocol| {
        with(plain(TABLE_LOCAL, prefix("192.0.2.0/28"), RouteType::Local), |route| {
            route.info.protocol = protocol;
        })
    };
    for (protocol, custom) in [(2, false), (4, true)] {
        let mut model = sample::model();
        model.apply(Event::Route4(local(protocol), Placement::First));
        let want = Lowering::new([].into()).lower(&model, &attached(&model));
        assert_eq!(want.features.contains(Features::CUSTOM_LOCAL), custom, "protocol {protocol}");
    }
}

/// News of every kind that matters for lowering.
fn news() -> impl Strategy<Value = Vec<Event>> {
    let placement = prop::sample::select(vec![Placement::First, Placement::Last, Placement::Replace]);
    let event = (spec(), placement, 0..18_u8, 1..=GATEWAYS, rules::rule());
    let event = event.prop_map(|(spec, placement, what, number, rule)| match what {
        0..=3 => Event::Route4(spec.route(), placement),
        4..=5 => Event::Route4Gone(spec.route()),
        6..=9 => Event::Route6(spec.route(), placement),
        10..=11 => Event::Route6Gone(spec.route()),
        12 => Event::NeighbourGone(device(number), gateway::<u32>(number).to_ip()),
        13 => Event::NeighbourGone(device(number), gateway::<u128>(number).to_ip()),
        15 => {
            let rule = RoutingRule { selector: vec![1], ..RoutingRule::new(IpVersion::V4, 100, TABLE_LOCAL) };
            if spec.dead { Event::RoutingRule(rule) } else { Event::RoutingRuleGone(rule) }
        }
        16 => Event::RoutingRule(rule),
        17 => Event::RoutingRuleGone(RoutingRule::new(rule.version, 32766, TABLE_MAIN)),
        14 => Event::Neighbour(Neighbour {
            ifindex: device(number),
            address: if spec.dead { gateway::<u32>(number).to_ip() } else { gateway::<u128>(number).to_ip() },
            state: NeighbourState::STALE,
            mac: Some(mac(spec.gateway)),
            tended: false,
        }),
        _ => {
            let kind = (spec.priority == 0).then(|| "vrf".to_owned());
            let (enabled, up) = (spec.priority != 1, spec.priority == 2);
            Event::Link(Link { ifindex: device(number), kind, enabled, up, ethernet: true, ..Link::default() })
        }
    });
    prop::collection::vec(event, 1..4)
}

/// What becomes of packets, without the indices, which depend on history.
fn decisions<A: Family>(want: &Want, targets: &Targets<A>) -> Vec<(Prefix<A>, RouteKind, u32, Vec<Adjacency>)> {
    let decision = |(prefix, target): (Prefix<A>, Target)| {
        let group = (target.kind() == RouteKind::Unicast).then(|| want.groups[&target.group()]);
        let members = group.iter().flat_map(|group| &group.members[..group.slots as usize]);
        let members = members.map(|member| want.adjacencies[&u32::from(*member)]).collect();
        (prefix, target.kind(), group.map_or(0, |group| group.mtu), members)
    };
    targets.iter().map(decision).collect()
}

proptest! {
    #[test]
    fn what_is_touched_is_enough(rounds in prop::collection::vec(news(), 1..12)) {
        let mut model = sample::model();
        let mut lowering = Lowering::new([].into());
        let mut have = lowering.lower(&model, &attached(&model));
        for events in rounds {
            let mut touched = Touched::default();
            for event in events.clone() {
                model.follow(event, &mut touched);
            }
            let update = lowering.update(&model, &attached(&model), &touched);
            let want = lowering.want();
            let fresh = Lowering::new([].into()).lower(&model, &attached(&model));
            prop_assert_eq!(decisions(want, &want.fib4), decisions(&fresh, &fresh.fib4), "IPv4 after {:?}", events);
            prop_assert_eq!(decisions(want, &want.fib6), decisions(&fresh, &fresh.fib6), "IPv6 after {:?}", events);
            prop_assert_eq!(want.groups.len(), fresh.groups.len());
            prop_assert_eq!(want.adjacencies.len(), fresh.adjacencies.len());
            prop_assert_eq!((&want.ports, &want.egress, families(want)), (&fresh.ports, &fresh.egress, families(&fresh)));
            let found = |want: &Want| -> Vec<_> {
                want.neighbours.iter().map(|(key, index)| (*key, want.adjacencies.get(index).copied())).collect()
            };
            prop_assert_eq!(found(want), found(&fresh), "neighbours after {:?}", events);
            prop_assert_eq!((want.features, &want.problems), (fresh.features, &fresh.problems));
            let direct = want.groups.iter().all(|(index, group)| group.is_adjacency(*index));
            prop_assert_eq!(want.mirror & Control::DIRECT != 0, direct);
            // No more and no less than the difference, except for what changed there and back.
            let exact = Update::between(&have, want);
            prop_assert_eq!(&update.groups, &exact.groups);
            prop_assert_eq!(&update.adjacencies, &exact.adjacencies);
            prop_assert_eq!(&update.fib4, &exact.fib4);
            prop_assert_eq!(&update.fib6, &exact.fib6);
            prop_assert_eq!((&update.ports, &update.egress), (&exact.ports, &exact.egress));
            prop_assert_eq!(&update.neighbours, &exact.neighbours);
            have = want.clone();
            lowering.grace_passed(&Grace::passed());
        }
    }
}
