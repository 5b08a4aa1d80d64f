//! The standard picture with a daemon on its router, and what every scenario asks of it.

use std::{
    env,
    fs::{self, File},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{
    Daemon, Lab, Leftovers, Namespace, Need, Output, ROUTER_CLIENT, ROUTER_SERVER, Stats, balanced, ready,
    traffic::{self, Family},
};
use serde::Deserialize;

/// The ports of the router.
pub const PORTS: [&str; 2] = [ROUTER_CLIENT.port, ROUTER_SERVER.port];
/// "Promptly": how soon a change must be in force.
pub const PROMPT: Duration = Duration::from_secs(1);

/// The turn of a scenario: one at a time on the machine, which has two processors, or in the lane that `cargo xtask test` names.
pub struct Turn {
    _process: MutexGuard<'static, ()>,
    _machine: File,
}

/// Waits for the turn of a scenario that makes its own picture.
pub fn turn() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    let process = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // xtask/src/lane.rs sets it.
    let lane = env::var("DATAPLANE_TURN").unwrap_or_default();
    let machine = File::create(env::temp_dir().join(format!("dataplane-scenario{lane}.lock"))).expect("a file to lock");
    machine.lock().expect("the turn on the machine");
    Turn { _process: process, _machine: machine }
}

/// A laboratory and the daemon in its router. The order of the fields is the order of the clean-up.
pub struct Scene {
    pub daemon: Daemon,
    pub lab: Lab,
    before: Leftovers,
    _turn: Turn,
}

/// `route get`.
#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "as the protocol names them")]
pub struct Decision {
    pub decision: String,
    pub reason: String,
    pub prefix: Option<String>,
    pub lladdr: Option<String>,
    pub table: String,
}

/// A row of `rule list`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "as the protocol names them")]
pub struct Rule {
    pub chain: String,
    pub handle: u64,
    pub rule: String,
    pub packets: u64,
    pub bytes: u64,
}

impl Scene {
    /// The picture with a daemon that has nothing attached, or nothing where the machine lacks something.
    pub fn idle(needs: &[Need]) -> Option<Self> {
        Self::set(needs, None)
    }

    /// The same with a daemon that was given a config.
    pub fn configured(needs: &[Need], config: &str) -> Option<Self> {
        Self::set(needs, Some(config))
    }

    /// The same with both ports attached in a mode.
    pub fn attached(needs: &[Need], mode: &str) -> Option<Self> {
        let scene = Self::set(needs, None)?;
        scene.attach(&PORTS, mode);
        Some(scene)
    }

    fn set(needs: &[Need], config: Option<&str>) -> Option<Self> {
        let usual = ["ip", "nsenter", "ping", "bpftool"].map(Need::Tool);
        let needs: Vec<_> = [Need::Root].iter().chain(&usual).chain(needs).copied().collect();
        if !ready(&needs) {
            return None;
        }
        let turn = turn();
        let before = Leftovers::now().expect("looked at the machine");
        let lab = Lab::router().expect("a laboratory");
        let daemon = match config {
            Some(text) => lab.daemon_with("router", text),
            None => lab.daemon("router"),
        };
        let scene = Self { daemon: daemon.expect("a daemon"), lab, before, _turn: turn };
        // Both hosts know the router, and the router them, before anything is counted.
        for family in Family::BOTH {
            assert_eq!(traffic::ping(&scene.lab, family, 1).expect("ping runs"), 1, "{}", family.name());
        }
        Some(scene)
    }

    /// Ends a scenario: every packet is accounted for, and nothing is left behind.
    pub fn close(self) {
        self.stats();
        self.daemon.stop().expect("the daemon stops");
        drop(self.lab);
        self.before.check().expect("nothing left behind");
    }

    pub fn client(&self) -> &Namespace {
        self.lab.namespace("client")
    }

    pub fn router(&self) -> &Namespace {
        self.lab.namespace("router")
    }

    pub fn server(&self) -> &Namespace {
        self.lab.namespace("server")
    }

    pub fn attach(&self, ports: &[&str], mode: &str) {
        let words: Vec<_> = ["attach"].iter().chain(ports).chain(&["--mode", mode]).copied().collect();
        self.cli(&words);
    }

    /// Makes the hosts' ends take frames of XDP: a veth does when its driver polls, as it does for GRO.
    pub fn take_frames(&self) {
        for host in [self.client(), self.server()] {
            host.run("ethtool -K eth0 gro on").expect("GRO on");
        }
    }

    /// Gives the addresses of the router's port to the client to another link.
    pub fn addresses_to(&self, link: &str) {
        let (router, end) = (self.router(), ROUTER_CLIENT);
        for line in [
            format!("ip addr flush dev {}", end.port),
            format!("ip link set {} up", end.port),
            format!("ip link set {link} up"),
            format!("ip addr add {}/24 dev {link}", end.v4),
            format!("ip addr add {}/64 dev {link} nodad", end.v6),
        ] {
            router.run(&line).expect("addresses");
        }
        // A new link may take a moment until it carries something; routes of the mirror follow it.
        within(PROMPT * 10, || self.ping());
    }

    /// Whether datagrams of both families arrive.
    pub fn carries(&self) {
        for family in Family::BOTH {
            let arrived = traffic::datagrams(&self.lab, family, 5301, 20).expect("datagrams");
            assert_eq!(arrived, 20, "{} datagrams", family.name());
        }
    }

    /// Runs a verb that must succeed.
    pub fn cli(&self, words: &[&str]) -> String {
        self.daemon.cli(words).expect("the verb succeeds")
    }

    /// Runs a verb that must fail with this exit code and say these words on stderr.
    pub fn refused(&self, words: &[&str], code: i32, said: &[&str]) {
        let output = self.daemon.attempt(words).expect("the verb runs");
        assert_refused(&output, code, said);
    }

    /// The counters, which must be balanced.
    pub fn stats(&self) -> Stats {
        let stats = self.daemon.stats().expect("stats");
        balanced(&stats).expect("balanced");
        stats
    }

    /// `route get`.
    pub fn decision(&self, address: &str) -> Decision {
        self.daemon.read(&["route", "get", address]).expect("a decision")
    }

    /// `rule list`.
    pub fn rules(&self) -> Vec<Rule> {
        self.daemon.read(&["rule", "list"]).expect("rules")
    }

    /// Adds a rule; what was added.
    pub fn rule(&self, chain: &str, rule: &str) -> Rule {
        let mut rows: Vec<Rule> = self.daemon.read(&["rule", "add", chain, rule]).expect("a rule");
        rows.pop().expect("the rule that was added")
    }

    /// Whether pings from client to server are all answered, in both families.
    pub fn ping(&self) -> anyhow::Result<()> {
        for family in Family::BOTH {
            let answered = traffic::ping(&self.lab, family, 3)?;
            ensure!(answered == 3, "{answered} of 3 pings were answered over {}", family.name());
        }
        Ok(())
    }

    /// How many pings of three the client gets answered by an address.
    pub fn pinged(&self, address: &str) -> usize {
        let output = self.client().attempt(&format!("ping -n -c 3 -i 0.1 -W 1 {address}")).expect("ping runs");
        output.stdout.matches("bytes from").count()
    }

    /// Packets that the router's kernel itself forwarded, both families.
    pub fn kernel_forwarded(&self) -> u64 {
        let read = || {
            let read = |file| fs::read_to_string(file).with_context(|| format!("can not read {file}"));
            Ok((read("/proc/thread-self/net/snmp")?, read("/proc/thread-self/net/snmp6")?))
        };
        let (v4, v6) = self.router().inside(read).expect("counters of the kernel");
        let mut lines = v4.lines().filter_map(|line| line.strip_prefix("Ip: "));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let v4 = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "ForwDatagrams");
        let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams"));
        let number = |text: &str| text.trim().parse::<u64>().expect("a number");
        number(v4.expect("a counter of IPv4").1) + number(v6.expect("a counter of IPv6"))
    }
}

/// Whether the kernel has links of a kind: one is made where nobody sees it. `words` are what the kind asks for.
pub fn can_have(kind: &[&str]) -> bool {
    let mut command = std::process::Command::new("unshare");
    command.args(["--net", "ip", "link", "add", "probe0", "type"]).args(kind);
    command.output().is_ok_and(|output| output.status.success())
}

/// Whether a verb failed as it should.
pub fn assert_refused(output: &Output, code: i32, said: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "`{}`{}", output.line, output.said());
    for words in said {
        assert!(output.stderr.contains(words), "`{}` should say `{words}`{}", output.line, output.said());
    }
}

/// Waits until something holds; panics with what is wrong when it does not within the limit. The time it took.
pub fn within(limit: Duration, mut holds: impl FnMut() -> anyhow::Result<()>) -> Duration {
    let start = Instant::now();
    loop {
        match holds() {
            Ok(()) => return start.elapsed(),
            Err(error) => assert!(start.elapsed() < limit, "not after {limit:?}: {error:#}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}
