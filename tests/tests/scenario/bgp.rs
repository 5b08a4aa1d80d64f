//! A real routing daemon: BIRD at the server announces a table over BGP, BIRD at the router puts it into the kernel, and the
//! mirror follows. Everything that BGP itself sends crosses the router's ports too.
//!
//! ```text
//!  client ---- client0  router  server0 ---- eth0  server      first session, preferred
//!                               server1 ---- eth1              second session, a longer path
//! ```

use std::{collections::BTreeMap, fmt::Write as _, fs, time::Duration};

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{
    End, Namespace, Need, ROUTER_SERVER, Running, SERVER,
    stream::stream,
    traffic::{self, Family},
};

use crate::{
    prefix::Prefixes,
    scene::{PROMPT, Scene, within},
};

/// The second link.
const ROUTER_SECOND: End =
    End { namespace: "router", port: "server1", mac: "02:00:00:00:02:01", v4: "198.18.2.1", v6: "2001:db8:2::1" };
const SECOND: End =
    End { namespace: "server", port: "eth1", mac: "02:00:00:00:02:02", v4: "198.18.2.2", v6: "2001:db8:2::2" };

/// Prefixes that come and go together, and those that stay, of each family.
const FLAPPING: usize = 10_000;
const STAYING: usize = 4_000;
/// Prefixes behind the server, with an address in each that answers.
const ANSWERED: [(Family, &str, &str); 2] =
    [(Family::V4, "198.51.100.0/24", "198.51.100.2"), (Family::V6, "2001:db8:5::/48", "2001:db8:5::2")];
/// How long sessions and the kernel's table may take to settle.
const SETTLED: Duration = Duration::from_secs(20);

/// A BIRD in a namespace, and how to talk to it.
struct Bird<'a> {
    process: Running,
    namespace: &'a Namespace,
    control: String,
}

impl<'a> Bird<'a> {
    /// Starts it with a config.
    fn start(scene: &'a Scene, namespace: &'a Namespace, config: &str) -> anyhow::Result<Self> {
        let file = |what: &str| scene.lab.dir().join(format!("bird-{}.{what}", namespace.short()));
        fs::write(file("conf"), config)?;
        let control = file("ctl").display().to_string();
        let mut command = namespace.command("bird");
        command.arg("-f").arg("-c").arg(file("conf")).args(["-s", &control]).arg("-P").arg(file("pid"));
        let process = namespace.spawn(&mut command, &file("log"))?;
        Ok(Self { process, namespace, control })
    }

    /// Says something to it.
    fn tell(&self, words: &str) -> anyhow::Result<String> {
        self.namespace.run(&format!("birdcl -s {} {words}", self.control))
    }

    fn stop(mut self) -> anyhow::Result<()> {
        self.process.terminate(Duration::from_secs(10))?;
        Ok(())
    }
}

impl Drop for Bird<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let state = self.tell("show protocols").unwrap_or_else(|error| format!("{error:#}"));
            eprintln!("BIRD in {}:\n{state}{}", self.namespace.short(), self.process.said());
        }
    }
}

/// How the two sessions stand to each other.
#[derive(Clone, Copy, PartialEq)]
enum Paths {
    /// The first is preferred.
    Ranked,
    /// Both are as good: the router uses both.
    Equal,
}

/// The announcing side: static routes, and two sessions for each family.
fn announcer(scene: &Scene, paths: Paths, tables: &[(&str, &[String])]) -> anyhow::Result<String> {
    let mut text = format!("router id {};\nprotocol device {{}}\n", SERVER.v4);
    for (name, prefixes) in tables {
        let family = if name.ends_with('4') { "ipv4" } else { "ipv6" };
        let file = scene.lab.dir().join(format!("{name}.conf"));
        let lines: Vec<_> = prefixes.iter().map(|prefix| format!("route {prefix} unreachable;")).collect();
        fs::write(&file, lines.join("\n") + "\n")?;
        writeln!(text, "protocol static {name} {{\n{family};\ninclude \"{}\";\n}}", file.display())?;
    }
    let longer = if paths == Paths::Ranked { "bgp_path.prepend(65001); accept;" } else { "accept;" };
    for (name, here, there, path) in
        [("first", SERVER, ROUTER_SERVER, "accept;"), ("second", SECOND, ROUTER_SECOND, longer)]
    {
        for (family, channel, digit) in [(Family::V4, "ipv4", 4), (Family::V6, "ipv6", 6)] {
            writeln!(
                text,
                "protocol bgp {name}{digit} {{ local {} as 65001; neighbor {} as 65000; connect delay time 1; connect \
                 retry time 1; {channel} {{ import none; export filter {{ {path} }}; next hop self; }}; }}",
                family.address(&here),
                family.address(&there),
            )?;
        }
    }
    Ok(text)
}

/// The router's side: what is learnt goes into the kernel.
fn learner(paths: Paths) -> anyhow::Result<String> {
    let mut text = format!("router id {};\nprotocol device {{}}\n", ROUTER_SERVER.v4);
    let merge = if paths == Paths::Equal { "merge paths on; " } else { "" };
    for channel in ["ipv4", "ipv6"] {
        writeln!(text, "protocol kernel {{ {merge}{channel} {{ import none; export where source = RTS_BGP; }}; }}")?;
    }
    for (name, here, there) in [("first", ROUTER_SERVER, SERVER), ("second", ROUTER_SECOND, SECOND)] {
        for (family, channel, digit) in [(Family::V4, "ipv4", 4), (Family::V6, "ipv6", 6)] {
            writeln!(
                text,
                "protocol bgp {name}{digit} {{ local {} as 65000; neighbor {} as 65001; connect delay time 1; connect \
                 retry time 1; error wait time 1, 2; {channel} {{ import all; export none; }}; }}",
                family.address(&here),
                family.address(&there),
            )?;
        }
    }
    Ok(text)
}

/// Next hop and way out by prefix.
type Table = BTreeMap<String, (Option<String>, Option<String>)>;

/// What BIRD put into the kernel's table.
fn kernel(scene: &Scene, family: Family) -> anyhow::Result<Table> {
    let text = scene.router().run(&format!("ip {} -j route show proto bird", family.option()))?;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&text).context("routes of the kernel")?;
    let full = |dst: &str| match (dst.contains('/'), dst.contains(':')) {
        (true, _) => dst.to_owned(),
        (false, true) => format!("{dst}/128"),
        (false, false) => format!("{dst}/32"),
    };
    Ok(rows
        .iter()
        .map(|row| (full(row["dst"].as_str().unwrap_or_default()), way(&row["gateway"], &row["dev"])))
        .collect())
}

/// The same in the mirror: all that leads through the announcer.
fn mirrored(scene: &Scene, wanted: &Table) -> anyhow::Result<Table> {
    let rows: Vec<serde_json::Value> = scene.daemon.read(&["route", "list"])?;
    let of = |row: &serde_json::Value| {
        let hop = &row["nexthops"][0];
        let dst = row["dst"].as_str().unwrap_or_default().to_owned();
        let announced = hop["via"].is_string() || wanted.contains_key(&dst);
        announced.then(|| (dst, way(&hop["via"], &hop["dev"])))
    };
    Ok(rows.iter().filter_map(of).collect())
}

fn way(via: &serde_json::Value, dev: &serde_json::Value) -> (Option<String>, Option<String>) {
    (via.as_str().map(str::to_owned), dev.as_str().map(str::to_owned))
}

/// Waits until the kernel has `count` learnt prefixes of each family, all through `dev`, and the mirror is the same.
fn settled(scene: &Scene, count: usize, dev: &str) {
    within(SETTLED, || {
        let mut both = Table::new();
        for family in Family::BOTH {
            let table = kernel(scene, family)?;
            ensure!(table.len() == count, "the kernel has {} of {count} {} routes", table.len(), family.name());
            if let Some((prefix, way)) = table.iter().find(|(_, way)| way.1.as_deref() != Some(dev)) {
                anyhow::bail!("the kernel has {prefix} through {way:?}, not {dev}");
            }
            both.extend(table);
        }
        let mirror = mirrored(scene, &both)?;
        let wrong = both.iter().find(|(prefix, way)| mirror.get(*prefix) != Some(*way));
        ensure!(wrong.is_none(), "the mirror differs: {wrong:?} is {:?}", wrong.map(|(prefix, _)| mirror.get(prefix)));
        let more = mirror.keys().find(|prefix| !both.contains_key(*prefix));
        ensure!(more.is_none(), "the mirror has {more:?}, the kernel has not");
        Ok(())
    });
    for (family, prefix, address) in ANSWERED {
        within(PROMPT, || {
            let decision = scene.decision(address);
            ensure!(decision.prefix.as_deref() == Some(prefix) && decision.decision == "forward", "{decision:?}");
            Ok(())
        });
        let before = (scene.stats().reason("forwarded"), received(scene, dev));
        assert_eq!(scene.pinged(address), 3, "{} over {dev}", family.name());
        let after = (scene.stats().reason("forwarded"), received(scene, dev));
        assert!(
            after.0 >= before.0 + 3 && after.1 >= before.1 + 3,
            "{} over {dev}: {before:?}, {after:?}",
            family.name()
        );
    }
}

/// Packets that came to the server from the router's port `dev`.
fn received(scene: &Scene, dev: &str) -> u64 {
    let own = if dev == ROUTER_SERVER.port { SERVER.port } else { SECOND.port };
    let text = scene.server().run(&format!("ip -s -j link show {own}")).expect("counters of the link");
    let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    rows[0]["stats64"]["rx"]["packets"].as_u64().expect("a counter")
}

/// The picture, attached; nothing where the machine lacks something.
fn picture() -> Option<Scene> {
    let needs = ["bird", "birdcl", "ethtool"].map(Need::Tool);
    let scene = Scene::idle(&needs)?;
    scene.lab.link(SECOND, ROUTER_SECOND).expect("a second link");
    scene.take_frames();
    scene.server().run(&format!("ethtool -K {} gro on", SECOND.port)).expect("GRO on");
    scene.attach(&["client0", ROUTER_SERVER.port, ROUTER_SECOND.port], "native");
    Some(scene)
}

#[test]
fn a_table_learnt_over_bgp_is_followed() {
    let Some(scene) = picture() else { return };
    for (family, _, address) in ANSWERED {
        scene.server().run(&format!("ip {} addr add {address} dev lo", family.option())).expect("an address");
    }
    let (mut four, mut six) = (Prefixes::v4(7), Prefixes::v6(7));
    let mut staying = [four.take(STAYING), six.take(STAYING)];
    for (list, (_, prefix, _)) in staying.iter_mut().zip(ANSWERED) {
        list.push(prefix.to_owned());
    }
    let flapping = [four.take(FLAPPING), six.take(FLAPPING)];
    let tables: [(&str, &[String]); 4] = [
        ("staying4", &staying[0]),
        ("staying6", &staying[1]),
        ("flapping4", &flapping[0]),
        ("flapping6", &flapping[1]),
    ];
    let announcer = announcer(&scene, Paths::Ranked, &tables).expect("a config");
    let learner = learner(Paths::Ranked).expect("a config");
    let (some, all) = (STAYING + 1, STAYING + 1 + FLAPPING);
    let [first, second] = [ROUTER_SERVER.port, ROUTER_SECOND.port];

    let there = Bird::start(&scene, scene.server(), &announcer).expect("BIRD at the server");
    let here = Bird::start(&scene, scene.router(), &learner).expect("BIRD at the router");
    settled(&scene, all, first);

    let steady = stream(&scene.lab, Family::V4, 4242, 2_000).expect("a stream");
    // Withdrawn and announced again.
    for (verb, count) in [("disable", some), ("enable", all)] {
        for table in ["flapping4", "flapping6"] {
            there.tell(&format!("{verb} {table}")).expect("BIRD listens");
        }
        settled(&scene, count, first);
    }
    // The next hop moves to the second link and back.
    for (verb, dev) in [("disable", second), ("enable", first)] {
        for session in ["first4", "first6"] {
            there.tell(&format!("{verb} {session}")).expect("BIRD listens");
        }
        settled(&scene, all, dev);
    }
    // All sessions at once: the kernel's table is empty for a moment, or old.
    here.tell("restart all").expect("BIRD listens");
    settled(&scene, all, first);
    let tally = steady.finish().expect("a stream");
    assert_eq!((tally.lost, tally.repeated), (0, 0), "on connected networks nothing changed: {tally:?}");
    // Neighbours of both families are still those of the kernel.
    for family in Family::BOTH {
        assert_eq!(traffic::ping(&scene.lab, family, 1).expect("ping runs"), 1, "{}", family.name());
    }
    here.stop().expect("BIRD ends");
    there.stop().expect("BIRD ends");
    scene.close();
}

/// Pings that each address of the answered prefixes gets, and what each link of the server received meanwhile.
fn spread(scene: &Scene) -> (usize, [u64; 2]) {
    let both = || [ROUTER_SERVER.port, ROUTER_SECOND.port].map(|port| received(scene, port));
    let before = both();
    let mut answered = 0;
    for (_, _, address) in ANSWERED {
        // The last digit goes; the prefix stays.
        let network = &address[..address.len() - 1];
        for host in 10..42 {
            let line = format!("ping -n -c 1 -W 1 {network}{host}");
            answered += scene.client().attempt(&line).expect("ping runs").stdout.matches("bytes from").count();
        }
    }
    let after = both();
    (answered, [0, 1].map(|link| after[link] - before[link]))
}

#[test]
fn equal_paths_of_bgp_share_the_flows_and_stand_in_for_each_other() {
    let Some(scene) = picture() else { return };
    for (family, prefix, _) in ANSWERED {
        // Any address in it answers, as one of several routers of an anycast service would.
        scene.server().run(&format!("ip {} route add local {prefix} dev lo", family.option())).expect("a local range");
    }
    let lists = ANSWERED.map(|(_, prefix, _)| vec![prefix.to_owned()]);
    let tables: [(&str, &[String]); 2] = [("static4", &lists[0]), ("static6", &lists[1])];
    let announcer = announcer(&scene, Paths::Equal, &tables).expect("a config");
    let there = Bird::start(&scene, scene.server(), &announcer).expect("BIRD at the server");
    let here =
        Bird::start(&scene, scene.router(), &learner(Paths::Equal).expect("a config")).expect("BIRD at the router");
    let ways = |wanted: usize| {
        within(SETTLED, || {
            let rows: Vec<serde_json::Value> = scene.daemon.read(&["route", "list"])?;
            for (_, prefix, _) in ANSWERED {
                let row = rows.iter().find(|row| row["dst"] == prefix).with_context(|| format!("no {prefix} yet"))?;
                let found = row["nexthops"].as_array().map_or(0, Vec::len);
                ensure!(found == wanted, "{prefix} has {found} next hops, not {wanted}: {row}");
            }
            Ok(())
        })
    };
    ways(2);
    let (count, links) = spread(&scene);
    assert_eq!(count, 64, "{links:?}");
    assert!(links.iter().all(|packets| *packets >= 8), "both links carry flows: {links:?}");
    // One router of the two says goodbye.
    for session in ["second4", "second6"] {
        there.tell(&format!("disable {session}")).expect("BIRD listens");
    }
    ways(1);
    let before = scene.stats().reason("forwarded");
    let (count, links) = spread(&scene);
    assert_eq!(count, 64, "{links:?}");
    assert!(links[0] >= 64 && links[1] < 16, "all flows go over the first link: {links:?}");
    assert!(scene.stats().reason("forwarded") >= before + 64, "and not through the kernel");
    here.stop().expect("BIRD ends");
    there.stop().expect("BIRD ends");
    scene.close();
}
