//! One rule of nft, read piece by piece: what the language of rules has is read by its own parser.

use std::ops::Range;

use chumsky::prelude::*;

use super::chain::{Line, Says, too_much};
use super::piece::{Boxed, Elements, FIELD, PAIR, Piece, piece, several, translated};
use super::problem::{Position, Problems};
use super::room::{MATCHES, Room, weight};
use super::set::{Table, value_of};
use crate::rule::foreign::foreign;
use crate::rule::parse::token::space;
use crate::rule::parse::{end, run, translation};
use crate::rule::{Action, Change, Contradiction, Match, Rule, RuleError, Statement, Text};

/// One way of fitting what stands for several: what must hold, and the verdict that comes with it.
type Way = (Vec<Match>, Option<Says>);

/// Reads rules; made once for many.
pub(super) struct Reader<'a> {
    piece: Boxed<'a, (Piece<'a>, usize)>,
    /// Without what stands for several: its errors say what is expected where there is no such thing.
    plain: Boxed<'a, (Piece<'a>, usize)>,
}

/// What was read of a rule until now.
#[derive(Default)]
struct Draft {
    ways: Vec<Way>,
    statements: Vec<Statement>,
    says: Option<Says>,
    comment: Option<Text>,
    /// Whether it hands connections to a flow table.
    offloads: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new() -> Self {
        let whole = |piece: Boxed<'a, Piece<'a>>| {
            space().ignore_then(piece).map_with(|piece, extra| (piece, extra.span().end)).boxed()
        };
        Self { piece: whole(choice((several(), translated(), piece())).boxed()), plain: whole(piece()) }
    }

    /// The lines that a rule comes to; none when it has errors, which are told.
    pub(super) fn line(
        &self,
        (text, start): (&'a str, usize),
        (table, room): (&Table<'a>, &mut Room),
        problems: &mut Problems,
    ) -> Vec<Line> {
        let mut draft = Draft { ways: vec![(Vec::new(), None)], ..Draft::default() };
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let (piece, length) = match run(rest, self.piece.clone().lazy()) {
                Ok(read) => read,
                Err(error) => {
                    let several = [" . ", " vmap ", " map "].iter().any(|word| rest.contains(word));
                    let simpler = if several { None } else { run(rest, self.plain.clone().lazy()).err() };
                    let error = simpler.unwrap_or(error);
                    let place = start + at + error.span.start..start + at + error.span.end;
                    let (place, message) = foreign(rest, start + at).unwrap_or_else(|| (place, error.to_string()));
                    problems.error(place, message);
                    return Vec::new();
                }
            };
            let place = start + at..start + at + rest[..length].trim_end().len();
            if let Piece::Statement(Statement::Log(_)) = piece {
                shape(&rest[..length], &place, problems);
            }
            if let Err((place, message)) = draft.take(piece, place, (table, room)) {
                problems.error(place, message);
                return Vec::new();
            }
            at += length;
        }
        let place = start..start + text.len();
        draft.lines(&place, problems)
    }
}

/// Says what is not kept of a `log`.
fn shape(text: &str, place: &Position, problems: &mut Problems) {
    let mut outside = text.split('"').step_by(2).flat_map(str::split_whitespace);
    if let Some(word) = outside.find(|word| matches!(*word, "flags" | "snaplen" | "queue-threshold")) {
        let message = format!("`{word}` of `log` is not kept: a line shows what can be read of a packet here");
        problems.note(place.clone(), message);
    }
}

impl Draft {
    fn take<'x>(
        &mut self,
        piece: Piece<'x>,
        place: Position,
        (table, room): (&Table<'x>, &mut Room),
    ) -> Result<(), (Position, String)> {
        let asks = matches!(piece, Piece::Match(_) | Piece::Concat { .. } | Piece::Vmap { .. });
        if let (true, Some(statement)) = (asks, self.statements.first()) {
            let message = format!("this stands behind `{statement}`, which would meet fewer packets: matches go first");
            return Err((place, message));
        }
        let handed = matches!(self.says, Some(Says::Action(Action::Proxy(_))));
        let goes_with_it =
            matches!(piece, Piece::Statement(Statement::Change(_)) | Piece::Says(Says::Action(Action::Accept)));
        if handed && goes_with_it {
            // Its packets are accepted anyway.
            self.statements.extend(if let Piece::Statement(statement) = piece { Some(statement) } else { None });
            return Ok(());
        }
        if self.says.is_some() && !matches!(piece, Piece::Comment(_)) {
            return Err((place, "nothing can follow a verdict but a comment".to_owned()));
        }
        match piece {
            Piece::Match(asked) => self.factor(&[(vec![asked], None)], &place, room)?,
            Piece::Statement(statement) => self.statements.push(statement),
            Piece::Counter => {}
            Piece::Helper(name) => self.statements.push(helper(table, &name, place)?),
            Piece::Offload => self.offloads = true,
            Piece::Translated { verb, keys, elements } => {
                let ways = translated_ways((verb, &keys), elements, &place, (table, room))?;
                self.factor(&ways, &place, room)?;
                self.says = Some(Says::Action(Action::Continue));
            }
            Piece::Says(says) => self.says = Some(says),
            Piece::Comment(text) => self.comment = Some(text),
            Piece::Concat { negated: true, .. } => {
                let message =
                    "`!=` on several fields at once cannot be said: write a rule for each field, or accept before";
                return Err((place, message.to_owned()));
            }
            Piece::Concat { keys, elements, .. } => {
                let elements = match elements {
                    Elements::Listed(listed) => {
                        listed.into_iter().map(|(text, span)| (text, moved(&span, &place))).collect()
                    }
                    Elements::Named(name) => named_of(name, &place, table, room)?.to_vec(),
                };
                let way = |(text, place)| Ok((fitting(&keys, text, &place)?, None));
                self.factor(&elements.into_iter().map(way).collect::<Result<Vec<_>, _>>()?, &place, room)?;
            }
            Piece::Vmap { keys, elements } => {
                let elements = match elements {
                    Elements::Listed(listed) => {
                        listed.into_iter().map(|(pair, span)| (pair, moved(&span, &place))).collect()
                    }
                    Elements::Named(name) => {
                        let pair = |(text, place): &(&'x str, Position)| Ok((said_of(text, place)?, place.clone()));
                        let said = named_of(name, &place, table, room)?.iter();
                        said.map(pair).collect::<Result<Vec<_>, (Position, String)>>()?
                    }
                };
                let way =
                    |((text, says), place): ((&str, Says), Position)| Ok((fitting(&keys, text, &place)?, Some(says)));
                self.factor(&elements.into_iter().map(way).collect::<Result<Vec<_>, _>>()?, &place, room)?;
                self.says = Some(Says::Action(Action::Continue));
            }
        }
        Ok(())
    }

    /// Every way until now with each of these.
    fn factor(&mut self, ways: &[Way], place: &Position, room: &mut Room) -> Result<(), (Position, String)> {
        let all = |ways: &[Way]| ways.iter().map(|(asked, _)| weight(asked)).sum::<usize>();
        let total =
            all(&self.ways).saturating_mul(ways.len()).saturating_add(all(ways).saturating_mul(self.ways.len()));
        if self.ways.iter().any(|(asked, _)| asked.len() >= MATCHES) {
            return Err((place.clone(), format!("a rule asks at most {MATCHES} things")));
        }
        // One more for what is there takes only its own room.
        let more = if ways.len() == 1 { all(ways).saturating_mul(self.ways.len()) } else { total };
        room.take(more).map_err(|full| (place.clone(), too_much(full)))?;
        if let [(more, said)] = ways {
            for (asked, says) in &mut self.ways {
                asked.extend(more.iter().cloned());
                *says = said.clone().or_else(|| says.take());
            }
            return Ok(());
        }
        let before = std::mem::take(&mut self.ways);
        let with = |(asked, says): &Way, (more, said): &Way| {
            (asked.iter().chain(more).cloned().collect(), said.clone().or_else(|| says.clone()))
        };
        self.ways = before.iter().flat_map(|one| ways.iter().map(move |other| with(one, other))).collect();
        Ok(())
    }

    fn lines(self, place: &Position, problems: &mut Problems) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.offloads {
            let message =
                "left out: connections that the rules let through are carried at the driver without a flow table";
            problems.note(place.clone(), message);
            if self.says.is_none() && self.statements.is_empty() {
                return lines;
            }
        }
        for (matches, says) in self.ways {
            if let Err(Contradiction { .. }) = Rule::new(matches.clone(), Vec::new(), Action::Drop, None)
                .inspect_err(|error| problems.error(place.clone(), error.to_string()))
            {
                return Vec::new();
            }
            lines.push(Line {
                place: place.clone(),
                matches,
                statements: self.statements.clone(),
                says: says.or_else(|| self.says.clone()).unwrap_or(Says::Action(Action::Continue)),
                comment: self.comment.clone(),
            });
        }
        lines
    }
}

/// `ct helper set "NAME"`.
fn helper(table: &Table<'_>, name: &Text, place: Position) -> Result<Statement, (Position, String)> {
    let helper = table.helper(name.as_str()).map_err(|message| (place, message))?;
    Ok(Statement::Change(Change::Helper(helper)))
}

/// The elements of a named set or map, for which there must be room.
fn named_of<'t, 'x>(
    name: &str,
    place: &Position,
    table: &'t Table<'x>,
    room: &mut Room,
) -> Result<&'t [(&'x str, Position)], (Position, String)> {
    let elements = table.elements(name).map_err(|message| (place.clone(), message))?;
    room.take(elements.len()).map_err(|full| (place.clone(), too_much(full)))?;
    Ok(elements)
}

fn moved(span: &Range<usize>, place: &Position) -> Position {
    place.start + span.start..place.start + span.end
}

/// The matches that an element of several parts stands for: each field with its part.
fn fitting(keys: &[&str], element: &str, place: &Position) -> Result<Vec<Match>, (Position, String)> {
    let parts: Vec<_> = element.split(" . ").map(str::trim).collect();
    if parts.len() != keys.len() {
        let message = format!("`{element}` has {} parts, where {} fields are asked", parts.len(), keys.len());
        return Err((place.clone(), message));
    }
    let read = |(key, part): (&&str, &&str)| {
        let text = format!("{key} {part}");
        let one = FIELD.with(|cache| run(&text, cache.get().clone()));
        one.map_err(|error: RuleError| {
            let told = foreign(&text, 0).map_or_else(|| format!("`{text}`: {error}"), |(_, message)| message);
            (place.clone(), told)
        })
    };
    keys.iter().zip(&parts).map(read).collect()
}

/// A way for each element of a map of addresses.
fn translated_ways<'x>(
    (verb, keys): (&str, &[&str]),
    elements: Elements<'x, (&'x str, &'x str)>,
    place: &Position,
    (table, room): (&Table<'x>, &mut Room),
) -> Result<Vec<Way>, (Position, String)> {
    let elements: Vec<_> = match elements {
        Elements::Listed(listed) => listed.into_iter().map(|(pair, span)| (pair, moved(&span, place))).collect(),
        Elements::Named(name) => {
            let pair = |(text, place): &(&'x str, Position)| {
                let parts = value_of(text).split_once(" : ");
                parts.map(|parts| (parts, place.clone())).ok_or_else(|| no_value(text, place))
            };
            named_of(name, place, table, room)?.iter().map(pair).collect::<Result<_, _>>()?
        }
    };
    let way = |((key, target), place): ((&str, &str), Position)| {
        Ok((fitting(keys, key.trim(), &place)?, Some(translation_to(verb, target, &place)?)))
    };
    elements.into_iter().map(way).collect()
}

fn no_value(text: &str, place: &Position) -> (Position, String) {
    (
        place.clone(),
        format!("`{text}` has no value: an element of this map is `KEY : ADDRESS` or `KEY : ADDRESS . PORT`"),
    )
}

/// What a value of a map translates to: an address, or an address and a port.
fn translation_to(verb: &str, target: &str, place: &Position) -> Result<Says, (Position, String)> {
    let text = match target.trim().split_once(" . ") {
        Some((address, port)) if address.contains(':') => format!("{verb} [{}]:{}", address.trim(), port.trim()),
        Some((address, port)) => format!("{verb} {}:{}", address.trim(), port.trim()),
        None => format!("{verb} {}", target.trim()),
    };
    let read = run(&text, space().ignore_then(translation()).then_ignore(end("the end of the value")));
    read.map(Says::Action).map_err(|error| (place.clone(), format!("`{text}`: {error}")))
}

/// An element of a named map: what it is about, and its verdict.
fn said_of<'a>(text: &'a str, place: &Position) -> Result<(&'a str, Says), (Position, String)> {
    PAIR.with(|cache| run(text, cache.get().clone())).map_err(|error| (place.clone(), error.to_string()))
}
