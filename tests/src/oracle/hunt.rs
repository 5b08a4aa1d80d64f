//! The same frames into both trees, and what differs, down to the single frame.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use dataplane_user::control::client::Client;

use super::{
    difference::{Differences, Known, predict},
    forecast::Forecast,
    outcome::{Compared, FOLDED, beyond, compared, is_own, without_path_mtu, without_redirects},
    picture::Picture,
    report::{Mismatch, Tally, decoded},
    tree::{Shot, Tree},
};
use crate::lab::{Counts, Daemon};

/// Frames that are sent before their outcomes are compared.
const BATCH: usize = 96;
/// Frames of a known difference that are checked together: their reasons are read through the command line.
const ASIDE: usize = 256;
/// Mismatches that are looked into; what differs beyond them is counted only.
const ENOUGH: usize = 24;

/// Two trees that should do the same.
pub struct Hunt<'a> {
    picture: &'a Picture,
    known: &'a Differences,
    kernel: Tree,
    ours: Tree,
    aside: Vec<(Known, Shot)>,
    /// Asks what is to be expected.
    client: Client,
    /// What was found.
    pub tally: Tally,
}

/// What each of the two did with some frames.
struct Pair {
    kernel: Compared,
    ours: Compared,
}

impl Pair {
    fn differs(&self) -> bool {
        self.kernel != self.ours
    }
}

impl<'a> Hunt<'a> {
    /// With nothing found yet.
    pub fn new(picture: &'a Picture, known: &'a Differences, kernel: Tree, ours: Tree) -> anyhow::Result<Self> {
        let client = Client::connect(&ours.daemon().context("a tree without daemon")?.socket())?;
        Ok(Self { picture, known, kernel, ours, aside: Vec::new(), client, tally: Tally::default() })
    }

    /// Sends all frames and compares.
    pub fn run(&mut self, shots: impl Iterator<Item = Shot>) -> anyhow::Result<()> {
        let mut batch = Vec::new();
        for shot in shots {
            self.tally.packets += 1;
            match predict(&shot).filter(|known| self.known.contains_key(known)) {
                Some(known) => self.aside.push((known, shot)),
                None => batch.push(shot),
            }
            if batch.len() == BATCH {
                self.judge(&batch)?;
                batch.clear();
            }
            if self.aside.len() == ASIDE {
                self.differ_as_known()?;
            }
        }
        self.judge(&batch)?;
        self.differ_as_known()?;
        let stats = self.daemon()?.stats()?;
        // Our echoes are no part of what is compared.
        let echoes = u64::from(self.ours.echoes());
        let (rx, delivered) = (stats.totals.rx - echoes, stats.totals.delivered - echoes);
        self.tally.reasons = stats.reasons.clone();
        self.tally.counts(Counts { rx, delivered, ..stats.totals });
        Ok(())
    }

    /// Ends the daemon, so that it can complain.
    pub fn close(self) -> Tally {
        drop(self.ours);
        drop(self.kernel);
        self.tally
    }

    fn daemon(&self) -> anyhow::Result<&Daemon> {
        self.ours.daemon().context("a tree without daemon")
    }

    /// Sends to both.
    fn send(&mut self, shots: &[Shot], count: bool) -> anyhow::Result<Pair> {
        let fold: Vec<_> = FOLDED.into_iter().filter(|known| self.known.contains_key(known)).collect();
        let kernel = self.kernel.send(shots)?;
        let forecast = if count { Some(Forecast::ask(&mut self.client, shots)?) } else { None };
        let ours = self.ours.send(shots)?;
        if let Some(forecast) = forecast {
            self.tally.explained += shots.len() as u64;
            if let Some(text) = forecast.differs(&mut self.client, &ours, Tree::ECHOES)? {
                self.tally.batches += 1;
                if self.tally.mismatches.len() < ENOUGH {
                    self.tally.mismatches.push(Mismatch::unlike_forecast(text));
                }
            }
        }
        ensure!(
            kernel.refused == ours.refused,
            "the devices refused frames {:?} and {:?}",
            kernel.refused,
            ours.refused
        );
        if count {
            self.tally.kernel(&kernel, shots.len() as u64);
            let unfolded = |fold: &[Known]| {
                let [kernel, ours] = [&kernel, &ours].map(|outcome| compared(self.picture, outcome, fold));
                beyond(&ours, &kernel).len() as u64
            };
            let real = unfolded(&fold);
            for known in &fold {
                let others: Vec<_> = fold.iter().filter(|other| *other != known).copied().collect();
                *self.tally.known.entry(*known).or_default() += unfolded(&others).saturating_sub(real);
            }
        }
        let [mut kernel, mut ours] = [&kernel, &ours].map(|outcome| compared(self.picture, outcome, &fold));
        if self.known.contains_key(&Known::PathMtu) {
            let explained = without_path_mtu(shots, &mut kernel, &mut ours);
            if count {
                *self.tally.known.entry(Known::PathMtu).or_default() += explained;
            }
        }
        if self.known.contains_key(&Known::Redirect) {
            let explained = without_redirects(&mut kernel, &mut ours);
            if count {
                *self.tally.known.entry(Known::Redirect).or_default() += explained;
            }
        }
        Ok(Pair { kernel, ours })
    }

    /// Sends a batch; what differs in it is narrowed down.
    fn judge(&mut self, shots: &[Shot]) -> anyhow::Result<()> {
        if shots.is_empty() {
            return Ok(());
        }
        let pair = self.send(shots, true)?;
        if pair.differs() {
            self.tally.batches += 1;
            if self.tally.mismatches.len() < ENOUGH {
                let before = self.tally.mismatches.len();
                self.narrow(shots)?;
                if self.tally.mismatches.len() == before {
                    // It did not happen again: told as it was seen.
                    let mut text = described(&pair) + "    the frames were:\n";
                    for shot in shots {
                        text.extend(["    p", &shot.port.to_string(), " ", &decoded(&shot.frame), "\n"]);
                    }
                    let mismatch = Mismatch::fleeting(text, shots.len());
                    self.tally.mismatches.push(mismatch);
                }
            }
        }
        Ok(())
    }

    /// Halves what differs until single frames are left.
    fn narrow(&mut self, shots: &[Shot]) -> anyhow::Result<()> {
        if self.tally.mismatches.len() >= ENOUGH {
            return Ok(());
        }
        if let [shot] = shots {
            return self.single(shot);
        }
        let (first, second) = shots.split_at(shots.len() / 2);
        for half in [first, second] {
            if self.send(half, false)?.differs() {
                self.narrow(half)?;
            }
        }
        Ok(())
    }

    /// One frame that differs: made as short as it can be, and described.
    fn single(&mut self, shot: &Shot) -> anyhow::Result<()> {
        let Some((signature, _)) = self.look(shot)? else { return Ok(()) };
        let mut least = shot.clone();
        for length in [14, 18, 34, 42, 54, 62, 70, 78, 94, 110, 142, 200, 400, 800] {
            if length >= least.frame.len() {
                break;
            }
            let mut shorter = least.clone();
            shorter.frame.truncate(length);
            if predict(&shorter).is_none() && self.look(&shorter)?.is_some_and(|(found, _)| found == signature) {
                least = shorter;
                break;
            }
        }
        let Some((signature, detail)) = self.look(&least)? else { return Ok(()) };
        self.tally.mismatches.push(Mismatch { signature, detail, least, length: shot.frame.len() });
        Ok(())
    }

    /// What differs for one frame: in short, and in full; nothing if nothing does.
    fn look(&mut self, shot: &Shot) -> anyhow::Result<Option<(String, String)>> {
        let before = self.daemon()?.stats()?.reasons;
        let pair = self.send(std::slice::from_ref(shot), false)?;
        if !pair.differs() {
            return Ok(None);
        }
        let after = self.daemon()?.stats()?.reasons;
        let moved = moved(&before, &after);
        // Our echoes are the kernel's to answer.
        let reasons: Vec<_> = moved
            .into_iter()
            .map(|(name, count)| if name == "local" { (name, count.saturating_sub(9)) } else { (name, count) })
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        let signature = format!("kernel: {}; ours: {} ({})", kind(&pair.kernel), kind(&pair.ours), reasons.join(", "));
        Ok(Some((signature, described(&pair))))
    }

    /// Frames that we are known to drop: all of them are, and counted as such.
    fn differ_as_known(&mut self) -> anyhow::Result<()> {
        let aside = std::mem::take(&mut self.aside);
        if aside.is_empty() {
            return Ok(());
        }
        let mut expected = BTreeMap::<_, u64>::new();
        for (known, _) in &aside {
            *expected.entry(known.reason().to_owned()).or_default() += 1;
            *self.tally.known.entry(*known).or_default() += 1;
        }
        let shots: Vec<_> = aside.into_iter().map(|(_, shot)| shot).collect();
        let before = self.daemon()?.stats()?.reasons;
        let pair = self.send(&shots, true)?;
        let mut got = moved(&before, &self.daemon()?.stats()?.reasons);
        got.remove("local");
        let dropped = pair.ours.frames.is_empty() && pair.ours.delivered.iter().all(|count| *count == 0);
        if got != expected || !dropped {
            self.tally.mismatches.push(Mismatch::unlike_known(&expected, &got, described(&pair)));
        }
        Ok(())
    }
}

/// Reasons that counted, and how often.
fn moved(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = |(name, count): (&String, &u64)| (name.clone(), count - before.get(name).copied().unwrap_or(0));
    after.iter().map(more).filter(|(_, count)| *count > 0).collect()
}

/// What was done with a frame, in a few words.
fn kind(side: &Compared) -> String {
    let mut words: Vec<_> = side
        .frames
        .keys()
        .map(|(exit, frame)| match (is_own(frame), frame.get(12), frame.get(23), frame.get(20)) {
            (true, Some(0x08), Some(1), _) => {
                format!("answers ICMP {:?} at {exit:?}", frame.get(34..36).unwrap_or(&[]))
            }
            (true, Some(0x86), _, Some(58)) => {
                format!("answers ICMPv6 {:?} at {exit:?}", frame.get(54..56).unwrap_or(&[]))
            }
            (true, ..) => format!("answers at {exit:?}"),
            _ => format!("sends at {exit:?}"),
        })
        .collect();
    words.dedup();
    if side.delivered[0] + side.delivered[1] > 0 {
        words.push("delivers".to_owned());
    }
    if words.is_empty() { "nothing".to_owned() } else { words.join(" and ") }
}

fn described(pair: &Pair) -> String {
    let mut lines = Vec::new();
    for (name, side, other) in [("kernel", &pair.kernel, &pair.ours), ("ours", &pair.ours, &pair.kernel)] {
        let only = beyond(side, other).into_iter().take(8);
        lines.extend(only.map(|(exit, frame)| format!("    only {name}: {exit:?} {}\n", decoded(frame))));
        lines.push(format!("    {name} delivered {:?}\n", side.delivered));
    }
    lines.concat()
}
