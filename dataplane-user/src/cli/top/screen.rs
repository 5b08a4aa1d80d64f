//! The screen of `top`: what it shows, and what keys do. Knows no terminal and no daemon.

use std::{collections::HashMap, time::Instant};

use dataplane_common::Reason;
use ratatui::{
    Frame,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Style, Stylize as _},
    text::Line,
    widgets::{Block, Cell, Clear, Paragraph, Row, Table},
};

use crate::control::row::{RuleRow, Stats};

/// All that is counted, at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub at: Instant,
    pub stats: Stats,
    pub rules: Vec<RuleRow>,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Draw again.
    Stay,
    /// End.
    Quit,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Rate,
    Total,
    Name,
}

impl Order {
    const fn name(self) -> &'static str {
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

/// A row with two numbers.
#[derive(Clone, Debug, PartialEq)]
struct Counted {
    name: String,
    text: String,
    rate: f64,
    total: u64,
}

/// What is shown, and how.
#[derive(Debug)]
pub(super) struct Screen {
    now: Sample,
    before: Option<Sample>,
    order: Order,
    /// Only rows with this in them.
    filter: String,
    typing: bool,
    paused: bool,
    help: bool,
}

const HELP: &str = "q, Ctrl-C   end\ns           sort by rate, total or name\n/           filter: type, then Enter; Esc forgets it\n\
                    p, space    pause\n?           this help\n\nPress any key.";

impl Screen {
    pub(super) const fn new(now: Sample) -> Self {
        Self { now, before: None, order: Order::Rate, filter: String::new(), typing: false, paused: false, help: false }
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Takes what is counted now.
    pub(super) fn show(&mut self, sample: Sample) {
        self.before = Some(std::mem::replace(&mut self.now, sample));
    }

    /// Does what a key says.
    pub(super) fn press(&mut self, key: KeyEvent) -> Act {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Act::Quit;
        }
        if self.help {
            self.help = false;
        } else if self.typing {
            match key.code {
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
        } else {
            match key.code {
                KeyCode::Char('q') => return Act::Quit,
                KeyCode::Char('s') => self.order = self.order.next(),
                KeyCode::Char('/') => self.typing = true,
                KeyCode::Char('p' | ' ') => self.paused = !self.paused,
                KeyCode::Char('?' | 'h') => self.help = true,
                KeyCode::Esc => self.filter.clear(),
                _ => {}
            }
        }
        Act::Stay
    }

    /// A rate: how much a number grew in a second.
    fn rate(&self, now: u64, before: impl Fn(&Sample) -> Option<u64>) -> f64 {
        let Some(sample) = &self.before else { return 0.0 };
        let seconds = self.now.at.saturating_duration_since(sample.at).as_secs_f64();
        let more = now.saturating_sub(before(sample).unwrap_or(now));
        if seconds > 0.0 { float(more) / seconds } else { 0.0 }
    }

    fn sorted(&self, mut rows: Vec<Counted>) -> Vec<Counted> {
        rows.retain(|row| self.filter.is_empty() || format!("{} {}", row.name, row.text).contains(&self.filter));
        rows.sort_by(|a, b| match self.order {
            Order::Rate => b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)),
            Order::Total => b.total.cmp(&a.total),
            Order::Name => a.name.cmp(&b.name),
        });
        rows
    }

    fn reasons(&self) -> Vec<Counted> {
        let known = Reason::ALL.iter();
        let rows = known.filter_map(|reason| {
            let total = *self.now.stats.reasons.get(reason.name())?;
            let rate = self.rate(total, |sample| sample.stats.reasons.get(reason.name()).copied());
            let name = reason.name().to_owned();
            (total > 0).then(|| Counted { name, text: reason.verdict().name().to_owned(), rate, total })
        });
        self.sorted(rows.collect())
    }

    fn rules(&self) -> Vec<Counted> {
        let before: HashMap<u64, u64> =
            self.before.iter().flat_map(|sample| sample.rules.iter().map(|rule| (rule.handle, rule.packets))).collect();
        let rows = self.now.rules.iter().map(|rule| Counted {
            name: format!("{} {}", rule.chain.name(), rule.handle),
            text: rule.rule.clone(),
            rate: self.rate(rule.packets, |_| before.get(&rule.handle).copied()),
            total: rule.packets,
        });
        self.sorted(rows.filter(|row| row.total > 0).collect())
    }

    /// Draws all of it.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let ports = self.now.stats.ports.len() as u16;
        let [head, middle, reasons, rules, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(ports.clamp(1, 6) + 2),
            Constraint::Fill(1),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.head(frame, head);
        self.ports(frame, middle);
        let rows = self.reasons();
        table(frame, reasons, ("Reasons", "REASON", "VERDICT"), &rows);
        table(frame, rules, ("Rules", "CHAIN, HANDLE", "RULE"), &self.rules());
        let foot_text = if self.typing || !self.filter.is_empty() {
            format!("filter: {}{}", self.filter, if self.typing { "_" } else { "" })
        } else {
            format!(
                "q end  s sort ({})  / filter  p {}  ? help",
                self.order.name(),
                if self.paused { "go on" } else { "pause" }
            )
        };
        frame.render_widget(Paragraph::new(foot_text).reversed(), foot);
        if self.help {
            let area = Rect { width: 64.min(head.width), height: 9.min(frame.area().height), ..frame.area() };
            frame.render_widget(Clear, area);
            frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title("Help")), area);
        }
    }

    fn head(&self, frame: &mut Frame<'_>, area: Rect) {
        let now = self.now.stats.totals;
        let part = |name: &str, total: u64, of: fn(&Stats) -> u64| {
            format!("{name} {}/s", short(self.rate(total, |sample| Some(of(&sample.stats)))))
        };
        let rates = [
            part("rx", now.rx, |stats| stats.totals.rx),
            part("forwarded", now.forwarded, |stats| stats.totals.forwarded),
            part("delivered", now.delivered, |stats| stats.totals.delivered),
            part("dropped", now.dropped, |stats| stats.totals.dropped),
            part("passed", now.passed, |stats| stats.totals.passed),
        ];
        let title = if self.paused { "dataplane top (paused)" } else { "dataplane top" };
        frame.render_widget(Paragraph::new(vec![Line::from(title).bold(), Line::from(rates.join("  "))]), area);
    }

    fn ports(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows =
            self.now.stats.ports.iter().filter(|port| port.name.contains(&self.filter) || self.filter.is_empty());
        let mut rows: Vec<_> = rows
            .map(|port| {
                let before = |sample: &Sample| {
                    sample.stats.ports.iter().find(|other| other.ifindex == port.ifindex).map(|other| other.counts)
                };
                let counts = port.counts;
                let rates = [
                    self.rate(counts.rx, |sample| before(sample).map(|counts| counts.rx)),
                    self.rate(counts.forwarded, |sample| before(sample).map(|counts| counts.forwarded)),
                    self.rate(counts.delivered, |sample| before(sample).map(|counts| counts.delivered)),
                    self.rate(counts.dropped, |sample| before(sample).map(|counts| counts.dropped)),
                    self.rate(counts.passed, |sample| before(sample).map(|counts| counts.passed)),
                ];
                (port, rates)
            })
            .collect();
        rows.sort_by(|(a, rates), (b, others)| match self.order {
            Order::Rate => others[0].total_cmp(&rates[0]).then(a.name.cmp(&b.name)),
            Order::Total => b.counts.rx.cmp(&a.counts.rx),
            Order::Name => a.name.cmp(&b.name),
        });
        let rows = rows.into_iter().map(|(port, rates)| {
            let name = [port.name.clone(), port.mode.clone(), port.state.clone()].map(Cell::from);
            let numbers = rates.into_iter().map(|rate| right(short(rate)));
            Row::new(name.into_iter().chain(numbers))
        });
        let widths = [Constraint::Length(15), Constraint::Length(7), Constraint::Length(6)];
        let widths = widths.into_iter().chain([Constraint::Length(9); 5]);
        let head = ["PORT", "MODE", "STATE"].map(Cell::from).into_iter();
        let head = head.chain(["RX/s", "FWD/s", "LOCAL/s", "DROP/s", "PASS/s"].map(|name| right(name.to_owned())));
        frame.render_widget(
            Table::new(rows, widths)
                .header(Row::new(head).style(Style::new().bold()))
                .block(Block::new().title("Ports")),
            area,
        );
    }
}

/// Rows with a rate and a total in front.
fn table(
    frame: &mut Frame<'_>,
    area: Rect,
    (title, name, text): (&'static str, &'static str, &'static str),
    rows: &[Counted],
) {
    let rows = rows.iter().map(|row| {
        Row::new([
            right(short(row.rate)),
            right(short(float(row.total))),
            row.name.clone().into(),
            row.text.clone().into(),
        ])
    });
    let widths = [Constraint::Length(8), Constraint::Length(8), Constraint::Length(20), Constraint::Fill(1)];
    let head = Row::new([right("PKT/s".to_owned()), right("PACKETS".to_owned()), name.into(), text.into()]);
    let table = Table::new(rows, widths).header(head.style(Style::new().bold())).block(Block::new().title(title));
    frame.render_widget(table, area);
}

/// A number, to the right.
fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

/// A count, as near as it is shown.
#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
fn float(count: u64) -> f64 {
    count as f64
}

/// A number in at most seven letters.
fn short(number: f64) -> String {
    let (scaled, unit) = match number {
        n if n >= 1e12 => (n / 1e12, "T"),
        n if n >= 1e9 => (n / 1e9, "G"),
        n if n >= 1e6 => (n / 1e6, "M"),
        n if n >= 1e4 => (n / 1e3, "k"),
        n => return format!("{n:.0}"),
    };
    if scaled >= 100.0 { format!("{scaled:.0}{unit}") } else { format!("{scaled:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::{
        control::row::{Counts, PortRow, RoutesRow},
        rule::ChainName,
    };

    fn sample(at: Instant, packets: u64) -> Sample {
        let port = |name: &str, ifindex: u32, packets: u64| PortRow {
            name: name.to_owned(),
            ifindex,
            mode: "native".to_owned(),
            state: "up".to_owned(),
            mac: None,
            mtu: 1500,
            vlan: None,
            routes: RoutesRow::default(),
            taken: None,
            ipsec: false,
            netfilter: "none".to_owned(),
            flows: "none".to_owned(),
            counts: Counts::new(packets, 0, packets / 2, 0),
        };
        let reasons = [("forwarded", 3 * packets), ("filter_forward", packets), ("no_route", 7)];
        let reasons: BTreeMap<_, _> = reasons.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        let rule = |handle: u64, rule: &str, packets: u64| RuleRow {
            chain: ChainName::Forward,
            handle,
            rule: rule.to_owned(),
            packets,
            bytes: 0,
        };
        Sample {
            at,
            stats: Stats {
                totals: Counts::new(3 * packets, 0, packets, 0),
                reasons,
                ports: vec![port("eth0", 2, packets), port("eth1", 3, 2 * packets)],
                ..Stats::default()
            },
            rules: vec![rule(1, "tcp dport 23 drop", packets), rule(2, "udp dport 53 accept", 5), rule(3, "accept", 0)],
        }
    }

    fn drawn(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| screen.draw(frame)).expect("drawn");
        terminal.backend().to_string()
    }

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    fn screen() -> Screen {
        let start = Instant::now();
        let mut screen = Screen::new(sample(start, 1000));
        screen.show(sample(start + Duration::from_secs(2), 21_000));
        screen
    }

    #[test]
    fn everything_is_on_80_by_24() {
        let text = drawn(&screen(), 80, 24);
        for words in [
            "rx 40.0k/s  forwarded 30.0k/s  delivered 0/s  dropped 10.0k/s  passed 0/s",
            "eth1            native  up",
            "20.0k",
            "filter_forward       drop",
            "forward 1            tcp dport 23 drop",
            "no_route",
            "q end  s sort (rate)",
        ] {
            assert!(text.contains(words), "`{words}` is not on\n{text}");
        }
        // What did not count is not shown; what counts most is first.
        assert!(!text.contains("forward 3"), "{text}");
        let place = |words: &str| text.find(words).expect(words);
        assert!(place("eth1") < place("eth0") && place("forwarded            forward") < place("filter_forward"));
    }

    #[test]
    fn keys_sort_filter_pause_and_end() {
        let mut screen = screen();
        assert_eq!(screen.press(key(KeyCode::Char('s'))), Act::Stay);
        screen.press(key(KeyCode::Char('s')));
        let text = drawn(&screen, 80, 24);
        assert!(text.contains("sort (name)") && text.find("eth0") < text.find("eth1"), "{text}");
        for letter in "/udp".chars() {
            screen.press(key(KeyCode::Char(letter)));
        }
        let text = drawn(&screen, 80, 24);
        assert!(
            text.contains("filter: udp_") && text.contains("udp dport 53") && !text.contains("tcp dport"),
            "{text}"
        );
        screen.press(key(KeyCode::Esc));
        assert!(drawn(&screen, 80, 24).contains("tcp dport"));
        screen.press(key(KeyCode::Char('p')));
        assert!(screen.is_paused());
        screen.press(key(KeyCode::Char('?')));
        assert!(drawn(&screen, 80, 24).contains("Press any key."));
        // Any key leaves the help, and only that.
        assert_eq!(screen.press(key(KeyCode::Char('q'))), Act::Stay);
        assert_eq!(screen.press(key(KeyCode::Char('q'))), Act::Quit);
        assert_eq!(screen.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Act::Quit);
    }

    #[test]
    fn a_small_terminal_and_an_idle_daemon_are_no_trouble() {
        let mut empty = sample(Instant::now(), 0);
        empty.stats.ports.clear();
        empty.stats.reasons.clear();
        empty.rules.clear();
        let screen = Screen::new(empty);
        for (width, height) in [(80, 24), (20, 5), (1, 1), (300, 100)] {
            drawn(&screen, width, height);
        }
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in
            [(0.0, "0"), (9999.0, "9999"), (12_345.0, "12.3k"), (1.5e6, "1.5M"), (2.5e8, "250M"), (3e9, "3.0G")]
        {
            assert_eq!(short(number), text);
        }
    }
}
