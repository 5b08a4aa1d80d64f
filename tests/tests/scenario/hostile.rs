//! Requests that nobody should send: answered or cut, never fatal. `DATAPLANE_MALFORMED` says how many.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use crate::scene::{PORTS, Scene};

/// How many are sent unless told otherwise.
const FEW: u64 = 2_000;
/// Kilobytes that the daemon may grow by, whatever is sent: what its allocator keeps.
const GROWTH: u64 = 8_192;
/// Requests that are good, to be broken.
const GOOD: &[&str] = &[
    r#"{"verb":"attach","with":{"ifaces":["client0"],"mode":"native"}}"#,
    r#"{"verb":"detach","with":{"ifaces":["client0"]}}"#,
    r#"{"verb":"rule add","with":{"chain":"forward","rule":"udp dport 5301 drop"}}"#,
    r#"{"verb":"config apply","with":{"path":"x","toml":"[chains.forward]\npolicy = \"drop\"\n"}}"#,
    r#"{"verb":"route get","with":{"addr":"198.18.1.2","from":null,"iif":null}}"#,
    r#"{"verb":"stats","with":{"iface":null}}"#,
];
/// Requests that can be read, and ask for what cannot be.
const SENSELESS: &[&str] = &[
    r#"{"verb":"attach","with":{"ifaces":["no-such-link"],"mode":"native"}}"#,
    r#"{"verb":"detach","with":{"ifaces":["\u0000"]}}"#,
    r#"{"verb":"rule add","with":{"chain":"forward","rule":"udp udp { { drop"}}"#,
    r#"{"verb":"rule del","with":{"chain":"input","handle":18446744073709551615}}"#,
    r#"{"verb":"set add","with":{"name":"../../etc","elements":["x"]}}"#,
    r#"{"verb":"config apply","with":{"path":"x","toml":"[[[["}}"#,
    r#"{"verb":"config diff","with":{"path":"/etc/shadow","toml":"[sets.a]\ntype = \"ipv4_addr\"\nfile = \"/etc/shadow\"\n"}}"#,
    r#"{"verb":"route list","with":{"prefix":"nonsense"}}"#,
    r#"{"verb":"config confirm"}"#,
];

/// A line of `/proc/PID/status`, in kilobytes.
fn memory(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon lives");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("the line");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon lives").count()
}

/// One of many kinds of nonsense, as bytes to send.
fn nonsense(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = GOOD[random.usize(..GOOD.len())].as_bytes().to_vec();
    match random.u16(..1000) {
        // Longer than any request may be, now and then.
        0 => return vec![b'['; (1 << 20) + 10],
        1 => return [b"{\"verb\":\"".as_slice(), &vec![b'x'; 1 << 20], b"\"}\n"].concat(),
        2..100 => bytes.truncate(random.usize(1..bytes.len())),
        100..200 => bytes = (0..random.usize(1..200)).map(|_| random.u8(..)).collect(),
        200..300 => bytes = vec![b'['; random.usize(1..5000)],
        300..400 => return SENSELESS[random.usize(..SENSELESS.len())].bytes().chain([b'\n']).collect(),
        400..500 => bytes.insert(random.usize(..bytes.len()), 0),
        500..600 => bytes.insert(1, b','),
        600..700 => bytes = String::from_utf8_lossy(&bytes).replace("verb", "verb\":1,\"x").into_bytes(),
        700..800 => bytes = String::from_utf8_lossy(&bytes).replacen("\":\"", "\":-1e999,\"x\":\"", 1).into_bytes(),
        _ => {
            let at = random.usize(2..7);
            bytes[at] = random.u8(1..=31);
        }
    }
    // Some are never ended.
    if random.u8(..) < 250 {
        bytes.push(b'\n');
    }
    bytes
}

/// Sends it; the answer, or nothing where the connection was cut.
fn send(socket: &Path, bytes: &[u8]) -> Option<String> {
    let mut stream = UnixStream::connect(socket).expect("the daemon lives");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
    // A daemon that has read enough closes.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    (!answer.is_empty()).then_some(answer)
}

#[test]
fn malformed_requests_are_answered_or_cut() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    scene.rule("forward", "udp dport 5301 drop");
    let many = env::var("DATAPLANE_MALFORMED").map_or(FEW, |number| number.parse().expect("a number"));
    let (socket, pid) = (scene.daemon.socket(), scene.daemon.pid().expect("a daemon"));
    let config = scene.cli(&["config", "show"]);
    let mut random = fastrand::Rng::with_seed(6);
    // Programs for `explain` and `route get` are loaded once, before they are needed, and are not growth; neither is what the
    // allocator takes once for the largest of these requests.
    scene.cli(&["explain", "--iface", "client0", "udp 198.18.0.2:1 > 198.18.1.2:2"]);
    scene.cli(&["route", "get", "198.18.1.2"]);
    (0..FEW / 2).for_each(|_| drop(send(&socket, &nonsense(&mut random))));
    let (before, open) = (memory(pid, "VmRSS"), descriptors(pid));
    let (mut answered, mut cut, start) = (0_u64, 0_u64, Instant::now());
    for _ in 0..many {
        match send(&socket, &nonsense(&mut random)) {
            Some(answer) => {
                answered += 1;
                assert!(answer.starts_with("{\"failure\"") || answer.starts_with("{\"reply\""), "{answer}");
                // Nothing that was sent could be done.
                assert!(!answer.contains("\"done\""), "{answer}");
            }
            None => cut += 1,
        }
    }
    let (after, peak) = (memory(pid, "VmRSS"), memory(pid, "VmHWM"));
    println!(
        "{many} requests in {:.1} s: {answered} answered, {cut} cut; resident {before} -> {after} kB, at most {peak} kB, \
         descriptors {open} -> {}",
        start.elapsed().as_secs_f32(),
        descriptors(pid)
    );
    assert!(after <= before + GROWTH, "{before} -> {after} kB");
    assert!(descriptors(pid) <= open + 2, "{open} -> {}", descriptors(pid));
    assert_eq!(scene.daemon.pid(), Some(pid));
    assert_eq!(scene.cli(&["config", "show"]), config);
    assert_eq!(scene.stats().ports.len(), PORTS.len());
    scene.ping().expect("pings are answered");
    scene.close();
}
