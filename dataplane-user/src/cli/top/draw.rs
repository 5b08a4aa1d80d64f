//! How the screen of `top` is drawn.

use dataplane_common::Verdict;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState, Wrap},
};

use super::{
    samples::ENOUGH,
    screen::{Detail, Screen, Section},
    table::{Counted, float, short},
};

/// From here on there is room for all columns of ports.
const WIDE: u16 = 110;
/// Columns of a line of the last minute.
const MINUTE: u16 = 60;
/// Columns of the lines in the head.
const HEAD: usize = 12;

const HELP: &str = "Tab, 1-3    ports, reasons, rules\narrows      choose a row; also j k, PgUp PgDn, Home End\n\
                    Enter       what is behind it, and five live packets\ns           sort by rate, total or name\n\
                    /           filter: type, then Enter; Esc forgets it\nb           bits or packets of ports\n\
                    z           count from zero, and back\np, space    pause\nq, Ctrl-C   end\n\nPress any key.";

impl Screen {
    /// Draws all of it.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
        self.head(frame, head);
        if let Some(detail) = &self.detail {
            behind(frame, body, detail);
        } else {
            let [ports, reasons, rules] = self.heights(body.height).map(Constraint::Length);
            let [ports, reasons, rules] = Layout::vertical([ports, reasons, rules]).areas(body);
            self.draw_ports(frame, ports);
            self.counted_table(frame, reasons, Section::Reasons, ("Reasons", "REASON", "VERDICT"), &self.reasons());
            self.counted_table(frame, rules, Section::Rules, ("Rules", "CHAIN, HANDLE", "RULE"), &self.rules());
        }
        let text = if self.typing || !self.filter.is_empty() {
            format!("filter: {}{}", self.filter, if self.typing { "_" } else { "" })
        } else if self.detail.is_some() {
            "Esc back  Enter more packets".to_owned()
        } else {
            format!(
                "q end  s sort ({})  / filter  Tab, arrows, Enter  b bits  p {}  ? help",
                self.order.name(),
                if self.paused { "go on" } else { "pause" }
            )
        };
        frame.render_widget(Paragraph::new(text).reversed(), foot);
        if self.help {
            let area = Rect { width: 64.min(head.width), height: 13.min(frame.area().height), ..frame.area() };
            frame.render_widget(Clear, area);
            frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title("Help")), area);
        }
    }

    /// Lines for each block: the chosen one gets what the others do not need, up to half.
    fn heights(&self, room: u16) -> [u16; 3] {
        // Title and heading.
        let wanted = [self.ports().len(), self.reasons().len(), self.rules().len().max(1)]
            .map(|rows| u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(2).max(3));
        let mut heights = [room / 3, room / 3, room - room / 3 * 2];
        let chosen = self.pane.unwrap_or(Section::Reasons) as usize;
        if self.pane.is_some() {
            let rest = room - room / 2;
            heights = [rest / 2; 3];
            heights[chosen] = room - rest / 2 * 2;
        }
        let mut left = 0;
        for (height, wanted) in heights.iter_mut().zip(wanted) {
            left += height.saturating_sub(wanted);
            *height = (*height).min(wanted);
        }
        for place in [chosen, 0, 1, 2] {
            let more = left.min(wanted[place].saturating_sub(heights[place]));
            (heights[place], left) = (heights[place] + more, left - more);
        }
        heights[2] += left;
        heights
    }

    fn head(&self, frame: &mut Frame<'_>, area: Rect) {
        let (now, span) = (self.now.stats.totals, self.span());
        let rx = span.rate(now.rx, |sample| Some(sample.stats.totals.rx));
        let dropped = span.rate(now.dropped, |sample| Some(sample.stats.totals.dropped));
        let bits: f64 = span.ports().iter().map(|port| port.rx[0]).sum();
        let title = format!(
            "dataplane top{}  {} ports  {} rules{}",
            if self.paused { " (paused)" } else { "" },
            self.now.stats.ports.len(),
            self.now.rules.len(),
            if self.zero.is_some() { "  counted from zero" } else { "" },
        );
        let share = if rx > 0.0 { 100.0 * dropped / rx } else { 0.0 };
        let line = Line::from(vec![
            Span::from(format!("rx {}bit/s {}/s ", short(bits), short(rx))),
            self.painted(self.history.line("rx", HEAD), Verdict::Forward),
            Span::from(format!("  dropped {}/s {share:.1}% ", short(dropped))),
            self.painted(self.history.line("dropped", HEAD), Verdict::Drop),
        ]);
        frame.render_widget(Paragraph::new(vec![Line::from(title).bold(), line]), area);
    }

    fn painted(&self, text: String, verdict: Verdict) -> Span<'static> {
        Span::styled(text, self.style(Some(verdict)))
    }

    /// The colour of a verdict, where colours are wanted.
    fn style(&self, verdict: Option<Verdict>) -> Style {
        let colour = match verdict.filter(|_| self.colour) {
            Some(Verdict::Forward) => Color::Green,
            Some(Verdict::Deliver) => Color::Cyan,
            Some(Verdict::Kernel) => Color::Yellow,
            Some(Verdict::Drop | Verdict::Withhold) => Color::Red,
            None => return Style::new(),
        };
        Style::new().fg(colour)
    }

    /// The title of a block, with the rows that are shown where there are more.
    fn title(&self, name: &str, pane: Section, shown: usize, rows: usize, first: usize) -> Line<'static> {
        let text = if rows > shown && shown > 0 {
            format!("{name} {}-{} of {rows}", first + 1, (first + shown).min(rows))
        } else {
            name.to_owned()
        };
        let line = Line::from(text);
        if self.pane == Some(pane) { line.bold().underlined() } else { line.bold() }
    }

    /// Draws a table, and the chosen row in it.
    fn table(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        (pane, name): (Section, &str),
        rows: Vec<Row<'_>>,
        (widths, head): (Vec<Constraint>, Vec<Cell<'_>>),
    ) {
        let shown = usize::from(area.height.saturating_sub(2));
        let chosen = (self.pane == Some(pane)).then_some(self.row.min(rows.len().saturating_sub(1)));
        let first = chosen.map_or(0, |row| (row + 1).saturating_sub(shown));
        let title = self.title(name, pane, shown, rows.len(), first);
        let table = Table::new(rows, widths)
            .header(Row::new(head).style(Style::new().bold()))
            .row_highlight_style(Style::new().reversed())
            .block(Block::new().title(title));
        let mut state = TableState::default().with_offset(first).with_selected(chosen);
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn draw_ports(&self, frame: &mut Frame<'_>, area: Rect) {
        let wide = area.width >= WIDE;
        let unit = usize::from(self.packets);
        let fixed = 15 + 8 + 6 + 9 * if wide { 7 } else { 4 } + if wide { 10 } else { 7 };
        let minute = area.width.saturating_sub(fixed).min(MINUTE);
        let rows = self.ports().into_iter().map(|port| {
            let [_, forwarded, delivered, dropped, passed] = port.packets;
            let mut numbers = vec![port.rx[unit], port.tx[unit], port.packets[0]];
            if wide {
                numbers.extend([forwarded, delivered, passed]);
            }
            let name = [port.name.clone(), port.mode, port.state].map(Cell::from);
            let numbers = numbers.into_iter().map(|rate| right(short(rate)));
            let drops = Cell::from(Line::from(short(dropped)).right_aligned());
            let red = dropped > 0.0;
            let drops = drops.style(self.style(red.then_some(Verdict::Drop)));
            let line = Cell::from(self.history.line(&format!("port {}", port.name), minute.into()));
            let line = line.style(self.style(Some(Verdict::Forward)));
            Row::new(name.into_iter().chain(numbers).chain([drops, line]))
        });
        let mut widths = [15, 8, 6].map(Constraint::Length).to_vec();
        widths.extend(vec![Constraint::Length(9); if wide { 7 } else { 4 }]);
        widths.push(Constraint::Length(minute));
        let mut head = ["PORT", "MODE", "STATE"].map(Cell::from).to_vec();
        let names: &[&str] = match (self.packets, wide) {
            (false, false) => &["RX bit/s", "TX bit/s", "RX/s", "DROP/s"],
            (true, false) => &["LINK RX/s", "LINK TX/s", "RX/s", "DROP/s"],
            (false, true) => &["RX bit/s", "TX bit/s", "RX/s", "FWD/s", "LOCAL/s", "PASS/s", "DROP/s"],
            (true, true) => &["LINK RX/s", "LINK TX/s", "RX/s", "FWD/s", "LOCAL/s", "PASS/s", "DROP/s"],
        };
        head.extend(names.iter().map(|name| right((*name).to_owned())));
        head.push("60 s".into());
        self.table(frame, area, (Section::Ports, "Ports"), rows.collect(), (widths, head));
    }

    /// Rows with a rate and a total in front.
    fn counted_table(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        pane: Section,
        (title, name, text): (&str, &'static str, &'static str),
        rows: &[Counted],
    ) {
        if rows.is_empty() {
            let none = match pane {
                Section::Rules if self.now.rules.is_empty() => "there are no rules",
                Section::Rules => "no rule has matched yet",
                _ => "no packet has come yet",
            };
            let said = if self.filter.is_empty() { none } else { "nothing fits the filter" };
            let paragraph = Paragraph::new(said).block(Block::new().title(self.title(title, pane, 0, 0, 0)));
            return frame.render_widget(paragraph, area);
        }
        let all: f64 = rows.iter().map(|row| row.rate).sum();
        let minute = area.width.saturating_sub(70).clamp(10, MINUTE);
        let named = if pane == Section::Rules { 14 } else { 20 };
        let rows = rows.iter().map(|row| {
            let share = if all > 0.0 { format!("{:.1}", 100.0 * row.rate / all) } else { String::new() };
            let line = Cell::from(self.history.line(&row.key, minute.into()));
            let cells = [
                right(short(row.rate)),
                right(share),
                right(short(float(row.total))),
                row.name.clone().into(),
                line.style(self.style(Some(row.verdict.unwrap_or(Verdict::Forward)))),
                Cell::from(row.text.clone()).style(self.style(row.verdict)),
            ];
            Row::new(cells)
        });
        let widths = [8, 5, 8, named, minute].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
        let head = vec![
            right("PKT/s".to_owned()),
            right("%".to_owned()),
            right("PACKETS".to_owned()),
            name.into(),
            "60 s".into(),
            text.into(),
        ];
        self.table(frame, area, (pane, title), rows.collect(), (widths.collect(), head));
    }
}

/// What is behind a row.
fn behind(frame: &mut Frame<'_>, area: Rect, detail: &Detail) {
    let mut lines = vec![Line::from("")];
    lines.extend(detail.text.lines().map(|line| Line::from(line.to_owned())));
    lines.push(Line::from(""));
    let heading = match (&detail.trouble, detail.packets.len()) {
        (Some(trouble), _) => format!("No packets can be shown: {trouble}"),
        (None, 0) => "Waiting for packets".to_owned(),
        (None, ENOUGH) => "Packets (Enter: five more)".to_owned(),
        (None, _) => "Packets".to_owned(),
    };
    lines.push(Line::from(heading).bold());
    lines.extend(detail.packets.iter().flat_map(|packet| packet.lines()).map(|line| Line::from(line.to_owned())));
    let title = Line::from(detail.title.clone()).bold();
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(Block::new().title(title)), area);
}

/// A number, to the right.
fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}
