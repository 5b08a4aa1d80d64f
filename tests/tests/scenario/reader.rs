//! Those who may only read, and mean ill: none of them ends the daemon, holds root up or makes it grow.
//! `DATAPLANE_READERS` says for how many seconds they go on, and `DATAPLANE_READ_BY` how many there are.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dataplane_tests::lab::traffic::{self, Family};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::scene::{PORTS, Scene};

/// Seconds, unless told otherwise.
const SHORT: u64 = 20;
/// Readers, of so many users.
const READERS: usize = 100;
const USERS: u32 = 5;
/// Within so much time root is answered, beside what the machine itself takes to wake somebody.
const AT_ONCE: Duration = Duration::from_millis(200);
/// Kilobytes that the daemon may grow by.
const GROWTH: u64 = 200 << 10;
/// How long readers are waited for that wait themselves.
const PATIENCE: Duration = Duration::from_secs(90);

/// Makes this thread another user's: to the kernel, credentials are a thread's.
fn become_user(user: u32) {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
    set_thread_groups(&[]).expect("root may");
    set_thread_res_gid(group, group, group).expect("root may");
    set_thread_res_uid(user, user, user).expect("root may");
}

/// Lets everybody connect.
fn open(scene: &Scene) -> PathBuf {
    let socket = scene.daemon.socket();
    for path in socket.ancestors().take(3) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("ours");
    }
    socket
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("the daemon listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time limit");
    stream
}

/// Asks, and takes the answer; nothing where the daemon cut the connection.
fn ask(socket: &Path, request: &str) -> Option<String> {
    let mut stream = connect(socket);
    let _cut = stream.write_all(request.as_bytes()).and_then(|()| stream.write_all(b"\n"));
    let mut answer = String::new();
    let read = BufReader::new(stream).read_line(&mut answer);
    read.ok().filter(|_| answer.ends_with('\n')).map(|_| answer)
}

fn request(verb: &str, with: &serde_json::Value) -> String {
    serde_json::json!({ "verb": verb, "with": with }).to_string()
}

fn diff(toml: &str) -> String {
    request("config diff", &serde_json::json!({ "path": "x", "toml": toml }))
}

/// So many patterns as fit into a request.
fn many_patterns() -> String {
    let ports = (0..30_000).map(|number| format!("\"v{number}*\" = {{}}\n")).collect::<Vec<_>>().concat();
    diff(&format!("[ports]\n{ports}"))
}

/// What asks for much with little, or makes no sense.
fn hostile(frame: &str) -> Vec<String> {
    let braces = |open: usize| format!("{}a{}", "{".repeat(open), "}".repeat(open));
    let rules = |rule: &str, count: usize| {
        diff(&format!("[chains.forward]\nrules = [{}]\n", format!("'{rule}',").repeat(count)))
    };
    let (frames, nonsense) = (vec![frame; 1024], vec!["zz"; 2000]);
    vec![
        many_patterns(),
        diff(&format!("[ports]\n\"{}\" = {{}}\n", braces(200))),
        diff(&format!("[ports]\n\"{}\" = {{}}\n", braces(100_000))),
        diff(&format!("[ports]\n\"{}\" = {{}}\n", "{a,b}".repeat(100_000))),
        diff(&format!("[ports]\n\"{}\" = {{}}\n", "[a-z]?".repeat(100_000))),
        diff(&format!("x = {}\n", "[".repeat(500_000))),
        diff(&format!("x = {}\n", "{a=".repeat(200_000))),
        diff(&format!("{}x = 1\n", "[a.".to_owned() + &"a.".repeat(200_000) + "a]\n")),
        rules("udp dport 1-2 accept", 30_000),
        rules(&format!("tcp dport {} drop", "{ ".repeat(100_000)), 1),
        rules(&format!("tcp dport {{ {} }} drop", "1,".repeat(200_000)), 1),
        rules(&format!("ip saddr . tcp dport {{ {} }} drop", "192.0.2.0/24 . 1-9, ".repeat(20_000)), 1),
        diff(&format!("[sets.a]\ntype = '{}'\n", "ipv4_addr . ".repeat(50_000))),
        request("explain", &serde_json::json!({ "iface": PORTS[0], "frames": frames })),
        request("explain", &serde_json::json!({ "iface": PORTS[0], "frames": nonsense })),
        request("trace", &serde_json::json!({ "filter": "", "one_in": 1, "bytes": 64 })),
        request("route list", &serde_json::json!({ "prefix": null })),
        request("route list", &serde_json::json!({ "prefix": "198.18.0.0/24" })),
        request("rule list", &serde_json::json!({ "chain": null })),
        request("set list", &serde_json::json!({ "name": null })),
        request("set list", &serde_json::json!({ "name": "../".repeat(100_000) })),
        request("route get", &serde_json::json!({ "addr": "198.18.1.2", "from": null, "iif": "x".repeat(500_000) })),
        r#"{"verb":"config show"}"#.to_owned(),
        r#"{"verb":"config history"}"#.to_owned(),
        r#"{"verb":"metrics"}"#.to_owned(),
        r#"{"verb":"neigh list"}"#.to_owned(),
        r#"{"verb":"doctor"}"#.to_owned(),
        r#"{"verb":"port list"}"#.to_owned(),
        "[".repeat(1 << 20),
        "x".repeat(2 << 20),
    ]
}

/// A frame of UDP from client to server, in hex.
fn frame(scene: &Scene) -> String {
    let ports: serde_json::Value = scene.daemon.read(&["port", "list"]).expect("ports");
    let mac = ports[0]["mac"].as_str().expect("a link address").replace(':', "");
    let ip = "4500001c000000004011000000000000c6120002c6120102";
    format!("{mac}0200000000010800{}{}", &ip[..20], "0000c6120002c6120102") + "1388138800080000"
}

/// A line of `/proc/PID/status`, in kilobytes.
fn memory(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon lives");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("the line");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

fn has_panicked(scene: &Scene) -> bool {
    scene.daemon.log().contains("panic")
}

/// Much to be read: rules, a set, routes.
fn fill(scene: &Scene) {
    let rules = (0..2_000).map(|port| format!("'udp dport {} drop',\n", 10_000 + port)).collect::<Vec<_>>().concat();
    let elements = (0..20_000_u32)
        .map(|number| format!("\"{}\",\n", std::net::Ipv4Addr::from(0x0a00_0000 + number * 2)))
        .collect::<Vec<_>>()
        .concat();
    let config = format!(
        "[ports]\n{} = {{ mode = \"native\" }}\n{} = {{ mode = \"native\" }}\n[sets.many]\ntype = \"ipv4_addr\"\n\
         elements = [{elements}]\n[chains.forward]\nrules = [{rules}]\n",
        PORTS[0], PORTS[1]
    );
    let path = scene.lab.dir().join("much.toml");
    fs::write(&path, config).expect("a config");
    scene.cli(&["config", "apply", path.to_str().expect("UTF-8")]);
    let routes = (0..5_000_u32)
        .map(|number| {
            let prefix = std::net::Ipv4Addr::from(0xcb00_0000 + number * 256);
            format!("route add {prefix}/24 via 198.18.1.2\n")
        })
        .collect::<Vec<_>>()
        .concat();
    let batch = scene.lab.dir().join("routes");
    fs::write(&batch, routes).expect("a batch");
    scene.router().run(&format!("ip -batch {}", batch.display())).expect("routes");
}

#[test]
fn no_request_ends_the_daemon() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    let (socket, pid) = (open(&scene), scene.daemon.pid().expect("a daemon"));
    for request in hostile(&frame(&scene)) {
        let from = socket.clone();
        let asked = request.clone();
        let reader = thread::spawn(move || {
            become_user(65534);
            ask(&from, &asked)
        });
        let answer = reader.join().expect("no panic of ours");
        let what = format!("{request:.60}");
        assert!(answer.is_some_and(|answer| answer.starts_with("{\"")), "{what}: no answer");
        scene.stats();
    }
    assert_eq!(scene.daemon.pid(), Some(pid));
    assert!(!has_panicked(&scene), "{}", scene.daemon.log());
    scene.ping().expect("pings are answered");
    scene.close();
}

/// What a reader does, until it is told to stop.
fn read_on(socket: &Path, requests: &[String], number: usize, stop: &AtomicBool, sent: &AtomicU64) {
    become_user(65534 - number as u32 % USERS);
    let mut random = fastrand::Rng::with_seed(number as u64);
    while !stop.load(Ordering::Relaxed) {
        let mut stream = connect(socket);
        for _ in 0..random.u32(1..20) {
            let request = &requests[random.usize(..requests.len())];
            sent.fetch_add(1, Ordering::Relaxed);
            if stream.write_all(request.as_bytes()).and_then(|()| stream.write_all(b"\n")).is_err() {
                break;
            }
            match random.u8(..10) {
                // Leaves without the answer.
                0 => break,
                // Takes its time.
                1 if number.is_multiple_of(5) => thread::sleep(Duration::from_secs(2)),
                // Takes little of it.
                2 => drop(stream.read(&mut [0; 100])),
                3 | 4 => {}
                _ => {
                    let mut reader = BufReader::new(&stream);
                    let mut answer = Vec::new();
                    if !reader.read_until(b'\n', &mut answer).is_ok_and(|read| read > 0) {
                        break;
                    }
                }
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
}

#[test]
fn readers_do_not_keep_root_waiting() {
    let Some(scene) = Scene::idle(&[]) else { return };
    let number = |name: &str, usual: u64| env::var(name).map_or(usual, |number| number.parse().expect("a number"));
    let seconds = Duration::from_secs(number("DATAPLANE_READERS", SHORT));
    fill(&scene);
    let requests = Arc::new(hostile(&frame(&scene)));
    let (socket, pid) = (open(&scene), scene.daemon.pid().expect("a daemon"));
    // The programs that frames are tried on are opened once, in the ring.
    scene.cli(&["explain", "--iface", PORTS[0], "--hex", &frame(&scene)]);
    thread::sleep(Duration::from_secs(2));
    let idle = memory(pid, "VmRSS");
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..number("DATAPLANE_READ_BY", READERS as u64) as usize)
        .map(|number| {
            let (socket, requests, stop, sent) =
                (socket.clone(), Arc::clone(&requests), Arc::clone(&stop), Arc::clone(&sent));
            thread::spawn(move || read_on(&socket, &requests, number, &stop, &sent))
        })
        .collect();
    // How late the machine wakes one who does nothing: that much is nobody's fault.
    let pulse = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let mut late = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                thread::sleep(Duration::from_millis(5));
                late = late.max(begun.elapsed().saturating_sub(Duration::from_millis(5)));
            }
            late
        })
    };
    let (mut took, mut most, begun) = (Vec::new(), idle, Instant::now());
    while begun.elapsed() < seconds {
        let asked = Instant::now();
        let rule = request("rule add", &serde_json::json!({ "chain": "forward", "rule": "udp dport 5301 drop" }));
        let answer = ask(&socket, &rule).expect("an answer");
        took.push(asked.elapsed());
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        let handle = answer["reply"]["data"]["rules"][0]["handle"].as_u64().unwrap_or_else(|| panic!("{answer}"));
        let rule = request("rule del", &serde_json::json!({ "chain": "forward", "handle": handle }));
        assert!(ask(&socket, &rule).is_some_and(|answer| answer.contains("done")));
        most = most.max(memory(pid, "VmRSS"));
        thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    let late = pulse.join().expect("no panic of ours");
    let slowest = took.iter().enumerate().max_by_key(|(_, took)| **took).map_or(0, |(place, _)| place);
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 100];
    println!(
        "{} requests in {seconds:?}; rule add {} times: half within {:?}, 99 of 100 within {:?}, all within {:?}, number {slowest} (the machine \
         wakes within {late:?}); resident {idle} -> at most {most} kB",
        sent.load(Ordering::Relaxed),
        took.len(),
        at(50),
        at(99),
        at(100),
    );
    for reader in readers {
        reader.join().expect("no panic of ours");
    }
    assert_eq!(scene.daemon.pid(), Some(pid));
    assert!(!has_panicked(&scene), "{}", scene.daemon.log());
    assert!(at(100) <= AT_ONCE + late, "root waited {:?}, and the machine is late by {late:?}", at(100));
    assert!(most <= idle + GROWTH, "{idle} -> {most} kB");
    scene.ping().expect("pings are answered");
    scene.close();
}

/// A daemon that is held up answers those who still wait, and does nothing for those who have gone.
#[test]
fn abandoned_requests_are_not_executed() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    scene.rule("forward", "udp dport 5302 drop");
    let pid = Pid::from_raw(scene.daemon.pid().expect("a daemon").cast_signed()).expect("a process");
    let rule = |port: u16| {
        request("rule add", &serde_json::json!({ "chain": "forward", "rule": format!("udp dport {port} drop") })) + "\n"
    };
    kill_process(pid, Signal::STOP).expect("it stops");
    let mut gone = connect(&scene.daemon.socket());
    gone.write_all(rule(5301).as_bytes()).expect("sent");
    drop(gone);
    let mut still = connect(&scene.daemon.socket());
    still.write_all(rule(5303).as_bytes()).expect("sent");
    // To have nothing more to say is not to leave.
    still.shutdown(std::net::Shutdown::Write).expect("a socket");
    kill_process(pid, Signal::CONT).expect("it goes on");
    let mut answer = String::new();
    still.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("5303"), "{answer}");
    let rules: Vec<_> = scene.rules().into_iter().map(|rule| rule.rule).collect();
    assert_eq!(rules, ["udp dport 5302 drop", "udp dport 5303 drop"]);
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5301, 5).expect("datagrams"), 5);
    scene.close();
}

/// Lists that come in pages are whole, and in order.
#[test]
fn long_lists_are_whole() {
    let Some(scene) = Scene::idle(&[]) else { return };
    fill(&scene);
    let rules: Vec<_> = scene.rules().into_iter().map(|rule| rule.rule).collect();
    let want: Vec<_> = (0..2_000).map(|port| format!("udp dport {} drop", 10_000 + port)).collect();
    assert_eq!(rules, want);
    let sets: serde_json::Value = scene.daemon.read(&["set", "list"]).expect("sets");
    let elements: Vec<_> =
        sets[0]["elements"].as_array().expect("elements").iter().filter_map(|element| element.as_str()).collect();
    let want: Vec<_> =
        (0..20_000_u32).map(|number| std::net::Ipv4Addr::from(0x0a00_0000 + number * 2).to_string()).collect();
    assert_eq!(elements, want);
    let listed = || {
        let routes: Vec<serde_json::Value> = scene.daemon.read(&["route", "list"]).expect("routes");
        routes.iter().filter(|route| route["dst"].as_str().is_some_and(|dst| dst.starts_with("203."))).count()
    };
    crate::scene::within(Duration::from_secs(10), || {
        anyhow::ensure!(listed() == 5_000, "{} routes", listed());
        Ok(())
    });
    scene.close();
}
