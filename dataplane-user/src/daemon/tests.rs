//! The loop, without a kernel.

use std::path::Path;

use dataplane_common::{abi::Features, wire::Mac};
use tokio::sync::{mpsc, oneshot};

use super::{
    plane::fake::FakePlane,
    startup::{self, Found},
    state::State,
    *,
};
use crate::{
    config::{self, Config},
    control::{
        protocol::{Apply, Failure},
        server::Peer,
    },
    kernel::Hook,
    lower::sample::plain,
    model::{self, Link, Prefix, RouteType, TABLE_MAIN},
    rule::{self, ChainName},
};

const PORTS: &str = "[ports]\n\"a*\" = { mode = \"tc\" }\n";

/// A daemon, the kernel that it believes to be on, and what else lives as long.
struct World {
    daemon: Daemon,
    plane: FakePlane,
    _runtime: tokio::runtime::Runtime,
    _calls: mpsc::Receiver<Call>,
}

fn parsed(toml: &str) -> Config {
    config::parse(toml, "test").expect("a config")
}

fn world(state: &Path, config: Option<&str>) -> World {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (calls, waiting) = mpsc::channel(1);
    let metrics_endpoint = MetricsEndpoint::new(calls, runtime.handle().clone());
    let state = State::open(state).expect("a state");
    let begun = startup::begin(state, (config.map(parsed), None), Found::default()).expect("a start");
    let plane = FakePlane::new();
    let daemon = Daemon::new(begun, Box::new(plane.clone()), metrics_endpoint);
    World { daemon, plane, _runtime: runtime, _calls: waiting }
}

fn link(ifindex: u32, name: &str) -> Link {
    let mac = Some(Mac([2, 0, 0, 0, 0, ifindex as u8]));
    Link { ifindex, name: name.to_owned(), mac, mtu: 1500, enabled: true, up: true, ethernet: true, ..Link::default() }
}

impl World {
    /// The kernel's tables are read.
    fn begin(&mut self) {
        self.daemon.begin_work().expect("a start");
    }

    fn hear(&mut self, event: model::Event) {
        self.daemon.observed.follow(event);
        self.daemon.reconcile_if_touched();
    }

    fn add_rule(&mut self, rule: &str) -> anyhow::Result<()> {
        let rule = rule::parse(rule).expect("a rule");
        let end = self.daemon.desired.chains().rules(ChainName::Forward).len();
        self.daemon.insert_rule(ChainName::Forward, rule, end).map(drop)
    }

    fn rules(&self) -> Vec<String> {
        self.daemon.desired.chains().rules(ChainName::Forward).iter().map(|one| one.rule.to_string()).collect()
    }

    fn apply(&mut self, toml: &str) -> Result<(), Failure> {
        let apply = Apply { path: "test".to_owned(), toml: toml.to_owned(), confirm: None, force: true, session: None };
        self.daemon.config_apply(&apply, 0).map(drop)
    }

    /// How often a rule was patched in or out, and how often all were written.
    fn writes(&self) -> (usize, usize) {
        let kernel = self.plane.kernel();
        (kernel.count("patch"), kernel.count("flip"))
    }

    fn fail(&self, verb: &'static str) {
        self.plane.kernel().failing.insert(verb);
    }

    fn heal(&self) {
        self.plane.kernel().failing.clear();
    }

    /// The maps hold what they should.
    fn assert_written(&self) {
        let mut have = self.plane.kernel().have.clone();
        let want = self.daemon.plane.want();
        // These are no rows.
        (have.features, have.problems) = (want.features, want.problems.clone());
        assert_eq!(have, *want);
        assert!(!self.daemon.plane.is_dirty() && self.daemon.plane.unwritten().is_none());
    }

    fn hooks(&self, ifindex: u32) -> Vec<Hook> {
        self.plane.kernel().attached.iter().filter(|(on, _)| *on == ifindex).map(|(_, hook)| *hook).collect()
    }
}

#[test]
fn a_port_waits_until_it_could_be_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = world(directory.path(), Some(PORTS));
    world.begin();
    world.fail("apply");
    world.hear(model::Event::Link(link(2, "a0")));
    assert!(world.hooks(2).is_empty(), "no program where the maps know no port");
    assert!(world.daemon.plane.is_dirty() && world.daemon.plane.unwritten().is_some());
    assert_eq!(world.daemon.plane.ports().postponed().keys().copied().collect::<Vec<_>>(), [2]);
    // Each second.
    world.daemon.make_good();
    assert!(world.hooks(2).is_empty());
    world.heal();
    world.daemon.make_good();
    assert_eq!(world.hooks(2), [Hook::TcIngress]);
    world.assert_written();
}

#[test]
fn after_a_write_that_fails_everything_is_written_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = world(directory.path(), Some(PORTS));
    world.begin();
    world.hear(model::Event::Link(link(2, "a0")));
    world.fail("apply");
    let prefix = Prefix::new(0xc612_0000, 15);
    let route = || plain::<u32>(TABLE_MAIN, prefix, RouteType::Blackhole);
    world.hear(model::Event::Route4(route(), model::Placement::Replace));
    assert!(world.daemon.plane.is_dirty());
    // Something else may have written what it likes meanwhile.
    drop(std::mem::take(&mut world.plane.kernel().have.fib4));
    world.heal();
    world.daemon.make_good();
    world.assert_written();
    assert!(world.plane.kernel().have.fib4.iter().any(|(found, _)| found == prefix));
}

#[test]
fn what_cannot_be_written_is_not_in_force() {
    for verb in ["load", "stage", "verify", "flip", "ways"] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut world = world(directory.path(), Some(PORTS));
        world.begin();
        world.hear(model::Event::Link(link(2, "a0")));
        world.hear(model::Event::Link(link(3, "a1")));
        world.add_rule("tcp dport 22 accept").expect("a rule");
        let before = world.daemon.desired.running().config();
        world.fail(verb);
        let config = format!(
            "{PORTS}[chains.output]\nrules = [\"udp dport 9 drop\"]\n[chains.forward]\nrules = [\"oif a0 drop\"]\n"
        );
        world.apply(&config).expect_err(verb);
        assert_eq!(world.daemon.desired.running().config(), before, "{verb}");
        // What did not come that far needs not be put back.
        assert_eq!(world.daemon.plane.is_stale(), ["stage", "verify", "flip"].contains(&verb), "{verb}");
        world.heal();
        world.daemon.make_good();
        assert!(!world.daemon.plane.is_stale(), "{verb}");
        world.apply(&config).expect(verb);
        assert_eq!(world.daemon.desired.running().config(), parsed(&config), "{verb}");
        assert!(world.plane.kernel().features.contains(Features::OUTPUT | Features::FORWARD), "{verb}");
    }
}

#[test]
fn one_rule_that_cannot_be_patched_in_is_committed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = world(directory.path(), Some(PORTS));
    world.begin();
    world.add_rule("tcp dport 22 accept").expect("a rule");
    world.add_rule("tcp dport 23 accept").expect("a rule");
    assert_eq!(world.plane.kernel().count("patch"), 1, "the second is patched in");
    let flips = world.plane.kernel().count("flip");
    world.fail("patch");
    world.add_rule("tcp dport 24 accept").expect("a rule");
    assert_eq!(world.plane.kernel().count("flip"), flips + 1);
    assert_eq!(world.rules(), ["tcp dport 22 accept", "tcp dport 23 accept", "tcp dport 24 accept"]);
}

#[test]
fn a_rule_with_a_link_a_set_or_a_limit_is_patched_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = world(
        directory.path(),
        Some(&format!("{PORTS}[sets.hosts]\ntype = \"ipv4_addr\"\nelements = [\"192.0.2.0/24\"]\n")),
    );
    world.begin();
    world.hear(model::Event::Link(link(2, "a0")));
    world.add_rule("tcp dport 22 accept").expect("a rule");
    let rules = [
        "iifname \"a*\" tcp dport 23 drop",
        "oif a0 drop",
        "ip saddr @hosts tcp dport 80 drop",
        "tcp dport { 1, 3, 5, 7, 9, 11, 13, 15, 17 } drop",
        "ip saddr . tcp dport { 192.0.2.1 . 80 } drop",
        "limit rate 10/second drop",
        "iifname \"a0\" limit rate 20/second drop",
    ];
    let flips = world.plane.kernel().count("flip");
    for (turn, rule) in (1..).zip(rules) {
        world.add_rule(rule).expect(rule);
        assert_eq!(world.writes(), (turn, flips), "{rule}");
    }
    assert!(world.plane.kernel().features.contains(Features::LIMITS), "programs know limits before a rule has one");
    assert_eq!(world.daemon.plane.limits().len(), 2);
    // They follow the links as any other.
    world.hear(model::Event::Link(link(3, "a1")));
    assert_eq!(world.plane.kernel().count("flip"), flips + 1, "another link fits the first rule");
    let (patches, flips) = (world.plane.kernel().count("patch"), flips + 1);
    let handles: Vec<_> =
        world.daemon.desired.chains().rules(ChainName::Forward).iter().map(|one| one.handle).skip(1).collect();
    for (turn, handle) in handles.iter().enumerate() {
        world.daemon.remove_rule(ChainName::Forward, *handle).expect("it is there");
        // Chains without limits take other programs.
        let expected = if turn + 1 < handles.len() { (patches + turn + 1, flips) } else { (patches + turn, flips + 1) };
        assert_eq!(world.writes(), expected, "{turn}");
    }
    assert!(world.daemon.plane.limits().is_empty());
    assert!(!world.plane.kernel().features.contains(Features::LIMITS));
    assert_eq!(world.rules(), ["tcp dport 22 accept"]);
}

#[test]
fn a_rule_between_others_or_in_the_place_of_one_is_patched_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = world(directory.path(), Some(PORTS));
    world.begin();
    for rule in ["tcp dport 22 accept", "tcp dport 23 accept", "tcp dport 24 accept"] {
        world.add_rule(rule).expect("a rule");
    }
    let (patches, flips) = world.writes();
    let rule = |port: u32| rule::parse(&format!("tcp dport {port} drop")).expect("a rule");
    // As long as a number is left between those of its neighbours.
    for turn in 1..=12 {
        world.daemon.insert_rule(ChainName::Forward, rule(turn), 1).expect("room");
        assert_eq!(world.writes(), (patches + turn as usize, flips), "{turn}");
    }
    world.daemon.insert_rule(ChainName::Forward, rule(13), 1).expect("room");
    assert_eq!(world.writes(), (patches + 12, flips + 1), "all have new numbers");
    let last = world.daemon.desired.chains().rules(ChainName::Forward)[15].handle;
    world.daemon.replace_rule(ChainName::Forward, last, rule(14)).expect("it is there");
    assert_eq!(world.writes(), (patches + 14, flips + 1), "one in, and one out");
    let ports: Vec<_> = (1..=13).rev().map(|port| format!("tcp dport {port} drop")).collect();
    let expected =
        [&["tcp dport 22 accept".to_owned()], &ports[..], &["tcp dport 23 accept".into(), "tcp dport 14 drop".into()]];
    assert_eq!(world.rules(), expected.concat());
    // Where the old one cannot be taken out, all are written; where that does not work either, the new one goes.
    let first = world.daemon.desired.chains().rules(ChainName::Forward)[0].handle;
    world.fail("stage");
    world.daemon.replace_rule(ChainName::Forward, last, rule(15)).expect_err("it is gone");
    world.heal();
    world.daemon.replace_rule(ChainName::Forward, first, rule(15)).expect("it is there");
    assert_eq!(world.rules()[0], "tcp dport 15 drop");
}

#[test]
fn a_rule_whose_limit_cannot_be_written_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = world(directory.path(), Some(PORTS));
    world.begin();
    world.add_rule("tcp dport 22 accept").expect("a rule");
    world.fail("limit");
    world.add_rule("limit rate 10/second drop").expect_err("it has no limit");
    world.heal();
    world.daemon.make_good();
    world.add_rule("limit rate 10/second drop").expect("a rule");
    let handles: Vec<_> =
        world.daemon.desired.chains().rules(ChainName::Forward).iter().map(|one| one.handle).collect();
    assert_eq!(handles, [1, 2], "the one that failed has no handle");
}

#[test]
fn a_link_that_goes_in_the_middle_of_a_commit_stops_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = world(directory.path(), Some(PORTS));
    world.begin();
    world.hear(model::Event::Link(link(2, "a0")));
    world.hear(model::Event::Link(link(3, "a1")));
    assert_eq!((world.hooks(2), world.hooks(3)), (vec![Hook::TcIngress], vec![Hook::TcIngress]));
    world.plane.kernel().going = Some(("load", 2));
    world.add_rule("oif a0 drop").expect("the other port needs it");
    assert!(world.hooks(3).contains(&Hook::TcEgress));
    let flips = world.plane.kernel().count("flip");
    // Now it is heard of: the port goes, and the rule means another set of links.
    world.hear(model::Event::LinkGone(2));
    assert!(world.hooks(2).is_empty() && !world.daemon.plane.attached().contains_key(&2));
    assert_eq!(world.plane.kernel().count("flip"), flips + 1, "the rules were lowered with a link that is gone");
    world.assert_written();
}

#[test]
fn a_link_that_comes_in_the_middle_of_a_failed_commit_is_held_to_the_rules() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = world(directory.path(), Some(PORTS));
    world.begin();
    world.fail("flip");
    world.add_rule("iifname \"a*\" drop").expect_err("it fails");
    world.hear(model::Event::Link(link(2, "a0")));
    assert!(world.hooks(2).is_empty(), "the rules that are live are not known");
    world.heal();
    world.daemon.make_good();
    assert_eq!(world.hooks(2), [Hook::TcIngress]);
    assert!(world.rules().is_empty() && !world.daemon.plane.is_stale());
}

#[test]
fn until_the_tables_are_read_nothing_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = world(directory.path(), Some(PORTS));
    world.daemon.observed.follow(model::Event::Link(link(2, "a0")));
    world.daemon.observed.set_loading(Some((1000, 0)));
    // A change waits for all of them; what is only read does not.
    let call = |request| {
        let (reply, answer) = oneshot::channel();
        let peer = Peer { uid: 0, gid: 0, pid: None };
        (Call { request, peer, from: None, stream: None, sockets: Vec::new(), reply, connection: None }, answer)
    };
    let (change, mut changed) =
        call(Request::RuleAdd { chain: ChainName::Forward, rule: "tcp dport 22 drop".to_owned() });
    let (look, mut looked) = call(Request::Stats { iface: None });
    world.daemon.take(change);
    world.daemon.take(look);
    assert!(changed.try_recv().is_err(), "half of the routes would be in force");
    looked.try_recv().expect("an answer").expect("stats");
    world.daemon.make_good();
    assert!(world.plane.kernel().verbs.is_empty(), "{:?}", world.plane.kernel().verbs);
    world.begin();
    changed.try_recv().expect("an answer").expect("a rule");
    assert_eq!(world.rules(), ["tcp dport 22 drop"]);
    assert!(world.hooks(2).contains(&Hook::TcIngress) && world.hooks(2).contains(&Hook::TcEgress));
    world.assert_written();
}

#[test]
fn a_daemon_that_starts_goes_on_with_what_was_written_down() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = format!("{PORTS}[chains.forward]\nrules = [\"tcp dport 22 accept\"]\n");
    let mut first = world(directory.path(), Some(&config));
    first.begin();
    first.add_rule("tcp dport 23 drop").expect("a rule");
    let running = first.daemon.desired.running().config();
    drop(first);
    let mut next = world(directory.path(), None);
    assert_eq!(next.daemon.desired.running().config(), running);
    next.daemon.observed.follow(model::Event::Link(link(2, "a0")));
    next.begin();
    assert!(next.hooks(2).contains(&Hook::TcIngress) && next.hooks(2).contains(&Hook::TcEgress));
}
