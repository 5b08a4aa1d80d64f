//! What can go wrong around the daemon: none of it may matter to the traffic, and all of it is said.

use std::{
    env, fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::ensure;
use dataplane_tests::lab::{
    Need,
    stream::stream,
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
            0 => ("bpf", random.u32(1..400)),
            1 => ("bpf", random.u32(1..100)),
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
        // Dead already, or it came through: strace takes it along.
        let _ = scene.daemon.kill9();
        scene.daemon.restart().unwrap_or_else(|error| panic!("after {call} {number}: {error:#}"));
        let goal = if round % 2 == 0 { (5, 0) } else { (0, 5) };
        assert_eq!(pair(&scene), goal, "{call} {number}: after the restart");
        scene.ping().expect("pings are answered");
    }
    println!("{crashes} crashes: old state {old} times, new state {new} times, not reached {survived} times");
    assert!(old + new > 0, "nothing crashed");
    scene.close();
}

/// Bytes that the daemon may take beyond what it has when it is at rest.
const SPARE: u64 = 16 << 20;
/// Elements of a set that come in one go.
const MANY: u32 = 40_000;

/// A memory cgroup of our own; removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Option<Self> {
        let group = memory_root()?.join(format!("dataplane-fault-{}", std::process::id()));
        fs::create_dir(&group).expect("a cgroup");
        Some(Self(group))
    }

    /// The number in one of its files, by the names of cgroup v1 and v2.
    fn read(&self, names: [&str; 2]) -> u64 {
        let text = names.iter().find_map(|name| fs::read_to_string(self.0.join(name)).ok()).expect("a file");
        // `memory.oom_control` and `memory.events` have a line `oom_kill NUMBER`.
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap_or(text.trim());
        line.parse().expect("a number")
    }

    fn limit(&self, bytes: u64) {
        let file = ["memory.limit_in_bytes", "memory.max"].map(|name| self.0.join(name));
        let file = file.iter().find(|file| file.exists()).expect("a limit");
        fs::write(file, bytes.to_string()).expect("limited");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// Where memory cgroups can be made: `cgroup` or `cgroup2` with that controller (cgroups(7)).
fn memory_root() -> Option<PathBuf> {
    let has = |folder: &Path, file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default().contains("memory");
    let first = Path::new("/sys/fs/cgroup/memory");
    let second = Path::new("/sys/fs/cgroup");
    if first.join("memory.limit_in_bytes").exists() {
        Some(first.to_owned())
    } else {
        has(second, "cgroup.subtree_control").then(|| second.to_owned())
    }
}

#[test]
fn out_of_memory_in_its_cgroup() {
    let cgroups = Need::Kernel("memory cgroups that can be made here", || memory_root().is_some());
    let Some(mut scene) = Scene::idle(&[cgroups]) else { return };
    let group = Cgroup::new().expect("a cgroup");
    scene.daemon.terminate().expect("it ends");
    let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", group.0.display());
    scene.daemon.wrap(&["sh", "-c", &enter, "sh"], &[]);
    scene.daemon.restart().expect("it starts");
    scene.attach(&PORTS, "native");
    let config = scene.lab.dir().join("set.toml");
    fs::write(&config, OLD.to_owned() + "[sets.many]\ntype = \"ipv4_addr\"\nelements = [\"192.0.2.1\"]\n")
        .expect("a config");
    scene.cli(&["config", "apply", config.to_str().expect("UTF-8")]);
    let (rules, flow) = (scene.rules(), stream(&scene.lab, Family::V4, 5400, 5_000).expect("a stream"));
    let usage = group.read(["memory.usage_in_bytes", "memory.current"]);
    group.limit(usage + SPARE);
    let mut grown = 0;
    loop {
        let first = 0x0a00_0000 + grown * MANY;
        let elements = (first..first + MANY).map(|address| std::net::Ipv4Addr::from(address).to_string());
        let words: Vec<_> = ["set", "add", "many"].map(str::to_owned).into_iter().chain(elements).collect();
        let said = scene.daemon.attempt(&words.iter().map(String::as_str).collect::<Vec<_>>()).expect("the verb ends");
        if !said.status.success() {
            assert_eq!(said.status.code(), Some(4), "{}", said.stderr);
            break;
        }
        grown += 1;
        assert!(grown < 100, "it does not grow");
    }
    let ended = scene.daemon.await_end().expect("it ended");
    let killed = group.read(["memory.oom_control", "memory.events"]);
    println!("{usage} bytes at rest; {ended}, {killed} killed for want of memory after {grown} x {MANY} elements");
    assert_eq!(ended.signal(), Some(9), "{ended}");
    assert!(killed > 0, "it was not for want of memory");
    assert_eq!(pair(&scene), (0, 5), "the data plane goes on");
    scene.daemon.wrap(&[], &[]);
    scene.daemon.restart().expect("it starts");
    assert_eq!(pair(&scene), (0, 5));
    let kept =
        |rules: &[crate::scene::Rule]| rules.iter().map(|rule| (rule.rule.clone(), rule.handle)).collect::<Vec<_>>();
    assert_eq!(kept(&scene.rules()), kept(&rules));
    let tally = flow.finish().expect("a tally");
    assert_eq!((tally.lost, tally.repeated), (0, 0), "{tally:?}");
    scene.ping().expect("pings are answered");
    scene.close();
}
