//! The screen of `top`: what it shows, and what keys do. Knows no terminal and no daemon.

use std::time::Instant;

use dataplane_common::Reason;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    history::History,
    samples::{ENOUGH, Said},
    table::{self, Counted, PortLine, Span},
};
use crate::{
    control::row::{RuleRow, Stats},
    rule::{Match, parse},
};

/// Rows that a page key moves by.
const PAGE: usize = 10;

/// All that is counted, at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub at: Instant,
    pub stats: Stats,
    pub rules: Vec<RuleRow>,
}

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Draw again.
    Stay,
    /// Watch for packets.
    Watch(String),
    /// Watch no longer.
    Leave,
    /// End.
    Quit,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Rate,
    Total,
    Name,
}

impl Order {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Total => "total",
            Self::Name => "name",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Rate => Self::Total,
            Self::Total => Self::Name,
            Self::Name => Self::Rate,
        }
    }
}

/// The blocks, from the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Ports,
    Reasons,
    Rules,
}

impl Section {
    pub(super) const ALL: [Self; 3] = [Self::Ports, Self::Reasons, Self::Rules];

    const fn next(self) -> Self {
        match self {
            Self::Ports => Self::Reasons,
            Self::Reasons => Self::Rules,
            Self::Rules => Self::Ports,
        }
    }

    const fn back(self) -> Self {
        self.next().next()
    }
}

/// What is behind a row.
#[derive(Clone, Debug)]
pub(super) struct Detail {
    pub title: String,
    pub text: String,
    /// What packets are watched for.
    pub filter: String,
    pub packets: Vec<String>,
    pub trouble: Option<String>,
}

/// What is shown, and how.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is switched by a key of its own")]
pub(super) struct Screen {
    pub(super) now: Sample,
    pub(super) before: Option<Sample>,
    /// Counted from there.
    pub(super) zero: Option<Sample>,
    pub(super) history: History,
    pub(super) order: Order,
    /// Only rows with this in them.
    pub(super) filter: String,
    pub(super) typing: bool,
    pub(super) paused: bool,
    pub(super) help: bool,
    /// Packets rather than bits for ports.
    pub(super) packets: bool,
    pub(super) colour: bool,
    /// The block that keys are for, and its chosen row; none until one is chosen.
    pub(super) pane: Option<Section>,
    pub(super) row: usize,
    pub(super) detail: Option<Detail>,
}

impl Screen {
    pub(super) fn new(now: Sample, colour: bool) -> Self {
        Self {
            now,
            before: None,
            zero: None,
            history: History::default(),
            order: Order::Rate,
            filter: String::new(),
            typing: false,
            paused: false,
            help: false,
            packets: false,
            colour,
            pane: None,
            row: 0,
            detail: None,
        }
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// What grew since the last update.
    pub(super) fn span(&self) -> Span<'_> {
        Span { now: &self.now, before: self.before.as_ref() }
    }

    /// Takes what is counted now.
    pub(super) fn show(&mut self, sample: Sample) {
        self.before = Some(std::mem::replace(&mut self.now, sample));
        let span = self.span();
        let totals = self.now.stats.totals;
        let mut values = vec![
            ("rx".to_owned(), span.rate(totals.rx, |sample| Some(sample.stats.totals.rx))),
            ("dropped".to_owned(), span.rate(totals.dropped, |sample| Some(sample.stats.totals.dropped))),
        ];
        values.extend(span.ports().iter().map(|port| (format!("port {}", port.name), port.packets[0].max(port.rx[1]))));
        let counted = span.reasons().into_iter().chain(span.rules());
        values.extend(counted.map(|row| (row.key, row.rate)));
        self.history.add(values);
    }

    /// Takes a live packet.
    pub(super) fn tell(&mut self, said: Said) {
        let Some(detail) = &mut self.detail else { return };
        match said {
            Said::Packet(text) if detail.packets.len() < ENOUGH => detail.packets.push(text),
            Said::Packet(_) => {}
            Said::Trouble(text) => detail.trouble = Some(text),
        }
    }

    /// Does what a key says.
    pub(super) fn press(&mut self, key: KeyEvent) -> Act {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Act::Quit;
        }
        if self.help {
            self.help = false;
        } else if self.typing {
            self.type_filter(key.code);
        } else if self.detail.is_some() {
            return self.in_detail(key.code);
        } else {
            match key.code {
                KeyCode::Char('q') => return Act::Quit,
                KeyCode::Char('s') => self.order = self.order.next(),
                KeyCode::Char('/') => self.typing = true,
                KeyCode::Char('p' | ' ') => self.paused = !self.paused,
                KeyCode::Char('b') => self.packets = !self.packets,
                KeyCode::Char('z') => self.zero = self.zero.take().is_none().then(|| self.now.clone()),
                KeyCode::Char('?' | 'h') => self.help = true,
                KeyCode::Enter => return self.open(),
                KeyCode::Esc => {
                    self.filter.clear();
                    self.choose(None);
                }
                code => self.walk(code),
            }
        }
        Act::Stay
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
    }

    fn in_detail(&mut self, code: KeyCode) -> Act {
        match code {
            KeyCode::Enter => {
                let Some(detail) = &mut self.detail else { return Act::Stay };
                detail.packets.clear();
                Act::Watch(detail.filter.clone())
            }
            KeyCode::Char('q') | KeyCode::Esc | KeyCode::Backspace => {
                self.detail = None;
                Act::Leave
            }
            KeyCode::Char('?') => {
                self.help = true;
                Act::Stay
            }
            _ => Act::Stay,
        }
    }

    fn choose(&mut self, pane: Option<Section>) {
        (self.pane, self.row) = (pane, 0);
    }

    /// Moves to another block or row.
    fn walk(&mut self, code: KeyCode) {
        let pane = self.pane.unwrap_or(Section::Ports);
        match code {
            KeyCode::Tab => return self.choose(Some(self.pane.map_or(Section::Ports, Section::next))),
            KeyCode::BackTab => return self.choose(Some(self.pane.map_or(Section::Rules, Section::back))),
            KeyCode::Char(digit @ '1'..='3') => {
                return self.choose(Some(Section::ALL[digit as usize - '1' as usize]));
            }
            _ => {}
        }
        let last = self.rows(pane).saturating_sub(1);
        let row = match (code, self.pane) {
            (KeyCode::Down | KeyCode::Char('j'), None) | (KeyCode::Home, _) => 0,
            (KeyCode::Down | KeyCode::Char('j'), _) => self.row.saturating_add(1),
            (KeyCode::Up | KeyCode::Char('k'), _) => self.row.saturating_sub(1),
            (KeyCode::PageDown, _) => self.row.saturating_add(PAGE),
            (KeyCode::PageUp, _) => self.row.saturating_sub(PAGE),
            (KeyCode::End, _) => last,
            _ => return,
        };
        (self.pane, self.row) = (Some(pane), row.min(last));
    }

    fn rows(&self, pane: Section) -> usize {
        match pane {
            Section::Ports => self.ports().len(),
            Section::Reasons => self.reasons().len(),
            Section::Rules => self.rules().len(),
        }
    }

    /// Shows what is behind the chosen row.
    fn open(&mut self) -> Act {
        let detail = match self.pane {
            None => None,
            Some(Section::Ports) => self.ports().get(self.row).map(|port| Detail {
                title: format!("port {}", port.name),
                text: format!("mode {}, {}. `dataplane stats {}` shows its reasons.", port.mode, port.state, port.name),
                filter: format!("iif {}", port.name),
                packets: Vec::new(),
                trouble: None,
            }),
            Some(Section::Reasons) => self.reasons().get(self.row).and_then(|row| {
                let reason = Reason::ALL.iter().find(|reason| reason.name() == row.name)?;
                Some(Detail {
                    title: format!("reason {}: {}", row.name, row.text),
                    text: format!("{}\n{}", reason.meaning(), reason.advice()),
                    filter: format!("reason {}", row.name),
                    packets: Vec::new(),
                    trouble: None,
                })
            }),
            Some(Section::Rules) => self.rules().get(self.row).map(|row| Detail {
                title: format!("rule {}", row.name),
                text: row.text.clone(),
                filter: matches_of(&row.text),
                packets: Vec::new(),
                trouble: None,
            }),
        };
        self.detail = detail;
        self.detail.as_ref().map_or(Act::Stay, |detail| Act::Watch(detail.filter.clone()))
    }

    fn fits(&self, text: &str) -> bool {
        self.filter.is_empty() || text.contains(&self.filter)
    }

    /// Ports, in their order. A filter that fits none of them is about reasons or rules.
    pub(super) fn ports(&self) -> Vec<PortLine> {
        let mut rows = self.span().ports();
        if rows.iter().any(|port| self.fits(&port.name)) {
            rows.retain(|port| self.fits(&port.name));
        }
        table::sort_ports(&mut rows, self.order);
        rows
    }

    /// Reasons that have counted, in their order.
    pub(super) fn reasons(&self) -> Vec<Counted> {
        let zero = |name: &str| self.zero.as_ref().and_then(|zero| zero.stats.reasons.get(name).copied());
        let mut rows = self.span().reasons();
        for row in &mut rows {
            row.total = row.total.saturating_sub(zero(&row.name).unwrap_or_default());
        }
        self.counted(rows)
    }

    /// Rules that have counted, in their order.
    pub(super) fn rules(&self) -> Vec<Counted> {
        let mut rows = self.span().rules();
        if let Some(zero) = &self.zero {
            for (row, rule) in rows.iter_mut().zip(&self.now.rules) {
                let before = zero.rules.iter().find(|other| other.handle == rule.handle);
                row.total = row.total.saturating_sub(before.map_or(0, |rule| rule.packets));
            }
        }
        self.counted(rows)
    }

    fn counted(&self, mut rows: Vec<Counted>) -> Vec<Counted> {
        rows.retain(|row| row.total > 0 && self.fits(&format!("{} {}", row.name, row.text)));
        table::sort(&mut rows, self.order);
        rows
    }
}

/// The matches of a rule, which are a filter for packets, too.
fn matches_of(rule: &str) -> String {
    let Ok(rule) = parse(rule) else { return rule.to_owned() };
    rule.matches().iter().map(Match::to_string).collect::<Vec<_>>().join(" ")
}
