//! A large table in the kernel, followed without any map: what listing, model and lowering cost. `DATAPLANE_ROUTES` says how
//! many IPv4 routes there are; a quarter as many of IPv6 come on top. Times are printed, never asserted.

#[expect(dead_code, reason = "the test of the mirror has more to ask of it")]
mod namespace;

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use dataplane_common::abi::RouteKind;
use dataplane_user::lower::Lowering;
use dataplane_user::model::{Event, Missed, Model, Touched};
use dataplane_user::netlink::Mirror;
use namespace::Namespace;

/// How many IPv4 routes there are, unless somebody says otherwise.
const ROUTES: u32 = 100_000;
/// How many distinct next hops they have.
const GATEWAYS: u32 = 64;
/// How many changes are followed one by one.
const CHANGES: u32 = 10_000;

fn batch4(verb: &str, numbers: impl Iterator<Item = u32>, shift: u32) -> String {
    numbers.fold(String::new(), |mut all, number| {
        let address = Ipv4Addr::from_bits(0x1000_0000 + (number << 8));
        let gateway = 2 + (number.wrapping_mul(2_654_435_761) >> 8).wrapping_add(shift) % GATEWAYS;
        writeln!(all, "route {verb} {address}/24 via 198.18.0.{gateway}").expect("memory");
        all
    })
}

fn batch6(numbers: impl Iterator<Item = u32>) -> String {
    numbers.fold(String::new(), |mut all, number| {
        let address = Ipv6Addr::from_bits((0x2001_0db8_8000_u128 << 80) + (u128::from(number) << 72));
        let gateway = 2 + (number.wrapping_mul(2_654_435_761) >> 8) % GATEWAYS;
        writeln!(all, "route add {address}/56 via 2001:db8::{gateway:x}").expect("memory");
        all
    })
}

/// Anonymous memory of this process in bytes.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

/// CPU time of this thread.
fn worked() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("statistics of the scheduler");
    Duration::from_nanos(text.split(' ').next().and_then(|time| time.parse().ok()).expect("a time"))
}

/// Follows until everything is listed and nothing comes any more. The longest piece of work.
async fn settle(mirror: &mut Mirror, model: &mut Model, touched: &mut Touched) -> Duration {
    let mut longest = Duration::ZERO;
    loop {
        let settled = mirror.is_settled();
        let next = tokio::time::timeout(Duration::from_millis(if settled { 200 } else { 60_000 }), mirror.next());
        let begin = Instant::now();
        let Ok(events) = next.await else { return longest };
        events.expect("a readable mirror").into_iter().for_each(|event| model.follow(event, touched));
        if !settled {
            longest = longest.max(begin.elapsed());
        }
    }
}

#[test]
#[ignore = "needs root: run by xtask"]
fn a_large_table_costs_little() {
    let number = std::env::var("DATAPLANE_ROUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUTES);
    let namespace = Namespace::enter("scale");
    namespace.batch(
        "link set lo up\nlink add p0 type veth peer name p1\nlink set p0 addrgenmode none\nlink set p1 addrgenmode none\nlink set p0 up\nlink set p1 up\n\
         addr add 198.18.0.1/24 dev p0\naddr add 2001:db8::1/64 dev p0 nodad\n",
    );
    let begin = Instant::now();
    namespace.batch(&batch4("add", 0..number, 0));
    namespace.batch(&batch6(0..number / 4));
    println!("the kernel took {:?} for {number} IPv4 and {} IPv6 routes", begin.elapsed(), number / 4);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let before = memory();
        let (mut mirror, mut model, mut touched) =
            (Mirror::open().expect("netlink"), Model::default(), Touched::default());
        let (begin, cpu) = (Instant::now(), worked());
        let mut longest = Duration::ZERO;
        while !mirror.is_settled() {
            let piece = Instant::now();
            for event in mirror.next().await.expect("a listing") {
                model.follow(event, &mut touched);
            }
            longest = longest.max(piece.elapsed());
        }
        let all = model.routes4.len() + model.routes6.len();
        println!(
            "listed {} + {} routes in {:?} ({:?} of CPU), longest piece {longest:?}; {} bytes a route",
            model.routes4.len(),
            model.routes6.len(),
            begin.elapsed(),
            worked().saturating_sub(cpu),
            (memory() - before) / all as u64
        );
        for (family, known) in [("-4", model.routes4.len()), ("-6", model.routes6.len())] {
            let listed = namespace.ip(&format!("-o {family} route show table all"));
            assert_eq!(listed.lines().count(), known, "{family}");
        }

        let ports = [].into();
        let mut lowering = Lowering::new([].into());
        let begin = Instant::now();
        lowering.update(&model, &ports, &touched);
        println!("lowered in {:?}; with that {} bytes a route", begin.elapsed(), (memory() - before) / all as u64);
        assert_eq!(lowering.want().problems, []);
        assert!(lowering.want().fib4.len() >= number as usize);

        // Changes one by one, each lowered by itself.
        let mut touched = Touched::default();
        settle(&mut mirror, &mut model, &mut touched).await;
        lowering.update(&model, &ports, &std::mem::take(&mut touched));
        let changing = (0..CHANGES).map(|step| step.wrapping_mul(7919) % number);
        namespace.batch(&batch4("replace", changing, 1));
        let (cpu, mut changes, mut updates) = (worked(), 0, 0);
        while let Ok(events) = tokio::time::timeout(Duration::from_millis(200), mirror.next()).await {
            for event in events.expect("a readable mirror") {
                model.follow(event, &mut touched);
                if !touched.is_empty() {
                    let update = lowering.update(&model, &ports, &std::mem::take(&mut touched));
                    (changes, updates) = (changes + update.fib4.len(), updates + 1);
                    lowering.grace_passed(&dataplane_user::kernel::grace());
                }
            }
        }
        let each = (worked().saturating_sub(cpu)) / CHANGES;
        println!("{changes} targets changed in {updates} updates: {each:?} of CPU for each change");
        assert_eq!(changes, CHANGES as usize, "every change of a route is a change of a target");
        let mut fresh = Lowering::new([].into());
        let whole = fresh.lower(&model, &ports);
        let decided = |want: &dataplane_user::lower::Want, target: dataplane_common::abi::Target| {
            let group = (target.kind() == RouteKind::Unicast).then(|| want.groups[&target.group()]);
            (target.kind(), group.map(|group| want.adjacencies[&u32::from(group.members[0])]))
        };
        let (ours, theirs) = (lowering.want(), &whole);
        assert_eq!(ours.fib4.len(), theirs.fib4.len());
        for ((prefix, one), (same, other)) in ours.fib4.iter().zip(theirs.fib4.iter()) {
            assert_eq!((prefix, decided(ours, one)), (same, decided(theirs, other)));
        }

        compare(&namespace, number, &mut mirror, &mut model, &mut lowering).await;
        println!("{} bytes a route at last", (memory() - before) / all as u64);
    });
}

/// A comparison, while routes change: what was not announced is found, and nothing else.
async fn compare(namespace: &Namespace, number: u32, mirror: &mut Mirror, model: &mut Model, lowering: &mut Lowering) {
    let (ports, mut touched) = ([].into(), Touched::default());
    let lost = model.routes4.iter().nth(number as usize / 2).expect("a route");
    model.follow(Event::Route4Gone(lost.clone()), &mut touched);
    lowering.update(model, &ports, &std::mem::take(&mut touched));
    let (begin, cpu) = (Instant::now(), worked());
    let (mut longest, mut found) = (Duration::ZERO, Missed::default());
    mirror.compare();
    let mut pieces = 0;
    while !mirror.compared() {
        let piece = Instant::now();
        for event in mirror.next().await.expect("a listing") {
            if let Event::Compared(listed, announced) = &event {
                found.join(model.missed(listed, announced));
            }
            model.follow(event, &mut touched);
        }
        longest = longest.max(piece.elapsed());
        if pieces == 1 {
            namespace.batch(&batch4("replace", number / 4..number / 4 + 100, 2));
        }
        pieces += 1;
    }
    let busy = worked().saturating_sub(cpu);
    println!("compared in {:?} ({busy:?} of CPU), longest piece {longest:?}", begin.elapsed());
    let name = format!("route {} table {}", lost.destination, lost.table);
    assert_eq!(found, Missed { count: 1, examples: vec![name] });
    settle(mirror, model, &mut touched).await;
    let update = lowering.update(model, &ports, &touched);
    assert!(update.fib4.len() <= 101, "{} targets changed", update.fib4.len());
    assert_eq!(update.fib4.iter().filter(|(prefix, _)| **prefix == lost.destination).count(), 1, "it is back");
}
