//! The list of reasons: `dataplane reason list`, `dataplane stats --reasons`, and a manual page.

use std::fmt::Write as _;

use clap::Subcommand;
use dataplane_common::Reason;

use super::{
    session::Session,
    table::{LEFT, table},
};
use crate::control::status::ReasonRow;

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  dataplane reason list")]
pub(super) enum Verb {
    /// List all reasons with verdict, meaning and advice
    ///
    /// Needs no daemon. `dataplane stats` shows which reasons have counted.
    #[command(visible_alias = "show", aliases = ["ls", "lst"], after_help = "Examples:\n  dataplane reason list\n  dataplane reason list -j | jq -r '.[].name'")]
    List,
}

impl Verb {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let Self::List = self;
        print(session)
    }
}

/// Prints the list.
pub(super) fn print(session: &Session) -> anyhow::Result<()> {
    let rows: Vec<_> = Reason::ALL.iter().map(|reason| row(*reason)).collect();
    session.print(&rows, || {
        let columns = [("REASON", LEFT), ("VERDICT", LEFT), ("MEANING", LEFT), ("WHAT TO DO", LEFT)];
        table(columns, rows.iter().cloned().map(|row| [row.name, row.verdict, row.meaning, row.advice]))
    })
}

fn row(reason: Reason) -> ReasonRow {
    ReasonRow {
        name: reason.name().to_owned(),
        verdict: reason.verdict().name().to_owned(),
        meaning: reason.meaning().to_owned(),
        advice: reason.advice().to_owned(),
    }
}

/// The manual page `dataplane-reasons(7)`.
pub(super) fn page() -> String {
    let mut page = format!(
        ".TH dataplane-reasons 7 \"\" \"dataplane {}\"\n.SH NAME\ndataplane\\-reasons \\- reasons for what became of packets\n\
         .SH DESCRIPTION\nEvery received packet counts one reason at its port. \\fBdataplane stats\\fR shows those that counted.\n\
         .SH REASONS\n",
        env!("CARGO_PKG_VERSION")
    );
    for reason in Reason::ALL {
        let [name, verdict, meaning, advice] =
            [reason.name(), reason.verdict().name(), reason.meaning(), reason.advice()].map(escaped);
        // Writing to a string cannot fail.
        let _ = write!(page, ".TP\n\\fB{name}\\fR ({verdict})\n{meaning}\n.br\nWhat to do: {advice}\n");
    }
    page + ".SH SEE ALSO\n.BR dataplane-stats (1),\n.BR dataplane-reason (1)\n"
}

/// As text that roff takes literally.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    // A line that begins so would be a request.
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_reason_with_meaning_and_advice() {
        let page = page();
        for reason in Reason::ALL {
            let entry = format!("\\fB{}\\fR ({})\n", escaped(reason.name()), reason.verdict().name());
            let after = page.split_once(&entry).unwrap_or_else(|| panic!("{} is not there", reason.name())).1;
            assert!(after.starts_with(&escaped(reason.meaning())), "{}", reason.name());
            assert!(after.contains(&escaped(reason.advice())), "{}", reason.name());
        }
    }

    #[test]
    fn text_is_no_roff() {
        for (text, want) in [("a-b", "a\\-b"), ("a\\b", "a\\eb"), (".x", "\\&.x"), ("'x", "\\&'x")] {
            assert_eq!(escaped(text), want);
        }
    }
}
