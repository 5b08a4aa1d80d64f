//! One rule of nft, read piece by piece: what the language of rules has is read by its own parser.

use std::ops::Range;

use chumsky::prelude::*;

use super::chain::{Line, Says};
use super::foreign::foreign;
use super::problem::{Place, Problems};
use super::set::{Table, value_of};
use crate::rule::parse::fault::{Fault, Word};
use crate::rule::parse::token::{Extra, in_quotes, integer, is_value, keyword, quoted, run_of, space, symbol, token};
use crate::rule::parse::{end, field, run, statement, value};
use crate::rule::{Contradiction, Match, Rule, RuleError, Statement, Text, Verdict};

/// Rules that one may come to.
const MOST: usize = 100_000;

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

/// A part of a rule.
#[derive(Clone, Debug)]
enum Piece<'a> {
    Match(Match),
    Statement(Statement),
    Counter,
    Says(Says),
    Comment(Text),
    /// Several fields at once, in a set or not.
    Concat {
        keys: Vec<&'a str>,
        negated: bool,
        elements: Elements<'a, &'a str>,
    },
    /// A verdict for each element.
    Vmap {
        keys: Vec<&'a str>,
        elements: Elements<'a, (&'a str, Says)>,
    },
}

/// In braces, or the name of what holds them.
#[derive(Clone, Debug)]
enum Elements<'a, E> {
    Listed(Vec<(E, Range<usize>)>),
    Named(&'a str),
}

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
}

impl<'a> Reader<'a> {
    pub(super) fn new() -> Self {
        let whole = |piece: Boxed<'a, Piece<'a>>| {
            space().ignore_then(piece).map_with(|piece, extra| (piece, extra.span().end)).boxed()
        };
        Self { piece: whole(choice((several(), piece())).boxed()), plain: whole(piece()) }
    }

    /// The lines that a rule comes to; none when it has errors, which are told.
    pub(super) fn line(&self, text: &'a str, start: usize, table: &Table<'a>, problems: &mut Problems) -> Vec<Line> {
        let mut draft = Draft { ways: vec![(Vec::new(), None)], ..Draft::default() };
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let (piece, length) = match run(rest, self.piece.clone().lazy()) {
                Ok(read) => read,
                Err(error) => {
                    let several = [" . ", " vmap "].iter().any(|word| rest.contains(word));
                    let simpler = if several { None } else { run(rest, self.plain.clone().lazy()).err() };
                    let error = simpler.unwrap_or(error);
                    let place = start + at + error.span.start..start + at + error.span.end;
                    let (place, message) = foreign(rest, start + at).unwrap_or_else(|| (place, error.to_string()));
                    problems.error(place, message);
                    return Vec::new();
                }
            };
            let place = start + at..start + at + rest[..length].trim_end().len();
            if let Err((place, message)) = draft.take(piece, place, table) {
                problems.error(place, message);
                return Vec::new();
            }
            at += length;
        }
        let place = start..start + text.len();
        draft.lines(&place, problems)
    }
}

impl Draft {
    fn take<'x>(&mut self, piece: Piece<'x>, place: Place, table: &Table<'x>) -> Result<(), (Place, String)> {
        let asks = matches!(piece, Piece::Match(_) | Piece::Concat { .. } | Piece::Vmap { .. });
        if let (true, Some(statement)) = (asks, self.statements.first()) {
            let message = format!("this stands behind `{statement}`, which would meet fewer packets: matches go first");
            return Err((place, message));
        }
        if self.says.is_some() && !matches!(piece, Piece::Comment(_)) {
            return Err((place, "nothing can follow a verdict but a comment".to_owned()));
        }
        match piece {
            Piece::Match(asked) => self.factor(&[(vec![asked], None)], &place)?,
            Piece::Statement(statement) => self.statements.push(statement),
            Piece::Counter => {}
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
                    Elements::Named(name) => table.elements(name).map_err(|message| (place.clone(), message))?,
                };
                let way = |(text, place)| Ok((fitting(&keys, text, &place)?, None));
                self.factor(&elements.into_iter().map(way).collect::<Result<Vec<_>, _>>()?, &place)?;
            }
            Piece::Vmap { keys, elements } => {
                let elements = match elements {
                    Elements::Listed(listed) => {
                        listed.into_iter().map(|(pair, span)| (pair, moved(&span, &place))).collect()
                    }
                    Elements::Named(name) => {
                        let said = table.elements(name).map_err(|message| (place.clone(), message))?;
                        let pair = |(text, place): (&'x str, Place)| Ok((said_of(text, &place)?, place));
                        said.into_iter().map(pair).collect::<Result<Vec<_>, (Place, String)>>()?
                    }
                };
                let way =
                    |((text, says), place): ((&str, Says), Place)| Ok((fitting(&keys, text, &place)?, Some(says)));
                self.factor(&elements.into_iter().map(way).collect::<Result<Vec<_>, _>>()?, &place)?;
                self.says = Some(Says::Verdict(Verdict::Continue));
            }
        }
        Ok(())
    }

    /// Every way until now with each of these.
    fn factor(&mut self, ways: &[Way], place: &Place) -> Result<(), (Place, String)> {
        if self.ways.len().saturating_mul(ways.len()) > MOST {
            return Err((place.clone(), format!("written out, this is more than {MOST} rules")));
        }
        let before = std::mem::take(&mut self.ways);
        let with = |(asked, says): &Way, (more, said): &Way| {
            (asked.iter().chain(more).cloned().collect(), said.clone().or_else(|| says.clone()))
        };
        self.ways = before.iter().flat_map(|one| ways.iter().map(move |other| with(one, other))).collect();
        Ok(())
    }

    fn lines(self, place: &Place, problems: &mut Problems) -> Vec<Line> {
        let mut lines = Vec::new();
        for (matches, says) in self.ways {
            if let Err(Contradiction { .. }) = Rule::new(matches.clone(), Vec::new(), Verdict::Drop, None)
                .inspect_err(|error| problems.error(place.clone(), error.to_string()))
            {
                return Vec::new();
            }
            lines.push(Line {
                place: place.clone(),
                matches,
                statements: self.statements.clone(),
                says: says.or_else(|| self.says.clone()).unwrap_or(Says::Verdict(Verdict::Continue)),
                comment: self.comment.clone(),
            });
        }
        lines
    }
}

fn moved(span: &Range<usize>, place: &Place) -> Place {
    place.start + span.start..place.start + span.end
}

/// The matches that an element of several parts stands for: each field with its part.
fn fitting(keys: &[&str], element: &str, place: &Place) -> Result<Vec<Match>, (Place, String)> {
    let parts: Vec<_> = element.split(" . ").map(str::trim).collect();
    if parts.len() != keys.len() {
        let message = format!("`{element}` has {} parts, where {} fields are asked", parts.len(), keys.len());
        return Err((place.clone(), message));
    }
    let read = |(key, part): (&&str, &&str)| {
        let text = format!("{key} {part}");
        let one = run(&text, space().ignore_then(field::any()).then_ignore(end("the end of the element")));
        one.map_err(|error: RuleError| {
            let told = foreign(&text, 0).map_or_else(|| format!("`{text}`: {error}"), |(_, message)| message);
            (place.clone(), told)
        })
    };
    keys.iter().zip(&parts).map(read).collect()
}

/// An element of a named map: what it is about, and its verdict.
fn said_of<'a>(text: &'a str, place: &Place) -> Result<(&'a str, Says), (Place, String)> {
    let read = space().ignore_then(pair()).then_ignore(end("the end of the element"));
    run(text, read.map(|(pair, _)| pair)).map_err(|error| (place.clone(), error.to_string()))
}

fn piece<'a>() -> Boxed<'a, Piece<'a>> {
    let comment = keyword("comment").ignore_then(quoted("a comment in quotes"));
    let named = keyword("counter").ignore_then(keyword("name")).ignore_then(quoted("the name of a counter"));
    choice((
        field::any().map(Piece::Match).labelled("a match").boxed(),
        named.to(Piece::Counter).labelled("a statement").boxed(),
        statement::counter().to(Piece::Counter).labelled("a statement").boxed(),
        statement::any().map(Piece::Statement).labelled("a statement").boxed(),
        says().map(Piece::Says).labelled("a verdict").boxed(),
        comment.map(Piece::Comment).labelled("a comment").boxed(),
    ))
    .boxed()
}

/// What a rule or an element of a map says.
fn says<'a>() -> Boxed<'a, Says> {
    choice((
        keyword("jump").ignore_then(name()).map(Says::Jump).boxed(),
        keyword("goto").ignore_then(name()).map(Says::Goto).boxed(),
        keyword("return").to(Says::Return).boxed(),
        statement::verdict().map(Says::Verdict),
    ))
    .boxed()
}

fn name<'a>() -> Boxed<'a, String> {
    let inside = |letter: char| is_value(letter) || matches!(letter, '-' | '/' | '\\');
    token("the name of a chain", move |rest| {
        let (word, length) = match in_quotes(rest) {
            Some(text) => (text, text.len() + 2),
            None => (run_of(rest, inside), run_of(rest, inside).len()),
        };
        (!word.is_empty()).then(|| (length, word.to_owned()))
    })
    .boxed()
}

/// Fields with dots between them, and what they are compared with; one field may have a verdict map.
fn several<'a>() -> Boxed<'a, Piece<'a>> {
    let keys = selector().separated_by(symbol(".")).at_least(1).collect::<Vec<_>>();
    let vmap =
        keyword("vmap").ignore_then(choice((named().map(Elements::Named), braces(pair()).map(Elements::Listed))));
    let listed = choice((
        named().map(Elements::Named).boxed(),
        braces(spanned(element())).map(Elements::Listed).boxed(),
        spanned(plain()).map(|one| Elements::Listed(vec![one])).boxed(),
    ));
    let vmap = vmap.map(|elements| (None, Err(elements))).boxed();
    let set = value::equality().then(listed).map(|(negated, elements)| (Some(negated), Ok(elements))).boxed();
    keys.then(choice((vmap, set)))
        .try_map_with(|(keys, (negated, elements)), extra| match elements {
            Err(elements) => Ok(Piece::Vmap { keys, elements }),
            Ok(elements) if keys.len() > 1 => {
                Ok(Piece::Concat { keys, negated: negated.unwrap_or_default(), elements })
            }
            // One field and no map: what the language of rules has.
            Ok(_) => {
                Err(Fault::expected(SimpleSpan::from(extra.span().start..extra.span().start), Word::Kind("a match")))
            }
        })
        .boxed()
}

/// A field, without what it is compared with.
fn selector<'a>() -> Boxed<'a, &'a str> {
    const ALONE: [&str; 4] = ["iif", "oif", "iifname", "oifname"];
    const LAYERS: [&str; 14] =
        ["ip", "ip6", "tcp", "udp", "udplite", "sctp", "dccp", "th", "icmp", "icmpv6", "meta", "ether", "vlan", "ct"];
    token("a field", |rest| {
        let first = run_of(rest, is_value);
        if ALONE.contains(&first) {
            return Some((first.len(), first));
        }
        let behind = rest[first.len()..].trim_start();
        let second = run_of(behind, |letter| is_value(letter) || letter == '-');
        let length = rest.len() - behind.len() + second.len();
        (LAYERS.contains(&first) && !second.is_empty()).then(|| (length, &rest[..length]))
    })
    .boxed()
}

fn named<'a>() -> Boxed<'a, &'a str> {
    let inside = |letter: char| is_value(letter) || matches!(letter, '-' | '/' | '\\');
    symbol("@")
        .ignore_then(token("a name", move |rest| {
            let word = run_of(rest, inside);
            (!word.is_empty()).then_some((word.len(), word))
        }))
        .boxed()
}

fn braces<'a, O: 'a>(item: Boxed<'a, O>) -> Boxed<'a, Vec<O>> {
    let list = item.separated_by(symbol(",")).at_least(1).allow_trailing().collect();
    list.delimited_by(symbol("{"), symbol("}")).boxed()
}

fn spanned<'a, O: 'a>(item: Boxed<'a, O>) -> Boxed<'a, (O, Range<usize>)> {
    item.map_with(|item, extra| (item, extra.span().into_range())).boxed()
}

/// An element of a map and its verdict.
fn pair<'a>() -> Boxed<'a, ((&'a str, Says), Range<usize>)> {
    spanned(element().then_ignore(counted()).then_ignore(symbol(":")).then(says()).boxed())
}

/// Figures of an element.
fn counted<'a>() -> Boxed<'a, ()> {
    let figures = keyword("packets").ignore_then(integer()).then_ignore(keyword("bytes")).then(integer());
    keyword("counter").ignore_then(figures.or_not()).or_not().ignored().boxed()
}

/// An element, whatever it is: to the comma, brace or lone colon behind it.
fn element<'a>() -> Boxed<'a, &'a str> {
    token("an element", |rest| {
        let length = super::set::extent(rest);
        let value = value_of(rest[..length].trim_end());
        (!value.is_empty()).then_some((value.len(), value))
    })
    .boxed()
}

/// Values with dots between them, without braces.
fn plain<'a>() -> Boxed<'a, &'a str> {
    token("values with dots between them", |rest| {
        let mut length = 0;
        loop {
            let part = &rest[length..];
            let one = in_quotes(part).map_or_else(
                || run_of(part, |letter| is_value(letter) || matches!(letter, '-' | '/' | '*')).len(),
                |text| text.len() + 2,
            );
            if one == 0 {
                return None;
            }
            length += one;
            if !rest[length..].starts_with(" . ") {
                return rest[..length].contains(" . ").then(|| (length, &rest[..length]));
            }
            length += 3;
        }
    })
    .boxed()
}
