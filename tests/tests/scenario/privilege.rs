//! What the daemon may do: as a user of its own with three capabilities, and as root that gave up the rest. And what others
//! may do with it.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::chown,
    path::Path,
    time::Duration,
};

use dataplane_tests::lab::{
    self, CLIENT, Need, Output,
    traffic::{self, Family},
};

use crate::{
    scene::{PORTS, Scene, assert_refused},
    session,
};

/// Nobody, on Debian and others.
const NOBODY: u32 = 65534;
/// `CAP_NET_ADMIN`, `CAP_PERFMON`, `CAP_BPF`.
const THREE: u64 = 1 << 12 | 1 << 38 | 1 << 39;
/// `CAP_NET_RAW`.
const RAW: u64 = 1 << 13;

/// A number, or word, of `/proc/PID/status`.
fn status(scene: &Scene, key: &str) -> String {
    let pid = scene.daemon.pid().expect("a daemon");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in\n{status}")).split_whitespace().next().expect("a value").to_owned()
}

/// Asserts who the daemon is, and that it has these capabilities and can get no others.
fn is(scene: &Scene, uid: u32, capabilities: u64) {
    assert_eq!(status(scene, "Uid"), uid.to_string());
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&status(scene, set), 16), Ok(capabilities), "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status(scene, set), 16), Ok(0), "{set}");
    }
    assert_eq!(status(scene, "NoNewPrivs"), "1");
}

/// Attaches, filters, forwards, follows the kernel, and gives the ports back.
fn works(scene: &Scene) {
    scene.attach(&PORTS, "native");
    scene.rule("forward", "udp dport 5301 drop");
    for family in Family::BOTH {
        assert_eq!(traffic::datagrams(&scene.lab, family, 5301, 10).expect("datagrams"), 0);
        assert_eq!(traffic::datagrams(&scene.lab, family, 5302, 10).expect("datagrams"), 10);
    }
    scene.ping().expect("pings are answered");
    let stats = scene.stats();
    assert!(stats.reason("forwarded") > 0 && stats.reason("filter_forward") >= 20, "{stats:?}");
    scene.cli(&["rule", "flush", "forward"]);
    scene.cli(&["detach", "--all"]);
}

/// Carries connections past netfilter, for which it reads rules and follows conntrack.
fn carries(scene: &Scene) {
    session::load(scene, session::HOME);
    scene.attach(&PORTS, "native");
    session::follows(scene);
    for family in Family::BOTH {
        session::becomes_fast(scene, &mut session::Tcp::open(scene, family, 5304));
    }
    scene.router().run("nft delete table inet home").expect("no rules");
    scene.cli(&["detach", "--all"]);
}

/// Writes own rules with state and translation into nftables, and takes them away.
fn translates(scene: &Scene) {
    scene.attach(&PORTS, "native");
    scene.rule("postrouting", "oifname \"server0\" masquerade");
    session::follows(scene);
    for family in Family::BOTH {
        session::becomes_fast(scene, &mut session::Tcp::open(scene, family, 5305));
    }
    scene.router().run("nft flush ruleset").expect("nft runs");
    let table = || scene.router().attempt("nft list table inet dataplane").expect("nft runs").stdout;
    assert!(table().contains("masquerade"), "{}", table());
    scene.cli(&["detach", "--all"]);
    assert_eq!(table(), "");
    scene.cli(&["rule", "flush", "postrouting"]);
}

/// Has rules fill a set, and changes what is in it.
fn fills(scene: &Scene) {
    scene.attach(&PORTS, "native");
    scene.cli(&["set", "create", "seen", "ipv4_addr", "--dynamic", "--timeout", "10m"]);
    scene.rule("forward", "udp dport 5306 add @seen { ip saddr limit rate over 1/minute burst 5 packets } drop");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5306, 10).expect("datagrams"), 5);
    scene.rule("forward", "udp dport 5307 drop");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5306, 10).expect("datagrams"), 0, "the set is kept");
    scene.cli(&["set", "del", "seen", CLIENT.v4]);
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5306, 10).expect("datagrams"), 5, "it is deleted");
    scene.cli(&["rule", "flush", "forward"]);
    scene.cli(&["set", "destroy", "seen"]);
    scene.cli(&["detach", "--all"]);
}

/// Gives a prefix to a socket that root passes on.
fn steers(scene: &Scene) {
    scene.router().run("ip link set lo up").expect("lo");
    scene.router().run("ip route add local 192.0.2.0/24 dev lo").expect("a local route");
    let listener = scene.router().inside(|| Ok(TcpListener::bind("127.0.0.1:4000")?)).expect("a listener");
    scene.cli(&["steer", "add", "tcp", "192.0.2.0/24", "port", "80-90", "to", "listen", ":4000"]);
    let client = scene.router().inside(|| Ok(TcpStream::connect("192.0.2.7:85")?)).expect("a connection");
    assert_eq!(listener.accept().expect("it is accepted").1, client.local_addr().expect("an address"));
    // Another user may look, and no more.
    let socket = scene.daemon.socket();
    let refused = scene.router().attempt(&format!(
        "setpriv --reuid=65533 --regid=65534 --clear-groups {} --socket {} steer del 1",
        lab::binary().expect("the program").display(),
        socket.display()
    ));
    assert!(!refused.expect("it runs").status.success());
    scene.cli(&["steer", "del", "1"]);
}

/// The daemon's folders, and a program that nobody can reach, for nobody.
fn hand_over(scene: &mut Scene) {
    scene.daemon.terminate().expect("it ends");
    let copy = scene.lab.dir().join("dataplane-nobody");
    fs::copy(lab::binary().expect("the program"), &copy).expect("a copy of the program");
    scene.daemon.upgrade(&copy);
    let directory = scene.daemon.state().parent().expect("its folder").to_owned();
    for path in [directory, scene.daemon.state(), scene.daemon.bpffs()] {
        chown(&path, Some(NOBODY), Some(NOBODY)).expect("given away");
    }
    for entry in fs::read_dir(scene.daemon.state()).expect("the state") {
        chown(entry.expect("a file").path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    }
    // Pins of root are not for nobody; the kernel's own files there stay.
    for entry in fs::read_dir(scene.daemon.bpffs()).expect("the pins") {
        let entry = entry.expect("a pin");
        if entry.file_type().expect("its type").is_dir() {
            fs::remove_dir_all(entry.path()).expect("removed");
        }
    }
}

#[test]
fn a_user_of_its_own_with_three_capabilities() {
    let Some(mut scene) = Scene::idle(&[Need::Tool("setpriv"), Need::Tool("nft")]) else { return };
    hand_over(&mut scene);
    let wrapper = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all,+bpf,+net_admin,+perfmon",
        "--inh-caps=-all,+bpf,+net_admin,+perfmon",
        "--ambient-caps=-all,+bpf,+net_admin,+perfmon",
        "--no-new-privs",
    ];
    scene.daemon.wrap(&wrapper, &[]);
    scene.daemon.restart().expect("it starts");
    is(&scene, NOBODY, THREE);
    works(&scene);
    carries(&scene);
    translates(&scene);
    fills(&scene);
    steers(&scene);
    // `reject` takes one more; without it the packets are dropped all the same, and the doctor says so.
    scene.attach(&PORTS, "tc");
    scene.rule("forward", "udp dport 5303 reject");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5303, 10).expect("datagrams"), 0);
    let doctor = scene.daemon.attempt(&["doctor"]).expect("the doctor").said();
    assert!(doctor.contains("CAP_NET_RAW"), "{doctor}");
    scene.close();
}

#[test]
fn root_gives_up_what_it_does_not_need() {
    let Some(scene) = Scene::idle(&[]) else { return };
    is(&scene, 0, THREE | RAW);
    works(&scene);
    scene.close();
}

#[test]
fn root_becomes_another_user() {
    let Some(mut scene) = Scene::idle(&[]) else { return };
    hand_over(&mut scene);
    scene.daemon.wrap(&[], &["--user", "nobody"]);
    scene.daemon.restart().expect("it starts");
    is(&scene, NOBODY, THREE | RAW);
    works(&scene);
    scene.close();
}

/// A group that nobody else is in.
const GROUP: u32 = 65533;
/// What is refused, or shown, is asked of this.
const CONFIG: &str = r#"
[ports]
client0 = { mode = "native" }
server0 = { mode = "native" }
[sets.blocked]
type = "ipv4_addr"
elements = ["192.0.2.1"]
[chains.forward]
policy = "accept"
rules = ["ip saddr @blocked drop", "udp dport 5301 drop"]
"#;
/// Verbs that only read, and their exit code. `_` stands for a blank in a word, FILE for a config that is another.
const READS: &[(&str, i32)] = &[
    ("port list", 0),
    ("route list", 0),
    ("route get 198.18.1.2", 0),
    ("neigh list", 0),
    ("rule list", 0),
    ("rule list forward -j", 0),
    ("set list", 0),
    ("config show", 0),
    ("config diff FILE", 6),
    ("config history", 0),
    ("config rollback --list", 0),
    ("stats", 0),
    ("stats client0 -j", 0),
    ("stats --watch --interval 0.1 --count 2", 0),
    ("metrics", 0),
    ("explain --iface client0 udp_198.18.0.2:1024_>_198.18.1.2:9", 0),
];
/// Verbs that change something, or show other people's packets.
const CHANGES: &[&str] = &[
    "attach client0 server0 --mode tc",
    "detach client0",
    "detach --all",
    "rule add forward drop",
    "rule insert prerouting drop",
    "rule del forward handle 1",
    "rule flush forward",
    "set add blocked 198.18.0.2",
    "set del blocked 192.0.2.1",
    "config apply FILE",
    "config apply FILE --confirm 5 --force",
    "config confirm",
    "config rollback",
    "trace",
    "trace udp dport 9",
    "capture -w OUT udp dport 9",
];

/// Runs a verb as somebody without rights.
fn attempt(scene: &Scene, program: &Path, group: u32, verb: &str) -> Output {
    let dir = scene.lab.dir();
    let mut command = scene.router().command("setpriv");
    command.args(["--reuid=65534", &format!("--regid={group}"), "--clear-groups"]).arg(program);
    for word in verb.split(' ') {
        match word {
            "FILE" => command.arg(dir.join("other.toml")),
            "OUT" => command.arg(dir.join("lost.pcapng")),
            word => command.arg(word.replace('_', " ")),
        };
    }
    command.env("DATAPLANE_SOCKET", scene.daemon.socket());
    scene.router().output(&mut command, Duration::from_secs(30)).expect("the verb ends")
}

/// All that a verb could have changed.
fn picture(scene: &Scene) -> Vec<String> {
    let mut picture: Vec<_> = ["config show", "config history", "set list"]
        .iter()
        .map(|verb| scene.cli(&verb.split(' ').collect::<Vec<_>>()))
        .collect();
    picture.extend(scene.rules().iter().map(|rule| format!("{} {} {}", rule.chain, rule.handle, rule.rule)));
    picture.extend(scene.stats().ports.iter().map(|port| format!("{} {} {}", port.name, port.mode, port.state)));
    for family in ["-4", "-6"] {
        picture.push(scene.router().run(&format!("ip {family} route show table all")).expect("routes"));
        picture.push(scene.router().run(&format!("ip {family} rule")).expect("rules"));
    }
    for name in ["running.toml", "handles.json"] {
        picture.push(fs::read_to_string(scene.daemon.state().join(name)).expect("the state"));
    }
    let mut pins: Vec<_> = fs::read_dir(scene.daemon.bpffs().join("links"))
        .expect("the links")
        .map(|entry| entry.expect("a link").file_name().to_string_lossy().into_owned())
        .collect();
    pins.sort();
    picture.extend(pins);
    picture
}

#[test]
fn users_without_rights_change_nothing() {
    let Some(scene) = Scene::configured(&[Need::Tool("setpriv")], CONFIG) else { return };
    let program = scene.lab.dir().join("dataplane-nobody");
    fs::copy(lab::binary().expect("the program"), &program).expect("a copy of the program");
    fs::write(scene.lab.dir().join("other.toml"), "[chains.input]\npolicy = \"drop\"\n").expect("a config");
    let capture = scene.lab.dir().join("lost.pcapng");
    fs::write(&capture, "what was there").expect("a file");
    chown(&capture, Some(NOBODY), Some(NOBODY)).expect("given away");
    scene.router().run("ip route add blackhole 203.0.113.0/24 proto 218").expect("a route of ours");
    let before = picture(&scene);
    let unchanged = |verb: &str| assert_eq!(picture(&scene), before, "{verb}");

    // A stranger does not get as far as the daemon.
    for verb in READS.iter().map(|(verb, _)| verb).chain(CHANGES) {
        assert_refused(
            &attempt(&scene, &program, NOBODY, verb),
            4,
            &["no access to", "use root, or a user in the group"],
        );
    }
    unchanged("a stranger");

    // Who is in the group of the socket reads, and no more.
    chown(scene.daemon.socket(), None, Some(GROUP)).expect("the group");
    for (verb, code) in READS {
        let output = attempt(&scene, &program, GROUP, verb);
        assert_eq!(output.status.code(), Some(*code), "{verb}{}", output.said());
        assert!(!output.stdout.is_empty() || *verb == "config history" || *verb == "config rollback --list", "{verb}");
    }
    for verb in CHANGES {
        let output = attempt(&scene, &program, GROUP, verb);
        assert_refused(&output, 1, &["user 65534 may read but not change anything; use root"]);
        unchanged(verb);
    }
    assert_eq!(fs::read_to_string(&capture).expect("the file"), "what was there");

    // Routes are changed in the kernel's tables, and the kernel refuses.
    for verb in ["route add blackhole 198.51.100.0/24", "route del 203.0.113.0/24"] {
        assert_refused(&attempt(&scene, &program, NOBODY, verb), 4, &["no access to"]);
        let output = attempt(&scene, &program, GROUP, verb);
        println!("{verb}{}", output.said());
        assert_refused(&output, 1, &["use root"]);
        unchanged(verb);
    }
    // Nor is there a second daemon, or a lab. With paths of its own it gets no further than the kernel lets it.
    let own = scene.lab.dir().join("own");
    fs::create_dir(&own).expect("a folder");
    chown(&own, Some(NOBODY), Some(NOBODY)).expect("given away");
    let own = own.to_str().expect("UTF-8");
    for (verb, said) in [
        ("run".to_owned(), "cannot"),
        (format!("run --socket {own}/socket --state {own}/state --bpffs {own}/bpffs"), "cannot"),
        ("lab up mine".to_owned(), "root"),
        ("lab down mine".to_owned(), ""),
    ] {
        let output = attempt(&scene, &program, NOBODY, &verb);
        assert_eq!(
            output.status.code().filter(|code| [1, 3].contains(code)),
            output.status.code(),
            "{verb}{}",
            output.said()
        );
        assert!(!output.status.success() && output.stderr.contains(said), "{verb}{}", output.said());
        unchanged(&verb);
    }
    // What needs no rights needs none.
    for verb in ["config check FILE", "stats --reasons", "completions bash"] {
        let output = attempt(&scene, &program, NOBODY, verb);
        assert!(output.status.success(), "{verb}{}", output.said());
    }
    let doctor = attempt(&scene, &program, NOBODY, "doctor");
    assert!(doctor.stdout.contains("no access to"), "{}", doctor.said());
    let top = attempt(&scene, &program, NOBODY, "top");
    assert!(!top.status.success(), "{}", top.said());
    unchanged("what needs no rights");
    scene.router().run("ip route del blackhole 203.0.113.0/24").expect("the route");
    scene.close();
}
