//! Many ports at once: what is loaded for them, how the kernel waits, and what live traffic loses.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::ensure;
use dataplane_tests::lab::{
    Need, ROUTER_CLIENT,
    stream::{Stream, stream},
    traffic::Family,
};

use crate::{
    scene::{PORTS, PROMPT, Scene, within},
    trace::Watcher,
};

/// How many ports come at once.
const MANY: usize = 40;
/// Datagrams a second that must not be lost meanwhile.
const RATE: u64 = 2_000;
/// Whether the kernel expedites all grace periods.
const EXPEDITED: &str = "/sys/kernel/rcu_expedited";
/// Whether it may not.
const NORMAL: &str = "/sys/kernel/rcu_normal";

/// The router with more links, `m0` and so on, that are no ports yet; the two that are have both families' streams.
fn many(mode: &str) -> Option<(Scene, Vec<String>)> {
    let scene = Scene::attached(&[], mode)?;
    let names: Vec<_> = (0..MANY).map(|number| format!("m{number}")).collect();
    for name in &names {
        let far = scene.server().full();
        scene.router().run(&format!("ip link add {name} type veth peer name {name}-far netns {far}")).expect("a pair");
        scene.router().run(&format!("ip link set {name} up")).expect("up");
    }
    Some((scene, names))
}

fn streams(scene: &Scene) -> Vec<Stream> {
    let begin = |(family, port)| stream(&scene.lab, family, port, RATE).expect("a stream");
    Family::BOTH.into_iter().zip([5301, 5303]).map(begin).collect()
}

/// Every datagram of the streams has arrived.
fn all_arrived(streams: Vec<Stream>, what: &str) {
    for stream in streams {
        let tally = stream.finish().expect("counted");
        println!("{what}: {tally:?}");
        assert_eq!((tally.lost, tally.repeated), (0, 0), "{what}: {tally:?}");
        assert!(tally.sent > 0, "{what}: {tally:?}");
    }
}

/// A number in the texts of /proc/PID/fdinfo about links (kernel/bpf/syscall.c, `bpf_link_show_fdinfo`) or programs: all texts
/// that have `with`.
fn held(scene: &Scene, with: &str, field: &str) -> Vec<u32> {
    let dir = format!("/proc/{}/fdinfo", scene.daemon.pid().expect("it runs"));
    let names = fs::read_dir(dir).expect("descriptors").flatten();
    let texts = names.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let number = |text: String| {
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| *name == field).and_then(|(_, value)| value.trim().parse().ok())
    };
    texts.filter(|text| text.contains(with)).filter_map(number).collect()
}

/// The programs that links are of, and how many links there are.
fn linked(scene: &Scene) -> (BTreeSet<u32>, usize) {
    let programs = held(scene, "ifindex:", "prog_id");
    (programs.iter().copied().collect(), programs.len())
}

/// All programs that the daemon holds.
fn loaded(scene: &Scene) -> BTreeSet<u32> {
    held(scene, "prog_jited:", "prog_id").into_iter().collect()
}

fn all_ports_share_programs(mode: &str, hooks: usize) {
    let Some((scene, names)) = many(mode) else { return };
    let before = linked(&scene);
    assert_eq!((before.0.len(), before.1), (hooks, PORTS.len() * hooks), "{mode}: {before:?}");
    let running = streams(&scene);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    scene.attach(&names, mode);
    all_arrived(running, "40 ports come");
    let ports = PORTS.len() + MANY;
    let here = linked(&scene);
    assert_eq!((here.0.len(), here.1), (hooks, ports * hooks), "{mode}: {here:?}");

    // With a feature that the programs lack each is loaded once more, tc egress comes, and all ports have the new ones.
    let running = streams(&scene);
    let rule = scene.rule("forward", "ip saddr 203.0.113.5 drop");
    all_arrived(running, "the first rule comes");
    let there = linked(&scene);
    // Links that are no ports have tc egress then, too.
    assert_eq!(there.0.len(), hooks + 1, "{mode}: {there:?}");
    assert!(there.1 >= ports * (hooks + 1) && there.0.is_disjoint(&here.0), "{mode}: {here:?}, {there:?}");

    let running = streams(&scene);
    scene.cli(&["rule", "del", "forward", &rule.handle.to_string()]);
    within(PROMPT * 5, || {
        let back = linked(&scene);
        ensure!(back.0.len() == hooks && back.1 == ports * hooks, "{mode}: {back:?}");
        Ok(())
    });
    all_arrived(running, "the rule goes");
    scene.close();
}

#[test]
fn all_ports_share_their_programs_at_tc() {
    all_ports_share_programs("tc", 1);
}

#[test]
fn all_ports_share_their_programs_at_xdp() {
    all_ports_share_programs("native", 2);
}

#[test]
fn many_links_are_made_in_haste() {
    let set = |switch: &str| fs::read_to_string(switch).is_ok_and(|word| word.trim() != "0");
    let Some((scene, names)) = many("tc") else { return };
    if set(NORMAL) || set("/sys/kernel/realtime") || fs::OpenOptions::new().write(true).open(EXPEDITED).is_err() {
        return scene.close();
    }
    let (seen, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let watcher = thread::spawn({
        let (seen, end) = (Arc::clone(&seen), Arc::clone(&end));
        move || {
            while !end.load(Ordering::Relaxed) {
                seen.fetch_or(set(EXPEDITED), Ordering::Relaxed);
            }
        }
    });
    scene.attach(&names.iter().map(String::as_str).collect::<Vec<_>>(), "tc");
    end.store(true, Ordering::Relaxed);
    watcher.join().expect("it watched");
    assert!(seen.load(Ordering::Relaxed), "the kernel waited for each of {MANY} links");
    let mark = scene.daemon.bpffs().join("expedited");
    assert!(!mark.exists(), "{} is left", mark.display());
    // Another lane's daemon may be at it.
    within(PROMPT * 5, || {
        ensure!(!set(EXPEDITED), "{EXPEDITED} is left on");
        Ok(())
    });
    scene.close();
}

/// What is asked for the first time finds its programs loaded.
#[test]
fn explain_finds_its_programs_loaded() {
    for mode in ["tc", "native"] {
        let Some(scene) = Scene::attached(&[Need::Root], mode) else { return };
        scene.rule("forward", "ip saddr 203.0.113.5 drop");
        // Peers and what else is learnt of a port may ask for programs of their own.
        thread::sleep(Duration::from_secs(4));
        let before = loaded(&scene);
        let words = ["explain", "--iface", ROUTER_CLIENT.port, "udp 198.18.0.2:5 > 198.18.1.2:9"];
        scene.cli(&words);
        assert_eq!(loaded(&scene), before, "{mode}: explain had to load programs");
        // A limit is a row of a map.
        scene.rule("forward", "ip saddr 203.0.113.6 limit rate 10/second accept");
        thread::sleep(Duration::from_secs(3));
        let before = loaded(&scene);
        scene.rule("forward", "ip saddr 203.0.113.7 limit rate 10/second accept");
        scene.cli(&words);
        assert_eq!(loaded(&scene), before, "{mode}: a limit had programs loaded");
        scene.close();
    }
}

/// Who watches packets again has the programs of the first time.
#[test]
fn trace_finds_the_programs_of_the_last_time() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    thread::sleep(Duration::from_secs(3));
    let without = linked(&scene).0;
    let mut with = BTreeSet::new();
    for round in 0..3 {
        let watcher = Watcher::new(&scene, &["verdict", "drop"]);
        let now = linked(&scene).0;
        assert!(now.is_disjoint(&without), "no program that watches: {now:?}");
        assert!(round == 0 || now == with, "loaded again: {with:?}, then {now:?}");
        with = now;
        drop(watcher);
        within(PROMPT * 5, || {
            let now = linked(&scene).0;
            ensure!(now == without, "loaded again: {without:?}, then {now:?}");
            Ok(())
        });
    }
    scene.close();
}
