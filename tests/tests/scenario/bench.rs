//! `dataplane bench`, `lab bench` and `lab traffic`: what is sent is counted to the packet, and nothing is left.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use dataplane_tests::lab::{Need, binary, ready};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const NEEDS: [Need; 3] = [Need::Root, Need::Tool("ip"), Need::Tool("nsenter")];

/// Runs a verb; its exit code, stdout and stderr.
fn verb(words: &[&str]) -> (Option<i32>, String, String) {
    let (code, out, err, _) = process(words);
    (code, out, err)
}

/// The same, with the number of the process.
fn process(words: &[&str]) -> (Option<i32>, String, String, u32) {
    let mut command = Command::new(binary().expect("the binary"));
    let child = command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("it runs");
    let number = child.id();
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr), number)
}

/// A lab that goes with the test.
struct Lab(String);

impl Lab {
    fn up(role: &str, words: &[&str]) -> Self {
        let lab = Self(format!("{role}-{}", std::process::id()));
        let (code, out, err) = verb(&[&["lab", "up", &lab.0], words].concat());
        assert_eq!(code, Some(0), "{out}{err}");
        lab
    }

    /// Runs a command on its router.
    fn router(&self, words: &[&str]) -> String {
        let (code, out, err) = verb(&[&["lab", "shell", &self.0, "router", "--"], words].concat());
        assert_eq!(code, Some(0), "{words:?}: {out}{err}");
        out
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        verb(&["lab", "down", &self.0]);
    }
}

/// What a killed or ended bench would leave.
fn left(name: &str) -> Vec<String> {
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let mounts = mounts.lines().map(str::to_owned);
    let all = names("/var/run/netns").into_iter().chain(names("/run/dataplane/lab")).chain(mounts);
    all.filter(|entry| entry.contains(name)).collect()
}

/// Each round of each path: the sink has what was sent, the ports have it too, and our programs forwarded it where they should.
#[test]
fn sink_and_ports_count_what_was_sent() {
    if !ready(&NEEDS) {
        return;
    }
    // Apart, so that none is lost in a full queue while the machine is busy.
    let words = ["--rounds", "1", "--time", "1", "--rate", "20k", "--size", "imix", "--rules", "20", "-j"];
    let (code, out, err, number) = process(&[&["bench"][..], &words].concat());
    assert_eq!(code, Some(0), "{out}{err}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    let paths = report["paths"].as_array().expect("paths");
    assert!(paths.len() >= 5, "{out}");
    for path in paths {
        let (name, round) = (&path["path"], &path["rounds"][0]);
        let count = |key: &str| round[key].as_u64().unwrap_or_else(|| panic!("{name}: no {key} in {round}"));
        let sent = count("sent");
        assert!(sent > 1000, "{name}: {round}");
        assert_eq!((count("received"), path["lost"].as_u64()), (sent, Some(0)), "{name}: {round}");
        // The rest is what the kernels of the lab send by themselves.
        for port in ["port_rx", "port_tx"] {
            assert!((sent..sent + 50).contains(&count(port)), "{name}: {port}: {round}");
        }
        let ours = name.as_str().is_some_and(|name| name.starts_with("dataplane"));
        assert_eq!(count("forwarded"), if ours { sent } else { 0 }, "{name}: {round}");
        let latency = &path["latency"];
        assert_eq!(latency["samples"].as_u64(), Some(sent), "{name}: {latency}");
        let times = ["p50", "p90", "p99", "p99_9", "max"].map(|key| latency[key].as_u64().expect("a time"));
        assert!(times[0] > 0 && times.is_sorted(), "{name}: {latency}");
    }
    assert!(report["pktgen"].is_boolean(), "{out}");
    assert_eq!(left(&format!("bench-{number}")), Vec::<String>::new(), "{err}");
}

/// What a bench has made goes also when a signal ends it; a second one takes away what a killed one left.
#[test]
fn a_bench_that_is_ended_leaves_nothing() {
    if !ready(&NEEDS) {
        return;
    }
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut bench = Command::new(binary().expect("the binary"))
            .args(["bench", "--rules", "0", "--time", "30"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        let (name, end) = (format!("bench-{}", bench.id()), Instant::now() + Duration::from_secs(20));
        while !Path::new("/run/dataplane/lab").join(&name).join("socket").exists() {
            assert!(Instant::now() < end, "no lab {name}");
            sleep(Duration::from_millis(20));
        }
        sleep(Duration::from_millis(500));
        kill_process(Pid::from_child(&bench), signal).expect("a signal");
        let status = bench.wait().expect("its end");
        assert!(!status.success(), "{signal:?}: {status}");
        if signal == Signal::KILL {
            let (code, _, err) = verb(&["bench", "--rules", "0", "--rounds", "1", "--time", "0.1", "--family", "4"]);
            assert_eq!(code, Some(0), "{err}");
        }
        assert_eq!(left(&name), Vec::<String>::new(), "{signal:?}");
    }
}

/// A lab that is there: traffic through it, and its config as before.
#[test]
fn traffic_and_bench_in_a_lab() {
    if !ready(&NEEDS) {
        return;
    }
    let lab = Lab::up("traffic", &["--native"]);
    let program = binary().expect("the binary").display().to_string();
    lab.router(&[&program, "rule", "add", "forward", "tcp dport 23 drop"]);
    let (config, routes) = (lab.router(&[&program, "config", "show"]), lab.router(&["ip", "route"]));
    assert!(lab.router(&[&program, "port", "list"]).contains("native"));
    let (code, out, err) = verb(&["lab", "traffic", &lab.0, "--rate", "10k", "--time", "0.5", "-j"]);
    assert_eq!(code, Some(0), "{out}{err}");
    let row: Value = serde_json::from_str(&out).expect("JSON");
    assert!(row["sent"].as_u64().is_some_and(|sent| sent > 500) && row["lost"] == 0, "{out}");
    let (code, out, err) = verb(&["lab", "bench", &lab.0, "--rounds", "1", "--time", "0.1", "--rules", "3"]);
    assert_eq!(code, Some(0), "{out}{err}");
    for name in ["dataplane, native", "dataplane, tc, 3 rules", "kernel, nft, 3 rules", "#####"] {
        assert!(out.contains(name), "{name}: {out}");
    }
    assert_eq!(lab.router(&[&program, "config", "show"]), config);
    assert_eq!(lab.router(&["ip", "route"]), routes);
    let (_, out, _) = verb(&["lab", "list", "-j"]);
    assert!(out.contains(&format!("\"{}\"", lab.0)), "{out}");
    // Out of an interface of a lab nobody asks; outside of one a pipe cannot answer.
    let words = ["lab", "shell", &lab.0, "client", "--"];
    let send = ["bench", "--from", "eth0", "--gateway", "02:00:00:00:00:01", "--rate", "1k", "--time", "0.2", "-j"];
    let (code, out, err) = verb(&[&words[..], &[&program], &send].concat());
    assert_eq!(code, Some(0), "{out}{err}");
    let (code, _, err) = verb(&["bench", "--from", "lo", "--gateway", "02:00:00:00:00:01"]);
    assert!(code == Some(1) && err.contains("no Ethernet header"), "{code:?} {err}");
}
