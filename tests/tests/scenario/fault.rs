//! What can go wrong around the daemon: none of it may matter to the traffic, and all of it is said.

use std::{env, fs, thread, time::Duration};

use anyhow::ensure;
use dataplane_tests::lab::{
    Need,
    traffic::{self, Family},
};

use crate::scene::{PORTS, Scene, within};

/// How many crashes of each kind are tried unless `DATAPLANE_CRASHES` says otherwise.
const FEW: u32 = 6;
/// The old config: 5301 is dropped. The new one: 5302 is.
const OLD: &str = "[ports]\nclient0 = { mode = \"tc\" }\nserver0 = { mode = \"tc\" }\n\
                   [chains.forward]\nrules = [\"udp dport 5301 drop\", \"udp dport 6000-6100 drop\"]\n";
const NEW: &str = "[ports]\nclient0 = { mode = \"tc\" }\nserver0 = { mode = \"tc\" }\n\
                   [chains.prerouting]\nrules = [\"udp dport 7000 drop\"]\n[chains.forward]\nrules = [\"udp dport 5302 drop\"]\n";

/// What arrives at each of the two ports.
fn pair(scene: &Scene) -> (u32, u32) {
    let arrived = |port| traffic::datagrams(&scene.lab, Family::V4, port, 5).expect("datagrams");
    (arrived(5301), arrived(5302))
}

#[test]
fn a_full_disk() {
    let Some(mut scene) = Scene::idle(&[]) else { return };
    scene.daemon.terminate().expect("it ends");
    let state = scene.daemon.state();
    let mount = |words: &[&str]| {
        let status = std::process::Command::new(words[0]).args(&words[1..]).arg(&state).status().expect("mount runs");
        assert!(status.success(), "{words:?}");
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"]);
    scene.daemon.restart().expect("it starts");
    scene.attach(&PORTS, "tc");
    scene.rule("forward", "udp dport 5301 drop");
    let filler = state.join("filler");
    // Until nothing more goes in.
    let _ = fs::write(&filler, vec![0; 1 << 20]);
    let said = scene.daemon.attempt(&["rule", "add", "forward", "udp dport 5302 drop"]).expect("the verb runs");
    assert!(said.status.success(), "{}", said.said());
    assert!(said.stderr.contains("not written down"), "{}", said.said());
    assert_eq!(pair(&scene), (0, 0), "both rules are in force");
    let doctor = scene.daemon.attempt(&["doctor"]).expect("the doctor");
    assert!(doctor.stdout.contains("not written down"), "{}", doctor.said());
    // Room again: it is written without being asked.
    fs::remove_file(&filler).expect("room");
    within(Duration::from_secs(3), || {
        let running = fs::read_to_string(state.join("running.toml"))?;
        ensure!(running.contains("5302"), "{running}");
        Ok(())
    });
    scene.daemon.kill9().expect("it dies");
    scene.daemon.restart().expect("it starts");
    assert_eq!(scene.rules().len(), 2);
    scene.ping().expect("pings are answered");
    scene.daemon.terminate().expect("it ends");
    mount(&["umount"]);
    scene.daemon.restart().expect("it starts");
    scene.close();
}

#[test]
fn the_socket_is_gone() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    for _ in 0..2 {
        fs::remove_file(scene.daemon.socket()).expect("removed");
        scene.ping().expect("pings are answered");
        within(Duration::from_secs(4), || {
            ensure!(scene.daemon.attempt(&["port", "list"])?.status.success(), "no answer");
            Ok(())
        });
    }
    // What somebody else put there is left alone.
    fs::remove_file(scene.daemon.socket()).expect("removed");
    fs::write(scene.daemon.socket(), "mine").expect("a file");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(fs::read_to_string(scene.daemon.socket()).expect("the file"), "mine");
    fs::remove_file(scene.daemon.socket()).expect("removed");
    within(Duration::from_secs(4), || {
        ensure!(scene.daemon.attempt(&["port", "list"])?.status.success(), "no answer");
        Ok(())
    });
    scene.close();
}

#[test]
fn the_bpf_file_system_is_gone() {
    let Some(mut scene) = Scene::configured(&[], OLD) else { return };
    let lazily = |words: &[&str]| {
        let mut command = std::process::Command::new(words[0]);
        assert!(command.args(&words[1..]).arg(scene.daemon.bpffs()).status().expect("it runs").success(), "{words:?}");
    };
    lazily(&["umount", "-l"]);
    assert_eq!(pair(&scene), (0, 5), "the data plane goes on");
    // What needs no other program is done; what does is done or refused, and the rules hold.
    let said = scene.daemon.attempt(&["rule", "add", "input", "udp dport 7001 drop"]).expect("the verb runs");
    println!("a chain more without a BPF file system: {}{}", said.status, said.said());
    assert_eq!(pair(&scene), (0, 5));
    lazily(&["mount", "-t", "bpf", "bpf"]);
    scene.daemon.restart().expect("it starts");
    assert_eq!(pair(&scene), (0, 5));
    scene.ping().expect("pings are answered");
    scene.close();
}

/// How the daemon under strace is to die: killed at the `number`th of these calls.
fn dies_at(call: &str, number: u32) -> Vec<String> {
    let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e"];
    let inject = [format!("trace={call}"), "-e".to_owned(), format!("inject={call}:signal=KILL:when={number}")];
    words.iter().map(|word| (*word).to_owned()).chain(inject).collect()
}

/// A crash at each step that the kernel or the disk can see: what is left is the old state or the new one. A step is a system
/// call, which says more than points that somebody chose: every map write, program, link and file is one.
#[test]
fn a_crash_leaves_the_old_state_or_the_new() {
    let Some(mut scene) = Scene::configured(&[Need::Tool("strace")], OLD) else { return };
    assert_eq!(pair(&scene), (0, 5));
    let crashes = env::var("DATAPLANE_CRASHES").map_or(FEW, |number| number.parse().expect("a number"));
    let mut random = fastrand::Rng::with_seed(9);
    let (mut old, mut new, mut survived) = (0, 0, 0);
    for round in 0..crashes {
        // Each start adopts what is there and commits another config.
        let config = if round % 2 == 0 { NEW } else { OLD };
        fs::write(scene.daemon.config(), config).expect("the config");
        let (call, number) = match round % 3 {
            0 => ("bpf", random.u32(1..900)),
            1 => ("bpf", random.u32(1..200)),
            _ => ("rename", random.u32(1..4)),
        };
        let before = pair(&scene);
        scene.daemon.kill9().expect("it dies");
        let wrapper = dies_at(call, number);
        scene.daemon.wrap(&wrapper.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        let started = scene.daemon.restart();
        // A chain that is swapped is the old one or the new one at every packet, also with nobody there.
        let after = pair(&scene);
        assert!([(0, 5), (5, 0)].contains(&after), "{call} {number}: {before:?} -> {after:?}");
        match (after == before, started.is_ok()) {
            (_, true) => survived += 1,
            (true, false) => old += 1,
            (false, false) => new += 1,
        }
        scene.daemon.wrap(&[], &[]);
        if started.is_err() {
            let _ = scene.daemon.kill9();
        }
        scene.daemon.restart().unwrap_or_else(|error| panic!("after {call} {number}: {error:#}"));
        let goal = if round % 2 == 0 { (5, 0) } else { (0, 5) };
        assert_eq!(pair(&scene), goal, "{call} {number}: after the restart");
        scene.ping().expect("pings are answered");
    }
    println!("{crashes} crashes: old state {old} times, new state {new} times, not reached {survived} times");
    assert!(old + new > 0, "nothing crashed");
    scene.close();
}
