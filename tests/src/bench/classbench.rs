//! Filter sets of a realistic shape: read from files, or made here.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;

/// One filter: what it takes of each field, first and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Source, and its prefix length.
    pub source: (Ipv4Addr, u8),
    /// Destination, likewise.
    pub destination: (Ipv4Addr, u8),
    /// Source ports.
    pub source_port: (u16, u16),
    /// Destination ports.
    pub destination_port: (u16, u16),
    /// Protocol; any when there is none.
    pub protocol: Option<u8>,
}

/// What a packet is as far as filters can tell: source, destination, both ports, protocol.
pub type Flow = (Ipv4Addr, Ipv4Addr, u16, u16, u8);

const WITH_PORTS: [u8; 2] = [6, 17];

impl Filter {
    /// As a rule that accepts.
    pub fn rule(&self) -> String {
        let mut words = Vec::new();
        for (name, (address, length)) in [("saddr", self.source), ("daddr", self.destination)] {
            if length > 0 {
                words.push(format!("ip {name} {address}/{length}"));
            }
        }
        let name = match self.protocol {
            Some(6) => "tcp",
            Some(17) => "udp",
            _ => "th",
        };
        let before = words.len();
        for (field, (low, high)) in [("sport", self.source_port), ("dport", self.destination_port)] {
            match (low, high) {
                (0, u16::MAX) => {}
                _ if low == high => words.push(format!("{name} {field} {low}")),
                _ => words.push(format!("{name} {field} {low}-{high}")),
            }
        }
        match self.protocol {
            Some(protocol) if words.len() == before || name == "th" => words.push(format!("ip protocol {protocol}")),
            _ => {}
        }
        words.push("accept".to_owned());
        words.join(" ")
    }

    /// A packet that it takes.
    pub fn draw(&self, random: &mut Rng) -> Flow {
        let address = |(address, length): (Ipv4Addr, u8), random: &mut Rng| {
            let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            Ipv4Addr::from(u32::from(address) & !host | random.u32(..) & host)
        };
        let (source, destination) = (address(self.source, random), address(self.destination, random));
        let mut port = |(low, high): (u16, u16)| random.u16(low..=high);
        let ports = (port(self.source_port), port(self.destination_port));
        (source, destination, ports.0, ports.1, self.protocol.unwrap_or(WITH_PORTS[usize::from(ports.0) % 2]))
    }
}

/// A set with its name.
#[derive(Clone, Debug)]
pub struct Set {
    /// As its file's.
    pub name: String,
    /// In order: the first that takes a packet decides.
    pub filters: Vec<Filter>,
}

/// The sets in a directory whose name contains one of `only` (all of them when that is empty), sorted by name.
pub fn read(directory: &Path, only: &[String]) -> Result<Vec<Set>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .with_context(|| format!("reading {}", directory.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    let mut sets = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((stem, _)) = name.split_once(".rules") else { continue };
        if only.is_empty() || only.iter().any(|part| stem.contains(part)) {
            sets.push(Set { name: stem.to_owned(), filters: read_file(&path)? });
        }
    }
    Ok(sets)
}

fn read_file(path: &Path) -> Result<Vec<Filter>> {
    let text = if path.extension().is_some_and(|extension| extension == "gz") {
        let output = Command::new("gzip").arg("-dc").arg(path).output().context("running gzip")?;
        ensure!(output.status.success(), "gzip -dc {}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).context("text")?
    } else {
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
    };
    let line = |(number, line): (usize, &str)| {
        parse(line).with_context(|| format!("{}:{}: `{line}` is no filter", path.display(), number + 1))
    };
    text.lines().enumerate().filter(|(_, line)| line.starts_with('@')).map(line).collect()
}

fn parse(line: &str) -> Option<Filter> {
    let mut fields = line.strip_prefix('@')?.split('\t');
    let prefix = |text: &str| {
        let (address, length) = text.trim().split_once('/')?;
        Some((address.parse().ok()?, length.parse().ok()?))
    };
    let ports = |text: &str| {
        let (low, high) = text.split_once(':')?;
        Some((low.trim().parse().ok()?, high.trim().parse().ok()?))
    };
    let hexadecimal = |text: &str| u8::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    let (source, destination) = (prefix(fields.next()?)?, prefix(fields.next()?)?);
    let (source_port, destination_port) = (ports(fields.next()?)?, ports(fields.next()?)?);
    let (protocol, mask) = fields.next()?.split_once('/')?;
    let protocol = if hexadecimal(mask)? == 0 { None } else { Some(hexadecimal(protocol)?) };
    Some(Filter { source, destination, source_port, destination_port, protocol })
}

/// A set of so many filters of our own making: nested networks, well-known ports, ranges, wildcards.
pub fn made(kind: &str, count: usize, seed: u64) -> Set {
    let mut random = Rng::with_seed(seed);
    // Firewalls leave much open, access lists name both ends.
    let open = if kind == "firewall" { 0.4 } else { 0.1 };
    let sites: Vec<u32> = (0..(count / 16).max(4)).map(|_| random.u32(..)).collect();
    let network = |random: &mut Rng| {
        if random.f64() < open {
            return (Ipv4Addr::UNSPECIFIED, 0);
        }
        let length = [8, 16, 20, 24, 24, 24, 27, 28, 30, 32, 32, 32][random.usize(..12)];
        let address = sites[random.usize(..sites.len())] & 0xffff_ff00 | random.u32(..256);
        let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
        (Ipv4Addr::from(address & !host), length)
    };
    let port = |random: &mut Rng| match random.u8(..10) {
        0..=3 => (0, u16::MAX),
        4..=7 => {
            let port = [22, 25, 53, 80, 123, 143, 443, 1521, 3306, 8080][random.usize(..10)];
            (port, port)
        }
        8 => (1024, u16::MAX),
        _ => {
            let low = random.u16(1024..60_000);
            (low, low + random.u16(..1000))
        }
    };
    let filter = |random: &mut Rng| {
        let protocol = [Some(6), Some(6), Some(6), Some(17), Some(17), Some(1), None][random.usize(..7)];
        let ports = protocol.is_some_and(|protocol| WITH_PORTS.contains(&protocol));
        let (source, destination) = (network(random), network(random));
        let destination_port = if ports { port(random) } else { (0, u16::MAX) };
        Filter { source, destination, source_port: (0, u16::MAX), destination_port, protocol }
    };
    Set { name: format!("made-{kind}-{count}"), filters: (0..count).map(|_| filter(&mut random)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_rule_that_takes_what_it_draws() {
        let line = "@9.214.22.208/29\t9.214.30.136/29\t0 : 65535\t1024 : 65535\t0x11/0xFF\t0x0000/0x0000\t";
        let filter = parse(line).expect("a filter");
        assert_eq!(filter.rule(), "ip saddr 9.214.22.208/29 ip daddr 9.214.30.136/29 udp dport 1024-65535 accept");
        let mut random = Rng::with_seed(1);
        for _ in 0..100 {
            let (source, _, _, port, protocol) = filter.draw(&mut random);
            assert!(source.octets()[3] & !7 == 208 && port >= 1024 && protocol == 17, "{source} {port} {protocol}");
        }
        assert!(parse("@1.2.3.4/32\t5").is_none());
        assert!(
            made("firewall", 500, 1).filters.iter().all(|filter| dataplane_user::rule::parse(&filter.rule()).is_ok())
        );
    }
}
