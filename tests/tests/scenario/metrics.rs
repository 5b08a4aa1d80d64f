//! `metrics`: the numbers that `stats` and `rule list` have, over the socket and over HTTP.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{
    Need,
    traffic::{self, Family},
};

use crate::scene::{PORTS, PROMPT, Scene, within};

/// How old a text over HTTP may be.
const FRESH: Duration = Duration::from_millis(500);

fn config(listen: &str) -> String {
    format!(
        "[ports]\n{} = {{ mode = \"native\" }}\n{} = {{ mode = \"native\" }}\n[metrics]\nlisten = \"{listen}\"\n\
         [chains.forward]\nrules = [\"udp dport 5302 drop\"]\n",
        PORTS[0], PORTS[1]
    )
}

/// The sum over all ports of each reason.
fn by_reason(text: &str) -> BTreeMap<&str, u64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("dataplane_port_packets_total{")) {
        let (labels, value) = line.rsplit_once(' ').expect("a value");
        let reason = labels.split_once("reason=\"").and_then(|(_, rest)| rest.split_once('"')).expect("a reason").0;
        *sums.entry(reason).or_default() += value.parse::<u64>().expect("a count");
    }
    sums
}

/// Head and body of what is answered to a request, in the router.
fn http(scene: &Scene, address: &str, request: &str) -> anyhow::Result<(String, String)> {
    let mut stream = scene.router().inside(|| Ok(TcpStream::connect(address)?))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer}"))?;
    Ok((head.to_owned(), body.to_owned()))
}

fn scrape(scene: &Scene, address: &str) -> anyhow::Result<String> {
    let (head, body) = http(scene, address, "GET /metrics HTTP/1.1\r\nHost: router\r\n\r\n")?;
    ensure!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}\n{body}");
    ensure!(
        head.contains("\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{head}"
    );
    Ok(body)
}

/// Whether a text has what `stats` says before and after it, and all that was sent in between.
fn agrees(scene: &Scene, text: impl Fn() -> String) {
    let before = text();
    for family in Family::BOTH {
        assert_eq!(traffic::datagrams(&scene.lab, family, 5301, 7).expect("datagrams"), 7);
        assert_eq!(traffic::datagrams(&scene.lab, family, 5302, 5).expect("datagrams"), 0);
    }
    let low = scene.stats();
    thread::sleep(FRESH);
    let after = text();
    let high = scene.stats();
    assert!(after.ends_with("\n# EOF\n"), "{after}");
    let (before, sums) = (by_reason(&before), by_reason(&after));
    assert_eq!(sums["filter_forward"] - before["filter_forward"], 10, "{after}");
    assert!(sums["forwarded"] - before["forwarded"] >= 14, "{after}");
    // Neighbour discovery may go on between two looks.
    for (reason, count) in &sums {
        assert!((low.reasons[*reason]..=high.reasons[*reason]).contains(count), "{reason}: {count}");
    }
    assert_eq!(sums.len(), low.reasons.len());
    let rule = &scene.rules()[0];
    let line =
        format!("\ndataplane_rule_packets_total{{chain=\"forward\",handle=\"{}\"}} {}\n", rule.handle, rule.packets);
    assert!(after.contains(&line), "{line}{after}");
}

#[test]
fn metrics_are_what_stats_says() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    scene.rule("forward", "udp dport 5302 drop");
    agrees(&scene, || scene.cli(&["metrics"]));
    // Off unless the config says otherwise.
    assert!(http(&scene, "127.0.0.1:9464", "GET /metrics HTTP/1.1\r\n\r\n").is_err());
    scene.close();
}

#[test]
fn metrics_over_http() {
    let local = "127.0.0.1:9464";
    let Some(mut scene) = Scene::configured(&[], &config(local)) else { return };
    agrees(&scene, || scrape(&scene, local).expect("a scrape"));
    let (head, _) = http(&scene, local, "GET /config HTTP/1.1\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    let doctor = scene.daemon.attempt(&["doctor"]).expect("the doctor").said();
    assert!(doctor.contains("served at http://127.0.0.1:9464/metrics"), "{doctor}");
    // The next daemon serves them, too, though the last connections of the one before are not forgotten yet.
    scene.daemon.kill9().expect("it dies");
    assert!(scrape(&scene, local).is_err());
    scene.daemon.restart().expect("it starts");
    within(PROMPT, || scrape(&scene, local).map(drop));
    // Another address, in the other family; then none.
    let file = scene.lab.dir().join("other.toml");
    let apply = |text: &str| {
        fs::write(&file, text).expect("a config");
        scene.daemon.attempt(&["config", "apply", file.to_str().expect("UTF-8")]).expect("applied")
    };
    let other = "[2001:db8:0::1]:9465";
    let output = apply(&config(other));
    assert!(output.status.success() && output.stdout.contains("metrics: listen 127.0.0.1:9464 -> [2001:db8::1]:9465"));
    scrape(&scene, other).expect("a scrape");
    assert!(scrape(&scene, local).is_err());
    // An address that is not there is a warning, and served when it comes.
    let late = "198.18.77.1:9464";
    let output = apply(&config(late));
    assert!(
        output.status.success() && output.stderr.contains("cannot serve metrics on 198.18.77.1:9464"),
        "{output:?}"
    );
    assert!(scrape(&scene, other).is_err());
    let doctor = scene.daemon.attempt(&["doctor"]).expect("the doctor").said();
    assert!(doctor.contains("cannot be served on 198.18.77.1:9464"), "{doctor}");
    scene.router().run(&format!("ip addr add 198.18.77.1/32 dev {}", PORTS[0])).expect("an address");
    within(PROMPT * 3, || scrape(&scene, late).map(drop));
    let output = apply(&config(local).replace("[metrics]\nlisten = \"127.0.0.1:9464\"\n", ""));
    assert!(output.stdout.contains("metrics: listen 198.18.77.1:9464 -> off"), "{output:?}");
    assert!(scrape(&scene, late).is_err() && scrape(&scene, local).is_err());
    scene.close();
}

#[test]
fn slow_scrapers_delay_no_one() {
    let local = "127.0.0.1:9464";
    let Some(scene) = Scene::configured(&[], &config(local)) else { return };
    // More than are served at once, which say nothing, or half of it.
    let connect = |words: &str| {
        let mut stream = scene.router().inside(|| Ok(TcpStream::connect(local)?)).expect("it listens");
        stream.write_all(words.as_bytes()).expect("sent");
        stream
    };
    let held: Vec<_> = (0..60).map(|number| connect(["", "GET /metr"][number % 2])).collect();
    let start = Instant::now();
    for number in 0..20 {
        scene.stats();
        let rule = scene.rule("forward", &format!("udp dport {} drop", 6000 + number));
        scene.cli(&["rule", "del", "forward", "handle", &rule.handle.to_string()]);
    }
    println!("60 verbs beside 60 silent scrapers took {:?}", start.elapsed());
    scene.carries();
    drop(held);
    within(PROMPT * 10, || scrape(&scene, local).map(drop));
    scene.close();
}

#[test]
fn promtool_finds_nothing_to_say() {
    let Some(scene) = Scene::configured(&[Need::Tool("promtool")], &config("127.0.0.1:9464")) else { return };
    let plain = "GET /metrics HTTP/1.1\r\nAccept: text/plain;version=0.0.4\r\n\r\n";
    let (head, body) = http(&scene, "127.0.0.1:9464", plain).expect("a scrape");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    for text in [body, scene.cli(&["metrics", "--plain"])] {
        assert_eq!(by_reason(&text).len(), scene.stats().reasons.len(), "{text}");
        let file = scene.lab.dir().join("metrics.txt");
        fs::write(&file, &text).expect("a file");
        let mut check = Command::new("promtool");
        check.args(["check", "metrics"]).stdin(Stdio::from(File::open(&file).expect("a file")));
        let output = check.output().expect("promtool runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
    }
    scene.close();
}
