//! `dataplane top`: what happens now, on one screen.

mod screen;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::{
    session::{Session, unexpected},
    units::interval,
    usage,
};
use crate::control::protocol::{Data, Request};
use screen::{Act, Sample, Screen};

/// Show ports, reasons and rules with their rates on one screen
///
/// Keys: q ends, s sorts, / filters, p pauses, ? shows help.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane top\n  dataplane top --interval 5")]
pub(super) struct Top {
    /// Time between two updates, such as 1, 0.5 or 2m
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
}

impl Top {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        if !io::stdout().is_terminal() {
            return Err(usage("top needs a terminal; `dataplane stats --watch` prints line by line"));
        }
        // The daemon first: an error must not flash by on another screen.
        let first = look(session)?;
        let mut terminal = ratatui::try_init().context("cannot use this terminal")?;
        let ended = run(session, &mut terminal, first, self.interval);
        ratatui::restore();
        ended
    }
}

/// Draws until the user ends it, or the daemon is gone.
fn run(
    session: &Session,
    terminal: &mut ratatui::DefaultTerminal,
    first: Sample,
    interval: Duration,
) -> anyhow::Result<()> {
    let mut screen = Screen::new(first);
    let mut due = Instant::now() + interval;
    loop {
        terminal.draw(|frame| screen.draw(frame)).context("cannot draw")?;
        let left = due.saturating_duration_since(Instant::now());
        if event::poll(left).context("cannot read keys")? {
            match event::read().context("cannot read keys")? {
                Event::Key(key) if key.kind == KeyEventKind::Press && screen.press(key) == Act::Quit => return Ok(()),
                _ => {}
            }
        } else {
            due = Instant::now() + interval;
            if !screen.is_paused() {
                screen.show(look(session)?);
            }
        }
    }
}

/// What is counted at this moment.
fn look(session: &Session) -> anyhow::Result<Sample> {
    let stats = match session.call(&Request::Stats { iface: None })? {
        Data::Stats(stats) => stats,
        data => return Err(unexpected(&data)),
    };
    let rules = match session.call(&Request::RuleList { chain: None })? {
        Data::Rules(rules) => rules,
        data => return Err(unexpected(&data)),
    };
    Ok(Sample { at: Instant::now(), stats, rules })
}
