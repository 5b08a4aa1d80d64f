//! What is fed, and what must hold.

mod config;
mod conntrack;
mod import;
mod packet;
mod request;
mod rule;
mod socket;

use std::{fs, path::Path};

/// One reader of what others wrote.
pub struct Target {
    pub name: &'static str,
    /// Good inputs, from the project's root.
    pub corpus: fn(&Path) -> anyhow::Result<Vec<Vec<u8>>>,
    /// Words of its language.
    pub words: &'static [&'static str],
    /// Panics when something does not hold.
    pub feed: fn(&[u8]),
}

pub const TARGETS: &[Target] =
    &[config::TARGET, conntrack::TARGET, import::TARGET, packet::TARGET, request::TARGET, rule::TARGET, socket::TARGET];

/// All files of a folder whose names end in one of these.
fn files(folder: &Path, ends: &[&str]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if ends.iter().any(|end| path.to_string_lossy().ends_with(end)) {
            found.push(fs::read(path)?);
        }
    }
    Ok(found)
}

/// Words of the language of rules.
const WORDS: &[&str] = &[
    "ip saddr",
    "ip6 daddr",
    "tcp dport",
    "udp sport",
    "th dport",
    "tcp flags",
    "icmp type",
    "meta l4proto",
    "iif",
    "oifname",
    "vlan id",
    "ether saddr",
    "limit rate",
    "10/second",
    "burst",
    "log prefix",
    "reject",
    "reject with",
    "accept",
    "drop",
    "comment",
    "{",
    "}",
    "!=",
    "<=",
    "&",
    "==",
    "@blocked",
    "-",
    "/",
    "\"",
    "0x",
    "192.0.2.0/24",
    "2001:db8::/32",
    "eth0",
    ",",
];
