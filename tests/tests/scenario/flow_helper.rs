//! Connections that a helper reads, and those that it announces: FTP and SIP through masquerade.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use dataplane_tests::lab::{CLIENT, Need, ROUTER_SERVER, SERVER, traffic::Family};

use crate::{
    carried::each,
    scene::Scene,
    session::{HOME, SOON, Session as _, Tcp, Udp, address, becomes_fast, flows},
};

/// The router reads FTP and SIP.
const HELPERS: &str = "table inet helpers {
 ct helper ftp { type \"ftp\" protocol tcp; }
 ct helper sip { type \"sip\" protocol udp; }
 chain early {
  type filter hook prerouting priority filter;
  tcp dport 21 ct helper set \"ftp\"
  udp dport 5060 ct helper set \"sip\"
 }
}
";

/// The same in own rules, which let in what a helper announced. One of them fills a set, so that the table stays when it is
/// written anew.
const OWN: &str = "
[ports]
client0 = { mode = 'native' }
server0 = { mode = 'native' }
[sets.seen]
type = 'ipv4_addr'
dynamic = true
[chains.prerouting]
rules = ['tcp dport 21 ct helper set \"ftp\"', 'udp dport 5060 ct helper set sip', 'udp dport 1 add @seen { ip saddr }']
[chains.forward]
policy = 'drop'
rules = ['ct state established,related accept', 'iifname \"client0\" tcp dport 21 accept']
";

#[test]
fn own_rules_give_connections_helpers() {
    let Some(scene) = Scene::idle(&[Need::Tool("nft")]) else { return };
    let file = scene.lab.dir().join("helpers.toml");
    std::fs::write(&file, OWN).expect("a config");
    scene.cli(&["config", "apply", file.to_str().expect("a path")]);
    for family in Family::BOTH {
        // Written anew, with the helpers that are there.
        scene.rule("forward", "udp dport 9 drop");
        let mut control = Tcp::open(&scene, family, 21);
        let client = address(family, &CLIENT);
        let listener = scene.client().inside(|| Ok(TcpListener::bind((client, 0))?)).expect("a listener");
        let target = listener.local_addr().expect("an address");
        let connect = || scene.server().inside(|| Ok(TcpStream::connect_timeout(&target, SOON / 4)?));
        assert!(connect().is_err(), "{family:?}: nothing was announced");
        line(&mut control.server, &control.client, "220 welcome");
        line(&mut control.client, &control.server, "USER anonymous");
        let port = target.port();
        let words = match family {
            Family::V4 => format!("PORT 198,18,0,2,{},{}", port / 256, port % 256),
            Family::V6 => format!("EPRT |2|{client}|{port}|"),
        };
        line(&mut control.client, &control.server, &words);
        connect().expect("what was announced comes in");
    }
    scene.close();
}

/// The kernel has the connection from a port, since a helper reads it.
fn is_the_kernels(scene: &Scene, family: Family, port: u16) {
    let rows = flows(scene, &["saddr", family.address(&CLIENT), "sport", &port.to_string(), "--why-not"]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(rows[0]["reason"] == "helper" && rows[0]["state"] == "kernel", "{rows:?}");
}

/// A line from one end to the other.
fn line(from: &mut TcpStream, to: &TcpStream, text: &str) -> String {
    from.write_all(format!("{text}\r\n").as_bytes()).expect("a line");
    let mut heard = String::new();
    BufReader::new(to).read_line(&mut heard).expect("a line");
    heard.trim_end().to_owned()
}

/// The port that a line of FTP names: six numbers, or the last but one of those between bars.
fn named(text: &str) -> u16 {
    if let Some(extended) = text.rsplit('|').nth(1) {
        return extended.parse().expect("a port");
    }
    let numbers: Vec<u16> = text.split(|at: char| !at.is_ascii_digit()).filter_map(|one| one.parse().ok()).collect();
    numbers[numbers.len() - 2] * 256 + numbers[numbers.len() - 1]
}

#[test]
fn ftp_transfers_work_both_ways_and_data_is_carried() {
    each(
        |scene, family, mode| {
            let mut control = Tcp::open(scene, family, 21);
            let (client, server) = (address(family, &CLIENT), address(family, &SERVER));
            // A helper reads from the second line on.
            line(&mut control.server, &control.client, "220 welcome");
            line(&mut control.client, &control.server, "USER anonymous");
            // Active: the server connects to what the client names, which is the router's address by then.
            let listener = scene.client().inside(|| Ok(TcpListener::bind((client, 0))?)).expect("a listener");
            let port = listener.local_addr().expect("an address").port();
            let words = if family == Family::V4 {
                format!("PORT 198,18,0,2,{},{}", port / 256, port % 256)
            } else {
                format!("EPRT |2|{client}|{port}|")
            };
            let heard = line(&mut control.client, &control.server, &words);
            let router = address(family, &ROUTER_SERVER);
            let address = if family == Family::V4 {
                heard.contains("198,18,1,1,").then_some(router)
            } else {
                heard.split('|').nth(2).and_then(|address| address.parse().ok())
            };
            assert_eq!(address, Some(router), "{mode}: {heard}");
            let target = SocketAddr::new(router, named(&heard));
            let from = scene.server().inside(|| Ok(TcpStream::connect_timeout(&target, SOON)?)).expect("a connection");
            let (to, _) = listener.accept().expect("it arrives");
            transfers(scene, Tcp { client: from, server: to });
            // Passive: the client connects to what the server names.
            let listener = scene.server().inside(|| Ok(TcpListener::bind((server, 0))?)).expect("a listener");
            let port = listener.local_addr().expect("an address").port();
            let words = if family == Family::V4 {
                format!("227 Entering Passive Mode (198,18,1,2,{},{})", port / 256, port % 256)
            } else {
                format!("229 Entering Extended Passive Mode (|||{port}|)")
            };
            let heard = line(&mut control.server, &control.client, &words);
            assert_eq!(named(&heard), port, "{mode}: {heard}");
            let target = SocketAddr::new(server, port);
            let from = scene.client().inside(|| Ok(TcpStream::connect_timeout(&target, SOON)?)).expect("a connection");
            let (to, _) = listener.accept().expect("it arrives");
            transfers(scene, Tcp { client: from, server: to });
            control.talk(3).expect("it goes on");
            is_the_kernels(scene, family, control.port());
        },
        &[HELPERS, HOME].concat(),
    );
}

/// A connection for data becomes fast, and brings what was sent.
fn transfers(scene: &Scene, mut data: Tcp) {
    for end in [&data.client, &data.server] {
        end.set_nodelay(true).expect("no delay");
        end.set_read_timeout(Some(SOON)).expect("a limit");
    }
    becomes_fast(scene, &mut data);
    let kernel = scene.kernel_forwarded();
    data.exchange(3_000_000).expect("all of it");
    assert!(scene.kernel_forwarded() - kernel < 100, "the kernel had {}", scene.kernel_forwarded() - kernel);
}

/// A message of SIP with a description of media at an address and a port.
fn message(start: &str, fields: &str, media: Option<(std::net::IpAddr, u16)>) -> Vec<u8> {
    let version = |address: std::net::IpAddr| if address.is_ipv4() { "IP4" } else { "IP6" };
    let body = media.map_or_else(String::new, |(address, port)| {
        let ip = version(address);
        format!(
            "v=0\r\no=a 1 1 IN {ip} {address}\r\ns=-\r\nc=IN {ip} {address}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
        )
    });
    let length = body.len();
    format!("{start}\r\n{fields}Content-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// The port that a description of media names.
fn media_port(message: &str) -> u16 {
    let line = message.lines().find_map(|line| line.strip_prefix("m=audio ")).expect("media");
    line.split(' ').next().and_then(|port| port.parse().ok()).expect("a port")
}

#[test]
fn a_call_is_announced_and_its_voice_is_carried() {
    each(
        |scene, family, mode| {
            let (client, server) = (address(family, &CLIENT), address(family, &SERVER));
            let host = |address: std::net::IpAddr| {
                if address.is_ipv4() { address.to_string() } else { format!("[{address}]") }
            };
            let (c, s) = (host(client), host(server));
            let media: u16 = if family == Family::V4 { 40_000 } else { 41_000 };
            let bind = |at| move || Ok(UdpSocket::bind(at)?);
            let calling = scene.client().inside(bind(SocketAddr::new(client, 5060))).expect("a socket");
            let answering = scene.server().inside(bind(SocketAddr::new(server, 5060))).expect("a socket");
            for socket in [&calling, &answering] {
                socket.set_read_timeout(Some(SOON)).expect("a limit");
            }
            calling.connect((server, 5060)).expect("a destination");
            let fields = format!(
                "Via: SIP/2.0/UDP {c}:5060;branch=z9hG4bK1\r\nFrom: <sip:a@{c}>;tag=1\r\nTo: <sip:b@{s}>\r\nCall-ID: 1@{c}\r\nCSeq: 1 INVITE\r\n\
                 Contact: <sip:a@{c}:5060>\r\n"
            );
            let mut buffer = [0; 2048];
            calling
                .send(&message(&format!("INVITE sip:b@{s}:5060 SIP/2.0"), &fields, Some((client, media))))
                .expect("sent");
            let (length, peer) = answering.recv_from(&mut buffer).expect("an invitation");
            let heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
            assert_eq!(peer.ip(), address(family, &ROUTER_SERVER), "{mode}");
            let outside = media_port(&heard);
            assert!(
                heard.contains(&format!("c=IN IP{} {}", if client.is_ipv4() { 4 } else { 6 }, peer.ip())),
                "{mode}: {heard}"
            );
            let answer = fields
                .replace(&format!("{c}:5060>"), &format!("{s}:5060>"))
                .replace(&format!("<sip:b@{s}>"), &format!("<sip:b@{s}>;tag=2"));
            let via = heard.lines().find(|line| line.starts_with("Via")).expect("a field").to_owned();
            let answer = answer
                .lines()
                .map(|line| if line.starts_with("Via") { via.as_str() } else { line })
                .collect::<Vec<_>>()
                .join("\r\n")
                + "\r\n";
            answering.send_to(&message("SIP/2.0 200 OK", &answer, Some((server, media + 2))), peer).expect("sent");
            let length = calling.recv(&mut buffer).expect("an answer");
            let heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
            assert!(heard.contains(&format!("m=audio {} ", media + 2)), "{mode}: {heard}");
            // The answering speaks first: nothing but the announcement lets that in.
            let ear = scene.client().inside(bind(SocketAddr::new(client, media))).expect("a socket");
            let mouth = scene.server().inside(bind(SocketAddr::new(server, media + 2))).expect("a socket");
            mouth.connect((peer.ip(), outside)).expect("a destination");
            let mut voice = Udp { client: mouth, server: ear };
            voice.limits();
            let row = becomes_fast(scene, &mut voice);
            assert_eq!(row["reply"]["saddr"], client.to_string(), "{row}");
            is_the_kernels(scene, family, 5060);
            let kernel = scene.kernel_forwarded();
            voice.talk(50).expect("both are heard");
            assert!(
                scene.kernel_forwarded() - kernel <= 10,
                "{mode}: the kernel had {}",
                scene.kernel_forwarded() - kernel
            );
            let bye = fields.replace("INVITE", "BYE").replace("CSeq: 1", "CSeq: 2");
            calling.send(&message(&format!("BYE sip:b@{s}:5060 SIP/2.0"), &bye, None)).expect("sent");
            answering.recv_from(&mut buffer).expect("the end");
            is_the_kernels(scene, family, 5060);
        },
        &[HELPERS, HOME].concat(),
    );
}
