//! One of the two: a router in its namespaces, with sockets at the far ends of its ports.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{
    picture::{COMMON, PORTS, Picture, SOURCES},
    port::Port,
};
use crate::{
    fixture::{
        packet::{Version, ip},
        plan::{host_mac, port_mac},
    },
    lab::{Daemon, Lab},
};

/// MTU of each port; of the far ends that of the first.
pub const MTU: [u16; PORTS as usize] = [2000, 1500, 1280];
/// Stands for a port in an [`Outcome`] where the router sent something to itself.
pub const INWARD: u8 = PORTS;
/// How long an echo may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the payload of our own echoes begins with.
const ECHO: &[u8; 8] = b"ORACLE!!";
/// Echoes that follow a batch. The second begins when everything that the first one overtook has been sent on; the third,
/// when that has arrived.
const ECHOES: u8 = 3;

/// A frame and the port that it goes into.
#[derive(Clone, Debug)]
pub struct Shot {
    /// Which port of the router receives it.
    pub port: u8,
    /// Its bytes.
    pub frame: Vec<u8>,
    /// Which corner it was made for.
    pub class: &'static str,
}

/// What came of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What came out, and of which port; and what the router sent to itself in IPv6, at [`INWARD`].
    pub frames: Vec<(u8, Vec<u8>)>,
    /// By how much the counters of local delivery moved, in the order of [`DELIVERY`].
    pub delivered: Vec<u64>,
    /// Datagrams that the kernel forwarded, of both families.
    pub forwarded: u64,
    /// Frames that the device did not take, by their places in the batch.
    pub refused: Vec<usize>,
}

/// Counters of what reaches this machine's own stack, as in `/proc/net/snmp` and `snmp6`. The two that count everything
/// delivered come first.
pub const DELIVERY: [&str; 11] = [
    "IpInDelivers",
    "Ip6InDelivers",
    "IcmpInMsgs",
    "IcmpInErrors",
    "UdpNoPorts",
    "UdpInErrors",
    "TcpInSegs",
    "TcpInErrs",
    "Icmp6InMsgs",
    "Udp6NoPorts",
    "Ip6ReasmOKs",
];

/// Those of what the kernel forwarded.
const FORWARDED: [&str; 2] = ["IpForwDatagrams", "Ip6OutForwDatagrams"];

/// A router and the hosts around it.
pub struct Tree {
    ports: Vec<Port>,
    inward: Port,
    counters: [File; 2],
    echo: u32,
    daemon: Option<Daemon>,
    lab: Lab,
}

impl Tree {
    /// Packets of its own that a batch sends to the router.
    pub const ECHOES: u64 = (ECHOES * PORTS) as u64;

    /// A tree in which the kernel forwards alone.
    pub fn new(picture: &Picture) -> anyhow::Result<Self> {
        let mut lab = Lab::new()?;
        lab.add("router")?;
        // Silent: frames come out of it only as they are sent, and nothing that arrives is answered.
        lab.add("hosts")?.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        configure(&lab, COMMON)?;
        for net in 0..PORTS {
            let (near, far) = (format!("p{net}"), format!("h{net}"));
            let (ours, theirs) = (port_mac(net).to_string(), host_mac(net, 2).to_string());
            lab.veth(("router", &near, &ours), ("hosts", &far, &theirs))?;
            // So that frames which XDP sends into the pair are received.
            lab.namespace("hosts").run(&format!("ethtool -K {far} gro on"))?;
            lab.namespace("hosts").run(&format!("ip link set {far} mtu {}", MTU[0]))?;
        }
        configure(&lab, &addresses())?;
        configure(&lab, picture.lines).with_context(|| format!("picture {}", picture.name))?;
        let names: Vec<_> = (0..PORTS).map(|net| format!("h{net}")).collect();
        let ports = lab.namespace("hosts").inside(|| names.iter().map(|name| Port::open(name)).collect())?;
        let inward = lab.namespace("router").inside(Port::inward)?;
        let counters = lab.namespace("router").inside(|| {
            let open =
                |name: &str| File::open(format!("/proc/thread-self/net/{name}")).with_context(|| name.to_owned());
            Ok([open("snmp")?, open("snmp6")?])
        })?;
        // Multicast groups are joined and told at once, and then once more.
        thread::sleep(Duration::from_millis(50));
        Ok(Self { ports, inward, counters, echo: 0, daemon: None, lab })
    }

    /// A tree with dataplane at all ports of the router, in that mode, with these rules.
    pub fn with_dataplane(picture: &Picture, mode: &str, rules: &[&str]) -> anyhow::Result<Self> {
        let mut tree = Self::new(picture)?;
        tree.attach(mode, rules, "")?;
        Ok(tree)
    }

    /// Loads rules of nft in the router.
    pub fn load(&self, rules: &str) -> anyhow::Result<()> {
        let file = self.lab.dir().join("rules.nft");
        fs::write(&file, rules)?;
        self.lab.namespace("router").run(&format!("nft -f {}", file.display())).map(drop)
    }

    /// Puts dataplane at all ports of the router, in that mode, with these rules and this config.
    pub fn attach(&mut self, mode: &str, rules: &[&str], config: &str) -> anyhow::Result<()> {
        let daemon = self.lab.daemon_with("router", config)?;
        for rule in rules {
            let words: Vec<_> = ["rule", "add"].into_iter().chain(rule.split(' ')).collect();
            daemon.cli(&words)?;
        }
        let names: Vec<_> = (0..PORTS).map(|net| format!("p{net}")).collect();
        let words: Vec<_> =
            ["attach"].into_iter().chain(names.iter().map(String::as_str)).chain(["--mode", mode]).collect();
        daemon.cli(&words)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// The daemon, in a tree that has one.
    pub fn daemon(&self) -> Option<&Daemon> {
        self.daemon.as_ref()
    }

    /// Echoes that it was asked for until now.
    pub fn echoes(&self) -> u32 {
        self.echo
    }

    /// Sends a batch and gathers what comes of it.
    pub fn send(&mut self, shots: &[Shot]) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        self.drain(&mut Vec::new())?;
        let before = self.read()?;
        for (place, shot) in shots.iter().enumerate() {
            if !self.ports[usize::from(shot.port)].send(&shot.frame)? {
                outcome.refused.push(place);
            }
        }
        for _ in 0..ECHOES {
            self.settle(&mut outcome.frames)?;
        }
        let after = self.read()?;
        let moved: Vec<_> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        let (delivered, forwarded) = moved.split_at(DELIVERY.len());
        outcome.delivered = delivered.to_vec();
        // Our own echoes.
        outcome.delivered[0] -= u64::from(ECHOES) * u64::from(PORTS);
        outcome.delivered[2] -= u64::from(ECHOES) * u64::from(PORTS);
        outcome.forwarded = forwarded.iter().sum();
        Ok(outcome)
    }

    /// Asks the router for an echo at each port, and waits for all of them; what else comes out is kept.
    fn settle(&mut self, frames: &mut Vec<(u8, Vec<u8>)>) -> anyhow::Result<()> {
        let mut missing = 0;
        let mut expected = Vec::new();
        for net in 0..PORTS {
            self.echo += 1;
            let payload = [ECHO.as_slice(), &self.echo.to_be_bytes()].concat();
            let mut message = [[8, 0, 0, 0, 0, 1, 0, 1].as_slice(), &payload].concat();
            let checksum = !crate::fixture::packet::sum(&message);
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
            let packet = ip(Version::V4.address((net, 2)), Version::V4.address((net, 1))).carrying(1, message);
            self.ports[usize::from(net)].send(&packet.to(port_mac(net)).frame())?;
            expected.push(payload);
            missing += 1;
        }
        let end = Instant::now() + PATIENCE;
        while missing > 0 {
            let mut fresh = Vec::new();
            self.drain(&mut fresh)?;
            for (port, frame) in fresh {
                // Behind Ethernet, IPv4 and ICMP headers.
                if frame.get(42..).is_some_and(|payload| expected.iter().any(|expected| payload == expected)) {
                    missing -= 1;
                } else {
                    frames.push((port, frame));
                }
            }
            if Instant::now() > end {
                bail!("{missing} echoes of the router in {} did not come back", self.lab.dir().display());
            }
        }
        Ok(())
    }

    /// Reads whatever has come out.
    fn drain(&mut self, frames: &mut Vec<(u8, Vec<u8>)>) -> anyhow::Result<()> {
        let all = (0..).zip(&mut self.ports).chain([(INWARD, &mut self.inward)]);
        for (net, port) in all {
            while let Some(frame) = port.receive()? {
                frames.push((net, frame));
            }
        }
        Ok(())
    }

    /// The counters now, in the order of [`DELIVERY`] and [`FORWARDED`].
    fn read(&mut self) -> anyhow::Result<Vec<u64>> {
        let mut texts = [String::new(), String::new()];
        for (file, text) in self.counters.iter_mut().zip(&mut texts) {
            file.rewind()?;
            file.read_to_string(text)?;
        }
        let values = DELIVERY.iter().chain(&FORWARDED).map(|name| {
            let value = if name.contains('6') { pair(&texts[1], name) } else { column(&texts[0], name) };
            value.with_context(|| format!("the kernel has no counter {name}"))
        });
        values.collect()
    }
}

/// `snmp`: a line of names and a line of values for each protocol.
fn column(text: &str, name: &str) -> Option<u64> {
    let lines: Vec<_> = text.lines().collect();
    lines.chunks(2).find_map(|pair| {
        let (group, names) = pair[0].split_once(": ")?;
        let place = names.split(' ').position(|known| name.strip_prefix(group) == Some(known))?;
        pair.get(1)?.split(' ').nth(place + 1)?.parse().ok()
    })
}

/// `snmp6`: a name and a value in each line.
fn pair(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// The addresses and neighbours of the ports.
fn addresses() -> String {
    let mut lines = String::new();
    let mut line = |text: String| lines.extend([text.as_str(), "\n"]);
    for (net, mtu) in (0..PORTS).zip(MTU) {
        line(format!("link set p{net} mtu {mtu}"));
        for family in ["ipv4", "ipv6"] {
            // Who is not known can not be found: at once, and not after some seconds.
            line(format!("sysctl net.{family}.neigh.p{net}.mcast_solicit=0"));
            line(format!("sysctl net.{family}.neigh.p{net}.ucast_solicit=0"));
            // What one frame says of a path must not matter for those of later batches, which one side may see earlier.
            line(format!("sysctl net.{family}.route.mtu_expires=0"));
        }
        line(format!("addr add 198.18.{net}.1/24 brd + dev p{net}"));
        line(format!("-6 addr add 2001:db8:{net}::1/64 dev p{net} nodad"));
        for host in [2, 3] {
            let mac = host_mac(net, host);
            for address in [format!("198.18.{net}.{host}"), format!("2001:db8:{net}::{host}"), format!("fe80::{host}")]
            {
                line(format!("neigh add {address} lladdr {mac} dev p{net} nud permanent"));
            }
        }
        let ([a, b, c], step) = SOURCES;
        line(format!("route add {a}.{b}.{}.0/19 via 198.18.{net}.2", c + net * step));
    }
    lines
}

/// Runs the lines of a picture in the router.
fn configure(lab: &Lab, lines: &str) -> anyhow::Result<()> {
    let router = lab.namespace("router");
    let lines: Vec<_> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let settings: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("sysctl ")).collect();
    if !settings.is_empty() {
        router.run(&format!("sysctl -qw {}", settings.join(" ")))?;
    }
    let commands: Vec<_> = lines.iter().copied().filter(|line| !line.starts_with("sysctl ")).collect();
    if !commands.is_empty() {
        // One after the other: `ip -batch` would take a family for all that follows.
        let file = lab.dir().join("commands");
        let script: String = commands.iter().flat_map(|line| ["ip ", line, "\n"]).collect();
        fs::write(&file, script)?;
        router.run(&format!("sh -e {}", file.display()))?;
    }
    Ok(())
}
