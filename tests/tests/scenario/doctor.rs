//! `dataplane doctor`: faults are seeded one after the other, and each is found.

use std::time::Duration;

use anyhow::ensure;
use dataplane_tests::lab::{self, Need, ROUTER_CLIENT, ROUTER_SERVER};
use serde::Deserialize;

use crate::scene::{PORTS, PROMPT, Scene, within};

#[derive(Clone, Debug, Deserialize)]
struct Finding {
    check: String,
    status: String,
    found: String,
    fix: String,
}

/// What the doctor finds, and its exit code. The words come before the verb's own options.
fn doctor(scene: &Scene, before: &[&str], words: &[&str]) -> anyhow::Result<(Vec<Finding>, Option<i32>)> {
    let binary = lab::binary()?;
    let bpffs = scene.daemon.bpffs();
    let mut line: Vec<&std::ffi::OsStr> = before.iter().map(std::ffi::OsStr::new).collect();
    line.push(binary.as_os_str());
    let mut command = scene.router().command(line[0]);
    command.args(&line[1..]).args(["doctor", "-j", "--bpffs"]).arg(&bpffs).args(words);
    command.env("DATAPLANE_SOCKET", scene.daemon.socket());
    let output = scene.router().output(&mut command, Duration::from_secs(20))?;
    Ok((serde_json::from_str(&output.stdout)?, output.status.code()))
}

/// A fault, until it is found.
fn found(scene: &Scene, check: &str, status: &str, cure: &str) {
    within(2 * PROMPT, || {
        let (findings, code) = doctor(scene, &[], &[])?;
        let finding = findings.iter().find(|finding| finding.check == check);
        let Some(finding) = finding else { anyhow::bail!("no check {check}: {findings:#?}") };
        ensure!(finding.status == status, "{finding:?}");
        ensure!(finding.fix.contains(cure), "{finding:?}");
        ensure!(!finding.found.is_empty(), "{finding:?}");
        let failed = findings.iter().any(|finding| finding.status == "fail");
        ensure!(code == Some(if failed { 7 } else { 0 }), "exit code {code:?}: {findings:#?}");
        Ok(())
    });
}

/// Nothing of a check is left.
fn cured(scene: &Scene, check: &str) {
    within(2 * PROMPT, || {
        let (findings, _) = doctor(scene, &[], &[])?;
        let left = findings.iter().find(|finding| finding.check == check && finding.status != "ok");
        ensure!(left.is_none(), "{left:?}");
        Ok(())
    });
}

#[test]
fn finds_what_was_seeded() {
    let needs = ["nft", "tc", "ethtool", "setpriv", "sysctl"].map(Need::Tool);
    let Some(mut scene) = Scene::attached(&needs, "native") else { return };
    let (client, server) = (ROUTER_CLIENT.port, ROUTER_SERVER.port);
    scene.take_frames();
    for check in [&format!("egress: {client}"), &format!("egress: {server}")] {
        cured(&scene, check);
    }
    let router = scene.router().clone();
    // No BPF file system where the daemon would pin; an interface that is not there.
    let elsewhere = scene.daemon.state().display().to_string();
    let findings = scene.daemon.attempt(&["doctor", "-j", "--bpffs", &elsewhere]).expect("the doctor runs");
    assert_eq!(findings.status.code(), Some(7), "{}", findings.said());
    assert!(findings.stdout.contains("mount -t bpf bpf"), "{}", findings.said());
    scene.refused(&["doctor", "nosuch0"], 3, &["nosuch0", "ip link"]);
    let mut seeded = 1;
    let mut seed = |set: &[&str], check: &str, status: &str, cure: &str, unset: &[&str]| {
        for line in set {
            router.run(line).expect("seeded");
        }
        found(&scene, check, status, cure);
        for line in unset {
            router.run(line).expect("cured");
        }
        cured(&scene, check);
        seeded += 1;
    };

    let on = ["sysctl -qw net.ipv4.ip_forward=1"];
    seed(&["sysctl -qw net.ipv4.ip_forward=0"], "forwarding ipv4", "fail", "net.ipv4.ip_forward=1", &on);
    let on = ["sysctl -qw net.ipv6.conf.all.forwarding=1"];
    let cure = "net.ipv6.conf.all.forwarding=1";
    seed(&["sysctl -qw net.ipv6.conf.all.forwarding=0"], "forwarding ipv6", "fail", cure, &on);
    let (off, on) = (format!("net.ipv4.conf.{client}.forwarding=0"), format!("net.ipv4.conf.{client}.forwarding=1"));
    seed(&[&format!("sysctl -qw {off}")], "forwarding ipv4", "warn", &on, &[&format!("sysctl -qw {on}")]);

    let ways =
        format!("ip route add 203.0.113.0/24 nexthop via 198.18.0.2 dev {client} nexthop via 198.18.1.2 dev {server}");
    let strict = format!("sysctl -qw net.ipv4.conf.{client}.rp_filter=1");
    let loose = format!("sysctl -qw net.ipv4.conf.{client}.rp_filter=0");
    let cure = format!("net.ipv4.conf.{client}.rp_filter=2");
    seed(&[&ways, &strict], "rp_filter", "warn", &cure, &[&loose, "ip route del 203.0.113.0/24"]);

    let chain = "nft add chain ip dt forward { type filter hook forward priority 0 ; policy drop ; }";
    seed(&["nft add table ip dt", chain], "netfilter", "warn", "nft list ruleset", &["nft delete table ip dt"]);
    // What only the kernel's own path follows.
    let of = |verb: &str| format!("ip -6 rule {verb} ipproto udp lookup 7 suppress_prefixlength 0");
    let (rule, unrule) = (&*of("add"), &*of("del"));
    seed(&[rule], "mirror", "warn", "ip -6 rule list", &[unrule]);
    let (down, up) = (format!("ip link set {server} down"), format!("ip link set {server} up"));
    seed(&[&down], &format!("link: {server}"), "warn", &up, &[&up]);
    let filter = format!("tc filter add dev {client} ingress protocol ip u32 match u32 0 0");
    let (qdisc, unqdisc) = (format!("tc qdisc add dev {client} clsact"), format!("tc qdisc del dev {client} clsact"));
    seed(&[&qdisc, &filter], &format!("foreign tc: {client}"), "warn", "bpftool net show", &[&unqdisc]);

    // From here on other hands than the router's shell.
    let gro = |state: &str| drop(scene.server().run(&format!("ethtool -K eth0 gro {state}")).expect("ethtool"));
    gro("off");
    found(&scene, &format!("egress: {server}"), "warn", "gro on");
    gro("on");
    cured(&scene, &format!("egress: {server}"));
    scene.attach(&[client], "generic");
    found(&scene, &format!("mode: {client}"), "warn", "--mode auto");
    scene.attach(&PORTS, "native");
    cured(&scene, &format!("mode: {client}"));

    seeded += 2;

    // Another daemon has the place.
    scene.cli(&["detach", client]);
    let other = scene.lab.daemon("router").expect("another daemon");
    other.cli(&["attach", client, "--mode", "native"]).expect("attached");
    let (findings, code) = doctor(&scene, &[], &[client]).expect("the doctor runs");
    let foreign = findings.iter().find(|finding| finding.check == format!("foreign xdp: {client}"));
    assert_eq!((foreign.map(|finding| finding.status.as_str()), code), (Some("fail"), Some(7)), "{findings:#?}");
    other.stop().expect("the other daemon stops");
    cured(&scene, &format!("foreign xdp: {client}"));
    seeded += 1;

    // Without a daemon, and as nobody.
    scene.daemon.terminate().expect("the daemon ends");
    found(&scene, "daemon", "warn", "dataplane run");
    let (findings, code) =
        doctor(&scene, &["setpriv", "--bounding-set", "-net_admin,-bpf,-sys_admin", "--inh-caps", "-all"], &[client])
            .expect("the doctor runs");
    let lacking = findings.iter().find(|finding| finding.check == "capabilities").expect("a check");
    assert_eq!((lacking.status.as_str(), code), ("fail", Some(7)), "{lacking:?}");
    seeded += 2;
    scene.daemon.restart().expect("the daemon starts");
    assert!(seeded >= 12, "{seeded}");
    scene.close();
}
