//! Answers that are too long to be held for each peer: asked of the ring page by page, as the peer takes them, and written as
//! the one line that the whole answer would be.
//!
//! What changes between two pages may be in the answer or not; what does not change is in it once.

use std::net::IpAddr;

use serde::Serialize;

use super::{
    protocol::{Data, Reply, Response},
    set_row::SetRow,
};
use crate::rule::ChainName;

/// Where the next page of an answer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Behind the routes of this prefix.
    Routes {
        /// In which table.
        table: u32,
        /// Its address.
        address: IpAddr,
        /// And its length.
        length: u8,
    },
    /// At the place behind this rule.
    Rules {
        /// In which chain.
        chain: ChainName,
        /// Where it was.
        place: usize,
        /// Its handle.
        handle: u64,
    },
    /// At this element of a set.
    Sets {
        /// Its name.
        name: String,
        /// How many of its elements have been told.
        element: usize,
    },
    /// Behind this neighbour.
    Neighbours {
        /// On which link.
        ifindex: u32,
        /// Whose it is.
        address: IpAddr,
    },
}

/// What the ring says to a call: all of an answer, or one page of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The answer, with the rows of this page.
    pub reply: Reply,
    /// Where the next page begins; none behind the last.
    pub next: Option<Cursor>,
}

impl From<Reply> for Part {
    fn from(reply: Reply) -> Self {
        Self { reply, next: None }
    }
}

impl From<Data> for Part {
    fn from(data: Data) -> Self {
        Reply::from(data).into()
    }
}

/// The line of an answer that comes in pages.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Whether its beginning was written.
    begun: bool,
    /// Whether a row was written.
    rows: bool,
    /// Whether the last row goes on: a set with more elements.
    open: bool,
}

impl Line {
    /// What a page adds to it.
    ///
    /// # Errors
    /// None for the types of this folder: all their keys are strings.
    pub(super) fn piece(&mut self, part: Part) -> Result<String, serde_json::Error> {
        let Part { reply: Reply { data, warnings }, next } = part;
        let (empty, rows) = match data {
            Data::Routes(rows) => (Data::Routes(Vec::new()), self.rows(&rows)?),
            Data::Rules(rows) => (Data::Rules(Vec::new()), self.rows(&rows)?),
            Data::Neighbours(rows) => (Data::Neighbours(Vec::new()), self.rows(&rows)?),
            Data::Sets(rows) => {
                let more = matches!(&next, Some(Cursor::Sets { element, .. }) if *element > 0);
                (Data::Sets(Vec::new()), self.sets(rows, more)?)
            }
            // Others have one page.
            data => return serde_json::to_string(&Response::Reply(Reply { data, warnings })),
        };
        let whole = serde_json::to_string(&Response::Reply(Reply { data: empty, warnings }))?;
        // The first list in it is the empty one.
        let (opening, closing) = whole.split_once("[]").unwrap_or((&whole, ""));
        let mut piece = if self.begun { String::new() } else { format!("{opening}[") };
        self.begun = true;
        piece += &rows;
        if next.is_none() {
            piece += "]";
            piece += closing;
        }
        Ok(piece)
    }

    fn rows<T: Serialize>(&mut self, rows: &[T]) -> Result<String, serde_json::Error> {
        let text = inner(rows)?;
        let comma = if self.rows && !text.is_empty() { "," } else { "" };
        self.rows |= !text.is_empty();
        Ok(format!("{comma}{text}"))
    }

    /// Rows of sets, of which the first may go on with one that was begun, and the last may go on in the next page.
    fn sets(&mut self, rows: Vec<SetRow>, more: bool) -> Result<String, serde_json::Error> {
        let mut text = String::new();
        let last = rows.len().saturating_sub(1);
        for (index, mut row) in rows.into_iter().enumerate() {
            let elements = inner(&std::mem::take(&mut row.elements))?;
            if self.open {
                text += if elements.is_empty() { "" } else { "," };
            } else {
                let head = serde_json::to_string(&row)?;
                text += if self.rows { "," } else { "" };
                text += head.strip_suffix("]}").unwrap_or(&head);
            }
            text += &elements;
            (self.rows, self.open) = (true, more && index == last);
            text += if self.open { "" } else { "]}" };
        }
        Ok(text)
    }
}

/// The items of a list, without its brackets.
fn inner<T: Serialize>(items: &[T]) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string(items)?;
    text.pop();
    text.remove(0);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::row::{NextHopRow, RouteRow, RuleRow};

    fn line(parts: Vec<Part>) -> Response {
        let mut line = Line::default();
        let pieces: String = parts.into_iter().map(|part| line.piece(part).expect("JSON")).collect();
        serde_json::from_str(&pieces).unwrap_or_else(|error| panic!("{error}: {pieces}"))
    }

    fn part(data: Data, next: Option<Cursor>) -> Part {
        Part { reply: data.into(), next }
    }

    #[test]
    fn pages_are_the_answer() {
        let route = |number: u8| RouteRow {
            dst: format!("192.0.2.{number}/32"),
            kind: "unicast".to_owned(),
            nexthops: vec![NextHopRow { via: None, dev: Some("a\"[]".to_owned()), weight: 1 }],
            mtu: None,
            packets: None,
            protocol: "static".to_owned(),
            metric: 0,
            table: 254,
        };
        let next = || Some(Cursor::Routes { table: 254, address: [192, 0, 2, 1].into(), length: 32 });
        let routes: Vec<_> = (0..5).map(route).collect();
        for sizes in [vec![5], vec![1, 4], vec![0, 5], vec![2, 0, 3], vec![1, 1, 1, 1, 1, 0]] {
            let (mut rest, mut parts) = (routes.as_slice(), Vec::new());
            for (index, size) in sizes.iter().enumerate() {
                let (page, behind) = rest.split_at(*size);
                rest = behind;
                parts.push(part(Data::Routes(page.to_vec()), next().filter(|_| index + 1 < sizes.len())));
            }
            assert_eq!(line(parts), Response::Reply(Data::Routes(routes.clone()).into()), "{sizes:?}");
        }
        let none = vec![part(Data::Rules(Vec::<RuleRow>::new()), None)];
        assert_eq!(line(none), Response::Reply(Data::Rules(Vec::new()).into()));
        assert_eq!(line(vec![part(Data::Done, None)]), Response::Reply(Data::Done.into()));
    }

    #[test]
    fn sets_go_on_from_page_to_page() {
        let set = |name: &str, elements: &[&str]| SetRow {
            name: name.to_owned(),
            kind: "ipv4_addr".to_owned(),
            elements: elements.iter().map(|&element| element.to_owned()).collect(),
            dynamic: None,
        };
        let next = |element| Some(Cursor::Sets { name: "b".to_owned(), element });
        let parts = vec![
            part(Data::Sets(vec![set("a", &[]), set("b", &["1"])]), next(1)),
            part(Data::Sets(vec![set("b", &["2", "3"])]), next(3)),
            part(Data::Sets(vec![set("b", &[])]), next(3)),
            part(Data::Sets(vec![set("b", &["4"]), set("c", &["5"])]), next(0)),
            part(Data::Sets(vec![set("d", &["6"])]), None),
        ];
        let want = vec![set("a", &[]), set("b", &["1", "2", "3", "4"]), set("c", &["5"]), set("d", &["6"])];
        assert_eq!(line(parts), Response::Reply(Data::Sets(want).into()));
    }
}
