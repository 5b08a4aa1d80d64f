//! `dataplane explain`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::{
    iface,
    process::{self, Processes},
    session::{Session, unexpected},
    usage,
};
use crate::{
    control::{
        protocol::{ConfigText, Data, Failure, FailureKind, Request},
        row::{Explanation, Stage},
    },
    frame::{self, CaptureError},
};

/// Hexadecimal digits of frames in one request.
const DIGITS: usize = 512 << 10;
/// Frames in one request.
const FRAMES: usize = 1024;

/// Show what would happen to a packet, stage by stage
///
/// The loaded programs run on the packet as if it had come in on the port. No counter moves, and nothing is sent.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane explain --iface eth0 'udp 198.18.0.2:1024 > 198.18.1.2:9'\n  \
                  dataplane explain --iface eth0 'icmpv6 2001:db8::2 > 2001:db8:1::2'\n  \
                  dataplane explain --iface eth0 --pcap lost.pcapng:7 -j\n  \
                  dataplane explain --iface eth0 --hex 020000000001...\n  \
                  dataplane explain --config a.toml --iface eth0 'icmp 198.18.0.2 > 198.18.1.2'\n\n\
                  Behind a packet: ttl N, length BYTES, flags syn,ack,..., type N, code N,\n\
                  vlan ID, from MAC.")]
pub(super) struct Explain {
    /// The port that the packet comes in on
    #[arg(long, value_name = "IFACE", value_parser = iface)]
    iface: String,
    /// Judge by the rules of this config file in place of those in force, which stay as they are
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    packet: Packet,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Packet {
    /// The frame in hex, beginning with its link header
    #[arg(long, value_name = "HEX")]
    hex: Option<String>,
    /// A frame of a pcap or pcapng file, or all of them
    #[arg(long, value_name = "FILE[:N]")]
    pcap: Option<String>,
    /// A packet in words
    #[arg(value_name = "PACKET")]
    words: Option<String>,
}

/// Where packets come in, and whose rules judge them.
struct Place {
    iface: String,
    config: Option<ConfigText>,
}

impl Explain {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let config = self.config.as_deref().map(super::config::read).transpose()?.map(|(config, ..)| config);
        let place = &Place { iface: self.iface.clone(), config };
        if let Some(pcap) = &self.packet.pcap {
            let (path, only) = numbered(pcap);
            return all(session, place, &path, only);
        }
        let frame = match (&self.packet.hex, &self.packet.words) {
            (Some(hex), _) => frame::from_hex(hex).map_err(|error| usage(format!("--hex {hex}: {error}")))?,
            (None, words) => {
                let words = words.as_deref().unwrap_or_default();
                frame::build(words, address(session, &place.iface)?).map_err(|error| usage(error.to_string()))?
            }
        };
        explain(session, place, &[hex::encode(frame)])
    }
}

/// The file, and the number behind it if there is one.
fn numbered(text: &str) -> (PathBuf, Option<usize>) {
    let split = text.rsplit_once(':').and_then(|(path, number)| Some((path, number.parse().ok()?)));
    match split {
        Some((path, number)) if !Path::new(text).exists() => (path.into(), Some(number)),
        _ => (text.into(), None),
    }
}

/// The link address of a port; none where it has none.
fn address(session: &Session, iface: &str) -> anyhow::Result<Option<[u8; 6]>> {
    let Data::Ports(ports) = session.call(&Request::PortList)? else { return Ok(None) };
    let port = ports.into_iter().find(|port| port.name == iface).ok_or_else(|| {
        let said = format!("{iface} is not a port; `dataplane port list` shows what is attached");
        Failure::new(FailureKind::NotFound, said)
    })?;
    let mac = port.mac.map(|mac| frame::from_hex(&mac).ok().and_then(|bytes| bytes.try_into().ok()));
    mac.map(|mac| mac.context("the link address of the port does not have six bytes")).transpose()
}

/// Explains frames of a file, some at a time.
fn all(session: &Session, place: &Place, path: &Path, only: Option<usize>) -> anyhow::Result<()> {
    let (mut frames, mut digits) = (Vec::new(), 0);
    frame::frames(path, only, |frame| -> Result<(), Stop> {
        digits += 2 * frame.len();
        frames.push(hex::encode(frame));
        if digits > DIGITS || frames.len() == FRAMES {
            digits = 0;
            explain(session, place, &std::mem::take(&mut frames)).map_err(Stop::Other)?;
        }
        Ok(())
    })
    .map_err(|stop| match stop {
        Stop::File(error) => {
            let kind = if matches!(error, CaptureError::Missing { .. }) {
                FailureKind::NotFound
            } else {
                FailureKind::Rejected
            };
            Failure::new(kind, error.to_string()).into()
        }
        Stop::Other(error) => error,
    })?;
    if frames.is_empty() { Ok(()) } else { explain(session, place, &frames) }
}

/// Why the reading of a file ends.
enum Stop {
    File(CaptureError),
    Other(anyhow::Error),
}

impl From<CaptureError> for Stop {
    fn from(error: CaptureError) -> Self {
        Self::File(error)
    }
}

fn explain(session: &Session, place: &Place, frames: &[String]) -> anyhow::Result<()> {
    let (iface, config) = (place.iface.clone(), place.config.clone());
    let request = Request::Explain { iface, frames: frames.to_vec(), config };
    match session.call(&request)? {
        Data::Explanations(mut all) => {
            let mut processes = Processes::default();
            for one in &mut all {
                name_processes(one, &mut processes);
            }
            all.iter().try_for_each(|one| session.print(one, || text(one)))
        }
        data => Err(unexpected(&data)),
    }
}

/// Says which processes have the sockets open, where the packet is for this machine.
fn name_processes(explanation: &mut Explanation, processes: &mut Processes) {
    let Some(recipient) = &mut explanation.judgement.recipient else { return };
    processes.complete(recipient);
    if let Some(result) = process::in_words(recipient) {
        explanation.stages.push(Stage { name: "process".to_owned(), result });
    }
}

fn text(explanation: &Explanation) -> String {
    let width = explanation.stages.iter().map(|stage| stage.name.len()).max().unwrap_or_default();
    let lines = explanation.stages.iter().map(|stage| format!("{:<width$}  {}\n", stage.name, stage.result));
    let frame = explanation.frame.as_ref().map(|frame| format!("{:<width$}  {frame}\n", "hex"));
    lines.chain(frame).chain(["\n".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_and_without_a_number() {
        for (text, path, only) in [
            ("a.pcap", "a.pcap", None),
            ("a.pcap:7", "a.pcap", Some(7)),
            ("dir:x/a.pcap", "dir:x/a.pcap", None),
            ("a.pcap:x", "a.pcap:x", None),
        ] {
            assert_eq!(numbered(text), (path.into(), only), "{text}");
        }
    }
}
