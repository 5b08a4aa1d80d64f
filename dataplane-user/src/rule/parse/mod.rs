//! The parser: chumsky's combinators over the text itself, because what a word is depends on what may stand there
//! (`br-lan` is a name, `80-90` a range).

mod change;
mod concatenation;
mod connection;
pub(crate) mod fault;
pub(crate) mod field;
mod proxy;
mod reachability;
pub(crate) mod statement;
pub(crate) mod token;
mod translation;
pub(crate) mod update;
pub(crate) mod value;

use std::cell::RefCell;
use std::ops;

use chumsky::cache::{Cache, Cached};
use chumsky::prelude::*;

use super::ast::{Match, Rule};
use super::error::{RuleError, RuleFault};
use super::foreign;
use super::hint;
use super::set::{Element, ItemKind, SetType};
use super::statement::{Action, Statement};
use super::text::Text;
use fault::{Fault, Reason};
use token::{Extra, keyword, symbol, token};

/// A rule, and where its matches stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The rule.
    pub rule: Rule,
    /// Bytes of the text for each of [`Rule::matches`].
    pub spans: Vec<ops::Range<usize>>,
}

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

/// The parser of rules. To build it takes a hundred times longer than to read a rule with it.
#[derive(Default)]
struct RuleParser;

impl Cached for RuleParser {
    type Parser<'a> = Boxed<'a, Pieces>;

    fn make_parser<'a>(self) -> Self::Parser<'a> {
        rule().boxed()
    }
}

/// The parser of the elements of a set of this type.
struct ElementParser(SetType);

impl Cached for ElementParser {
    type Parser<'a> = Boxed<'a, Element>;

    fn make_parser<'a>(self) -> Self::Parser<'a> {
        value::element(&self.0).boxed()
    }
}

thread_local! {
    static RULE: Cache<RuleParser> = Cache::default();
    /// The last that was needed: elements are read set by set.
    static ELEMENT: RefCell<Option<(SetType, Cache<ElementParser>)>> = const { RefCell::new(None) };
}

/// Reads one rule.
///
/// # Errors
/// What was found, what was expected and where; or a match that contradicts an earlier one.
pub fn parse(text: &str) -> Result<Rule, RuleError> {
    parse_spanned(text).map(|parsed| parsed.rule)
}

/// Reads one rule and keeps the places of its matches.
///
/// # Errors
/// As [`parse`].
pub fn parse_spanned(text: &str) -> Result<Parsed, RuleError> {
    let pieces = RULE.with(|cache| run(text, cache.get().clone())).map_err(|error| unsupported(text, error))?;
    let mut spans: Vec<_> = pieces.matches.iter().map(|(_, span)| trimmed(text, span.into_range())).collect();
    let matches = pieces.matches.into_iter().map(|(asked, _)| asked).collect();
    let (action, span) = pieces.action.unwrap_or((Action::Continue, (text.len()..text.len()).into()));
    match Rule::new(matches, pieces.statements, action, pieces.comment) {
        Ok(rule) => Ok(Parsed { rule, spans }),
        Err(error) => {
            spans.push(trimmed(text, span.into_range()));
            Err(RuleError { span: spans.swap_remove(error.index), fault: RuleFault::Invalid(error.to_string()) })
        }
    }
}

/// The error; if it is about a construct of nft that is not supported, what to do instead.
fn unsupported(text: &str, error: RuleError) -> RuleError {
    if matches!(error.fault, RuleFault::Invalid(_)) {
        return error;
    }
    let known = foreign::unsupported(text, error.span.start);
    match known {
        Some((span, said)) => RuleError { span, fault: RuleFault::Invalid(said) },
        None => hint::with_hint(text, error),
    }
}

/// Reads an element of a set of this type.
pub(crate) fn parse_element(kind: &SetType, text: &str) -> Result<Element, RuleError> {
    let parser = ELEMENT.with_borrow_mut(|last| {
        let known = last.take_if(|(known, _)| known == kind);
        let (_, cache) = last.insert(known.unwrap_or_else(|| (kind.clone(), Cache::new(ElementParser(kind.clone())))));
        cache.get().clone()
    });
    run(text, parser)
}

/// Reads the type of a set.
pub(crate) fn parse_set_type(text: &str) -> Result<SetType, RuleError> {
    let kinds: Vec<_> = ItemKind::ALL.into_iter().map(|kind| keyword(kind.name()).to(kind).boxed()).collect();
    let kinds = choice(kinds).separated_by(symbol(".")).at_least(1).collect();
    run(
        text,
        kinds.then_ignore(end("the end of the type")).try_map_with(|kinds, extra| {
            SetType::new(kinds).ok_or_else(|| Fault::invalid(extra.span(), "a set needs a type"))
        }),
    )
}

/// What a text says, before it is known whether it makes sense.
struct Pieces {
    matches: Vec<(Match, SimpleSpan)>,
    statements: Vec<Statement>,
    /// None: the rule goes on.
    action: Option<(Action, SimpleSpan)>,
    comment: Option<Text>,
}

fn rule<'a>() -> impl Parser<'a, &'a str, Pieces, Extra<'a>> {
    let counter = statement::counter();
    // One field alone is the rule, and the fields of both begin alike.
    let asked = choice((field::any(), concatenation::any(), kernel()));
    let asked = asked.labelled("a match (ip, ip6, tcp, udp, icmp, meta, iifname, ct, ...)").boxed();
    let matches = choice((asked.map_with(|asked, extra| Some((asked, extra.span()))), counter.clone().to(None)));
    let does = statement::any();
    let statements = choice((does.map(Some), counter.to(None)));
    let action = choice((statement::action(), translation()));
    let action = action.labelled("a verdict (accept, drop, reject, continue, masquerade, ...)").boxed();
    let plain = action.map_with(|action, extra| ((action, extra.span()), Vec::new())).boxed();
    // Marks behind `tproxy` are for packets that get a socket, as all that stands before it.
    let handed = proxy::tproxy().map(Action::Proxy).map_with(|action, extra| (action, extra.span()));
    let action = choice((handed.then(proxy::behind()).boxed(), plain));
    let comment = keyword("comment").ignore_then(token::quoted("a comment in quotes"));
    // A rule that says nothing at all is a mistake, not a rule that continues.
    let something = token("a match, a statement or a verdict", |rest| (!rest.is_empty()).then_some((0, ())));
    token::space()
        .ignore_then(something)
        .ignore_then(matches.repeated().collect::<Vec<_>>())
        .then(statements.repeated().collect::<Vec<_>>())
        .then(action.or_not())
        .then(comment.or_not())
        .then_ignore(end("the end of the rule"))
        .map(|(((matches, statements), action), comment)| {
            let (action, changes) = action.unzip();
            let changes = changes.unwrap_or_default().into_iter().map(Statement::Change);
            Pieces {
                matches: matches.into_iter().flatten().collect(),
                statements: statements.into_iter().flatten().chain(changes).collect(),
                action,
                comment,
            }
        })
}

/// What only the kernel knows of a packet.
pub(crate) fn kernel<'a>() -> Boxed<'a, Match> {
    choice((connection::any(), reachability::any(), proxy::socket())).boxed()
}

/// What translates, or hands to a proxy.
pub(crate) fn translation<'a>() -> Boxed<'a, Action> {
    choice((translation::any().map(Action::Translate).boxed(), proxy::tproxy().map(Action::Proxy).boxed())).boxed()
}

pub(crate) fn end<'a>(what: &'static str) -> impl Parser<'a, &'a str, (), Extra<'a>> + Clone {
    token(what, |rest| rest.is_empty().then_some((0, ())))
}

pub(crate) fn run<'a, O>(text: &'a str, parser: impl Parser<'a, &'a str, O, Extra<'a>>) -> Result<O, RuleError> {
    if let Ok(read) = fault::quietly(|| parser.parse(text).into_result()) {
        return Ok(read);
    }
    parser.parse(text).into_result().map_err(|faults| {
        // The first is the one that the others may follow from.
        let first = faults.into_iter().min_by_key(|fault| fault.span.start);
        explain(text, first.unwrap_or_else(|| Fault::invalid((0..0).into(), "this is not a rule")))
    })
}

fn explain(text: &str, fault: Fault) -> RuleError {
    let span = fault.span.into_range();
    match fault.reason {
        Reason::Invalid(message) => RuleError { span: trimmed(text, span), fault: RuleFault::Invalid(message) },
        Reason::Expected(expected) => {
            let word = token::shown(&text[span.start..]);
            let found = (!word.is_empty()).then(|| word.to_owned());
            let mut expected: Vec<_> = expected.into_iter().map(|word| word.to_string()).collect();
            expected.sort();
            expected.dedup();
            RuleError { span: span.start..span.start + word.len(), fault: RuleFault::Unexpected { found, expected } }
        }
    }
}

/// Without the space behind, which belongs to no token.
fn trimmed(text: &str, span: ops::Range<usize>) -> ops::Range<usize> {
    span.start..span.start + text[span].trim_end().len()
}
