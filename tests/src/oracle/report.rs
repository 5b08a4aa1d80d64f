//! What is told: how many packets, what became of them, and every mismatch in full.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use super::{
    difference::Known,
    outcome::is_own,
    tree::{INWARD, Outcome, Shot},
};
use crate::lab::Counts;

/// Mismatches of one kind that are printed in full.
const SAMPLES: usize = 3;

/// Something that differed and should not have.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// What each did, in short.
    pub signature: String,
    /// What each did, in full.
    pub detail: String,
    /// The shortest frame that shows it.
    pub least: Shot,
    /// Bytes of the frame that showed it first.
    pub length: usize,
}

impl Mismatch {
    /// A batch that differed once, and not again.
    pub(super) fn fleeting(detail: String, frames: usize) -> Self {
        let least = Shot { port: 0, frame: Vec::new(), class: "batch" };
        Self { signature: format!("a batch of {frames} frames differed, and not again"), detail, least, length: 0 }
    }

    /// Frames with which the wire did not do what `explain` had said.
    pub(super) fn unlike_forecast(detail: String) -> Self {
        let least = Shot { port: 0, frame: Vec::new(), class: "forecast" };
        Self { signature: "the wire did not do what `explain` had said".to_owned(), detail, least, length: 0 }
    }

    /// Frames of known differences that did not end as the file says.
    pub(super) fn unlike_known(expected: &BTreeMap<String, u64>, got: &BTreeMap<String, u64>, detail: String) -> Self {
        let least = Shot { port: 0, frame: Vec::new(), class: "known" };
        let signature = format!("known differences: expected {expected:?} and nothing else, got {got:?}");
        Self { signature, detail, least, length: 0 }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}", self.signature)?;
        if !self.least.frame.is_empty() {
            let Shot { port, frame, class } = &self.least;
            writeln!(f, "    class {class}, into p{port}, {} of {} bytes", frame.len(), self.length)?;
            writeln!(f, "    {}", decoded(frame))?;
        }
        write!(f, "{}", self.detail)
    }
}

/// A frame in words and in hexadecimal.
pub fn decoded(frame: &[u8]) -> String {
    let mut text = match etherparse::SlicedPacket::from_ethernet(frame) {
        Ok(sliced) => {
            let net = match sliced.net {
                Some(etherparse::NetSlice::Ipv4(ip)) => {
                    let header = ip.header();
                    let (from, to) = (header.source_addr(), header.destination_addr());
                    format!(
                        "{from} > {to} ttl {} protocol {} total {}",
                        header.ttl(),
                        header.protocol().0,
                        header.total_len()
                    )
                }
                Some(etherparse::NetSlice::Ipv6(ip)) => {
                    let header = ip.header();
                    let (from, to) = (header.source_addr(), header.destination_addr());
                    let (next, length) = (header.next_header().0, header.payload_length());
                    format!("{from} > {to} hop limit {} next {next} payload {length}", header.hop_limit())
                }
                _ => "no IP".to_owned(),
            };
            format!("{net}: ")
        }
        Err(error) => format!("({error}): "),
    };
    for byte in frame.iter().take(160) {
        let _ = write!(text, "{byte:02x}");
    }
    if frame.len() > 160 {
        let _ = write!(text, "... {} bytes", frame.len());
    }
    text
}

/// Sums of some runs.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Frames sent into each of the two.
    pub packets: u64,
    /// Datagrams that the kernel's router forwarded.
    pub forwarded: u64,
    /// Packets that it delivered to its own stack.
    pub delivered: u64,
    /// Frames of its own that it sent out: ICMP errors, echo replies, resets.
    pub answered: u64,
    /// Packets neither forwarded nor delivered; the router may have answered.
    pub lost: u64,
    /// What our router counted.
    pub counts: Counts,
    /// The same by reason; with our own echoes, which count as `local`.
    pub reasons: BTreeMap<String, u64>,
    /// By known difference, the frames it applied to.
    pub known: BTreeMap<Known, u64>,
    /// Frames whose end `explain` foretold.
    pub explained: u64,
    /// Batches that differed.
    pub batches: u64,
    /// What was found in them.
    pub mismatches: Vec<Mismatch>,
}

impl Tally {
    /// Adds what the kernel did with a batch.
    pub(super) fn kernel(&mut self, outcome: &Outcome, packets: u64) {
        let delivered = outcome.delivered[0] + outcome.delivered[1];
        self.forwarded += outcome.forwarded;
        self.delivered += delivered;
        self.answered += outcome.frames.iter().filter(|(port, frame)| *port != INWARD && is_own(frame)).count() as u64;
        self.lost += packets.saturating_sub(outcome.forwarded + delivered);
    }

    /// Adds what our router counted.
    pub(super) fn counts(&mut self, counts: Counts) {
        self.counts.rx += counts.rx;
        self.counts.forwarded += counts.forwarded;
        self.counts.delivered += counts.delivered;
        self.counts.dropped += counts.dropped;
        self.counts.passed += counts.passed;
    }

    /// Adds another's sums.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.forwarded += other.forwarded;
        self.delivered += other.delivered;
        self.answered += other.answered;
        self.lost += other.lost;
        self.counts(other.counts);
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
        for (known, count) in &other.known {
            *self.known.entry(*known).or_default() += count;
        }
        self.explained += other.explained;
        self.batches += other.batches;
        self.mismatches.extend(other.mismatches.iter().cloned());
    }

    /// Prints every kind of mismatch, with some of each.
    pub fn tell(&self) -> String {
        let mut kinds = BTreeMap::<_, Vec<_>>::new();
        for mismatch in &self.mismatches {
            kinds.entry(&mismatch.signature).or_default().push(mismatch);
        }
        let mut text = String::new();
        for (_, mismatches) in kinds {
            let _ = writeln!(text, "  {} times:", mismatches.len());
            for mismatch in mismatches.iter().take(SAMPLES) {
                let _ = write!(text, "{mismatch}");
            }
        }
        text
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packets, forwarded, delivered, answered, lost, counts, .. } = self;
        write!(
            f,
            "{packets} packets; kernel: {forwarded} forwarded, {delivered} delivered, {answered} answers, {lost} lost; "
        )?;
        write!(f, "ours: {} forwarded, {} delivered, ", counts.forwarded, counts.delivered)?;
        write!(
            f,
            "{} dropped, {} passed; {} explained; {} batches differ",
            counts.dropped, counts.passed, self.explained, self.batches
        )
    }
}
