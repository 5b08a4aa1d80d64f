//! `dataplane set`.
//!
//! The texts of elements go to the daemon as they are: it knows the type of the set.

use clap::Subcommand;

use super::{
    care::CareArgs,
    session::{Session, unexpected},
    usage,
};
use crate::{
    config::DynamicSet,
    control::{
        protocol::{Data, Request},
        set_row::{DynamicRow, SetRow},
    },
};

/// Columns of a line of elements.
const WIDTH: usize = 100;

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  dataplane set list blocked\n  dataplane set add blocked 192.0.2.1 198.51.100.0/24"
)]
pub(super) enum Set {
    /// List the sets and their elements
    #[command(visible_alias = "show", aliases = ["ls", "lst"], after_help = "Examples:\n  dataplane set list\n  dataplane set list blocked -j | jq '.[].elements'")]
    List {
        /// Only this set
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Add elements to a set, all or none; they are in force at once
    #[command(
        after_help = "Examples:\n  dataplane set add blocked 192.0.2.1 198.51.100.0/24\n  dataplane set add pairs '192.0.2.1 . 443'"
    )]
    Add {
        /// Name of the set, as declared in the config file or by `set create`
        #[arg(value_name = "NAME")]
        name: String,
        /// Addresses, prefixes, ranges and the like, of the type of the set
        #[arg(required = true, value_name = "ELEMENT")]
        elements: Vec<String>,
        #[command(flatten)]
        care: CareArgs,
    },
    /// Make an empty set, which rules can match as `@NAME`
    #[command(
        after_help = "Examples:\n  dataplane set create blocked ipv4_addr\n  dataplane set create pairs 'ipv4_addr . inet_service'"
    )]
    Create {
        /// Name of the new set
        #[arg(value_name = "NAME")]
        name: String,
        /// Its type, as nft has it
        #[arg(required = true, value_name = "TYPE")]
        kind: Vec<String>,
        /// Rules fill it (`add @NAME { ip saddr }`); the kernel holds it
        #[arg(long)]
        dynamic: bool,
        /// How long the elements of a dynamic set stay
        #[arg(long, value_name = "TIME", requires = "dynamic")]
        timeout: Option<String>,
        /// How many elements a dynamic set may have
        #[arg(long, value_name = "NUMBER", requires = "dynamic", default_value_t = DynamicSet::SIZE)]
        size: u32,
        #[command(flatten)]
        care: CareArgs,
    },
    /// Remove a set that no rule matches
    #[command(after_help = "Example:\n  dataplane set destroy blocked")]
    Destroy {
        /// Name of the set
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        care: CareArgs,
    },
    /// Remove elements from a set, all or none
    #[command(visible_alias = "delete", after_help = "Example:\n  dataplane set del blocked 192.0.2.1")]
    Del {
        /// Name of the set
        #[arg(value_name = "NAME")]
        name: String,
        /// As `set list` shows them
        #[arg(required = true, value_name = "ELEMENT")]
        elements: Vec<String>,
        #[command(flatten)]
        care: CareArgs,
    },
}

impl Set {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let (change, care) = match self {
            Self::List { name } => {
                return match session.call(&Request::SetList { name })? {
                    Data::Sets(rows) => session.print(&rows, || rows.iter().map(text).collect()),
                    data => Err(unexpected(&data)),
                };
            }
            Self::Add { name, elements, care } => {
                (Request::SetAdd { name, elements: split(&elements).map_err(usage)? }, care)
            }
            Self::Del { name, elements, care } => {
                (Request::SetDel { name, elements: split(&elements).map_err(usage)? }, care)
            }
            Self::Create { name, kind, dynamic, timeout, size, care } => {
                // In nft the word `type` stands before it.
                let kind = kind.iter().map(String::as_str).skip_while(|word| *word == "type").collect::<Vec<_>>();
                let dynamic = dynamic.then_some(DynamicRow { timeout, size });
                (Request::SetCreate { name, kind: kind.join(" "), dynamic }, care)
            }
            Self::Destroy { name, care } => (Request::SetDestroy { name }, care),
        };
        session.change(&care.around(change))?;
        care.remind();
        Ok(())
    }
}

/// The elements that the words of a command line mean: one each, in braces and with commas as nft has them or without; the
/// parts around a lone dot are one element.
fn split(words: &[String]) -> Result<Vec<String>, String> {
    let mut elements: Vec<String> = Vec::new();
    let mut glued = false;
    for word in words.iter().map(|word| word.trim()) {
        let word = word.trim_start_matches('{').trim_end_matches(['}', ',']).trim();
        match (word, elements.last_mut()) {
            ("", _) => continue,
            (".", Some(last)) => last.push_str(" ."),
            (word, Some(last)) if glued => last.extend([" ", word]),
            (word, _) => elements.push(word.to_owned()),
        }
        glued = word == ".";
    }
    if elements.is_empty() {
        Err("which elements? An example: 192.0.2.1 198.51.100.0/24".to_owned())
    } else {
        Ok(elements)
    }
}

/// As nft lists a set.
fn text(row: &SetRow) -> String {
    let mut text = format!("set {} {{\n\ttype {}\n", row.name, row.kind);
    if let Some(DynamicRow { timeout, size }) = &row.dynamic {
        let timeout = timeout.as_ref().map(|timeout| format!("\ttimeout {timeout}\n")).unwrap_or_default();
        text.extend([format!("\tsize {size}\n\tflags dynamic\n"), timeout]);
    }
    if !row.elements.is_empty() {
        text.push_str("\telements = { ");
        let mut width = 0;
        for (index, element) in row.elements.iter().enumerate() {
            if index > 0 {
                text.push_str(if width + element.len() > WIDTH { ",\n\t\t     " } else { ", " });
                width = if width + element.len() > WIDTH { 0 } else { width + 2 };
            }
            text.push_str(element);
            width += element.len();
        }
        text.push_str(" }\n");
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_make_elements() {
        let rows: &[(&[&str], &[&str])] = &[
            (&["192.0.2.1", "198.51.100.0/24"], &["192.0.2.1", "198.51.100.0/24"]),
            (&["{", "192.0.2.1,", "192.0.2.2", "}"], &["192.0.2.1", "192.0.2.2"]),
            (&["192.0.2.1 . 80"], &["192.0.2.1 . 80"]),
            (&["192.0.2.1", ".", "80", "192.0.2.2", ".", "443"], &["192.0.2.1 . 80", "192.0.2.2 . 443"]),
            (&["{", "}"], &[]),
            (&[" "], &[]),
        ];
        for (words, want) in rows {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(split(&words).unwrap_or_default(), *want, "{words:?}");
        }
    }

    #[test]
    fn long_lists_are_wrapped() {
        let elements: Vec<_> = (0..40).map(|host| format!("192.0.2.{host}")).collect();
        let row = SetRow { name: "many".to_owned(), kind: "ipv4_addr".to_owned(), elements, dynamic: None };
        assert!(text(&row).lines().all(|line| line.chars().count() < WIDTH + 20), "{}", text(&row));
        assert_eq!(text(&row).matches("192.0.2.").count(), 40);
    }
}
