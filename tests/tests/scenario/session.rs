//! Connections through the router for scenarios: rules of netfilter that keep state, and TCP that is heard both ways.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{CLIENT, End, Namespace, Need, SERVER, traffic::Family};
use serde_json::Value;

use crate::scene::{PORTS, Scene, within};

/// Soon enough, on a machine that others use, too.
pub const SOON: Duration = Duration::from_secs(5);

/// A home router: the client may begin, what is established goes on, and the client hides behind the router's address.
pub const HOME: &str = "table inet home {
 chain crossing {
  type filter hook forward priority filter; policy drop;
  ct state established,related accept
  ct state invalid drop
  iifname \"client0\" accept
 }
 chain leaving {
  type nat hook postrouting priority srcnat;
  oifname \"server0\" masquerade
 }
}
";

/// Loads rules of nft.
pub fn load(scene: &Scene, rules: &str) {
    let file = scene.lab.dir().join("rules.nft");
    std::fs::write(&file, rules).expect("a file of rules");
    scene.router().run(&format!("nft -f {}", file.display())).expect("rules");
}

/// Waits until connections are followed, and carried through all ports.
pub fn follows(scene: &Scene) {
    let took = within(SOON * 2, || {
        let stats: Value = scene.daemon.read(&["stats"])?;
        ensure!(stats["flows"].is_object(), "connections are not followed: {}", stats["flows"]);
        let rows: Vec<Value> = scene.daemon.read(&["port", "list"])?;
        ensure!(rows.iter().all(|row| row["flows"] == "on"), "{rows:?}");
        Ok(())
    });
    println!("connections are followed after {took:?}");
}

/// A router with rules of nft that connections are carried past, in a mode.
pub fn router(mode: &str, rules: &str) -> Option<Scene> {
    let scene = Scene::idle(&[Need::Tool("nft")])?;
    load(&scene, rules);
    scene.attach(&PORTS, mode);
    follows(&scene);
    Some(scene)
}

/// The address of an end.
pub fn address(family: Family, end: &End) -> IpAddr {
    family.address(end).parse().expect("an address")
}

/// A connection between client and server.
pub struct Tcp {
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Tcp {
    /// To the server's own address.
    pub fn open(scene: &Scene, family: Family, port: u16) -> Self {
        let server = SocketAddr::new(address(family, &SERVER), port);
        Self::through(scene, server, server)
    }

    /// To what becomes the server's address and port.
    pub fn through(scene: &Scene, target: SocketAddr, server: SocketAddr) -> Self {
        Self::within(scene.client(), scene.server(), target, server)
    }

    /// Between two namespaces.
    pub fn within(from: &Namespace, to: &Namespace, target: SocketAddr, server: SocketAddr) -> Self {
        let listener = to.inside(|| Ok(TcpListener::bind(server)?)).expect("a listener");
        let client = from.inside(|| Ok(TcpStream::connect_timeout(&target, SOON)?)).expect("a connection");
        let (server, _) = listener.accept().expect("the connection arrives");
        for end in [&client, &server] {
            end.set_read_timeout(Some(SOON * 2)).expect("a limit");
            end.set_write_timeout(Some(SOON * 2)).expect("a limit");
            end.set_nodelay(true).expect("no delay");
        }
        Self { client, server }
    }

    /// The client's port.
    pub fn port(&self) -> u16 {
        self.client.local_addr().expect("an address").port()
    }

    /// Sends a few bytes both ways, so many times.
    pub fn talk(&mut self, times: u32) -> anyhow::Result<()> {
        (0..times).try_for_each(|_| self.exchange(8))
    }

    /// Sends so many bytes both ways, and compares what arrives.
    pub fn exchange(&mut self, length: usize) -> anyhow::Result<()> {
        pass(&mut self.client, &mut self.server, length).context("from the client")?;
        pass(&mut self.server, &mut self.client, length).context("from the server")
    }
}

/// Datagrams between client and server, each answered to where it came from.
pub struct Udp {
    pub client: UdpSocket,
    pub server: UdpSocket,
}

impl Udp {
    /// To the server's own address.
    pub fn open(scene: &Scene, family: Family, port: u16) -> Self {
        let bind = |end, port| move || Ok(UdpSocket::bind(SocketAddr::new(address(family, end), port))?);
        let server = scene.server().inside(bind(&SERVER, port)).expect("a socket");
        let client = scene.client().inside(bind(&CLIENT, 0)).expect("a socket");
        client.connect(SocketAddr::new(address(family, &SERVER), port)).expect("a destination");
        let udp = Self { client, server };
        udp.limits();
        udp
    }

    /// Nothing is waited for without end.
    pub fn limits(&self) {
        for socket in [&self.client, &self.server] {
            socket.set_read_timeout(Some(SOON)).expect("a limit");
        }
    }
}

/// A connection that can be made to speak.
pub trait Session {
    /// The client's port.
    fn port(&self) -> u16;
    /// Sends a few bytes both ways, so many times.
    fn talk(&mut self, times: u32) -> anyhow::Result<()>;
}

impl Session for Tcp {
    fn port(&self) -> u16 {
        Self::port(self)
    }

    fn talk(&mut self, times: u32) -> anyhow::Result<()> {
        Self::talk(self, times)
    }
}

impl Session for Udp {
    fn port(&self) -> u16 {
        self.client.local_addr().expect("an address").port()
    }

    fn talk(&mut self, times: u32) -> anyhow::Result<()> {
        let mut buffer = [0; 64];
        for number in 0..times {
            self.client.send(&number.to_be_bytes()).context("from the client")?;
            // Some from before may be on their way.
            let (mut length, mut peer) = self.server.recv_from(&mut buffer).context("at the server")?;
            while buffer[..length] != number.to_be_bytes() {
                (length, peer) = self.server.recv_from(&mut buffer).context("at the server")?;
            }
            self.server.send_to(&buffer[..length], peer).context("from the server")?;
            self.client.recv(&mut buffer).context("at the client")?;
        }
        Ok(())
    }
}

/// Sends from one end to the other, and compares.
pub fn pass(from: &mut TcpStream, to: &mut TcpStream, length: usize) -> anyhow::Result<()> {
    let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
    let mut arrived = vec![0; length];
    thread::scope(|scope| {
        let sender = scope.spawn(|| from.write_all(&content));
        to.read_exact(&mut arrived).context("reading")?;
        sender.join().expect("the sender lives").context("writing")
    })?;
    ensure!(arrived == content, "other bytes arrived");
    Ok(())
}

/// Connections in `flow list`.
pub fn flows(scene: &Scene, words: &[&str]) -> Vec<Value> {
    let line: Vec<_> = ["flow", "list"].iter().chain(words).copied().collect();
    scene.daemon.read(&line).expect("connections")
}

/// A number of `flows` in `stats`.
pub fn count(scene: &Scene, name: &str) -> u64 {
    let stats: Value = scene.daemon.read(&["stats"]).expect("stats");
    stats["flows"][name].as_u64().unwrap_or_else(|| panic!("no flows.{name} in {stats}"))
}

/// Talks until the connection is carried in both directions; its row of `flow list`.
pub fn becomes_fast(scene: &Scene, session: &mut impl Session) -> Value {
    let mut found = Value::Null;
    let took = within(SOON, || {
        session.talk(1)?;
        let rows = flows(scene, &["sport", &session.port().to_string()]);
        let row = rows.first().context("it is not listed")?;
        ensure!(row["forth"]["state"] == "armed" && row["back"]["state"] == "armed", "{row}");
        found = row.clone();
        Ok(())
    });
    println!("fast after {took:?}");
    found
}
