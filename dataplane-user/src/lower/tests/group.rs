//! Next-hop groups of routes.

use super::*;

#[test]
fn a_group_of_one_hop_has_the_number_of_its_adjacency() {
    let mut model = sample::model();
    let mut lowering = Lowering::new([].into());
    let mut direct = |specs: &[(u8, u32)]| {
        let route = |(number, (gateway, mtu)): (usize, &(u8, u32))| {
            let destination = Prefix::new((number as u32) << 8, 24);
            with(unicast(&[hop(*gateway)]), |route| {
                (route.destination, route.info.mtu) = (destination, (*mtu != 0).then_some(*mtu));
            })
        };
        let routes = specs.iter().enumerate().map(route).collect();
        model.apply(Event::Snapshot(Snapshot::Routes4(Routes::from_dump(routes))));
        let want = lowering.lower(&model, &attached(&model));
        lowering.grace_passed(&Grace::passed());
        want.mirror & Control::DIRECT != 0
    };
    for (what, specs, expected) in [
        ("nothing", &[][..], true),
        ("three ways", &[(1, 0), (2, 0), (3, 0)], true),
        ("one comes back", &[(3, 0)], true),
        ("and others", &[(2, 0), (3, 0), (1, 0), (2, 0)], true),
        ("a route with an MTU of its own", &[(2, 0), (2, 1400)], false),
        ("without", &[(1, 0), (2, 0)], true),
    ] {
        assert_eq!(direct(specs), expected, "{what}");
    }
}

#[test]
fn a_dead_hop_changes_a_group_and_no_prefix() {
    let dead = |gateway| NextHop { flags: NextHopFlags::DEAD, ..hop(gateway) };
    let table = |hops: &[NextHop]| {
        let route = |number: u32| with(unicast(hops), |route| route.destination = Prefix::new(number << 8, 24));
        Event::Snapshot(Snapshot::Routes4(Routes::from_dump((0..1000).map(route).collect())))
    };
    let mut model = sample::model();
    model.apply(table(&[hop(1), hop(2)]));
    let mut lowering = Lowering::new([].into());
    let before = lowering.lower(&model, &attached(&model));
    let target = before.fib4.lookup(v4("0.0.9.1"));
    assert_eq!(before.groups[&target.group()].slots, 2);
    for (hops, slots) in [([hop(1), dead(2)], 1), ([hop(1), hop(2)], 2)] {
        model.apply(table(&hops));
        let update = lowering.update(&model, &attached(&model), &Touched::all());
        assert_eq!((update.fib4.len(), update.groups.len()), (0, 1), "{hops:?}");
        assert_eq!(update.groups[&target.group()].expect("still there").slots, slots);
        assert_eq!(lowering.want().features, before.features);
    }

    // A link that is switched off has the same effect before the kernel says anything of its routes.
    let link = Link { enabled: false, up: false, ..model.links[&device(2)].clone() };
    let mut touched = Touched::default();
    model.follow(Event::Link(link), &mut touched);
    let update = lowering.update(&model, &attached(&model), &touched);
    assert_eq!((update.fib4.len(), update.groups.len()), (0, 1));
    assert_eq!(lowering.want().groups[&target.group()].slots, 1);
}
