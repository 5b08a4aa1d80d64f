//! `tproxy` and `socket transparent`: a proxy gets packets for others, with the addresses of both ends, and hands them on in the
//! name of the client.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{CLIENT, Need, Running, SERVER, traffic::Family};

use crate::scene::{PORTS, PROMPT, Scene, within};

/// Where the server listens, and where the proxy does.
const PORT: u16 = 7000;
const PROXY: u16 = 3129;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Larger than two fragments of the link.
const LONG: usize = 4000;
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenario/proxy/proxy.py");

fn end(family: Family) -> (IpAddr, SocketAddr) {
    let (client, server) = match family {
        Family::V4 => (CLIENT.v4, SERVER.v4),
        Family::V6 => (CLIENT.v6, SERVER.v6),
    };
    (client.parse().expect("an address"), SocketAddr::new(server.parse().expect("an address"), PORT))
}

/// What the client reads of the server, or of what stands in for it.
fn stream(scene: &Scene, family: Family) -> anyhow::Result<String> {
    let (_, server) = end(family);
    scene.client().inside(|| {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE).context("no connection")?;
        stream.set_read_timeout(Some(PATIENCE * 3))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).context("no answer")?;
        Ok(text)
    })
}

/// The same with a datagram, which must be answered from the server's address.
fn datagram(scene: &Scene, family: Family) -> anyhow::Result<String> {
    let (_, server) = end(family);
    scene.client().inside(|| {
        let any = if server.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // In fragments.
        socket.send(&[b'?'; LONG])?;
        let mut bytes = [0; 100];
        let length = socket.recv(&mut bytes).context("no answer")?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    })
}

fn is(found: anyhow::Result<String>, want: &str) -> anyhow::Result<()> {
    let found = found?;
    ensure!(found == want, "`{found}`, not `{want}`");
    Ok(())
}

fn start(scene: &Scene, role: &str, port: u16) -> Running {
    let namespace = if role == "server" { scene.server() } else { scene.router() };
    let mut command = namespace.command("python3");
    command.args([SCRIPT, role, &port.to_string()]);
    namespace.spawn(&mut command, &scene.lab.dir().join(format!("{role}.log"))).expect(role)
}

fn apply(scene: &Scene, mode: &str, or_drop: &str) {
    let config = format!(
        "[ports]\nclient0 = {{ mode = '{mode}' }}\nserver0 = {{ mode = '{mode}' }}\n[chains.prerouting]\nrules = [\n  \
         'socket transparent 1 accept',\n  \
         'iifname \"client0\" meta l4proto {{ tcp, udp }} th dport {PORT} tproxy to :{PROXY}{or_drop}',\n]\n"
    );
    let file = scene.lab.dir().join("proxy.toml");
    std::fs::write(&file, config).expect("a config");
    scene.cli(&["config", "apply", file.to_str().expect("a path")]);
}

/// Connections that the kernel tracks.
fn tracked(scene: &Scene) -> u32 {
    let count = scene.router().run("sysctl -n net.netfilter.nf_conntrack_count").expect("a count");
    count.trim().parse().expect("a number")
}

/// Rules and routes that deliver, of both families.
fn delivers(scene: &Scene) -> usize {
    let count = |line: &str, word: &str| {
        let said = scene.router().attempt(line).expect("ip runs").stdout;
        said.lines().filter(|line| line.contains(word)).count()
    };
    let each = |family: &str| {
        let route = format!("ip {family} route show table 218 proto 218 type local");
        count(&format!("ip {family} rule"), "lookup 218") + count(&route, "default dev lo")
    };
    each("-4") + each("-6")
}

fn proxies(mode: &str) {
    let Some(scene) = Scene::idle(&[Need::Tool("python3")]) else { return };
    // What wg-quick sets, and a strict look at sources.
    for setting in ["src_valid_mark", "rp_filter"] {
        scene.router().sysctl(&format!("net.ipv4.conf.all.{setting}"), "1").expect("a setting");
    }
    scene.router().run("ip link set lo up").expect("lo");
    let _server = start(&scene, "server", PORT);
    let mut proxy = start(&scene, "proxy", PROXY);
    apply(&scene, mode, "");
    for family in Family::BOTH {
        let (client, _) = end(family);
        let proxied = format!("proxy, server saw {client}");
        within(PROMPT * 10, || is(stream(&scene, family), &proxied));
        within(PROMPT * 10, || is(datagram(&scene, family), "proxy"));
    }
    assert!(scene.rules().iter().all(|rule| rule.packets > 0), "{:?}", scene.rules());
    assert_eq!(tracked(&scene), 0, "no rule needs connections");
    mends(&scene);

    // Without its socket the rule does not match, or it drops.
    proxy.kill9().expect("the proxy ends");
    for family in Family::BOTH {
        let direct = format!("server saw {}", end(family).0);
        is(stream(&scene, family), &direct).expect("the server itself");
        is(datagram(&scene, family), &direct).expect("the server itself");
    }
    apply(&scene, mode, " or drop");
    for family in Family::BOTH {
        assert!(stream(&scene, family).is_err() && datagram(&scene, family).is_err(), "{}", family.name());
    }
    assert!(scene.rules().iter().all(|rule| rule.packets > 0), "{:?}", scene.rules());
    let _again = start(&scene, "proxy", PROXY);
    within(PROMPT * 10, || is(stream(&scene, Family::V4), &format!("proxy, server saw {}", CLIENT.v4)));

    // What delivers goes with the last such rule, and with the last port.
    scene.cli(&["rule", "flush", "prerouting"]);
    assert_eq!(delivers(&scene), 0);
    is(stream(&scene, Family::V6), &format!("server saw {}", end(Family::V6).0)).expect("the server itself");
    apply(&scene, mode, "");
    assert_eq!(delivers(&scene), 2 * PORTS.len() + 2);
    scene.cli(&["detach", "--all"]);
    assert_eq!(delivers(&scene), 0);
    scene.close();
}

/// What another program removes is put back, and no packet vanishes for long.
fn mends(scene: &Scene) {
    let whole = 2 * PORTS.len() + 2;
    assert_eq!(delivers(scene), whole);
    for line in [
        "ip route flush table 218",
        "ip -6 route flush table 218",
        "ip rule del iif client0 pref 218",
        "ip -6 rule del pref 218",
    ] {
        scene.router().run(line).expect(line);
        within(PROMPT, || {
            ensure!(delivers(scene) == whole, "`{line}`: {} of {whole} are there", delivers(scene));
            Ok(())
        });
    }
    let proxied = format!("proxy, server saw {}", CLIENT.v4);
    is(stream(scene, Family::V4), &proxied).expect("it is proxied again");
    // While nothing can deliver, rules do not match: no route leads to a loopback device that is down.
    scene.router().run("ip link set lo down").expect("lo");
    within(PROMPT * 5, || is(stream(scene, Family::V4), &format!("server saw {}", CLIENT.v4)));
    scene.router().run("ip link set lo up").expect("lo");
    within(PROMPT * 5, || is(stream(scene, Family::V4), &proxied));
}

#[test]
fn transparent_proxies_native() {
    proxies("native");
}

#[test]
fn transparent_proxies_tc() {
    proxies("tc");
}

/// Chains that write marks, as wg-quick makes them, take no packet from its proxy; and what others have in the routing table
/// stays theirs.
#[test]
fn proxies_beside_marks_and_routes_of_others() {
    let Some(scene) = Scene::idle(&[Need::Tool("python3"), Need::Tool("nft")]) else { return };
    let router = scene.router();
    router.run("ip link set lo up").expect("lo");
    let _server = start(&scene, "server", PORT);
    let _proxy = start(&scene, "proxy", PROXY);
    let premangle = "table inet wg { chain premangle { type filter hook prerouting priority mangle; \
                     meta l4proto udp meta mark set ct mark; meta l4proto tcp meta mark set ct mark; }; }";
    let file = scene.lab.dir().join("premangle.nft");
    std::fs::write(&file, premangle).expect("rules");
    router.run(&format!("nft -f {}", file.display())).expect("rules of others");
    apply(&scene, "native", "");
    let is_proxied = |family: Family| is(stream(&scene, family), &format!("proxy, server saw {}", end(family).0));
    let is_direct = |family: Family| is(stream(&scene, family), &format!("server saw {}", end(family).0));
    for family in Family::BOTH {
        within(PROMPT * 10, || is_proxied(family));
        within(PROMPT * 10, || is(datagram(&scene, family), "proxy"));
    }
    for (add, del) in [
        (format!("route add default via {} table 218", SERVER.v4), "route del default table 218 proto boot"),
        (format!("route add 203.0.113.0/24 via {} table 218", SERVER.v4), "route del 203.0.113.0/24 table 218"),
        ("rule add from 192.0.2.1 lookup 218".to_owned(), "rule del from 192.0.2.1 lookup 218"),
    ] {
        scene.cli(&["rule", "flush", "prerouting"]);
        assert_eq!(delivers(&scene), 0);
        router.run(&format!("ip {add}")).expect("what another program has");
        let shown = || router.run("ip route show table 218").expect("routes").trim().to_owned();
        let before = router.attempt("ip route show table 218").expect("ip runs").stdout;
        apply(&scene, "native", "");
        is_direct(Family::V4).expect("while the table is another program's, the rule does not match");
        let doctor = scene.daemon.attempt(&["doctor"]).expect("doctor runs").stdout;
        assert!(doctor.contains("table 218 has routes or rules of another program"), "{add}: {doctor}");
        assert_eq!(router.attempt("ip route show table 218").expect("ip runs").stdout, before, "{add}");
        router.run(&format!("ip {del}")).expect("it goes");
        within(PROMPT * 5, || is_proxied(Family::V4));
        assert!(shown().starts_with("local default"), "{}", shown());
    }
    scene.close();
}
