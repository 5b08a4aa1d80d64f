//! The known differences: a reviewed file, and what each of its lines lets through. A line lets through no more than it
//! says: the frames that it is about are told by looking at them, without the code under test, and must end as it says.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::tree::Shot;
use crate::fixture::plan::port_mac;

/// The file.
const TEXT: &str = include_str!("../../oracle/differences.toml");

/// What can be known to differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// We drop a routing header of type 0.
    RoutingHeader,
    /// We drop more than 8 extension headers.
    ExtensionLimit,
    /// We drop several fragment headers, and fragments that cut the chain of headers.
    FragmentChain,
    /// We drop more than two VLAN tags.
    VlanDepth,
    /// Which of several equal next hops.
    EqualPaths,
    /// Bytes beyond the IP packet.
    Padding,
    /// What the router believes about the path MTU of its own packets.
    PathMtu,
    /// Which of several packets is answered with a redirect.
    Redirect,
}

/// Extension headers that we walk.
const HEADERS: usize = 8;

impl Known {
    /// The reason that counts the frames.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RoutingHeader => "routing_header",
            Self::ExtensionLimit => "extension_limit",
            Self::FragmentChain => "fragment_chain",
            Self::VlanDepth => "vlan_depth",
            Self::EqualPaths | Self::Padding | Self::PathMtu => "forwarded",
            Self::Redirect => "same_port",
        }
    }
}

/// The lines of the file, with their reasons.
pub type Differences = BTreeMap<Known, String>;

/// Reads the file.
pub fn known() -> anyhow::Result<Differences> {
    let known: Differences = toml_edit::de::from_str(TEXT).context("tests/oracle/differences.toml")?;
    ensure!(known.values().all(|why| why.len() > 20), "tests/oracle/differences.toml: a line lacks its reason");
    Ok(known)
}

/// Which difference a frame falls under: then we drop it, whatever the kernel does.
pub fn predict(shot: &Shot) -> Option<Known> {
    let frame = shot.frame.as_slice();
    let target = frame.get(..6)?;
    if target != port_mac(shot.port).0 && target[0] & 1 == 0 {
        return None;
    }
    let mut at = 12;
    let mut tags = 0;
    while matches!(frame.get(at..at + 2)?, [0x81, 0x00] | [0x88, 0xa8]) {
        if tags == 2 {
            return Some(Known::VlanDepth);
        }
        tags += 1;
        at += 4;
    }
    let packet = frame.get(at + 2..)?;
    let length = 40 + usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
    let sound = frame[at..at + 2] == [0x86, 0xdd] && packet.len() >= length && packet[0] >> 4 == 6;
    if sound { chain(&packet[..length]) } else { None }
}

/// What is wrong with the chain of extension headers of a whole packet.
fn chain(packet: &[u8]) -> Option<Known> {
    let (mut next, mut rest) = (packet[6], &packet[40..]);
    let (mut count, mut fragments, mut later) = (0, 0, false);
    while matches!(next, 0 | 43 | 44 | 51 | 60 | 135) {
        if later {
            return Some(Known::FragmentChain);
        }
        if count == HEADERS {
            return Some(Known::ExtensionLimit);
        }
        count += 1;
        let cut = (fragments > 0 || next == 44).then_some(Known::FragmentChain);
        if next == 43 && rest.len() >= 4 && rest[2] == 0 {
            return Some(Known::RoutingHeader);
        }
        let length = match next {
            44 => 8,
            51 => (usize::from(*rest.get(1).unwrap_or(&0)) + 2) * 4,
            _ => (usize::from(*rest.get(1).unwrap_or(&0)) + 1) * 8,
        };
        if next == 44 {
            fragments += 1;
        }
        if fragments > 1 || rest.len() < length {
            return cut;
        }
        later = next == 44 && u16::from_be_bytes([rest[2], rest[3]]) >> 3 != 0;
        next = rest[0];
        rest = &rest[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::packet::{Packet, between};

    #[test]
    fn the_file_is_short_and_has_a_reason() {
        let known = known().expect("the file");
        assert!(TEXT.lines().count() <= 15 && !known.is_empty(), "{} lines", TEXT.lines().count());
    }

    #[test]
    fn frames_are_told_by_their_headers() {
        let packet = || between("2001:db8:0::2", "2001:db8:1::2").to(port_mac(0)).udp(1, 2, 4);
        let fragment = |word: u8| [0, 0, word, 0, 0, 0, 1];
        let many = |count| (0..count).fold(packet(), |packet: Packet, _| packet.extension(60, &[0; 7]));
        let rows = [
            (packet(), None),
            (packet().extension(43, &[0, 0, 1, 0, 0, 0, 0]), Some(Known::RoutingHeader)),
            (packet().extension(43, &[0, 4, 1, 0, 0, 0, 0]), None),
            (many(8), None),
            (many(9), Some(Known::ExtensionLimit)),
            (packet().extension(44, &fragment(1)), None),
            (packet().extension(44, &fragment(1)).extension(44, &fragment(1)), Some(Known::FragmentChain)),
            (packet().extension(44, &fragment(8)).extension(60, &[0; 7]), Some(Known::FragmentChain)),
            (packet().carrying(60, vec![6, 0]).extension(44, &fragment(1)), Some(Known::FragmentChain)),
            (packet().tagged(&[(0x8100, 0); 2]), None),
            (packet().tagged(&[(0x8100, 0); 3]), Some(Known::VlanDepth)),
            (packet().to(port_mac(1)).tagged(&[(0x8100, 0); 3]), None),
        ];
        for (packet, expected) in rows {
            let shot = Shot { port: 0, frame: packet.frame(), class: "row" };
            assert_eq!(predict(&shot), expected, "{packet:?}");
        }
    }
}
