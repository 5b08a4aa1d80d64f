//! Routing rules: the composed table against a walk over the rules, packet by packet (`fib_rules_lookup`).

use dataplane_common::abi::Tag;

use super::*;
use crate::model::{
    ACTION_BLACKHOLE, ACTION_GOTO, ACTION_NOTHING, ACTION_PROHIBIT, ACTION_TABLE, ACTION_UNREACHABLE, RouteSource, Vlan,
};

/// A rule that compares nothing but marks and destinations.
pub(super) fn rule() -> impl Strategy<Value = RoutingRule> {
    let actions = vec![
        ACTION_TABLE,
        ACTION_TABLE,
        ACTION_TABLE,
        ACTION_TABLE,
        ACTION_GOTO,
        ACTION_NOTHING,
        ACTION_BLACKHOLE,
        ACTION_UNREACHABLE,
        ACTION_PROHIBIT,
    ];
    (
        (any::<bool>(), prop::sample::select(vec![0, 5, 5, 9, 40, 32766, 32768])),
        prop::sample::select(vec![TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT, 7, 7]),
        (prop::sample::select(actions), prop::sample::select(vec![6, 9, 40, 32766, 32767, 40000])),
        (0..9_u8, prop::bool::weighted(0.2)),
        prop::sample::select(vec![None, None, None, Some(0), Some(4), Some(7), Some(31)]),
        spec(),
    )
        .prop_map(|((v6, priority), table, (action, target), (what, inverted), suppresses, place)| {
            let version = if v6 { IpVersion::V6 } else { IpVersion::V4 };
            let mut rule = RoutingRule { action, inverted, suppresses, ..RoutingRule::new(version, priority, table) };
            rule.target = (action == ACTION_GOTO).then_some(target.max(priority + 1));
            match what {
                0 => rule.mark = Some((0x10, u32::MAX)),
                1 => rule.mark = Some((0x10, 0x0f)),
                2 => (rule.mark, rule.inverted) = (Some((51820, u32::MAX)), true),
                3 => rule.own = true,
                // The way back to an IPv4 source may depend on it.
                4 => rule.iif = v6.then(|| "port9".to_owned()),
                5 | 6 if action != ACTION_GOTO => {
                    let network = |(address, length): (IpAddr, u8)| Some((address, length));
                    rule.to = match version {
                        IpVersion::V4 => {
                            network((place.prefix::<u32>().first().to_ip(), place.prefix::<u32>().length()))
                        }
                        IpVersion::V6 => {
                            network((place.prefix::<u128>().first().to_ip(), place.prefix::<u128>().length()))
                        }
                    };
                }
                _ => {}
            }
            // What all others match, or what is not for a network, is not composed.
            rule.inverted &= rule.to.is_none() && rule.iif.is_none();
            rule
        })
}

/// Whether a packet from a port, without a mark, meets a rule.
fn met<A: Family>(rule: &RoutingRule, at: A) -> bool {
    let network = |(address, length)| Prefix::new(A::from_ip(address).expect("of the family"), length);
    let matches = rule.mark.is_none_or(|(value, mask)| value & mask == 0)
        && !rule.own
        && rule.iif.is_none()
        && rule.to.is_none_or(|to| network(to).contains(at));
    matches != rule.inverted
}

/// What the walk over the rules finds; where kernels differ, that is theirs.
fn walk<A: Family>(rules: &[RoutingRule], specs: &[Spec], at: A) -> Outcome {
    let (mut place, mut suppressed) = (0, false);
    while let Some(rule) = rules.get(place) {
        place += 1;
        if !met(rule, at) {
            continue;
        }
        match rule.action {
            ACTION_NOTHING => {}
            ACTION_GOTO => {
                let target = rules.iter().position(|other| Some(other.priority) == rule.target);
                place = target.unwrap_or(place);
            }
            ACTION_TABLE => {
                let found = longest(specs, &[rule.table], at).filter(|spec| spec.kind != RouteType::Throw);
                let kept = |spec: &Spec| {
                    spec.kind.is_end() || rule.suppresses.is_none_or(|least| spec.prefix::<A>().length() > least)
                };
                if let Some(spec) = found.filter(kept) {
                    let gateway = if spec.kind == RouteType::Unicast { spec.gateway } else { 0 };
                    return becomes(Some((spec.kind, gateway)), at);
                }
                suppressed = found.is_some();
            }
            ACTION_BLACKHOLE => return (RouteKind::Blackhole, None),
            ACTION_UNREACHABLE => return (RouteKind::Unreachable, None),
            ACTION_PROHIBIT => return (RouteKind::Prohibit, None),
            other => panic!("no row has action {other}"),
        }
    }
    let unsure = suppressed && A::VERSION == IpVersion::V6;
    (if unsure { RouteKind::Kernel } else { RouteKind::None }, None)
}

fn check<A: Family>(specs: Vec<Spec>, rules: &[RoutingRule], targets: impl Fn(&Want) -> &Targets<A>) {
    let specs = distinct::<A>(specs);
    let mut model = sample::model();
    add::<A>(&mut model, &specs);
    for rule in rules {
        model.apply(Event::RoutingRule(rule.clone()));
    }
    let want = Lowering::new([].into()).lower(&model, &attached(&model));
    assert_eq!(want.problems, []);
    let sources: Vec<_> = model.links.values().map(|link| model.route_source(A::VERSION, link)).collect();
    assert_eq!(sources, [RouteSource::Mirror; 2], "{rules:?}");
    let rules: Vec<_> = model.routing_rules.of(A::VERSION).cloned().collect();
    let unruled = rules.iter().cloned().eq(RoutingRule::defaults(A::VERSION));
    let edges = rules.iter().filter_map(|rule| rule.to).map(|(address, length)| {
        let network = Prefix::new(A::from_ip(address).expect("of the family"), length);
        [Some(network.first()), Some(network.last()), network.last().next()]
    });
    for at in probes::<A>(&specs).into_iter().chain(edges.flatten().flatten()) {
        let expected = if unruled { naive(&specs, at) } else { walk(&rules, &specs, at) };
        assert_eq!(outcome(&want, targets(&want).lookup(at)), expected, "{} with {specs:?}, {rules:?}", at.to_ip());
    }
}

proptest! {
    #[test]
    fn ipv4_rules_answer_as_the_kernel(
        specs in prop::collection::vec(spec(), 0..24), rules in prop::collection::vec(rule(), 1..6),
    ) {
        check(specs, &rules, |want| &want.fib4);
    }

    #[test]
    fn ipv6_rules_answer_as_the_kernel(
        specs in prop::collection::vec(spec(), 0..24), rules in prop::collection::vec(rule(), 1..6),
    ) {
        check(specs, &rules, |want| &want.fib6);
    }
}

/// The default route of a VPN comes and goes beside many routes in main, which decide before it.
#[test]
fn what_others_settle_is_not_looked_at() {
    let mut model = sample::model();
    let vpn =
        |table| RoutingRule { mark: Some((1, 1)), inverted: true, ..RoutingRule::new(IpVersion::V4, 30001, table) };
    let main = RoutingRule { suppresses: Some(0), ..RoutingRule::new(IpVersion::V4, 30000, TABLE_MAIN) };
    for rule in [vpn(7), main] {
        model.apply(Event::RoutingRule(rule));
    }
    for net in 0..1000 {
        let route = plain::<u32>(TABLE_MAIN, Prefix::new(0xc633_0000 | net << 4, 28), RouteType::Blackhole);
        model.apply(Event::Route4(route, Placement::First));
    }
    let order = order::Order::new(model.table_order::<u32>());
    let depending = |table, prefix| route::depending(&model, &order, &BTreeSet::new(), table, prefix).count();
    assert_eq!((depending(7, Prefix::all()), depending(TABLE_MAIN, Prefix::all())), (1, 1));
    assert_eq!(depending(TABLE_LOCAL, Prefix::all()), 1001, "local is looked up first");
}

/// A VLAN device on a port, in a VRF, meets the rules as a port does: its VRF's table alone would pass them by.
#[test]
fn a_device_on_a_port_meets_the_rules() {
    let mut model = sample::model();
    let ports = attached(&model);
    for version in [IpVersion::V4, IpVersion::V6] {
        model.apply(Event::RoutingRule(RoutingRule { l3mdev: true, ..RoutingRule::new(version, 100, 7) }));
    }
    model.apply(Event::Link(Link { ifindex: 9, kind: Some("vrf".into()), ..Link::default() }));
    let vlan = Some(Vlan { tag: Tag::new(false, 10), prioritises: false });
    let link = Link { ifindex: 22, kind: Some("vlan".into()), parent: Some(2), vlan, ..model.links[&2].clone() };
    model.apply(Event::Link(Link { name: "port2.10".to_owned(), master: Some(9), ..link }));
    let mut lowering = Lowering::new([].into());
    let want = lowering.lower(&model, &ports);
    assert_eq!((want.vlans.len(), &want.problems[..]), (1, &[][..]), "{:?}", want.vlans);
    let to = Some(("203.0.113.0".parse().expect("an address"), 24));
    let rule = RoutingRule { to, action: ACTION_PROHIBIT, ..RoutingRule::new(IpVersion::V4, 90, 7) };
    model.apply(Event::RoutingRule(rule));
    let want = lowering.lower(&model, &ports);
    assert_eq!(
        (families(&want), &want.problems[..]),
        (Control::MIRROR_V6, &[Problem::PolicyRouting(IpVersion::V4)][..])
    );
}
