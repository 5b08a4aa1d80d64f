//! A large table: how soon the mirror has it, what it costs, and that the control socket answers meanwhile.
//!
//! `DATAPLANE_ROUTES` says how many IPv4 routes there are; a quarter as many of IPv6 come on top. Figures are printed. Only
//! what does not depend on the speed of the machine is asserted. `DATAPLANE_CHURN` says for how many seconds routes change.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::net::UnixStream,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use dataplane_tests::lab::{Daemon, Output, SERVER, stream::stream, traffic::Family};
use serde_json::Value;

use crate::scene::{PORTS, Scene, within};

/// How many IPv4 routes there are, unless somebody says otherwise.
const ROUTES: u32 = 40_000;
/// Route changes per second, and for how long.
const CHURN: u32 = 1000;
const CHURNING: Duration = Duration::from_secs(5);
/// Datagrams per second meanwhile.
const STREAM: u64 = 2_000;
/// The kernel may take that long for a table, and the mirror to follow it.
const PATIENCE: Duration = Duration::from_mins(2);

/// `count` prefixes of mixed lengths in a batch for `ip`, IPv4.
fn routes4(verb: &str, numbers: impl Iterator<Item = u32>, via: &str) -> String {
    numbers.fold(String::new(), |mut all, number| {
        // Every fourth is a /22 with a /24 inside.
        let (address, length) = if number.is_multiple_of(4) { (number << 8, 22) } else { (number << 8, 24) };
        let address = Ipv4Addr::from_bits(0x1000_0000 + address);
        writeln!(all, "route {verb} {address}/{length} via {via}").expect("memory");
        all
    })
}

fn routes6(verb: &str, numbers: impl Iterator<Item = u32>, via: &str) -> String {
    numbers.fold(String::new(), |mut all, number| {
        let address = Ipv6Addr::from_bits((0x2001_0db8 << 96) | (u128::from(number) << 72));
        writeln!(all, "route {verb} {address}/56 via {via}").expect("memory");
        all
    })
}

/// What `stats` says of the mirror, and how long the answer took.
fn ask(socket: &Path) -> Option<(Value, Duration)> {
    let begin = Instant::now();
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(b"{\"verb\":\"stats\",\"with\":{\"iface\":null}}\n").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    let answer: Value = serde_json::from_str(&line).ok()?;
    Some((answer["reply"]["data"]["stats"]["mirror"].clone(), begin.elapsed()))
}

/// Asks until the mirror is live with at least so many routes; how long that took, the slowest answer, and how many answers
/// came before it was live.
fn until_live(daemon: &Daemon, routes: [u64; 2]) -> (Duration, Duration, usize) {
    let begin = Instant::now();
    let (mut slowest, mut loading) = (Duration::ZERO, 0);
    loop {
        if let Some((mirror, took)) = ask(&daemon.socket()) {
            slowest = slowest.max(took);
            loading += usize::from(mirror["state"] == "loading");
            let known = [&mirror["routes4"], &mirror["routes6"]].map(|count| count.as_u64().unwrap_or_default());
            if mirror["state"] == "live" && known == routes {
                return (begin.elapsed(), slowest, loading);
            }
            assert!(begin.elapsed() < PATIENCE, "the mirror has {mirror} of {routes:?}:\n{}", daemon.log());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes of memory and ticks of CPU time of a process.
fn cost(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("memory");
    let memory: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .into_iter()
        .flat_map(str::split_whitespace)
        .filter_map(|field| field.parse().ok())
        .collect();
    // Behind the name and the state, which is no number: user time and system time are the 14th and 15th of all.
    (memory << 10, fields[10] + fields[11])
}

/// KiB of a process that are resident: its own, and what it has mapped.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("memory");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Prefixes far apart, so that the tables are the large ones.
fn scattered(count: u32, via: &str) -> String {
    (0..count).fold(String::new(), |mut all, number| {
        let address = Ipv4Addr::from_bits(0x1000_0000 + (number << 12));
        writeln!(all, "route add {address}/24 via {via}").expect("memory");
        all
    })
}

/// A config with the ports and so many rules of several kinds.
fn config(rules: u32) -> String {
    let mut text = String::new();
    for port in PORTS {
        writeln!(text, "[ports.{port}]\nmode = 'native'").expect("memory");
    }
    text += "[sets.bad]\ntype = 'ipv4_addr'\nelements = ['198.51.100.7', '203.0.113.0/24']\n";
    text += "[chains.forward]\nrules = [\n";
    for number in 0..rules {
        let (from, to) = (Ipv4Addr::from_bits(0x0a00_0000 + (number << 6)), Ipv4Addr::from_bits(number << 10));
        let verdict = ["accept", "drop"][(number / 5 % 2) as usize];
        let port = 1024 + number % 5000;
        let line = match number % 5 {
            0 => format!("ip saddr {from} ip daddr {to} tcp dport {port}"),
            1 => format!("ip saddr {from}/26 udp sport {port}-{}", port + 9),
            2 => format!("ip daddr {to}/22 tcp dport {{ 80, {port} }}"),
            3 if number < 100 => "ip saddr @bad tcp dport 22".to_owned(),
            3 => format!("ip saddr {from}/28 ip daddr {to} meta l4proto icmp"),
            _ => format!("ip saddr {from}/27 ip daddr {to}/24 udp dport {port}"),
        };
        writeln!(text, "  '{line} {verdict}',").expect("memory");
    }
    text + "]\n"
}

/// How many routes the kernel has in all tables.
fn kernels(scene: &Scene) -> [u64; 2] {
    ["-4", "-6"].map(|family| {
        let list = scene.router().run(&format!("ip -o {family} route show table all")).expect("routes");
        list.lines().count() as u64
    })
}

#[test]
fn a_large_table_is_followed() {
    let Some(mut scene) = Scene::attached(&[], "tc") else { return };
    let number = env::var("DATAPLANE_ROUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUTES);
    let (via4, via6) = (Family::V4.address(&SERVER).to_string(), Family::V6.address(&SERVER).to_string());
    let (before, _) = cost(scene.daemon.pid().expect("a daemon"));

    // The daemon follows while the kernel gets the table.
    let dir = tempfile::tempdir().expect("a directory");
    let batch = |name: &str, family: &str, text: &str| {
        let file = dir.path().join(name);
        fs::write(&file, text).expect("a batch");
        let mut command = scene.router().command("ip");
        command.args([family, "-batch"]).arg(&file);
        scene.router().output(&mut command, PATIENCE).and_then(Output::checked).expect("routes");
    };
    let begin = Instant::now();
    batch("routes4", "-4", &routes4("add", 0..number, &via4));
    batch("routes6", "-6", &routes6("add", 0..number / 4, &via6));
    let filled = begin.elapsed();
    let kernel = kernels(&scene);
    let (behind, slowest, _) = until_live(&scene.daemon, kernel);
    let (after, _) = cost(scene.daemon.pid().expect("a daemon"));
    let all = u64::from(number + number / 4);
    println!(
        "{number} + {} routes: `ip -batch` took {filled:?}, the mirror {behind:?} more, the slowest answer {slowest:?}; \
         {} KiB of memory before and {} KiB after, {} bytes a route",
        number / 4,
        before >> 10,
        after >> 10,
        after.saturating_sub(before) / all
    );

    // Another daemon lists it.
    scene.daemon.terminate().expect("an end");
    let begin = Instant::now();
    scene.daemon.restart().expect("another daemon");
    let (_, slowest, loading) = until_live(&scene.daemon, kernel);
    let (fresh, _) = cost(scene.daemon.pid().expect("a daemon"));
    println!(
        "started anew: live after {:?}, {loading} answers before, the slowest took {slowest:?}; {} KiB of memory",
        begin.elapsed(),
        fresh >> 10
    );

    // A kilohertz of changes: routes go and come back by another way.
    let pid = scene.daemon.pid().expect("a daemon");
    let (fresh, ticks) = cost(pid);
    let churning =
        env::var("DATAPLANE_CHURN").map_or(CHURNING, |text| Duration::from_secs(text.parse().expect("seconds")));
    let flow = stream(&scene.lab, Family::V4, 5400, STREAM).expect("a stream");
    let mut command = scene.router().command("ip");
    command.args(["-4", "-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut ip = command.spawn().expect("ip");
    let mut input = ip.stdin.take().expect("a pipe");
    let (begin, mut made, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    while begin.elapsed() < churning {
        let due = u32::try_from(begin.elapsed().as_millis()).expect("some minutes") * CHURN / 2000;
        let numbers = (made..due).map(|step| step.wrapping_mul(7919) % number);
        input.write_all(routes4("del", numbers.clone(), &via4).as_bytes()).expect("a batch");
        input.write_all(routes4("add", numbers, &via4).as_bytes()).expect("a batch");
        input.flush().expect("a batch");
        made = due;
        slowest = slowest.max(ask(&scene.daemon.socket()).expect("an answer").1);
        thread::sleep(Duration::from_millis(10));
    }
    drop(input);
    assert!(ip.wait().expect("an end").success(), "`ip` made its changes");
    let took = begin.elapsed();
    let (steady, now) = cost(pid);
    let tally = flow.finish().expect("a tally");
    assert_eq!((tally.lost, tally.repeated), (0, 0), "meanwhile {tally:?}");
    let share = f64::from(u32::try_from(now - ticks).expect("a few seconds")) / 100.0 / took.as_secs_f64();
    until_live(&scene.daemon, kernels(&scene));
    println!(
        "{} changes in {took:?}: {:.1} % of a core, the slowest answer {slowest:?}; {} KiB of memory, {} before; {tally:?}",
        2 * made,
        share * 100.0,
        steady >> 10,
        fresh >> 10
    );

    // What it says is what the kernel says.
    for step in 0..32_u32 {
        let address = Ipv4Addr::from_bits(0x1000_0001 + ((step.wrapping_mul(104_729) % number) << 8));
        let ours = scene.decision(&address.to_string());
        let asked = scene.router().run(&format!("ip route get {address}")).expect("a route");
        assert!(asked.contains(&format!("via {via4}")), "{asked}");
        assert_eq!((ours.decision.as_str(), ours.table.as_str()), ("forward", "mirror"), "{address}: {ours:?}");
    }
    scene.close();
}

/// KiB that a daemon may take with 100,000 routes and 10,000 rules.
const SMALL: u64 = 50 << 10;

#[test]
fn a_daemon_with_many_routes_and_rules_is_small() {
    let Some(scene) = Scene::idle(&[]) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (routes, rules) = (dir.path().join("routes"), dir.path().join("rules.toml"));
    fs::write(&routes, scattered(100_000, Family::V4.address(&SERVER))).expect("a batch");
    fs::write(&rules, config(10_000)).expect("a config");
    let mut command = scene.router().command("ip");
    command.args(["-4", "-batch"]).arg(&routes);
    scene.router().output(&mut command, PATIENCE).and_then(Output::checked).expect("routes");
    until_live(&scene.daemon, kernels(&scene));
    let pid = scene.daemon.pid().expect("a daemon");
    println!("{} KiB with the routes", resident(pid));
    // What jobs leave behind must not add up.
    for _ in 0..3 {
        scene.cli(&["config", "apply", rules.to_str().expect("a path")]);
        scene.cli(&["rule", "add", "forward", "ip saddr 192.0.2.77 tcp dport 80 drop"]);
    }
    let took = within(Duration::from_secs(10), || {
        let now = resident(pid);
        anyhow::ensure!(now < SMALL, "{now} KiB with 100,000 routes and 10,000 rules");
        Ok(())
    });
    println!("{} KiB with the rules, after {took:?}", resident(pid));
    scene.close();
}
