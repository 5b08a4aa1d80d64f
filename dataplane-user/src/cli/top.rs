//! `dataplane top`: what happens now, on one screen.

mod draw;
mod history;
mod samples;
mod screen;
mod table;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::{
    paint,
    session::{Session, unexpected},
    units::interval,
    usage,
};
use crate::control::protocol::{Data, Request};
use samples::Samples;
use screen::{Act, Sample, Screen};

/// How often the screen looks for live packets, where it shows some.
const LIVE: Duration = Duration::from_millis(200);

/// Show ports, reasons and rules with their rates on one screen
///
/// Keys: q ends, Tab and arrows choose a row, Enter shows what is behind it with live packets, s sorts, / filters, b shows bits
/// or packets, z counts from zero, p pauses, ? shows help.
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
    let mut screen = Screen::new(first, paint::is_wanted());
    let mut live: Option<Samples> = None;
    let mut due = Instant::now() + interval;
    loop {
        terminal.draw(|frame| screen.draw(frame)).context("cannot draw")?;
        let left = due.saturating_duration_since(Instant::now());
        let wait = if live.is_some() { left.min(LIVE) } else { left };
        if event::poll(wait).context("cannot read keys")? {
            match event::read().context("cannot read keys")? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match screen.press(key) {
                    Act::Quit => return Ok(()),
                    Act::Stay => {}
                    Act::Watch(filter) => live = Some(Samples::begin(&session.socket, filter)),
                    // Nothing waits for packets any more.
                    Act::Leave => live = None,
                },
                _ => {}
            }
        }
        if let Some(samples) = &live {
            samples.take(|said| screen.tell(said));
        }
        if Instant::now() >= due {
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
