//! `-m limit`.

use super::asked::{Ways, nothing, wrong};
use super::rule::{Draft, Fault};
use super::word::Word;
use crate::rule::{Limit, LimitTime, LimitUnit, Statement};

/// How many at once, where nothing is said.
pub(super) const BURST: u64 = 5;

/// `5/min`; five at once unless `--limit-burst` says otherwise.
pub(super) fn limit(word: &Word, negated: bool, draft: &mut Draft) -> Result<Ways, Fault> {
    if negated {
        return Err(wrong(word, "a rate cannot be negated"));
    }
    let (amount, per) = rate(word)?;
    let limit = Limit { over: false, unit: LimitUnit::Packets, amount, per, burst: Some(BURST) };
    draft.statements.push(Statement::Limit(limit));
    Ok(nothing())
}

/// How many in which time.
pub(super) fn rate(word: &Word) -> Result<(u64, LimitTime), Fault> {
    let (amount, unit) = word.text.split_once('/').unwrap_or((&word.text, "second"));
    let per = match unit {
        "s" | "sec" | "second" => Some(LimitTime::Second),
        "m" | "min" | "minute" => Some(LimitTime::Minute),
        "h" | "hour" => Some(LimitTime::Hour),
        "d" | "day" => Some(LimitTime::Day),
        _ => None,
    };
    let amount = amount.parse().ok().filter(|amount| *amount > 0);
    amount.zip(per).ok_or_else(|| wrong(word, "a rate is a number and a time: 5/min"))
}

pub(super) fn burst(word: &Word, draft: &mut Draft) -> Result<Ways, Fault> {
    let number = word.text.parse().map_err(|_| wrong(word, "a burst is a number of packets"))?;
    match draft.statements.last_mut() {
        Some(Statement::Limit(limit)) => {
            limit.burst = Some(number);
            Ok(nothing())
        }
        _ => Err(wrong(word, "a burst stands behind `--limit`")),
    }
}
