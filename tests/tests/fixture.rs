//! Every fixture row, through the programs as the kernel loaded them.

use std::collections::BTreeSet;

use dataplane_common::{Reason, abi::Features};
use dataplane_tests::{
    fixture::{Outcome, Row, World, rows},
    lab::{Need, ready},
};
use dataplane_user::kernel::Hook;

fn possible() -> bool {
    ready(&[Need::Root, Need::Tool("ip"), Need::Tool("ethtool"), Need::Tool("nsenter"), Need::Tool("sysctl")])
}

#[test]
fn every_row_ends_as_it_says() {
    if !possible() {
        return;
    }
    let rows = rows::all();
    let failures = World::with(|world| {
        let check = |row: &Row| row.check(world).err().map(|error| format!("{error:#}"));
        Ok(rows.iter().filter_map(check).collect::<Vec<_>>())
    });
    let failures = failures.expect("a world");
    println!("{} rows, {} failed", rows.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// The same rows with the real thing behind the program: frames are sent, and what XDP lets go meets tc, with the mark.
#[test]
fn xdp_and_tc_together_count_once_and_send() {
    if !possible() {
        return;
    }
    let mut rows = rows::all();
    rows.retain(Row::can_be_live);
    let failures = World::with(|world| {
        let check =
            |row: &Row| row.check_live(world).err().map(|error| format!("{} on {}: {error:#}", row.what, row.port));
        Ok(rows.iter().filter_map(check).collect::<Vec<_>>())
    });
    let failures = failures.expect("a world");
    println!("{} live rows, {} failed", rows.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn every_reason_has_a_row() {
    let rows = rows::all();
    let covered: BTreeSet<_> = rows
        .iter()
        .flat_map(Row::hooks)
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Stop(reason) => Some(reason.name()),
            Outcome::Forward(_) => Some(Reason::Forwarded.name()),
            Outcome::Defer(_) | Outcome::Pass => None,
        })
        .collect();
    let missing: Vec<_> =
        Reason::ALL.iter().map(|reason| reason.name()).filter(|name| !covered.contains(name)).collect();
    assert!(missing.is_empty(), "reasons without a row: {missing:?}");
}

/// What a program may cost the verifier: far below its limit of a million, so that other kernels take it too.
const LIMIT: u32 = 200_000;

#[test]
fn every_program_is_cheap_to_verify() {
    if !possible() {
        return;
    }
    let typical = Features::IPV6 | Features::INPUT | Features::FORWARD | Features::MULTIPATH;
    let counts = World::with(|world| {
        let mut counts = Vec::new();
        for features in [Features::empty(), typical, Features::all()] {
            let object = world.load(features)?;
            for hook in Hook::ALL {
                counts.push((features, hook, object.verified_instructions(hook)?));
            }
        }
        Ok(counts)
    });
    for (features, hook, count) in counts.expect("a world") {
        let count = count.expect("a kernel that says so");
        println!("{:>10} {count:>7} instructions with {features:?}", hook.program());
        assert!(count <= LIMIT, "{} with {features:?}: {count}", hook.program());
    }
}
