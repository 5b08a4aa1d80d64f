//! The lab that is measured: routes for the flows, and what stands between client and server.

use std::{
    fmt::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{
    Place,
    measure::{Wire, stopped},
    traffic::{Ends, Traffic},
};
use crate::{
    cli::lab::{LabDirs, Machine},
    control::{
        client::Client,
        protocol::{Apply, ConfigText, Data, Request, Selection},
    },
    kernel::{Generator, Sink},
    netlink::ethtool::set_offloads,
};

/// First of the ports that rules ask for; no packet goes there.
const PORT: usize = 10_000;
/// By which protocol routes of a bench are known (`ip route ... proto`).
const PROTOCOL: &str = "219";
/// Table of nft.
const TABLE: &str = "dataplane-bench";
/// How long it may take until the first packet could be forwarded.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Our programs, in a mode.
    Ours(&'static str),
    /// Nothing but the kernel, with rules of nft if any.
    Kernel,
}

/// A way through the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) kind: Kind,
    /// Rules that do not match.
    pub(super) rules: usize,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Ours(mode) => write!(f, "dataplane, {mode}")?,
            Kind::Kernel => f.write_str(if self.rules == 0 { "kernel" } else { "kernel, nft" })?,
        }
        match self.rules {
            0 => Ok(()),
            1 => f.write_str(", 1 rule"),
            rules => write!(f, ", {rules} rules"),
        }
    }
}

impl Way {
    fn lines(self) -> impl Iterator<Item = String> {
        (0..self.rules).map(|number| format!("udp dport {} drop", PORT + number))
    }

    fn config(self, mode: &str) -> String {
        let mut text = format!("[ports]\nclient0 = {{ mode = \"{mode}\" }}\nserver0 = {{ mode = \"{mode}\" }}\n");
        if self.rules > 0 {
            text += "\n[chains.forward]\npolicy = \"accept\"\nrules = [\n";
            for line in self.lines() {
                // Writing to a string cannot fail.
                let _infallible = writeln!(text, "  '{line}',");
            }
            text += "]\n";
        }
        text
    }

    fn ruleset(self) -> String {
        let rules: Vec<_> = self.lines().map(|line| format!("  {line}\n")).collect();
        let chain = "chain forward {\n  type filter hook forward priority filter; policy accept;\n";
        format!("table inet {TABLE} {{\n {chain}{} }}\n}}\n", rules.concat())
    }
}

/// A lab with routes for the flows; they are taken away when it is dropped.
#[derive(Debug)]
pub(super) struct Site {
    lab: LabDirs,
    router: Place,
    /// The config that was there before.
    config: Option<String>,
}

impl Site {
    /// Prepares a lab for traffic. `keep`: its config comes back in the end.
    pub(super) fn prepare(lab: &LabDirs, traffic: &Traffic, keep: bool) -> anyhow::Result<(Self, Wire)> {
        let [client, router, server] =
            [lab.place(Machine::Client)?, lab.place(Machine::Router)?, lab.place(Machine::Server)?];
        let mut site = Self { lab: lab.clone(), router, config: None };
        if keep {
            let Data::Config(config) = site.ask(&Request::ConfigShow)? else {
                bail!("the lab's daemon shows no config")
            };
            site.config = Some(config);
        }
        let ((egress, source), (sink, server_mac)) = (client.link("eth0")?, server.link("eth0")?);
        let (entry, gateway) = site.router.link("client0")?;
        let ends = Ends {
            source,
            gateway,
            source4: Ipv4Addr::new(198, 18, 0, 2),
            source6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
        };
        let sink = server.within(|| Ok(Sink::attach(sink)?)).context("attaching the sink to eth0 of the server")?;
        // What is redirected into a veth without XDP at its other end arrives only where that has GRO.
        site.router.within(|| Ok(set_offloads(entry, &[("rx-gro", true)])?))?;
        for address in ["198.18.1.2", "2001:db8:1::2"] {
            let words =
                ["neigh", "replace", address, "lladdr", &server_mac.to_string(), "dev", "server0", "nud", "permanent"];
            site.router.run("ip", &words, "")?;
        }
        let batch = |prefixes: &mut dyn Iterator<Item = String>, via: &str| {
            let mut lines = String::new();
            for prefix in prefixes {
                // Writing to a string cannot fail.
                let _infallible = writeln!(lines, "route replace {prefix} via {via} proto {PROTOCOL}");
            }
            lines
        };
        site.router.run("ip", &["-4", "-batch", "-"], &batch(&mut traffic.destinations4(), "198.18.1.2"))?;
        site.router.run("ip", &["-6", "-batch", "-"], &batch(&mut traffic.destinations6(), "2001:db8:1::2"))?;
        let generator = Generator::load(&traffic.frames(&ends), egress)?;
        let cpus = traffic.cpus as usize;
        Ok((site, Wire { generator, source: client, cpus, sink: Some(sink) }))
    }

    fn ask(&self, request: &Request) -> anyhow::Result<Data> {
        Ok(Client::connect(&self.lab.socket())?.call(request)?.data)
    }

    fn apply(&self, toml: String) -> anyhow::Result<()> {
        let text = ConfigText { path: "bench.toml".to_owned(), toml };
        self.ask(&Request::ConfigApply(Apply { force: true, ..Apply::from(text) })).map(drop)
    }

    /// Puts a path in place.
    pub(super) fn set_up(&self, path: Way, traffic: &Traffic) -> anyhow::Result<()> {
        match path.kind {
            Kind::Kernel => {
                self.ask(&Request::Detach(Selection::All))?;
                if path.rules > 0 {
                    self.router.run("nft", &["-f", "-"], &path.ruleset())?;
                }
                Ok(())
            }
            Kind::Ours(mode) => {
                self.apply(path.config(mode))?;
                self.forwards(traffic)
            }
        }
    }

    /// Waits until the daemon has the routes.
    pub(super) fn forwards(&self, traffic: &Traffic) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        for addr in traffic.targets() {
            loop {
                let Data::Decision(row) = self.ask(&Request::RouteGet { addr, from: None, iif: None })? else {
                    bail!("the lab's daemon does not say where {addr} is")
                };
                if row.verdict == "forward" {
                    break;
                }
                if Instant::now() > end || stopped() {
                    bail!("{addr} is not forwarded after {} s: {}", PATIENCE.as_secs(), row.reason);
                }
                sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// Takes it away again.
    pub(super) fn take_away(&self, path: Way) -> anyhow::Result<()> {
        if path.kind == Kind::Kernel && path.rules > 0 {
            self.router.run("nft", &["delete", "table", "inet", TABLE], "")?;
        }
        Ok(())
    }

    /// Packets into the router's first port, and out of its second, as the kernel counts; and those that our programs forwarded.
    pub(super) fn counters(&self) -> anyhow::Result<[u64; 3]> {
        let ([rx, _], [_, tx]) = (self.router.counters("client0")?, self.router.counters("server0")?);
        let Data::Stats(stats) = self.ask(&Request::Stats { iface: None })? else {
            bail!("the lab's daemon has no stats")
        };
        Ok([rx, tx, stats.totals.forwarded])
    }

    fn restore(&self) -> anyhow::Result<()> {
        for family in ["-4", "-6"] {
            self.router.run("ip", &[family, "route", "flush", "proto", PROTOCOL], "")?;
        }
        for address in ["198.18.1.2", "2001:db8:1::2"] {
            self.router.run("ip", &["neigh", "del", address, "dev", "server0"], "")?;
        }
        // Only there if a measurement was cut short.
        let _absent = self.router.run("nft", &["delete", "table", "inet", TABLE], "");
        match &self.config {
            Some(config) => self.apply(config.clone()),
            None => Ok(()),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A lab of our own goes as a whole.
        if self.config.is_some()
            && let Err(error) = self.restore()
        {
            eprintln!("warning: lab {} is not as it was: {error:#}", self.lab.0);
        }
    }
}

/// A lab of our own, which goes when it is dropped.
#[derive(Debug)]
pub(super) struct OwnLab(pub(super) LabDirs);

/// What the names of such labs begin with; the number of the process follows.
const OWN: &str = "bench-";

impl OwnLab {
    /// The name that such a lab of this process has.
    pub(super) fn named() -> LabDirs {
        LabDirs(format!("{OWN}{}", std::process::id()))
    }

    /// Takes away what processes left that were killed.
    pub(super) fn sweep() {
        for name in crate::cli::lab::names() {
            let owner = name.strip_prefix(OWN).and_then(|number| number.parse::<u32>().ok());
            if owner.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
                eprintln!("taking lab {name} away, whose bench was killed");
                if let Err(error) = LabDirs(name).down() {
                    eprintln!("warning: {error:#}");
                }
            }
        }
    }
}

impl Drop for OwnLab {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            eprintln!("warning: {error:#}; `dataplane lab down {}` takes it away", self.0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_rules_of_paths() {
        let rows = [
            (Way { kind: Kind::Ours("native"), rules: 0 }, "dataplane, native", 0),
            (Way { kind: Kind::Ours("tc"), rules: 1 }, "dataplane, tc, 1 rule", 1),
            (Way { kind: Kind::Kernel, rules: 0 }, "kernel", 0),
            (Way { kind: Kind::Kernel, rules: 1000 }, "kernel, nft, 1000 rules", 1000),
        ];
        for (path, name, rules) in rows {
            assert_eq!(path.to_string(), name);
            assert_eq!(path.ruleset().matches(" drop").count(), rules, "{name}");
            let config = path.config("tc");
            assert!(crate::config::parse(&config, "x").is_ok(), "{config}");
            assert!(!config.contains("udp dport 9 "), "{name}");
        }
    }
}
