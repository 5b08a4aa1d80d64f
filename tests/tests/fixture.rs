//! Every fixture row, through the programs as the kernel loaded them.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

use anyhow::{Context as _, ensure};
use dataplane_common::{
    Reason,
    abi::{CHAINS, Features, verdict_row},
};
use dataplane_tests::{
    bench::program::pin,
    fixture::{
        Outcome, Ran, Row, Tiers, World,
        packet::{Packet, Version, ip},
        plan::{host_mac, net, port_mac},
        rows, some_packet, some_rule,
    },
    lab::{Need, kernel_at_least, ready},
};
use dataplane_user::{
    fib::TableSizes,
    filter::build,
    kernel::Hook,
    lower::filter::{ChainRules, LoweredFilter, lower},
    rule::{ChainName, parse},
};
use fastrand::Rng;

fn possible() -> bool {
    ready(&[Need::Root, Need::Tool("ip"), Need::Tool("ethtool"), Need::Tool("nsenter"), Need::Tool("sysctl")])
}

#[test]
fn every_row_ends_as_it_says() {
    if !possible() {
        return;
    }
    let rows = rows::all();
    for sizes in [TableSizes::SMALL, TableSizes::for_routes(10_000, 10_000)] {
        let sizes = sizes.with_flows(Some(16));
        let failures = World::sized(sizes, |world| {
            let check = |row: &Row| row.check(world).err().map(|error| format!("{error:#}"));
            Ok(rows.iter().filter_map(check).collect::<Vec<_>>())
        });
        let failures = failures.expect("a world");
        println!("{} rows, {} failed with {sizes:?}", rows.len(), failures.len());
        assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    }
}

/// Rows with chains but without limits, as often as it takes for what these say to come out of the verdict cache.
#[test]
fn rows_end_as_they_say_when_verdicts_are_remembered() {
    if !possible() {
        return;
    }
    pin(0).expect("a CPU: each has a cache of its own");
    let mut rows = rows::all();
    rows.retain(|row| row.flow.is_none() && !row.rules.iter().any(|(_, rule, _)| rule.contains("limit")));
    rows.retain(|row| !row.rules.is_empty() || !row.policies.is_empty());
    let (failures, written) = World::sized(TableSizes::SMALL.with_verdicts(true), |world| {
        world.remember();
        let check = |row: &Row| row.check_again(world, 6).err().map(|error| format!("{error:#}"));
        let failures = rows.iter().filter_map(check).collect::<Vec<_>>();
        let written = world.verdict_rows()?.iter().filter(|row| matches!(row, Ok(row) if row[0] != 0)).count();
        Ok((failures, written))
    })
    .expect("a world");
    println!("{} rows, {} failed, {written} verdicts remembered", rows.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(written > rows.len() / 4, "{written} verdicts of {} rows", rows.len());
}

/// Whatever the rules are, and whatever they were before: the same verdict, and the same counters.
#[test]
fn remembered_verdicts_are_those_of_a_search() {
    if !possible() {
        return;
    }
    pin(0).expect("a CPU: each has a cache of its own");
    let seed = fastrand::u64(..);
    let mut random = Rng::with_seed(seed);
    let done = World::sized(TableSizes::SMALL.with_verdicts(true), |world| {
        let packets: Vec<_> = (0..40).map(|_| some_packet(&mut random)).collect();
        let mut dropped = 0;
        for round in 0..12 {
            let mut row = Row::to_be_forwarded(packets[0].frame());
            for _ in 0..random.usize(4..30) {
                let chain = [ChainName::Prerouting, ChainName::Forward, ChainName::Forward][random.usize(..3)];
                row = row.rule(chain, some_rule(&mut random), 0);
            }
            world.prepare(&row)?;
            let searching = world.features() | Features::PREROUTING | Features::FORWARD | Features::IPV6;
            for (packet, hook) in
                (0..5).flat_map(|_| &packets).flat_map(|packet| [Hook::Xdp, Hook::TcIngress].map(|hook| (packet, hook)))
            {
                let row = Row::to_be_forwarded(packet.frame());
                let mut ran = Vec::new();
                for features in [searching, searching | Features::VERDICTS] {
                    let before = world.counted()?;
                    let Ran { action, frame, .. } = world.run_with(features, hook, row.arrival(world))?;
                    ran.push((action, frame, world.counted()?.since(&before)));
                }
                ensure!(ran[0] == ran[1], "round {round}, {packet:?}: {:?}, remembered {:?}", ran[0], ran[1]);
                dropped += usize::from([1, 2].contains(&ran[0].0));
            }
        }
        ensure!(dropped > 100, "{dropped} packets dropped");
        // What is remembered is used: rows that say the other thing.
        let (mut rows, mut written) = (world.verdict_rows()?, Vec::new());
        for (at, row) in (0..).zip(rows.iter()) {
            let mut row = row?;
            if row[verdict_row::STAMP] != 0 {
                row[verdict_row::RULE] = 1 << 24 | 7;
                written.push((at, row));
            }
        }
        for (at, row) in &written {
            rows.set(*at, row, 0)?;
        }
        let features =
            world.features() | Features::PREROUTING | Features::FORWARD | Features::IPV6 | Features::VERDICTS;
        let mut wrong = 0;
        for packet in &packets {
            let row = Row::to_be_forwarded(packet.frame());
            wrong += usize::from(world.run_with(features, Hook::Xdp, row.arrival(world))?.action == 1);
        }
        ensure!(wrong > packets.len() / 4, "{wrong} packets met one of {} rows", written.len());
        Ok(())
    });
    done.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
}

/// The same rows as frames that a port receives, with the kernel behind the programs.
fn check_live(tiers: Tiers) {
    if !possible() {
        return;
    }
    let mut rows = rows::all();
    rows.retain(|row| row.can_be_live(tiers));
    let failures = World::with(|world| {
        let check = |row: &Row| {
            let error = row.check_live(world, tiers).err()?;
            Some(format!("{} ({}): {error:#}", row.what, row.port))
        };
        Ok(rows.iter().filter_map(check).collect::<Vec<_>>())
    });
    let failures = failures.expect("a world");
    println!("{} live rows, {} failed", rows.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// What XDP lets go meets tc, with the mark, and is counted by one of them.
#[test]
fn xdp_and_tc_together_count_once_and_send() {
    check_live(Tiers::Both);
}

/// Here are frames that the kernel's test run refuses, and tags that it does not take off.
#[test]
fn tc_alone_counts_once_and_sends() {
    check_live(Tiers::Tc);
}

#[test]
fn every_reason_has_a_row() {
    let rows = rows::all();
    let covered: BTreeSet<_> = rows
        .iter()
        .flat_map(Row::hooks)
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Stop(reason) | Outcome::Hide(reason) => Some(reason.name()),
            Outcome::Forward(_) => Some(Reason::Forwarded.name()),
            Outcome::Switch(_) => Some(Reason::Bridged.name()),
            Outcome::Defer(_) | Outcome::Pass => None,
        })
        .collect();
    // What happens behind the programs, or by rules that the plan lacks, has scenarios: `scenario/loss.rs`,
    // `scenario/passage.rs`, `scenario/netfilter.rs`.
    let behind = [Reason::RedirectFailed, Reason::FilterEgress, Reason::Netfilter];
    let missing: Vec<_> = Reason::ALL
        .iter()
        .filter(|reason| !behind.contains(reason))
        .map(|reason| reason.name())
        .filter(|name| !covered.contains(name))
        .collect();
    assert!(missing.is_empty(), "reasons without a row: {missing:?}");
}

/// Runs a packet at a hook; the network through whose host 2 it leaves.
fn link(world: &mut World, hook: Hook, packet: &Packet) -> anyhow::Result<u8> {
    let row = Row::to_be_forwarded(packet.frame());
    world.prepare(&row)?;
    let ran = world.run(hook, row.arrival(world))?;
    let found =
        [1, 2].into_iter().find(|net| ran.frame[..6] == host_mac(*net, 2).0 && ran.frame[6..12] == port_mac(*net).0);
    found.with_context(|| format!("{packet:?} left as {ran:x?}"))
}

#[test]
fn equal_paths_share_the_flows_and_keep_each_whole() {
    if !possible() {
        return;
    }
    let shares = World::with(|world| {
        let mut shares = Vec::new();
        for (version, hook) in Version::ALL.into_iter().flat_map(|v| [(v, Hook::Xdp), (v, Hook::TcIngress)]) {
            let mut second = 0;
            for flow in 0..FLOWS {
                let (source, target) = (version.address((0, 10 + flow % 50)), version.address((net::EQUAL, flow)));
                let packet = |from, to| ip(source, target).udp(from, to, 16);
                let path = link(world, hook, &packet(1, 2))?;
                second += u32::from(path == 2);
                // Ports do not count, or the fragments of one datagram would part.
                let fragments = match version {
                    Version::V4 => [packet(1, 2).fragment(0x2000), packet(3, 4).fragment(2)],
                    Version::V6 => {
                        [[0, 1], [0, 16]].map(|[high, low]| packet(3, 4).extension(44, &[0, high, low, 0, 0, 0, 1]))
                    }
                };
                // What a router on the way back says of a packet of the flow.
                let quoted = ip(target, source).udp(2, 1, 16).bare();
                let (protocol, kind) = if version == Version::V4 { (1, 3) } else { (58, 2) };
                let error = ip(version.address((0, 99)), target)
                    .carrying(protocol, [&[kind, 0, 0, 0, 0, 0, 0, 0], quoted.as_slice()].concat());
                for other in [packet(5, 6), packet(1, 2).ttl(9), error].into_iter().chain(fragments) {
                    ensure!(link(world, hook, &other)? == path, "{other:?} did not go the way of its flow, {path}");
                }
            }
            shares.push((version, hook, second));
        }
        Ok(shares)
    });
    for (version, hook, second) in shares.expect("a world") {
        println!("{version:?} at {hook:?}: {second} of {FLOWS} flows through the second path");
        assert!(
            (FLOWS / 4..=FLOWS / 4 * 3).contains(&u8::try_from(second).expect("few flows")),
            "{version:?} {hook:?}: {second}"
        );
    }
}

#[test]
fn a_next_hop_is_marked_when_something_is_sent_to_it() {
    if !possible() {
        return;
    }
    let done = World::with(|world| {
        for (version, hook) in Version::ALL.into_iter().flat_map(|v| [(v, Hook::Xdp), (v, Hook::TcIngress)]) {
            // Where to, and the next hop that is then in use.
            let rows = [(net::FAR, Some(1)), (net::NOWHERE, None), (net::UNKNOWN, None), (net::SMALL, Some(3))];
            for (target, expected) in rows {
                let packet = ip(version.address((0, 2)), version.address((target, 9))).udp(1, 2, 16);
                let row = Row::to_be_forwarded(packet.frame());
                world.prepare(&row)?;
                world.used();
                for sent in 1..=2 {
                    world.run(hook, row.arrival(world))?;
                    let used: Vec<_> = world.used().iter().map(|adjacency| adjacency.destination).collect();
                    let expected: Vec<_> = expected.map(|net| host_mac(net, 2)).into_iter().collect();
                    ensure!(used == expected, "{version:?} {hook:?} to {target}, packet {sent}: {used:?}");
                }
                ensure!(world.used().is_empty(), "{version:?} {hook:?} to {target}: marked without a packet");
            }
        }
        Ok(())
    });
    done.expect("a world");
}

/// Flows that are tried.
const FLOWS: u8 = 100;

#[test]
fn a_world_vanishes_with_a_panic() {
    if !possible() {
        return;
    }
    let places = Mutex::new(Vec::new());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        World::with(|world| -> anyhow::Result<()> {
            world.prepare(&rows::all()[0])?;
            world.attach_tc()?;
            *places.lock().expect("a lock") = vec![world.namespace().path(), world.pins()];
            panic!("on purpose");
        })
    }));
    assert!(outcome.is_err(), "the panic goes on");
    let places = places.into_inner().expect("a lock");
    assert_eq!(places.len(), 2, "a world was there");
    for place in places {
        assert!(!place.exists(), "{} is still there", place.display());
    }
}

/// What a program may cost the verifier: far below its limit of a million, so that other kernels take it too.
const LIMIT: u32 = 200_000;
/// The same for kernels before 6.6, which see less well that two states are alike.
const OLD_LIMIT: u32 = 600_000;

/// What rules in chain forward come to.
fn lowered(rules: &[String]) -> LoweredFilter {
    let rules: Vec<_> = rules.iter().map(|text| parse(text).expect(text)).collect();
    let numbered: Vec<_> = rules.iter().zip(0..).collect();
    let mut chains = [ChainRules::default(); CHAINS];
    chains[ChainName::Forward.index()].rules = &numbered;
    lower(chains, &|_| vec![3], &|_| None).expect("few entries")
}

#[test]
fn tables_are_self_tested_before_they_are_live() {
    if !possible() {
        return;
    }
    let many = (0..200).flat_map(|number| {
        [
            format!("ip saddr 198.18.{number}.0/24 tcp dport {number}-250 accept"),
            format!("ip6 daddr 2001:db8:{number:x}::/48 meta length > {number} drop"),
            format!(
                "iifname \"client\" ip daddr . udp dport {{ 192.0.2.{number} . 53, 198.51.100.0/24 . {number} }} drop"
            ),
            format!("ip protocol icmp ip ttl {number} limit rate 5/second accept"),
        ]
    });
    let rules: Vec<_> = many.collect();
    let (all, fewer) = (lowered(&rules), lowered(&rules[..rules.len() / 2]));
    // More by hand.
    let packets = std::env::var("DATAPLANE_TRIED").map_or(1280, |text| text.parse().expect("a number of packets"));
    let mut random = Rng::with_seed(1);
    let mut tests = Vec::new();
    while tests.len() < packets {
        tests.extend(all.self_tests(&mut random));
    }
    let (all, fewer) = (build(&all).expect("few shapes"), build(&fewer).expect("few shapes"));
    let (right, wrong) = World::sized(TableSizes::SMALL.with_filter(all.lines()), |world| {
        let answers = |answers: Vec<_>| tests.iter().zip(answers).filter(|(one, answer)| one.rule == *answer).count();
        Ok((answers(world.self_test(&all, &tests)?), answers(world.self_test(&fewer, &tests)?)))
    })
    .expect("a world");
    println!("{right} of {} packets, and {wrong} with half of the rules", tests.len());
    assert_eq!(right, tests.len());
    assert!(tests.iter().filter(|one| one.rule.is_some()).count() > tests.len() / 4, "few packets met a rule");
    assert!(wrong < tests.len(), "tables that are wrong were not found out");
}

#[test]
fn every_program_is_cheap_to_verify() {
    if !possible() {
        return;
    }
    let typical = Features::IPV6 | Features::INPUT | Features::FORWARD | Features::MULTIPATH;
    let counts = World::with(|world| {
        let mut counts = Vec::new();
        // What is off makes a program longer here: an index that is small has the tree beside it, and one way no function.
        let all = Features::all() - Features::DRY_RUN;
        let small = all - Features::WIDE_FIB4 - Features::WIDE_FIB6 - Features::MULTIPATH;
        // The kernel's lookup of routes switches the verdict cache off.
        let (flows, lookup) = (Features::FLOWS, Features::KERNEL_LOOKUP);
        let without = [small - flows, all - flows, small - flows - lookup, all - flows - lookup];
        let with = [small, all, small - lookup, all - lookup, Features::all()];
        for features in [Features::empty(), typical].into_iter().chain(without).chain(with) {
            let object = world.load(features)?;
            for hook in Hook::ALL {
                counts.push((features, hook, object.verified_instructions(hook)?));
            }
        }
        Ok(counts)
    });
    let limit = if kernel_at_least(6, 6) { LIMIT } else { OLD_LIMIT };
    for (features, hook, count) in counts.expect("a world") {
        let count = count.expect("a kernel that says so");
        println!("{:>10} {count:>7} instructions with {features:?}", hook.program());
        let limit = if features.contains(Features::FLOWS) { 2 * limit } else { limit };
        assert!(count <= limit, "{} with {features:?}: {count}", hook.program());
    }
}

/// The longest that programs of a plain router may be, in bytes: what is not in use adds nothing. Who shortens one lowers it.
const LONGEST: [(Hook, u32); 3] = [(Hook::Xdp, 20_888), (Hook::TcBehindXdp, 20_352), (Hook::TcIngress, 19_416)];

#[test]
fn features_that_are_off_cost_no_instruction() {
    // Each kernel translates calls of helpers in its own way.
    if !possible() || !kernel_at_least(6, 18) {
        return;
    }
    let lengths = World::with(|world| {
        let object = world.load(Features::IPV6 | Features::PARTIAL_CHECKSUMS)?;
        Ok(LONGEST.map(|(hook, most)| (hook, most, object.translated_bytes(hook))))
    });
    for (hook, most, length) in lengths.expect("a world") {
        let length = length.expect("a program").expect("a kernel that says so");
        println!("{:>10} {length:>7} bytes", hook.program());
        assert!(length <= most, "{}: {length} bytes, and {most} before", hook.program());
    }
}
