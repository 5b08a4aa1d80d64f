//! The model takes the same news twice, and keeps routes in the kernel's order.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::lower::sample::{self, plain, spec};

/// A route of 198.18.0.0/24 in short: metric, TOS, and the last byte of its gateway.
fn route(priority: u32, tos: u8, gateway: u8) -> Route<u32> {
    let via = Some(IpAddr::from([198, 18, 1, gateway]));
    let next_hops = vec![NextHop { via, dev: 2, weight: 1, flags: NextHopFlags::empty(), encap: false }];
    let destination = Prefix::new(u32::from_be_bytes([198, 18, 0, 0]), 24);
    let mut route = plain(TABLE_MAIN, destination, RouteType::Unicast);
    (route.tos, route.priority, route.next_hops) = (tos, priority, next_hops);
    route
}

fn gateways<A: Family>(routes: &Routes<A>) -> Vec<Vec<u8>> {
    let last = |hop: &NextHop| match hop.via {
        Some(IpAddr::V4(via)) => via.octets()[3],
        Some(IpAddr::V6(via)) => via.octets()[15],
        None => 0,
    };
    routes.iter().map(|route| route.next_hops.iter().map(last).collect()).collect()
}

/// What was announced, and the gateways in the order that results.
type Row<'a> = (&'a str, &'a [(Route<u32>, Placement)], &'a [u8]);

#[test]
fn ipv4_routes_of_a_prefix_keep_the_kernels_order() {
    use Placement::{First, Last, Replace};
    let rows: &[Row<'_>] = &[
        ("by metric", &[(route(5, 0, 5), First), (route(0, 0, 1), First), (route(9, 0, 9), First)], &[1, 5, 9]),
        ("TOS before metric", &[(route(0, 0, 1), First), (route(9, 16, 9), First)], &[9, 1]),
        ("appended", &[(route(0, 0, 1), First), (route(0, 0, 2), Last), (route(5, 0, 5), First)], &[1, 2, 5]),
        ("prepended", &[(route(0, 0, 1), First), (route(0, 0, 2), First)], &[2, 1]),
        (
            "the first is replaced",
            &[(route(0, 0, 1), First), (route(0, 0, 2), Last), (route(0, 0, 3), Replace)],
            &[3, 2],
        ),
        ("only of the same metric", &[(route(0, 0, 1), First), (route(5, 0, 3), Replace)], &[1, 3]),
        ("again", &[(route(0, 0, 1), First), (route(0, 0, 2), Last), (route(0, 0, 2), First)], &[1, 2]),
    ];
    for (name, news, expected) in rows {
        let mut routes = Routes::default();
        for (route, placement) in *news {
            routes.insert(route.clone(), *placement);
        }
        assert_eq!(gateways(&routes).concat(), *expected, "{name}");
        let listed = Routes::from_dump(routes.iter().collect());
        assert_eq!(listed, routes, "{name}: listed");
        routes.remove(&route(7, 0, 7));
        assert_eq!(routes, listed, "{name}: another one goes");
        for (route, _) in *news {
            routes.remove(route);
        }
        assert!(routes.is_empty(), "{name}: all go");
    }
}

#[test]
fn ipv6_siblings_come_and_go_one_by_one() {
    let hop = |number: u8| NextHop {
        via: Some(sample::address::<u128>((0xfe, number)).to_ip()),
        dev: 2,
        weight: 1,
        flags: NextHopFlags::empty(),
        encap: false,
    };
    let with = |hops: &[u8]| {
        let destination = Prefix::new(sample::address::<u128>((0x20, 0)), 48);
        let mut route = plain(TABLE_MAIN, destination, RouteType::Unicast);
        route.next_hops = hops.iter().copied().map(hop).collect();
        route
    };
    let mut routes = Routes::default();
    routes.insert(with(&[1]), Placement::First);
    routes.insert(with(&[2, 1]), Placement::Last);
    assert_eq!(gateways(&routes), [[1, 2]], "an announcement has all siblings, beginning with any");
    routes.insert(with(&[3, 2, 1]), Placement::Last);
    routes.remove(&with(&[2]));
    assert_eq!(gateways(&routes), [[1, 3]], "one goes");
    routes.remove(&with(&[2]));
    assert_eq!(gateways(&routes), [[1, 3]], "it went before");
    routes.insert(with(&[9]), Placement::Replace);
    assert_eq!(gateways(&routes), [[9]], "replaced as a whole");
    let mut other = with(&[9]);
    other.priority = 5;
    routes.insert(other, Placement::First);
    routes.remove(&with(&[9]));
    assert_eq!(gateways(&routes), [[9]], "the other metric stays");
    assert_eq!(routes.len(), 1);
}

#[test]
fn a_link_takes_with_it_what_is_on_it() {
    let mut model = sample::model();
    let address = Address { ifindex: 3, address: IpAddr::from([198, 18, 0, 1]), length: 24, peer: None };
    model.apply(Event::Address(address));
    model.apply(Event::LinkGone(3));
    assert!(model.links.contains_key(&2) && !model.links.contains_key(&3));
    assert!(model.addresses.is_empty() && !model.features.contains_key(&3));
    assert!(model.neighbours.keys().all(|(ifindex, _)| *ifindex == 2));
    model.apply(Event::Snapshot(Snapshot::Links(Vec::new())));
    assert!(model.links.is_empty(), "what a listing does not name is gone");
}

#[test]
fn the_route_source_depends_on_the_rules() {
    use RouteSource::{Kernel, Mirror, Stack};
    let new = |version| RoutingRule::new(version, 9, 9);
    let with = |version, change: &dyn Fn(&mut RoutingRule)| {
        let mut rule = new(version);
        change(&mut rule);
        Event::RoutingRule(rule)
    };
    let (v4, v6) = (IpVersion::V4, IpVersion::V6);
    let other = |version| with(version, &|rule| rule.selector = vec![1]);
    let iif = |name: &str, version| with(version, &|rule| rule.iif = Some(name.to_owned()));
    let vrfs = || with(v4, &|rule| (rule.priority, rule.l3mdev) = (1000, true));
    let mark = |value, mask, inverted| {
        with(v4, &|rule| (rule.mark, rule.inverted, rule.table) = (Some((value, mask)), inverted, 9))
    };
    let local = RoutingRule::new(v4, 0, TABLE_LOCAL);
    let checks = |ifindex| {
        let scope = NetconfScope::Interface(ifindex);
        let rp_filter = Some(1);
        Event::Netconf(Netconf {
            version: v4,
            scope,
            forwarding: None,
            rp_filter,
            force_forwarding: None,
            proxy_ndp: None,
        })
    };
    let rows: &[(&str, Vec<Event>, [RouteSource; 2])] = &[
        ("nothing new", vec![Event::RoutingRule(local.clone())], [Mirror, Mirror]),
        ("what only the kernel compares", vec![other(v4)], [Kernel, Mirror]),
        ("of the other family", vec![other(v6)], [Mirror, Kernel]),
        ("another table", vec![with(v4, &|_| ())], [Mirror, Mirror]),
        ("one is missing", vec![Event::RoutingRuleGone(local.clone())], [Mirror, Mirror]),
        ("none is known", vec![Event::Snapshot(Snapshot::RoutingRules(Vec::new()))], [Kernel, Kernel]),
        ("a source", vec![with(v4, &|rule| rule.from = Some((Ipv4Addr::LOCALHOST.into(), 8)))], [Kernel, Mirror]),
        ("a destination", vec![with(v4, &|rule| rule.to = Some((Ipv4Addr::LOCALHOST.into(), 8)))], [Mirror, Mirror]),
        ("a mark", vec![mark(1, u32::MAX, false)], [Mirror, Mirror]),
        ("no mark", vec![mark(51820, u32::MAX, true)], [Mirror, Mirror]),
        ("bits of a mark that are not set", vec![mark(0, 0xff, false)], [Mirror, Mirror]),
        ("only VRF devices", vec![vrfs()], [Mirror, Mirror]),
        ("beside VRF devices", vec![vrfs(), other(v4)], [Stack, Mirror]),
        ("for all, beside VRF devices", vec![vrfs(), with(v4, &|_| ())], [Mirror, Mirror]),
        ("packets of ours", vec![with(v4, &|rule| rule.own = true)], [Mirror, Mirror]),
        ("packets of others", vec![with(v4, &|rule| (rule.own, rule.inverted) = (true, true))], [Mirror, Mirror]),
        ("this port", vec![iif("port2", v6)], [Mirror, Kernel]),
        ("another port", vec![iif("port9", v6)], [Mirror, Mirror]),
        (
            "another port, and more",
            vec![with(v6, &|rule| (rule.iif, rule.selector) = (Some("port9".to_owned()), vec![1]))],
            [Mirror, Mirror],
        ),
        ("another port, IPv4", vec![iif("port9", v4)], [Mirror, Mirror]),
        // The way back to a source is looked up as if from there.
        ("another port, checked", vec![iif("port9", v4), checks(2)], [Kernel, Mirror]),
        ("another port, no local", vec![iif("port9", v4), Event::RoutingRuleGone(local.clone())], [Kernel, Mirror]),
        ("suppressed", vec![with(v4, &|rule| rule.suppresses = Some(0))], [Mirror, Mirror]),
        ("suppressed, IPv6", vec![with(v6, &|rule| rule.suppresses = Some(0))], [Mirror, Mirror]),
        ("a group", vec![with(v4, &|rule| rule.suppresses_group = Some(7))], [Kernel, Mirror]),
        ("a group, IPv6", vec![with(v6, &|rule| rule.suppresses_group = Some(7))], [Mirror, Stack]),
    ];
    for (name, events, expected) in rows {
        let mut model = sample::model();
        events.iter().cloned().for_each(|event| model.apply(event));
        let link = &model.links[&2];
        let sources = [IpVersion::V4, IpVersion::V6].map(|version| model.route_source(version, link));
        assert_eq!(sources, *expected, "{name}");
    }
}

#[test]
fn a_port_of_a_vrf_has_its_table() {
    let mut model = sample::model();
    model.apply(Event::Link(Link { ifindex: 9, kind: Some("vrf".into()), ..Link::default() }));
    model.links.get_mut(&2).expect("link 2").master = Some(9);
    let source = |model: &Model| model.route_source(IpVersion::V4, &model.links[&2]);
    assert_eq!(source(&model), RouteSource::Stack, "no rule leads to the tables of VRFs");
    let local = RoutingRule::defaults(IpVersion::V4).next().expect("the rule of table local");
    model.apply(Event::RoutingRule(RoutingRule { priority: 1000, l3mdev: true, ..local.clone() }));
    assert_eq!(source(&model), RouteSource::Kernel);
    model.apply(Event::RoutingRule(RoutingRule { mark: Some((1, 1)), ..RoutingRule::new(IpVersion::V4, 9, 9) }));
    assert_eq!(source(&model), RouteSource::Kernel, "no packet without a mark meets it");
    model.apply(Event::RoutingRule(RoutingRule::new(IpVersion::V4, 9, 9)));
    assert_eq!(source(&model), RouteSource::Stack, "another rule may come first");
}

/// News about routes.
fn news() -> impl Strategy<Value = Event> {
    let placement = prop::sample::select(vec![Placement::First, Placement::Last, Placement::Replace]);
    (spec(), placement, 0..4_u8).prop_map(|(spec, placement, what)| match what {
        0 => Event::Route4(spec.route(), placement),
        1 => Event::Route4Gone(spec.route()),
        2 => Event::Route6(spec.route(), placement),
        _ => Event::Route6Gone(spec.route()),
    })
}

proptest! {
    #[test]
    fn a_repeated_event_changes_nothing(all in prop::collection::vec(news(), 1..40)) {
        let mut model = sample::model();
        for event in all {
            model.apply(event.clone());
            let once = model.clone();
            model.apply(event.clone());
            prop_assert_eq!(&model, &once, "{:?}", event);
        }
    }
}
