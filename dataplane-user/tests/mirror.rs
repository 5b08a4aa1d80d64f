//! The mirror against the kernel it mirrors: after every step the model must equal a fresh listing, and `ip route`.

mod namespace;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane_common::abi::{Features, RouteKind};
use dataplane_user::lower::{Lowering, Problem, Want};
use dataplane_user::model::{
    Attachment, Event, Family, Mode, Model, NeighbourState, Route, RouteType, Routes, Snapshot, TABLE_DEFAULT,
    TABLE_LOCAL, TABLE_MAIN,
};
use dataplane_user::netlink::Mirror;
use namespace::Namespace;
use serde_json::Value;

/// What both sides say of a route: table, destination, type, metric, next hops.
type Said = (u32, String, String, u64, BTreeSet<(String, String)>);

fn said_by_ip(namespace: &Namespace, family: &str) -> Vec<Said> {
    let text = namespace.ip(&format!("-j {family} route show table all"));
    let list: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let field = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let hop = |value: &Value| {
        let via = value["via"]["host"].as_str().or(value["gateway"].as_str()).unwrap_or_default();
        (field(value, "dev"), via.to_owned())
    };
    let mut said: Vec<Said> = list
        .iter()
        .map(|route| {
            let table = match route["table"].as_str() {
                None => TABLE_MAIN,
                Some("local") => TABLE_LOCAL,
                Some("default") => TABLE_DEFAULT,
                Some(number) => number.parse().expect("a table"),
            };
            let kind = route["type"].as_str().unwrap_or("unicast").to_owned();
            let hops = match route["nexthops"].as_array() {
                Some(hops) => hops.iter().map(hop).collect(),
                None if route["dev"].is_string() => [hop(route)].into(),
                None => BTreeSet::new(),
            };
            (table, field(route, "dst"), kind, route["metric"].as_u64().unwrap_or_default(), hops)
        })
        .collect();
    said.sort();
    said
}

fn said_by_model<A: Family>(model: &Model, routes: &Routes<A>) -> Vec<Said> {
    let say = |route: Route<A>| {
        let destination = match route.destination {
            prefix if prefix.length() == 0 => "default".to_owned(),
            prefix if prefix.is_host() => prefix.first().to_ip().to_string(),
            prefix => prefix.to_string(),
        };
        let kind = match route.kind {
            RouteType::Other(number) => number.to_string(),
            named => format!("{named:?}").to_lowercase(),
        };
        let hop = |dev: u32, via: Option<IpAddr>| {
            (model.links[&dev].name.clone(), via.map(|via| via.to_string()).unwrap_or_default())
        };
        let hops = route.next_hops.iter().map(|next| hop(next.dev, next.via)).collect();
        (route.table, destination, kind, u64::from(route.priority), hops)
    };
    let mut said: Vec<Said> = routes.iter().map(say).collect();
    said.sort();
    said
}

/// Takes in what comes until nothing does for a while. Says how many whole listings were among it.
async fn settle(mirror: &mut Mirror, model: &mut Model) -> usize {
    let mut listings = 0;
    while let Ok(events) = tokio::time::timeout(Duration::from_millis(200), mirror.next()).await {
        for event in events.expect("a readable mirror") {
            listings += usize::from(matches!(event, Event::Snapshot(Snapshot::Routes4(_) | Snapshot::Routes6(_))));
            model.apply(event.clone());
            let once = model.clone();
            model.apply(event.clone());
            assert_eq!(*model, once, "twice {event:?}");
        }
    }
    listings
}

/// The parts of a model that do not move by themselves: neighbours do.
fn still(model: &Model) -> Model {
    let mut model = model.clone();
    // The kernel makes these for groups, and tells nobody.
    model.neighbours.retain(|_, neighbour| !neighbour.state.contains(NeighbourState::NOARP));
    for neighbour in model.neighbours.values_mut() {
        neighbour.state &= NeighbourState::PERMANENT;
    }
    model
}

/// Lines that only one of the two has.
fn difference(model: &Model, fresh: &Model) -> Vec<String> {
    if model == fresh {
        return Vec::new();
    }
    let lines = |model: &Model| -> Vec<String> {
        let mut lines: Vec<String> = model.links.values().map(|link| format!("{link:?}")).collect();
        lines.extend(model.addresses.iter().map(|one| format!("{one:?}")));
        lines.extend(model.neighbours.values().map(|one| format!("{one:?}")));
        lines.extend(model.routing_rules.iter().map(|one| format!("{one:?}")));
        lines.extend(model.netconf.values().map(|one| format!("{one:?}")));
        lines.extend(model.features.iter().map(|one| format!("{one:?}")));
        lines.extend(model.routes4.iter().enumerate().map(|one| format!("{one:?}")));
        lines.extend(model.routes6.iter().enumerate().map(|one| format!("{one:?}")));
        lines
    };
    let (ours, theirs) = (lines(model), lines(fresh));
    let only = |a: &[String], b: &[String], sign: &str| -> Vec<String> {
        a.iter().filter(|line| !b.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    let mut found = vec!["ours (-) and the kernel's (+) differ".to_owned()];
    found.extend(only(&ours, &theirs, "-"));
    found.extend(only(&theirs, &ours, "+"));
    found
}

/// What differs from a fresh listing.
async fn compare(model: &Model) -> Vec<String> {
    let mut fresh = Model::default();
    let mut mirror = Mirror::open().expect("netlink");
    while !mirror.is_settled() {
        mirror.next().await.expect("a listing").into_iter().for_each(|event| fresh.apply(event));
    }
    difference(&still(model), &still(&fresh))
}

/// Where the kernel is asked for its decision, too.
const DESTINATIONS: &[&str] = &[
    "198.18.0.1",
    "198.18.0.2",
    "198.18.0.77",
    "198.18.0.255",
    "198.18.1.9",
    "192.0.2.70",
    "192.0.2.200",
    "198.51.100.1",
    "203.0.113.1",
    "203.0.113.150",
    "203.0.113.200",
    "8.8.8.8",
    "2001:db8:1::1",
    "2001:db8:1::2",
    "2001:db8:2::77",
    "2001:db8:a::1",
    "2001:db8:b::1",
    "2001:db8:d::1",
    "2001:db8:e::1",
    "2001:db8:f::1",
    "2001:db8:ffff::1",
];

/// What we say: a kind, and the devices that a flow may take.
fn answer(model: &Model, want: &Want, destination: IpAddr) -> (RouteKind, Vec<String>) {
    let target = match destination {
        IpAddr::V4(address) => want.fib4.lookup(address.to_bits()),
        IpAddr::V6(address) => want.fib6.lookup(address.to_bits()),
    };
    let mut devices = Vec::new();
    if target.kind() == RouteKind::Unicast {
        let group = want.groups[&target.group()];
        let members = &group.members[..group.slots as usize];
        devices.extend(
            members.iter().map(|member| model.links[&want.adjacencies[&u32::from(*member)].ifindex].name.clone()),
        );
    }
    (target.kind(), devices)
}

/// Whether the kernel's type and device fit ours. What we leave to the kernel always does.
fn agree(asked: &Result<(String, String), String>, (kind, devices): &(RouteKind, Vec<String>)) -> bool {
    match (asked, kind) {
        (_, RouteKind::Kernel) => true,
        (Ok((kernel, dev)), RouteKind::Unicast) => kernel == "unicast" && devices.contains(dev),
        (Ok((kernel, _)), RouteKind::Local) => kernel == "local" || kernel == "anycast",
        (Ok((kernel, _)), RouteKind::Broadcast) => kernel == "broadcast",
        (Ok((kernel, _)), other) => *kernel == format!("{other:?}").to_lowercase(),
        (Err(error), RouteKind::None) => error.contains("unreachable"),
        (Err(error), RouteKind::Unreachable) => error.contains("No route to host"),
        (Err(error), RouteKind::Prohibit) => error.contains("Permission denied"),
        (Err(error), RouteKind::Blackhole) => error.contains("Invalid argument"),
        (Err(_), _) => false,
    }
}

const STEPS: &[&str] = &[
    "link set lo up",
    "link add p0 type veth peer name p1",
    "link set p0 up",
    "link set p1 up",
    "addr add 198.18.0.1/24 dev p0",
    "addr add 198.18.1.1/24 dev p1",
    "-6 addr add 2001:db8:1::1/64 dev p0 nodad",
    "-6 addr add 2001:db8:2::1/64 dev p1 nodad",
    "neigh add 198.18.0.2 lladdr 02:00:00:00:00:02 dev p0 nud permanent",
    "neigh add 2001:db8:1::2 lladdr 02:00:00:00:00:02 dev p0 nud permanent",
    "route add 192.0.2.0/24 via 198.18.0.2",
    "route add 192.0.2.0/24 via 198.18.1.2 metric 5",
    "route append 192.0.2.0/24 via 198.18.0.3",
    "route prepend 192.0.2.0/24 via 198.18.0.4",
    "route replace 192.0.2.0/24 via 198.18.0.5 mtu 1400",
    "route replace 192.0.2.0/24 via 198.18.0.5 mtu lock 1400",
    "route del 192.0.2.0/24 via 198.18.0.3",
    "route add 198.51.100.0/24 nexthop via 198.18.0.2 weight 3 nexthop via 198.18.1.2",
    "route add 203.0.113.0/24 via inet6 2001:db8:1::2 dev p0",
    "route add blackhole 203.0.113.0/25",
    "route add throw 203.0.113.128/26 table 100",
    "route add unreachable 203.0.113.192/26",
    "route add default via 198.18.0.2 tos 0x10",
    "-6 route add 2001:db8:f::/48 via 2001:db8:1::2",
    "-6 route append 2001:db8:f::/48 via 2001:db8:2::2",
    "-6 route append 2001:db8:f::/48 via 2001:db8:1::3",
    "-6 route del 2001:db8:f::/48 via 2001:db8:1::2",
    "-6 route replace 2001:db8:f::/48 via 2001:db8:1::9",
    "-6 route add 2001:db8:e::/48 nexthop via 2001:db8:1::2 nexthop via 2001:db8:2::2 weight 4",
    "-6 route append 2001:db8:e::/48 nexthop via 2001:db8:1::3 nexthop via 2001:db8:2::3",
    "-6 route add prohibit 2001:db8:d::/48",
    "-6 route add 2001:db8:c::/48 dev p0",
    "-6 route append 2001:db8:c::/48 dev p1",
    "nexthop add id 1 via 198.18.0.2 dev p0",
    "nexthop add id 2 via 198.18.1.2 dev p1",
    "nexthop add id 10 group 1/2,3",
    "nexthop add id 6 via 2001:db8:1::2 dev p0",
    "route add 192.0.2.128/25 nhid 10",
    "-6 route add 2001:db8:b::/48 nhid 6",
    "nexthop replace id 2 via 198.18.1.3 dev p1",
    "nexthop del id 1",
    "nexthop del id 6",
    "link set p1 down",
    "link set p1 up",
    "addr del 198.18.1.1/24 dev p1",
    "link set p0 mtu 1400",
    "-6 route del 2001:db8:e::/48",
    "rule add from 198.18.0.0/16 table 100",
    "rule del from 198.18.0.0/16 table 100",
    "sysctl net/ipv4/ip_forward=1",
    "sysctl net/ipv6/conf/all/forwarding=1",
    "sysctl net/ipv6/conf/p0/force_forwarding=1",
    "sysctl net/ipv4/conf/p0/rp_filter=2",
    "sysctl net/ipv4/conf/all/rp_filter=1",
    "ethtool -K p1 gro on",
    "addr add 198.18.1.1/24 dev p1",
    "route add 192.0.2.64/26 nexthop via 198.18.0.2 nexthop via 198.18.1.2",
    "-6 addr add 2001:db8:2::1/64 dev p1 nodad",
    "-6 route add 2001:db8:a::/48 nexthop via 2001:db8:1::2 nexthop via 2001:db8:2::2",
    "sysctl net/ipv4/conf/p1/ignore_routes_with_linkdown=1",
    "link set p0 down",
    "link set p0 up",
    "link set p1 down",
    "link set p1 up",
    "link add sw0 type bridge",
    "link set p1 master sw0",
    "link set p1 nomaster",
    "link set p0 name p2",
    "neigh add 198.18.0.9 lladdr 02:00:00:00:00:09 dev p2 nud permanent",
    "neigh del 198.18.0.9 dev p2",
    "link del p2",
];

#[test]
#[ignore = "needs root: run by xtask"]
fn model_follows_the_kernel() {
    let namespace = Namespace::enter("steps");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut mirror = Mirror::open().expect("netlink");
        let mut model = Model::default();
        let mut lowering = Lowering::new([].into());
        assert_eq!(settle(&mut mirror, &mut model).await, 2, "first of all a listing of each family");
        for step in STEPS {
            namespace.step(step);
            let listings = settle(&mut mirror, &mut model).await;
            println!("{step}: {listings} listings of routes");
            assert_eq!(said_by_model(&model, &model.routes4), said_by_ip(&namespace, "-4"), "IPv4 after {step}");
            assert_eq!(said_by_model(&model, &model.routes6), said_by_ip(&namespace, "-6"), "IPv6 after {step}");

            // The kernel lists a tentative IPv6 address before it announces it.
            let mut different = compare(&model).await;
            for _ in 0..10 {
                if !different.is_empty() {
                    settle(&mut mirror, &mut model).await;
                    different = compare(&model).await;
                }
            }
            assert_eq!(different, Vec::<String>::new(), "after {step}");
            let ports = model
                .links
                .keys()
                .map(|ifindex| (*ifindex, Attachment { mode: Mode::Tc, tc: true, follow: true, flows: None }))
                .collect();
            let want = lowering.lower(&model, &ports);
            lowering.grace_passed(&dataplane_user::kernel::grace());
            for destination in DESTINATIONS {
                let asked = namespace.ask(destination);
                let answered = answer(&model, &want, destination.parse().expect("an address"));
                assert!(agree(&asked, &answered), "{destination} after {step}: {asked:?}, but ours is {answered:?}");
            }
            // A member of a bridge is told of, and no fault of the mirror.
            let faults: Vec<_> =
                want.problems.iter().filter(|problem| !matches!(problem, Problem::Taken { .. })).collect();
            assert!(faults.is_empty(), "{faults:?} after {step}");
            // Whose packets the kernel must be asked about.
            assert_eq!(want.features.contains(Features::KERNEL_LOOKUP), step.starts_with("rule add"), "after {step}");
        }
    });
}

#[test]
#[ignore = "needs root: run by xtask"]
fn model_survives_an_overrun() {
    const ROUTES: u32 = 60_000;
    let namespace = Namespace::enter("overrun");
    namespace
        .batch("link add p0 type veth peer name p1\nlink set p0 up\nlink set p1 up\naddr add 198.18.0.1/24 dev p0\n");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut mirror = Mirror::open().expect("netlink");
        let mut model = Model::default();
        settle(&mut mirror, &mut model).await;

        // More than the socket has room for, while nobody reads.
        let each = |verb: &str| {
            (0..ROUTES).fold(String::new(), |mut all, number| {
                let destination = std::net::Ipv4Addr::from_bits(0x1400_0000 + (number << 8));
                writeln!(all, "route {verb} {destination}/24 via 198.18.0.{}", 2 + number % 200).expect("memory");
                all
            })
        };
        for verb in ["add", "del", "add"] {
            namespace.batch(&each(verb));
        }
        let begin = Instant::now();
        let mut listings = 0;
        while model.routes4.len() < ROUTES as usize || listings == 0 {
            let events = tokio::time::timeout(Duration::from_secs(20), mirror.next()).await.expect("an overrun");
            for event in events.expect("a readable mirror") {
                listings += usize::from(matches!(event, Event::Snapshot(Snapshot::Routes4(_))));
                model.apply(event);
            }
        }
        println!("caught up with {} IPv4 routes in {:?}, {listings} listings", model.routes4.len(), begin.elapsed());
        assert_eq!(said_by_model(&model, &model.routes4), said_by_ip(&namespace, "-4"));

        let begin = Instant::now();
        let want = Lowering::new([].into()).lower(&model, &[].into());
        println!("lowered to {} prefixes in {:?}: {:?}", want.fib4.len(), begin.elapsed(), want.problems);
        assert!(want.problems.is_empty());
    });
}

#[test]
#[ignore = "needs root: run by xtask"]
fn rules_are_listed_when_that_is_due() {
    let _namespace = Namespace::enter("rules");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut mirror = Mirror::open().expect("netlink");
        settle(&mut mirror, &mut Model::default()).await;
        for round in 0..3 {
            // The links have just been listed, and will be a second later.
            mirror.next().await.expect("a readable mirror");
            mirror.look_at_netfilter();
            let begun = Instant::now();
            mirror.next().await.expect("a readable mirror");
            assert!(begun.elapsed() < Duration::from_millis(500), "{:?} in round {round}", begun.elapsed());
        }
    });
}
