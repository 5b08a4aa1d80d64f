//! What `explain` says of frames before they are sent: the wire must then do just that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Context as _, bail};
use dataplane_user::control::{
    client::Client,
    protocol::{Data, Request},
    row::Explanation,
};

use super::{
    report::decoded,
    tree::{Outcome, Shot},
};

/// The shortest frame that the kernel runs through a program (`ETH_HLEN`).
const SHORTEST: usize = 14;

/// What is to be expected.
pub struct Forecast {
    /// With the places of the frames in their batch.
    said: Vec<(usize, Shot, Explanation)>,
    /// Frames that nobody can be asked about.
    silent: bool,
    /// Whether XDP runs on skbs: then it also sees copies of what the router sent to groups, without their link headers.
    generic: bool,
    before: BTreeMap<String, u64>,
}

impl Forecast {
    /// Asks about frames that are about to be sent.
    pub fn ask(client: &mut Client, shots: &[Shot]) -> anyhow::Result<Self> {
        let mut said = Vec::new();
        let silent = shots.iter().any(|shot| shot.frame.len() < SHORTEST || is_cut(&shot.frame));
        let ports = shots.iter().map(|shot| shot.port).max().unwrap_or_default();
        for port in 0..=ports {
            let here: Vec<_> = shots
                .iter()
                .enumerate()
                .filter(|(_, shot)| shot.port == port && shot.frame.len() >= SHORTEST)
                .map(|(place, shot)| (place, shot.clone()))
                .collect();
            let frames = here.iter().map(|(_, shot)| hex(&shot.frame)).collect();
            match client.call(&Request::Explain { iface: format!("p{port}"), frames, config: None })?.data {
                Data::Explanations(all) => {
                    said.extend(here.into_iter().zip(all).map(|((place, shot), one)| (place, shot, one)));
                }
                data => bail!("explain was answered with {data:?}"),
            }
        }
        let generic = match client.call(&Request::PortList)?.data {
            Data::Ports(ports) => ports.iter().any(|port| port.mode == "generic"),
            data => bail!("port list was answered with {data:?}"),
        };
        // What was asked must not count.
        Ok(Self { said, silent, generic, before: reasons(client)? })
    }

    /// In what the wire differs from what was said, in words; nothing where it does not. `echoes` are for this machine.
    pub fn differs(&self, client: &mut Client, outcome: &Outcome, echoes: u64) -> anyhow::Result<Option<String>> {
        let mut moved = BTreeMap::new();
        for (name, count) in reasons(client)? {
            let more = count - self.before.get(&name).copied().unwrap_or(0);
            let more = if name == "local" { more - echoes } else { more };
            if more > 0 {
                moved.insert(name, more);
            }
        }
        let mut expected = BTreeMap::<String, u64>::new();
        let mut text = String::new();
        let mut left = outcome.frames.clone();
        let sent = self.said.iter().filter(|(place, ..)| !outcome.refused.contains(place));
        for (_, shot, explanation) in sent.clone() {
            *expected.entry(explanation.judgement.reason.clone()).or_default() += 1;
            let Some(frame) = &explanation.frame else { continue };
            let port = explanation.judgement.dev.as_deref().and_then(exit).context("forwarded, and nowhere")?;
            match left.iter().position(|(out, bytes)| *out == port && hex(bytes) == *frame) {
                Some(place) => drop(left.swap_remove(place)),
                None => writeln!(text, "    p{port} did not send {frame} for {}", decoded(&shot.frame))?,
            }
        }
        let names: BTreeSet<_> =
            if self.silent { BTreeSet::new() } else { expected.keys().chain(moved.keys()).collect() };
        for name in names {
            let [said, counted] = [&expected, &moved].map(|reasons| reasons.get(name).copied().unwrap_or(0));
            let copies = self.generic && name == "not_ip" && counted > said;
            if said != counted && !copies {
                writeln!(text, "    {name}: {said} explained, {counted} counted")?;
                let of = sent.clone().filter(|(.., explanation)| explanation.judgement.reason == *name);
                text.extend(of.map(|(_, shot, _)| format!("        p{} {}\n", shot.port, decoded(&shot.frame))));
            }
        }
        Ok((!text.is_empty()).then_some(text))
    }
}

/// Whether the frame ends inside a tag: where XDP does not come first, the kernel drops it before tc sees it
/// (`skb_vlan_untag`).
fn is_cut(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8])) && frame.len() < 20
}

/// The number of the port that an interface is on.
fn exit(dev: &str) -> Option<u8> {
    dev.strip_prefix('p')?.split('.').next()?.parse().ok()
}

fn reasons(client: &mut Client) -> anyhow::Result<BTreeMap<String, u64>> {
    match client.call(&Request::Stats { iface: None })?.data {
        Data::Stats(stats) => Ok(stats.reasons),
        data => bail!("stats was answered with {data:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Nothing fails that writes into a text.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
