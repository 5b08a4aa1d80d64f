//! Squid and `HAProxy` as transparent proxies: one line of rules each, and the server sees the client.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{CLIENT, Need, Running, SERVER, traffic::Family};

use crate::scene::{PROMPT, Scene, within};

const SERVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenario/proxy/web.py");
/// Where the server listens, and where the proxy does.
const WEB: u16 = 80;
const PROXY: u16 = 3129;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Requests in one connection, and of connections.
const REQUESTS: usize = 200;

/// A proxy: its program, what it runs with, its config, and what it writes into answers.
struct Proxy {
    program: &'static str,
    words: [&'static str; 2],
    config: &'static str,
    mark: &'static str,
}

/// docs/sockets.md has the lines that matter.
const SQUID: Proxy = Proxy {
    program: "squid",
    words: ["-N", "-f"],
    config: "http_port 3128\nhttp_port 3129 tproxy\nhttp_access allow all\ncache deny all\naccess_log none\npid_filename none\n\
             cache_log /dev/null\nnetdb_filename none\npinger_enable off\nunlinkd_program /bin/true\nvisible_hostname lab\nshutdown_lifetime 0 seconds\n\
             max_filedescriptors 1024\n",
    mark: "(squid",
};
const HAPROXY: Proxy = Proxy {
    program: "haproxy",
    words: ["-db", "-f"],
    config: "global\n  maxconn 400\ndefaults\n  mode http\n  timeout connect 3s\n  timeout client 9s\n  timeout server 9s\n\
             frontend web\n  bind :::3129 v4v6 transparent\n  http-response set-header Via haproxy\n  default_backend origin\n\
             backend origin\n  source 0.0.0.0 usesrc clientip\n  server origin *:80\n",
    mark: "haproxy",
};

impl Proxy {
    fn start(&self, scene: &Scene) -> Running {
        let config = scene.lab.dir().join("proxy.conf");
        std::fs::write(&config, self.config).expect("a config");
        let mut command = scene.router().command(self.program);
        command.args(self.words).arg(config);
        scene.router().spawn(&mut command, &scene.lab.dir().join("proxy.log")).expect(self.program)
    }

    /// All answers, each from the server, which sees the client, and through the proxy or not.
    fn answers(&self, scene: &Scene, family: Family, pieces: &[String], proxied: bool) -> anyhow::Result<()> {
        let wanted: usize = pieces.iter().map(|piece| piece.matches("GET").count()).sum();
        let text = scene.client().inside(|| exchange(family, pieces))?;
        let saw = format!("server saw {}\n", family.address(&CLIENT));
        // `2001:db8:0::2` is written `2001:db8::2`.
        let saw = saw.replace(":0::", "::");
        let (answers, marks) = (text.matches(&saw).count(), text.matches(self.mark).count());
        let marked = if proxied { wanted } else { 0 };
        ensure!(
            answers == wanted && marks == marked,
            "{}: {wanted} requests, {answers} answers, {marks} of the proxy: {text:.400}",
            family.name()
        );
        Ok(())
    }

    fn answers_one(&self, scene: &Scene, family: Family, proxied: bool) -> anyhow::Result<()> {
        self.answers(scene, family, &[requests(family, 1)], proxied)
    }
}

/// Requests in one piece: the last one ends the connection. Squid would look a name up, to compare it with the destination.
fn requests(family: Family, count: usize) -> String {
    let server = family.address(&SERVER);
    let server = if family == Family::V6 { format!("[{server}]") } else { server.to_owned() };
    let host = format!("GET / HTTP/1.1\r\nHost: {server}\r\n");
    format!("{}{host}Connection: close\r\n\r\n", format!("{host}\r\n").repeat(count - 1))
}

/// What comes back on one connection for each piece; it ends where the server ends it.
fn exchange(family: Family, pieces: &[String]) -> anyhow::Result<String> {
    let mut text = String::new();
    for piece in pieces {
        let server = SocketAddr::new(family.address(&SERVER).parse()?, WEB);
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE).context("no connection")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(piece.as_bytes())?;
        stream.read_to_string(&mut text).context("no answer")?;
    }
    Ok(text)
}

fn apply(scene: &Scene, or_drop: &str) {
    let config = format!(
        "[ports]\nclient0 = {{ mode = 'native' }}\nserver0 = {{ mode = 'native' }}\n[chains.prerouting]\nrules = [\n  \
         'socket transparent 1 accept',\n  'iifname \"client0\" tcp dport {WEB} tproxy to :{PROXY}{or_drop}',\n]\n"
    );
    let file = scene.lab.dir().join("proxy.toml");
    std::fs::write(&file, config).expect("a config");
    scene.cli(&["config", "apply", file.to_str().expect("a path")]);
}

/// What is said of a packet that opens a connection.
fn explained(scene: &Scene, family: Family) -> String {
    let end = |address: &str, port| {
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    };
    let (client, server) = (end(family.address(&CLIENT), 1024), end(family.address(&SERVER), WEB));
    scene.cli(&["explain", "--iface", "client0", &format!("tcp {client} > {server} flags syn")])
}

fn proxied_by(proxy: &Proxy) {
    let needs = ["python3", proxy.program].map(Need::Tool);
    let Some(scene) = Scene::idle(&needs) else { return };
    scene.router().run("ip link set lo up").expect("lo");
    let mut command = scene.server().command("python3");
    command.args([SERVE, &WEB.to_string()]);
    let _server = scene.server().spawn(&mut command, &scene.lab.dir().join("web.log")).expect("a server");
    let mut running = proxy.start(&scene);
    apply(&scene, "");
    for family in Family::BOTH {
        within(PROMPT * 20, || {
            proxy.answers_one(&scene, family, true).with_context(|| format!("{}: {}", proxy.program, running.said()))
        });
        // Pipelined in one connection, and one connection each.
        proxy.answers(&scene, family, &[requests(family, 3)], true).expect("pipelined");
        proxy.answers(&scene, family, &vec![requests(family, 1); REQUESTS], true).expect("connections");
        let said = explained(&scene, family);
        let process = format!("{} ({})", running.pid(), proxy.program);
        assert!(said.contains(&format!("tproxy to :{PROXY}` hands it to a socket: tcp")), "{said}");
        assert!(said.contains(&process), "not `{process}`: {said}");
    }
    let listed = scene.cli(&["socket", "list", "process", proxy.program, "port", &PROXY.to_string()]);
    assert!(listed.contains(&format!("{} {}", proxy.program, running.pid())), "{listed}");
    assert!(scene.rules().iter().all(|rule| rule.packets > 0), "{:?}", scene.rules());

    // Dead: traffic passes by, or is dropped, and `explain` says which; it counts in the rule either way.
    running.kill9().expect("the proxy ends");
    for (or_drop, said) in
        [("", "has no socket for it, and lets it pass"), (" or drop", "has no socket for it, and drops it")]
    {
        apply(&scene, or_drop);
        for family in Family::BOTH {
            let found = explained(&scene, family);
            assert!(found.contains(said), "not `{said}`: {found}");
            let direct = proxy.answers_one(&scene, family, false);
            assert_eq!(direct.is_ok(), or_drop.is_empty(), "{}{or_drop}: {direct:?}", family.name());
        }
    }
    assert!(scene.rules().iter().any(|rule| rule.rule.contains("or drop") && rule.packets > 0), "{:?}", scene.rules());
    let _again = proxy.start(&scene);
    for family in Family::BOTH {
        within(PROMPT * 20, || proxy.answers_one(&scene, family, true));
    }
    scene.close();
}

#[test]
fn squid_in_the_clients_name() {
    proxied_by(&SQUID);
}

#[test]
fn haproxy_in_the_clients_name() {
    proxied_by(&HAPROXY);
}
