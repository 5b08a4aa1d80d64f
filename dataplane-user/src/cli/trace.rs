//! `dataplane trace` and `dataplane capture`.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;

use super::{
    clock::LocalTime,
    count,
    process::{self, Processes},
    session::{Session, unexpected},
};
use crate::{
    control::{
        client::Client,
        protocol::{Data, Request},
        row::PacketRow,
    },
    frame::{Frame, Recorder},
};

/// Bytes of each frame that `capture` wants unless told otherwise: all that the daemon gives.
const WHOLE: u32 = 65_535;

/// Which packets, and how many.
#[derive(Debug, Args)]
struct Wanted {
    /// Matches as in rules, then `verdict NAME,...` and `reason NAME,...`; default: all packets
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// Sample one packet in N at random
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = sample)]
    sample: u32,
    /// End after N packets
    #[arg(long, value_name = "N", value_parser = count)]
    count: Option<u64>,
}

/// One packet in so many.
fn sample(text: &str) -> Result<u32, String> {
    count(text).and_then(|number| u32::try_from(number).map_err(|_| format!("take a whole number up to {}", u32::MAX)))
}

/// Show live packets with verdict and reason
///
/// Runs until it is interrupted. Each packet is shown with verdict, reason and rule. The daemon sends at most 10,000 packets a
/// second; the number of missed packets is printed on stderr.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane trace\n  dataplane trace tcp dport 443 ip saddr 192.0.2.0/24\n  \
                  dataplane trace iif eth0 verdict drop\n  dataplane trace reason no_route,reverse_path -j\n  \
                  dataplane trace --sample 1000")]
pub(super) struct Trace {
    #[command(flatten)]
    wanted: Wanted,
}

/// Write live packets to a capture file, with verdict and reason
///
/// The format is pcapng, for Wireshark and tshark. Each packet is written as it came in, with port, verdict, reason and rule;
/// also packets that XDP forwarded, which tcpdump does not see.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dataplane capture -w drops.pcapng verdict drop\n  dataplane capture -w - udp dport 53 | tshark -r -"
)]
pub(super) struct Capture {
    /// Output file; `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Bytes to write of each frame
    #[arg(long, value_name = "BYTES", default_value_t = WHOLE)]
    snaplen: u32,
    #[command(flatten)]
    wanted: Wanted,
}

impl Trace {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let mut processes = Processes::default();
        watch(begin(session, &self.wanted, 0)?, &self.wanted, |row, _| {
            let mut row = row.clone();
            if let Some(recipient) = &mut row.judgement.recipient {
                processes.complete(recipient);
            }
            session.print(&row, || text(&row))
        })
    }
}

impl Capture {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let name = self.write.display().to_string();
        // The daemon first: who is refused must not lose a file for it.
        let client = begin(session, &self.wanted, self.snaplen)?;
        let mut recorder = Recorder::new(open(&self.write)?).with_context(|| format!("cannot write {name}"))?;
        recorder.flush().with_context(|| format!("cannot write {name}"))?;
        watch(client, &self.wanted, |row, more| {
            record(&mut recorder, row)?;
            if more { Ok(()) } else { recorder.flush().with_context(|| format!("cannot write {name}")) }
        })
    }
}

fn open(path: &Path) -> anyhow::Result<BufWriter<Box<dyn Write>>> {
    if path == Path::new("-") {
        return Ok(BufWriter::new(Box::new(io::stdout())));
    }
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(BufWriter::new(Box::new(file)))
}

/// Asks the daemon to watch.
fn begin(session: &Session, wanted: &Wanted, bytes: u32) -> anyhow::Result<Client> {
    let mut client = Client::connect(&session.socket)?;
    let request = Request::Trace { filter: wanted.filter.join(" "), one_in: wanted.sample, bytes };
    match client.call(&request)?.data {
        Data::Watching => Ok(client),
        data => Err(unexpected(&data)),
    }
}

/// Gives packets to `take` until there are enough, with whether more are here already.
fn watch(
    mut client: Client,
    wanted: &Wanted,
    mut take: impl FnMut(&PacketRow, bool) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut seen = 0;
    while wanted.count.is_none_or(|count| seen < count) {
        match client.follow()? {
            Some(Data::Packet(row)) => {
                seen += 1;
                take(&row, client.has_more() && wanted.count.is_none_or(|count| seen < count))?;
            }
            Some(Data::Missed(missed)) => eprintln!("warning: {missed} packets were missed so far: ask for fewer"),
            Some(data) => return Err(unexpected(&data)),
            None => anyhow::bail!("the daemon has stopped; `dataplane run` starts it again"),
        }
    }
    Ok(())
}

fn record<W: Write>(recorder: &mut Recorder<W>, row: &PacketRow) -> anyhow::Result<()> {
    let judgement = &row.judgement;
    let at_xdp = row.tier == "xdp";
    let bytes = hex::decode(&row.frame).context("the daemon sent a frame that is not hexadecimal")?;
    let comment = judged(row);
    let frame = Frame {
        port: &row.port,
        time: Duration::from_nanos(row.time),
        length: row.length,
        bytes: &bytes,
        at_xdp,
        action: action(at_xdp, &judgement.verdict),
        comment: &comment,
    };
    recorder.write(&frame).context("cannot write the capture")
}

/// What the program returned: `XDP_*` or `TC_ACT_*` (`include/uapi/linux/bpf.h`, `pkt_cls.h`).
fn action(at_xdp: bool, verdict: &str) -> u64 {
    match (at_xdp, verdict) {
        (true, "forward") => 4,
        (true, "drop") => 1,
        (false, "forward") => 7,
        // XDP_PASS and TC_ACT_SHOT.
        (true, _) | (false, "drop" | "withhold") => 2,
        // TC_ACT_UNSPEC
        (false, _) => u64::MAX,
    }
}

/// Verdict and reason, rule, way.
fn judged(row: &PacketRow) -> String {
    let judgement = &row.judgement;
    let chain = judgement.chain.map(|chain| match (&judgement.handle, &judgement.rule) {
        (Some(handle), Some(rule)) => format!(", chain {} rule {handle} `{rule}`", chain.name()),
        _ => format!(", chain {} policy", chain.name()),
    });
    let route = judgement.prefix.as_ref().map(|prefix| format!(", route {prefix}"));
    let dev = judgement.dev.as_ref().map(|dev| format!(" dev {dev}"));
    let flow = judgement.flow.as_ref().map(|flow| format!(", flow {flow}"));
    let recipient = judgement.recipient.as_ref().map(|recipient| format!(", {}", process::briefly(recipient)));
    let rest: String = [chain, route, dev, flow, recipient].into_iter().flatten().collect();
    format!("{}: {}{rest}", judgement.verdict, judgement.reason)
}

/// A packet on two lines.
pub(super) fn text(row: &PacketRow) -> String {
    let micros = row.time / 1000 % 1_000_000;
    let time = format!("{}.{micros:06}", LocalTime::of(row.time / 1_000_000_000).time());
    format!("{time} {} {} {}\n    {}\n", row.port, row.tier, judged(row), row.packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::row::VerdictRow, rule::ChainName};

    #[test]
    fn a_packet_in_text() {
        let judgement = VerdictRow {
            verdict: "drop".to_owned(),
            reason: "filter_forward".to_owned(),
            chain: Some(ChainName::Forward),
            handle: Some(3),
            rule: Some("tcp dport 23 drop".to_owned()),
            prefix: Some("198.18.1.0/24".to_owned()),
            dev: Some("eth1".to_owned()),
            ..VerdictRow::default()
        };
        let row = PacketRow {
            time: 1_763_900_000_123_456_789,
            port: "eth0".to_owned(),
            tier: "xdp".to_owned(),
            judgement,
            length: 60,
            packet: "IN=eth0 OUT= SRC=198.18.0.2".to_owned(),
            frame: String::new(),
        };
        assert_eq!(
            text(&row),
            format!(
                "{}.123456 eth0 xdp drop: filter_forward, chain forward rule 3 `tcp dport 23 drop`, route \
             198.18.1.0/24 dev eth1\n    IN=eth0 OUT= SRC=198.18.0.2\n",
                LocalTime::of(1_763_900_000).time()
            )
        );
    }

    #[test]
    fn verdicts_as_the_kernel_numbers_them() {
        for (at_xdp, verdict, number) in
            [(true, "forward", 4), (true, "drop", 1), (true, "kernel", 2), (false, "forward", 7), (false, "drop", 2)]
        {
            assert_eq!(action(at_xdp, verdict), number, "{verdict}");
        }
    }
}
