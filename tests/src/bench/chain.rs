//! Generator, device under test and sink, each in a namespace of its own:
//!
//! ```text
//! gen  a0 ---- a1  dut  b0 ---- b1  sink
//! ```

use std::{fmt::Write as _, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use dataplane_common::wire::Mac;

use super::{
    frame::Path,
    namespace::{self, Namespace},
    table::{Frames, Table, table4, table6},
};

/// Neighbours that routes point at, 203.0.113.2 and `2001:db8:b::2` and up.
const NEXT_HOPS: usize = 64;
/// `2001:db8:a::2`: where IPv6 packets come from.
const SOURCE6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 2);

/// The three namespaces. The device under test is an ordinary Linux router until a contestant attaches something.
#[derive(Debug)]
pub struct Chain {
    /// Where the generator runs.
    pub source: Namespace,
    /// The device under test, with `a1` towards the generator and `b0` towards the sink.
    pub dut: Namespace,
    /// The end.
    pub sink: Namespace,
    /// Addresses of the frames.
    pub path: Path,
    /// The link address of the device under test towards the sink.
    pub exit: Mac,
    /// IPv4 routes and destinations.
    pub table4: Table<Ipv4Addr>,
    /// IPv6 routes and destinations.
    pub table6: Table<std::net::Ipv6Addr>,
}

impl Chain {
    /// Builds the chain with `routes` routes; needs root.
    pub fn new(routes: usize, frames: Frames) -> Result<Self> {
        namespace::sweep()?;
        let [source, dut, sink] = [Namespace::new("gen")?, Namespace::new("dut")?, Namespace::new("sink")?];
        wire(&source, "a0", &dut, "a1")?;
        wire(&dut, "b0", &sink, "b1")?;
        // Nothing but the bench's frames: ends that have no IPv6 send no discovery of their own.
        for end in [&source, &sink] {
            end.set("ipv6/conf/all/disable_ipv6", "1")?;
        }
        let path = Path {
            source: mac(&source, "a0")?,
            gateway: mac(&dut, "a1")?,
            source4: Ipv4Addr::new(198, 51, 100, 2),
            source6: SOURCE6,
        };
        let (table4, table6) = (table4(routes, frames), table6(routes, frames));
        let exit = mac(&dut, "b0")?;
        let chain = Self { source, dut, sink, path, exit, table4, table6 };
        chain.route()?;
        Ok(chain)
    }

    /// Makes the device under test a router.
    fn route(&self) -> Result<()> {
        let settings = [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/a1/rp_filter", "0"),
        ];
        for (key, value) in settings {
            self.dut.set(key, value)?;
        }
        for link in ["a1", "b0"] {
            self.dut.run("ip", &["link", "set", link, "up"])?;
        }
        self.source.run("ip", &["link", "set", "a0", "up"])?;
        self.sink.run("ip", &["link", "set", "b1", "up"])?;
        // A redirect into a veth is lost unless its far end has NAPI: XDP or GRO. GRO stays on for all contestants.
        self.dut.run("ethtool", &["-K", "a1", "gro", "on"])?;
        self.lead(["a1", "b0"])
    }

    /// Addresses towards both ends, and routes to the sink.
    pub fn lead(&self, [entrance, exit]: [&str; 2]) -> Result<()> {
        for (link, addresses) in
            [(entrance, ["198.51.100.1/24", "2001:db8:a::1/64"]), (exit, ["203.0.113.1/24", "2001:db8:b::1/64"])]
        {
            for address in addresses {
                let family: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                self.dut.run("ip", &[&["address", "add", address, "dev", link], family].concat())?;
            }
        }
        self.dut.feed("ip", &["-batch", "-"], &self.neighbours(exit)?)?;
        self.dut.feed("ip", &["-batch", "-"], &routes(&self.table4.routes, "203.0.113.", exit))?;
        self.dut.feed("ip", &["-6", "-batch", "-"], &routes(&self.table6.routes, "2001:db8:b::", exit))?;
        Ok(())
    }

    /// Takes addresses, and with them routes, off the links.
    pub fn lead_away(&self) -> Result<()> {
        for link in ["a1", "b0"] {
            self.dut.run("ip", &["address", "flush", "dev", link])?;
            self.dut.run("ip", &["-6", "route", "flush", "dev", link])?;
            self.dut.run("ip", &["neighbour", "flush", "dev", link, "nud", "all"])?;
        }
        Ok(())
    }

    fn neighbours(&self, exit: &str) -> Result<String> {
        let b1 = mac(&self.sink, "b1")?;
        let mut batch = String::new();
        for host in 2..2 + NEXT_HOPS {
            for address in [format!("203.0.113.{host}"), format!("2001:db8:b::{host}")] {
                writeln!(batch, "neighbour add {address} lladdr {b1} dev {exit} nud permanent")?;
            }
        }
        Ok(batch)
    }

    /// Packets that `link` of the device under test has received.
    pub fn received(&self, link: &str) -> Result<u64> {
        let file = self.dut.read("dev")?;
        let counters = file.lines().find_map(|line| line.trim_start().strip_prefix(link)?.strip_prefix(':'));
        let counters =
            counters.with_context(|| format!("/proc/net/dev of {} does not list {link}", self.dut.name()))?;
        let packets = counters.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        packets.with_context(|| format!("/proc/net/dev of {}: no packet count in {counters:?}", self.dut.name()))
    }

    /// Index of a link in the namespace it lives in.
    pub fn index(namespace: &Namespace, link: &str) -> Result<u32> {
        namespace.enter(|| {
            let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
            let index = rustix::net::netdevice::name_to_index(&socket, link);
            index.with_context(|| format!("{} has no interface {link}", namespace.name()))
        })
    }
}

fn wire(left: &Namespace, one: &str, right: &Namespace, other: &str) -> Result<()> {
    left.run("ip", &["link", "add", one, "type", "veth", "peer", "name", other, "netns", right.name()])?;
    Ok(())
}

/// The link address of a link.
pub fn mac(namespace: &Namespace, link: &str) -> Result<Mac> {
    let shown = namespace.run("ip", &["-json", "link", "show", "dev", link])?;
    let links: serde_json::Value = serde_json::from_str(&shown).with_context(|| format!("reading {shown:?}"))?;
    let address = links[0]["address"].as_str().with_context(|| format!("{link} has no link address in {shown}"))?;
    let mut mac = Mac::default();
    for (byte, text) in mac.0.iter_mut().zip(address.split(':')) {
        *byte = u8::from_str_radix(text, 16).with_context(|| format!("link address {address} of {link}"))?;
    }
    Ok(mac)
}

/// Input for `ip -batch`: the first few next hops carry most prefixes, as upstreams do.
fn routes(prefixes: &[String], network: &str, exit: &str) -> String {
    let mut batch = String::new();
    for (index, prefix) in prefixes.iter().enumerate() {
        let host = 2 + index % NEXT_HOPS.min(1 + index % 97);
        // Writing to a string cannot fail.
        let _infallible = writeln!(batch, "route add {prefix} via {network}{host} dev {exit}");
    }
    batch
}
