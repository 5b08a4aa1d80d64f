//! From the moment that a link is wanted as a port until its rules are in force.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{
    Need, ROUTER_CLIENT, SERVER, kernel_at_least,
    traffic::{self, Family},
};
use serde_json::Value;

use crate::scene::{Scene, within};

/// Datagrams a second.
const RATE: u64 = 5000;
const PORT: u16 = 5305;

/// Links can be renamed while they are up since Linux 6.2: from one moment to the next a link is wanted.
const NEEDS: [Need; 2] = [Need::Tool("nft"), Need::Kernel("renaming of links that are up", || kernel_at_least(6, 2))];

/// Numbered datagrams from the client to the server, and the numbers that arrived.
struct Hail {
    stop: Arc<AtomicBool>,
    next: Arc<AtomicU64>,
    sender: JoinHandle<anyhow::Result<()>>,
    receiver: JoinHandle<Vec<u64>>,
}

impl Hail {
    fn begin(scene: &Scene, family: Family) -> anyhow::Result<Self> {
        let any = if family == Family::V4 { "0.0.0.0" } else { "::" };
        let sink = scene.server().inside(|| Ok(UdpSocket::bind((any, PORT))?))?;
        sink.set_read_timeout(Some(Duration::from_millis(50)))?;
        let source = scene.client().inside(|| Ok(UdpSocket::bind((any, 0))?))?;
        source.connect((family.address(&SERVER), PORT))?;
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sender = thread::spawn({
            let (stop, next) = (Arc::clone(&stop), Arc::clone(&next));
            move || {
                while !stop.load(Ordering::SeqCst) {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    // The router, or the server's stack, may say that nobody wants it.
                    let _refused = source.send(&number.to_be_bytes());
                    thread::sleep(Duration::from_micros(1_000_000 / RATE));
                }
                Ok(())
            }
        });
        let receiver = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let (mut seen, mut datagram) = (Vec::new(), [0; 8]);
                loop {
                    match sink.recv(&mut datagram) {
                        Ok(8) => seen.push(u64::from_be_bytes(datagram)),
                        _ if stop.load(Ordering::SeqCst) => return seen,
                        _ => {}
                    }
                }
            }
        });
        thread::sleep(Duration::from_millis(100));
        Ok(Self { stop, next, sender, receiver })
    }

    /// The number of the next datagram.
    fn mark(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// How many were sent, and the numbers of those that arrived.
    fn end(self) -> anyhow::Result<(u64, Vec<u64>)> {
        thread::sleep(Duration::from_millis(100));
        self.stop.store(true, Ordering::SeqCst);
        self.sender.join().ok().context("the sender panicked")??;
        let seen = self.receiver.join().ok().context("the receiver panicked")?;
        Ok((self.next.load(Ordering::SeqCst), seen))
    }
}

/// The config: links that may come, and nothing may pass.
fn config(mode: &str, until_ready: &str) -> String {
    format!("[ports]\n\"late*\" = {{ mode = \"{mode}\"{until_ready} }}\n[chains.forward]\npolicy = \"drop\"\n")
}

fn rename(scene: &Scene, from: &str, to: &str) {
    scene.router().run(&format!("ip link set {from} name {to}")).expect("renamed");
}

fn is_port(scene: &Scene, name: &str) {
    within(Duration::from_secs(3), || {
        let stats = scene.stats();
        ensure!(stats.port(name).is_some_and(|row| row.state == "up"), "{name} is no port: {:?}", stats.ports);
        Ok(())
    });
}

/// How many datagrams arrived that were sent after the link got the name of a port.
fn after_the_name(scene: &Scene, family: Family, from: &str, to: &str) -> (u64, u64) {
    let hail = Hail::begin(scene, family).expect("datagrams");
    rename(scene, from, to);
    let mark = hail.mark();
    thread::sleep(Duration::from_millis(700));
    let (sent, seen) = hail.end().expect("an end");
    assert!(sent > mark + RATE / 10, "{sent} sent, {mark} of them before");
    (
        seen.iter().filter(|number| **number < mark).count() as u64,
        seen.iter().filter(|number| **number > mark).count() as u64,
    )
}

fn nothing_before_it_is_ready(mode: &str) {
    for family in Family::BOTH {
        let Some(scene) = Scene::configured(&NEEDS, &config(mode, ", until_ready = \"drop\"")) else { return };
        let (before, after) = after_the_name(&scene, family, ROUTER_CLIENT.port, "late0");
        assert!(before > 0, "{}: nothing passed while it was no port", family.name());
        assert_eq!(after, 0, "{}, {mode}: passed before the port was ready", family.name());
        is_port(&scene, "late0");
        scene.rule("forward", &format!("udp dport {PORT} accept"));
        assert_eq!(traffic::datagrams(&scene.lab, family, PORT + 1, 10).expect("datagrams"), 0);
        assert_eq!(traffic::datagrams(&scene.lab, family, PORT, 10).expect("datagrams"), 10);
        scene.close();
    }
}

#[test]
fn nothing_passes_before_a_port_is_ready_native() {
    nothing_before_it_is_ready("native");
}

#[test]
fn nothing_passes_before_a_port_is_ready_tc() {
    nothing_before_it_is_ready("tc");
}

/// A port that is renamed stays one.
#[test]
fn a_renamed_port_is_not_let_go() {
    let Some(scene) = Scene::configured(&NEEDS, &config("native", "")) else { return };
    rename(&scene, ROUTER_CLIENT.port, "late0");
    is_port(&scene, "late0");
    for (from, to) in [("late0", "other0"), ("other0", "late7")] {
        let hail = Hail::begin(&scene, Family::V4).expect("datagrams");
        rename(&scene, from, to);
        thread::sleep(Duration::from_millis(500));
        let (_, seen) = hail.end().expect("an end");
        assert_eq!(seen.len(), 0, "{from} became {to}");
        is_port(&scene, to);
        assert!(scene.stats().port(from).is_none(), "{:?}", scene.stats().ports);
    }
    assert!(!scene.cli(&["config", "show"]).contains("other0"));
    scene.close();
}

fn has_table(scene: &Scene) -> bool {
    scene.router().run("nft list tables").expect("tables").contains("until_ready")
}

#[test]
fn the_table_outlives_the_daemon_and_all_others() {
    let text = config("tc", ", until_ready = \"drop\"");
    let Some(mut scene) = Scene::configured(&NEEDS, &text) else { return };
    assert!(has_table(&scene));
    // It does not count as rules that forwarded packets meet.
    scene.attach(&["server0"], "tc");
    let rows: Vec<Value> = scene.daemon.read(&["port", "list"]).expect("ports");
    assert!(rows.iter().all(|row| row["netfilter"] == "none"), "{rows:?}");
    scene.router().run("nft flush ruleset").expect("no rules");
    within(Duration::from_secs(3), || {
        ensure!(has_table(&scene), "it is not written again");
        Ok(())
    });
    scene.daemon.kill9().expect("killed");
    let (before, after) = after_the_name(&scene, Family::V4, ROUTER_CLIENT.port, "late0");
    assert!(before > 0 && after == 0, "without a daemon: {before} before, {after} after");
    scene.daemon.restart().expect("started");
    is_port(&scene, "late0");
    scene.rule("forward", &format!("udp dport {PORT} accept"));
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, PORT, 10).expect("datagrams"), 10);
    scene.cli(&["detach", "--all"]);
    assert!(!has_table(&scene));
    scene.ping().expect("the kernel forwards");
    scene.close();
}

/// What passes by default, where the first packets are the kernel's. A machine that is busy is slow: the figure is printed.
#[test]
fn by_default_the_first_moment_is_the_kernels() {
    let Some(scene) = Scene::configured(&NEEDS, &config("native", "")) else { return };
    let hail = Hail::begin(&scene, Family::V4).expect("datagrams");
    let begun = Instant::now();
    rename(&scene, ROUTER_CLIENT.port, "late0");
    let (mark, named) = (hail.mark(), begun.elapsed());
    is_port(&scene, "late0");
    let (ready, attached) = (hail.mark(), begun.elapsed());
    thread::sleep(Duration::from_millis(300));
    let (_, seen) = hail.end().expect("an end");
    let window = seen.iter().filter(|number| **number >= mark).count();
    println!("renamed in {named:?}, seen as a port after {attached:?}: {window} of {} datagrams passed", ready - mark);
    let late: Vec<_> = seen.iter().filter(|number| **number > ready).collect();
    assert!(late.is_empty(), "passed a port: {late:?}");
    assert!(!has_table(&scene));
    scene.close();
}
