//! The daemon's files are damaged, empty, gone or of a later version: what was dropped stays dropped, and it is said.
//!
//! By hand: `DATAPLANE_OTHER` names another version of the program, which is the downgrade.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::ensure;
use dataplane_tests::lab::{
    self,
    stream::{Stream, stream},
    traffic::{self, Family},
};

use crate::scene::{Scene, within};

/// Datagrams per second of a stream that a rule drops.
const RATE: u64 = 20_000;
/// How long a stream is watched in each state.
const WATCHED: Duration = Duration::from_millis(300);
/// 5301 is dropped by a config, 5302 by a rule that came later.
const CONFIG: &str = "[ports]\nclient0 = { mode = \"MODE\" }\nserver0 = { mode = \"MODE\" }\n\
                      [chains.forward]\nrules = [\"udp dport 5301 drop\", \"udp dport 6000-6100 drop\"]\n";
const LATER: &str = "udp dport 5302 drop";
/// As a later version may write it.
const NEWER: &str = "[ports]\nclient0 = { mode = \"tc\", guess = true }\n[prophecy]\nof = \"tomorrow\"\n";

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Garbage,
    Empty,
    Half,
    /// A line less at the end: what is left may be a config.
    Line,
    Newer,
    Gone,
}

impl Harm {
    const ALL: [Self; 6] = [Self::Garbage, Self::Empty, Self::Half, Self::Line, Self::Newer, Self::Gone];

    /// Does it; what the file holds then.
    fn done(self, path: &Path) -> Option<Vec<u8>> {
        let whole = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let lines = whole.split_inclusive(|byte| *byte == b'\n').collect::<Vec<_>>();
        let left = match self {
            Self::Garbage => b"\x07garbage \xff\xfe\n".to_vec(),
            Self::Empty => Vec::new(),
            Self::Half => whole[..whole.len() / 2].to_vec(),
            Self::Line if lines.len() > 1 => lines[..lines.len() - 1].concat(),
            Self::Line => whole[..whole.len() - 1].to_vec(),
            Self::Newer => NEWER.as_bytes().to_vec(),
            Self::Gone => {
                fs::remove_file(path).expect("removed");
                return None;
            }
        };
        fs::write(path, &left).expect("written");
        Some(left)
    }
}

/// A daemon whose state is to suffer, and the config that it has.
fn scene(mode: &str) -> Option<(Scene, PathBuf)> {
    let scene = Scene::idle(&[])?;
    let path = scene.lab.dir().join("good.toml");
    fs::write(&path, CONFIG.replace("MODE", mode)).expect("a config");
    put_right(&scene, &path);
    Some((scene, path))
}

/// All as it should be, whatever was before.
fn put_right(scene: &Scene, config: &Path) {
    scene.cli(&["config", "apply", config.to_str().expect("UTF-8")]);
    scene.rule("forward", LATER);
    let rules: Vec<_> = scene.rules().into_iter().map(|rule| rule.rule).collect();
    assert_eq!(rules.len(), 3, "{rules:?}");
}

/// Streams of both families that are to be dropped, by the config and by the later rule.
fn dropped(scene: &Scene) -> [Stream; 2] {
    [(Family::V4, 5301), (Family::V6, 5302)]
        .map(|(family, port)| stream(&scene.lab, family, port, RATE).expect("a stream"))
}

fn nothing_arrived(streams: impl IntoIterator<Item = Stream>, when: &str) {
    for flow in streams {
        let tally = flow.finish().expect("a tally");
        assert!(tally.sent > 500, "{when}: too few to tell: {tally:?}");
        assert_eq!(tally.lost, tally.sent, "{when}: {tally:?}");
    }
}

fn arrived(scene: &Scene, port: u16) -> [u32; 2] {
    Family::BOTH.map(|family| traffic::datagrams(&scene.lab, family, port, 5).expect("datagrams"))
}

/// The doctor fails, names the file and what is to be done.
fn is_said(scene: &Scene, file: &str, when: &str) {
    let doctor = scene.daemon.attempt(&["doctor"]).expect("the doctor");
    assert_eq!(doctor.status.code(), Some(7), "{when}: {}", doctor.said());
    assert!(doctor.stdout.contains(file) && doctor.stdout.contains("config apply"), "{when}: {}", doctor.said());
    assert!(scene.daemon.log().contains(file), "{when}: the log does not name {file}");
}

/// Whether a file of the state still holds this.
fn is_kept(scene: &Scene, left: Option<&[u8]>) -> bool {
    let mut files = fs::read_dir(scene.daemon.state()).expect("the state");
    left.is_none_or(|left| files.any(|file| fs::read(file.expect("a file").path()).is_ok_and(|text| text == left)))
}

/// The maps and links of the machine as bpftool sees them, by their pins.
fn pins(scene: &Scene) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(scene.daemon.bpffs().join("links"))
        .expect("links")
        .map(|link| link.expect("a link").path())
        .collect();
    found.sort();
    found
}

fn suffers(mode: &str, file: &str, harms: &[Harm]) {
    let Some((mut scene, config)) = scene(mode) else { return };
    for (round, harm) in harms.iter().enumerate() {
        let when = format!("{mode}, {file}: {harm:?}");
        put_right(&scene, &config);
        let ([by_config, by_rule], before) = (dropped(&scene), pins(&scene));
        thread::sleep(WATCHED);
        if round % 2 == 0 {
            scene.daemon.kill9().expect("it dies");
        } else {
            scene.daemon.terminate().expect("it ends");
        }
        let left = harm.done(&scene.daemon.state().join(file));
        thread::sleep(WATCHED);
        scene.daemon.restart().unwrap_or_else(|error| panic!("{when}: {error:#}"));
        thread::sleep(WATCHED);
        is_said(&scene, file, &when);
        assert_eq!(pins(&scene), before, "{when}");
        assert!(is_kept(&scene, left.as_deref()), "{when}: not kept");
        // Nobody but the operator may say what is in force.
        scene.refused(&["rule", "add", "forward", "udp dport 7000 drop"], 7, &["config apply"]);
        scene.refused(&["config", "show"], 7, &[file]);
        // The next daemon knows no more.
        scene.daemon.kill9().expect("it dies");
        scene.daemon.restart().unwrap_or_else(|error| panic!("{when}, once more: {error:#}"));
        is_said(&scene, file, &when);
        assert_eq!(arrived(&scene, 5400), [5; 2], "{when}: what passed passes");
        // The config that puts it right does not have the later rule.
        nothing_arrived([by_rule], &when);
        put_right(&scene, &config);
        assert!(is_kept(&scene, left.as_deref()), "{when}: not kept when it was put right");
        nothing_arrived([by_config], &when);
        assert_eq!(arrived(&scene, 5400), [5; 2], "{when}");
        let doctor = scene.daemon.attempt(&["doctor"]).expect("the doctor");
        assert!(!doctor.stdout.contains(file), "{when}: {}", doctor.said());
        scene.daemon.restart().expect("it starts");
        assert_eq!(scene.rules().len(), 3, "{when}");
    }
    scene.close();
}

#[test]
fn the_running_config_native() {
    suffers("native", "running.toml", &Harm::ALL);
}

#[test]
fn the_running_config_tc() {
    suffers("tc", "running.toml", &[Harm::Gone, Harm::Newer]);
}

#[test]
fn the_running_config_generic() {
    suffers("generic", "running.toml", &[Harm::Empty, Harm::Half]);
}

#[test]
fn the_journal() {
    suffers("native", "journal.json", &[Harm::Garbage, Harm::Empty, Harm::Line, Harm::Gone]);
}

#[test]
fn the_handles_that_the_journal_follows() {
    suffers("native", "handles.json", &[Harm::Garbage, Harm::Empty, Harm::Half, Harm::Gone]);
}

/// Without a journal the rules are all in the running config: nothing stops, and it is said.
#[test]
fn the_handles_alone() {
    let Some((mut scene, config)) = scene("native") else { return };
    for harm in [Harm::Garbage, Harm::Gone] {
        scene.cli(&["config", "apply", config.to_str().expect("UTF-8")]);
        let streams = [Family::V4, Family::V6].map(|family| stream(&scene.lab, family, 5301, RATE).expect("a stream"));
        scene.daemon.kill9().expect("it dies");
        let left = harm.done(&scene.daemon.state().join("handles.json"));
        scene.daemon.restart().expect("it starts");
        assert_eq!(scene.rules().len(), 2, "{harm:?}");
        let doctor = scene.daemon.attempt(&["doctor"]).expect("the doctor");
        assert!(doctor.stdout.contains("handles.json"), "{harm:?}: {}", doctor.said());
        assert!(is_kept(&scene, left.as_deref()), "{harm:?}: not kept");
        thread::sleep(WATCHED);
        nothing_arrived(streams, &format!("{harm:?}"));
        scene.rule("forward", LATER);
        assert_eq!((arrived(&scene, 5302), arrived(&scene, 5400)), ([0; 2], [5; 2]));
    }
    scene.close();
}

/// As a machine boots: nothing is attached.
fn boot(scene: &mut Scene) {
    let bpffs = scene.daemon.bpffs();
    for words in [&["umount"][..], &["mount", "-t", "bpf", "bpf"]] {
        let status = Command::new(words[0]).args(&words[1..]).arg(&bpffs).status().expect("it runs");
        assert!(status.success(), "{words:?}");
    }
    scene.daemon.restart().expect("it starts");
}

#[test]
fn after_a_boot_nothing_passes_that_may_have_been_dropped() {
    let Some((mut scene, config)) = scene("native") else { return };
    let first = scene.lab.dir().join("first.toml");
    fs::write(&first, "[ports]\n\"*\" = { mode = \"tc\" }\n").expect("a config");
    scene.daemon.wrap(&[], &["--first-config", first.to_str().expect("UTF-8")]);
    for (file, harm) in [
        ("running.toml", Harm::Garbage),
        ("running.toml", Harm::Gone),
        ("running.toml", Harm::Line),
        ("journal.json", Harm::Gone),
        ("handles.json", Harm::Half),
    ] {
        let when = format!("{file}: {harm:?}");
        put_right(&scene, &config);
        scene.daemon.kill9().expect("it dies");
        let left = harm.done(&scene.daemon.state().join(file));
        boot(&mut scene);
        let [by_config, by_rule] = dropped(&scene);
        thread::sleep(WATCHED);
        is_said(&scene, file, &when);
        // Not even what would have passed: nobody knows.
        assert_eq!(arrived(&scene, 5400), [0; 2], "{when}");
        if file != "handles.json" {
            // Only chain forward was in use: who waits for orders can still be reached.
            assert_eq!(scene.pinged(lab::ROUTER_CLIENT.v4), 3, "{when}");
        }
        // Neither does a link that comes, a daemon that dies, or another one.
        scene.daemon.kill9().expect("it dies");
        thread::sleep(WATCHED);
        scene.daemon.restart().expect("it starts");
        assert_eq!(arrived(&scene, 5400), [0; 2], "{when}");
        nothing_arrived([by_rule], &when);
        put_right(&scene, &config);
        assert!(is_kept(&scene, left.as_deref()), "{when}: not kept");
        nothing_arrived([by_config], &when);
        assert_eq!(arrived(&scene, 5400), [5; 2], "{when}: put right");
        scene.daemon.restart().expect("it starts");
        assert_eq!((scene.rules().len(), arrived(&scene, 5400)), (3, [5; 2]), "{when}");
    }
    // The other way out.
    scene.daemon.kill9().expect("it dies");
    Harm::Garbage.done(&scene.daemon.state().join("running.toml"));
    boot(&mut scene);
    assert_eq!(arrived(&scene, 5301), [0; 2]);
    // A verb that asks several things says it once.
    let status = scene.daemon.attempt(&["status"]).expect("it runs");
    assert_eq!(status.stderr.matches("warning: ").count(), 1, "{status:?}");
    scene.cli(&["detach", "--all"]);
    assert_eq!(arrived(&scene, 5301), [5; 2]);
    scene.close();
}

#[test]
fn a_config_that_is_given_ends_it() {
    let Some((mut scene, config)) = scene("native") else { return };
    let streams = dropped(&scene);
    scene.daemon.kill9().expect("it dies");
    let left = Harm::Garbage.done(&scene.daemon.state().join("running.toml"));
    let with = config.with_file_name("with.toml");
    let text = fs::read_to_string(&config).expect("a config").replace("rules = [", &format!("rules = [\"{LATER}\", "));
    fs::write(&with, text).expect("a config");
    scene.daemon.wrap(&[], &["--config", with.to_str().expect("UTF-8")]);
    scene.daemon.restart().expect("it starts");
    assert_eq!(scene.rules().len(), 3);
    assert!(is_kept(&scene, left.as_deref()), "not kept");
    thread::sleep(WATCHED);
    nothing_arrived(streams, "--config");
    scene.close();
}

#[test]
fn a_probation_ends_whatever_happens_to_its_file() {
    let Some((mut scene, config)) = scene("tc") else { return };
    let other = config.with_file_name("other.toml");
    fs::write(&other, "[ports]\nclient0 = { mode = \"tc\" }\nserver0 = { mode = \"tc\" }\n").expect("a config");
    for harm in Harm::ALL {
        scene.cli(&["config", "apply", other.to_str().expect("UTF-8"), "--confirm", "3"]);
        assert_eq!(arrived(&scene, 5301), [5; 2], "{harm:?}");
        scene.daemon.kill9().expect("it dies");
        harm.done(&scene.daemon.state().join("pending.toml"));
        scene.daemon.restart().expect("it starts");
        within(Duration::from_secs(5), || {
            let rules = scene.rules();
            ensure!(rules.len() == 3, "{harm:?}: {rules:?}");
            Ok(())
        });
        assert_eq!(arrived(&scene, 5301), [0; 2], "{harm:?}");
        let pending = fs::read_dir(scene.daemon.state()).expect("the state").flatten();
        let pending = pending.filter(|file| file.file_name().to_string_lossy().starts_with("pending.toml.damaged"));
        assert!(harm == Harm::Gone || pending.count() > 0, "{harm:?}: not kept");
    }
    // One that was confirmed stays.
    scene.cli(&["config", "apply", other.to_str().expect("UTF-8"), "--confirm", "2"]);
    scene.cli(&["config", "confirm"]);
    scene.daemon.kill9().expect("it dies");
    scene.daemon.restart().expect("it starts");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(scene.rules().len(), 0);
    scene.close();
}

#[test]
fn other_users_cannot_read_the_state() {
    let Some((mut scene, config)) = scene("tc") else { return };
    scene.cli(&["config", "apply", config.to_str().expect("UTF-8"), "--confirm", "60"]);
    scene.rule("forward", LATER);
    let state = scene.daemon.state();
    let open = || {
        let files = fs::read_dir(&state).expect("the state").map(|file| file.expect("a file").path());
        files.filter(|file| fs::metadata(file).expect("a file").permissions().mode() & 0o077 != 0).collect::<Vec<_>>()
    };
    assert_eq!(open(), Vec::<PathBuf>::new());
    // As daemons of before left them.
    scene.daemon.terminate().expect("it ends");
    for file in fs::read_dir(&state).expect("the state") {
        fs::set_permissions(file.expect("a file").path(), fs::Permissions::from_mode(0o644)).expect("opened");
    }
    scene.daemon.restart().expect("it starts");
    assert_eq!(open(), Vec::<PathBuf>::new());
    scene.close();
}

/// What is written can be read by the daemon before.
#[test]
fn a_downgrade_keeps_rules_and_probation() {
    let Some((mut scene, config)) = scene("native") else { return };
    let other = config.with_file_name("other.toml");
    fs::write(&other, CONFIG.replace("MODE", "native").replace("5301", "5303")).expect("a config");
    let (next, own) = (scene.lab.dir().join("dataplane-before"), lab::binary().expect("the program"));
    fs::copy(env::var_os("DATAPLANE_OTHER").map_or_else(|| own.clone(), PathBuf::from), &next).expect("a copy");
    let streams = dropped(&scene);
    for binary in [&next, &own] {
        scene.daemon.kill9().expect("it dies");
        scene.daemon.upgrade(binary);
        scene.daemon.restart().expect("it starts");
        assert_eq!(scene.rules().len(), 3);
        thread::sleep(WATCHED);
    }
    nothing_arrived(streams, "down and up");
    scene.cli(&["config", "apply", other.to_str().expect("UTF-8"), "--confirm", "3"]);
    scene.daemon.kill9().expect("it dies");
    scene.daemon.upgrade(&next);
    scene.daemon.restart().expect("it starts");
    within(Duration::from_secs(5), || {
        ensure!(scene.rules().len() == 3, "it is not taken back");
        Ok(())
    });
    // And confirmed by the daemon before it is confirmed for the next one.
    scene.cli(&["config", "apply", other.to_str().expect("UTF-8"), "--confirm", "4"]);
    scene.cli(&["config", "confirm"]);
    scene.daemon.kill9().expect("it dies");
    scene.daemon.upgrade(&own);
    scene.daemon.restart().expect("it starts");
    thread::sleep(Duration::from_secs(5));
    assert_eq!(scene.rules().len(), 2);
    scene.close();
}

/// Somebody removes all that the daemon has pinned, and mounts nothing in its place.
#[test]
fn pins_that_are_removed_are_put_back_before_a_packet_passes() {
    let Some((mut scene, _)) = scene("native") else { return };
    let streams = dropped(&scene);
    let bpffs = scene.daemon.bpffs();
    let count = || walked(&bpffs).len();
    let before = count();
    for round in 0..2 {
        for entry in fs::read_dir(&bpffs).expect("the pins") {
            let entry = entry.expect("a pin");
            if entry.file_type().expect("its type").is_dir() {
                fs::remove_dir_all(entry.path()).expect("removed");
            }
        }
        if round == 1 {
            // Programs that are loaded before a second is over find their maps, too.
            scene.rule("input", "udp dport 7001 drop");
        }
        within(Duration::from_secs(3), || {
            let now = count();
            ensure!(now >= before, "{now} of {before} pins");
            Ok(())
        });
        assert_eq!(arrived(&scene, 5400), [5; 2]);
    }
    let doctor = scene.daemon.attempt(&["doctor"]).expect("the doctor");
    assert!(doctor.stdout.contains("pinned again"), "{}", doctor.said());
    scene.daemon.kill9().expect("it dies");
    thread::sleep(WATCHED);
    scene.daemon.restart().expect("it starts");
    thread::sleep(WATCHED);
    assert_eq!(scene.rules().len(), 4);
    nothing_arrived(streams, "pins were removed");
    scene.close();
}

/// All files under a folder.
fn walked(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(walked(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn a_bpf_file_system_that_comes_back_is_pinned_to() {
    let Some((mut scene, _)) = scene("native") else { return };
    let streams = dropped(&scene);
    let bpffs = scene.daemon.bpffs();
    let do_it = |words: &[&str]| {
        assert!(Command::new(words[0]).args(&words[1..]).arg(&bpffs).status().expect("it runs").success(), "{words:?}");
    };
    do_it(&["umount", "-l"]);
    within(Duration::from_secs(3), || {
        let doctor = scene.daemon.attempt(&["doctor"])?;
        ensure!(doctor.status.code() == Some(7), "{}", doctor.said());
        ensure!(
            doctor.stdout.contains("mount -t bpf bpf") && doctor.stdout.contains("do not stop"),
            "{}",
            doctor.said()
        );
        Ok(())
    });
    do_it(&["mount", "-t", "bpf", "bpf"]);
    within(Duration::from_secs(3), || {
        let doctor = scene.daemon.attempt(&["doctor"])?;
        ensure!(doctor.status.code() != Some(7), "{}", doctor.said());
        Ok(())
    });
    scene.daemon.kill9().expect("it dies");
    thread::sleep(WATCHED);
    scene.daemon.restart().expect("it starts");
    thread::sleep(WATCHED);
    nothing_arrived(streams, "unmounted and mounted");
    assert_eq!((scene.rules().len(), arrived(&scene, 5400)), (3, [5; 2]));
    scene.close();
}

/// The doctor looks where the daemon is, wherever it is called.
#[test]
fn the_doctor_looks_where_the_daemon_is() {
    let Some((scene, _)) = scene("native") else { return };
    let mut command = scene.client().command(lab::binary().expect("the program"));
    command.args(["doctor", "-j"]).env("DATAPLANE_SOCKET", scene.daemon.socket());
    let said = scene.client().output(&mut command, Duration::from_secs(20)).expect("the doctor");
    let findings: serde_json::Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.said()));
    let of = |check: &str| findings.as_array().expect("rows").iter().find(|row| row["check"] == check).cloned();
    assert!(of("egress: client0").is_some(), "{findings:#}");
    assert!(of("forwarding ipv4").is_some_and(|row| row["found"] == "on"), "{findings:#}");
    let bpffs = of("bpffs").expect("a finding")["found"].to_string();
    assert!(bpffs.contains(&scene.daemon.bpffs().display().to_string()), "{bpffs}");
    let state = of("state").expect("a finding")["found"].to_string();
    assert!(state.contains(&scene.daemon.state().display().to_string()), "{state}");
    // What is wrong where the doctor is called is nothing to the daemon; what is wrong there, is.
    scene.router().run("sysctl -qw net.ipv4.ip_forward=0").expect("off");
    within(Duration::from_secs(3), || {
        let said = scene.client().output(&mut command, Duration::from_secs(20))?;
        ensure!(said.stdout.contains("net.ipv4.ip_forward=1"), "{}", said.said());
        Ok(())
    });
    scene.router().run("sysctl -qw net.ipv4.ip_forward=1").expect("on");
    scene.close();
}
