//! What rules count for each address: `-m connlimit`, `-m hashlimit`, `-m recent` (iptables-extensions(8)). Each comes to a set
//! that rules fill.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::asked::{Ways, holds, nothing, wrong};
use super::ipset;
use super::rate::{BURST, rate};
use super::rule::{Draft, Fault, Words};
use super::word::Word;
use crate::config::{DynamicSet, Elements, SetConfig};
use crate::rule::{
    ConnectionCount, ElementCondition, Family, Field, KeyField, Limit, LimitTime, LimitUnit, Match, SetName, SetType,
    SetUpdate, SetVerb, Side, Statement, Test, Timeout, Transport,
};

/// Options with their values; of those without one it is the option itself.
type Options<'w> = BTreeMap<&'w str, &'w Word>;

/// Reads all options of one of these extensions.
pub(super) fn read(module: &Word, draft: &mut Draft, words: &mut Words<'_>) -> Result<Ways, Fault> {
    let flags: &[&str] = match module.text.as_str() {
        "connlimit" => &["--connlimit-saddr", "--connlimit-daddr"],
        "recent" => &["--set", "--rcheck", "--update", "--remove", "--rsource", "--rdest", "--reap", "--rttl"],
        _ => &[],
    };
    let values: &[&str] = match module.text.as_str() {
        "connlimit" => &["--connlimit-above", "--connlimit-upto", "--connlimit-mask"],
        "recent" => &["--name", "--seconds", "--hitcount", "--mask"],
        _ => &[
            "--hashlimit",
            "--hashlimit-upto",
            "--hashlimit-above",
            "--hashlimit-burst",
            "--hashlimit-mode",
            "--hashlimit-name",
            "--hashlimit-srcmask",
            "--hashlimit-dstmask",
            "--hashlimit-htable-size",
            "--hashlimit-htable-max",
            "--hashlimit-htable-expire",
            "--hashlimit-htable-gcinterval",
        ],
    };
    let mut options = Options::new();
    while let Some(option) = words.peek().filter(|word| [flags, values].concat().contains(&word.text.as_str())) {
        words.next();
        let value = if flags.contains(&option.text.as_str()) { option } else { words.value(option)? };
        options.insert(&option.text, value);
    }
    match module.text.as_str() {
        "connlimit" => connections(module, &options, draft),
        "recent" => recent(module, &options, draft),
        _ => rates(module, &options, draft),
    }
}

fn number<T: FromStr>(word: &Word) -> Result<T, Fault> {
    word.text.parse().map_err(|_| wrong(word, "a number was expected"))
}

/// An address of a packet, of which so many bits count.
fn address(family: Family, side: Side, length: Option<&Word>) -> Result<KeyField, Fault> {
    let (field, bits) = match family {
        Family::V4 => (Field::Ipv4(side), 32),
        Family::V6 => (Field::Ipv6(side), 128),
    };
    let length = length.map(|word| {
        let written = word.text.parse::<u32>().ok().filter(|length| *length <= bits);
        let mask = || Some(word.text.parse::<std::net::Ipv4Addr>().ok()?.to_bits().leading_ones());
        let mask6 = || Some(word.text.parse::<std::net::Ipv6Addr>().ok()?.to_bits().leading_ones());
        let found = written.or_else(|| if family == Family::V4 { mask() } else { mask6() });
        found.ok_or_else(|| wrong(word, "this is no length of a prefix"))
    });
    let mask = length.transpose()?.filter(|length| *length < bits).map(|length| {
        let ones = if length == 0 { 0 } else { u128::MAX << (128 - length) };
        ones >> (128 - bits)
    });
    Ok(KeyField { field, mask })
}

/// A set that the rule fills. Sets of both families have names of their own.
fn set(
    name: &str,
    key: &[KeyField],
    timeout: Option<Timeout>,
    (module, draft): (&Word, &mut Draft),
) -> Result<SetName, Fault> {
    let behind = if draft.family == Family::V6 { "-ip6" } else { "" };
    let named = ipset::named(&format!("{name}{behind}"));
    let kind = SetType::new(key.iter().map(|part| part.field.kind()).collect());
    let (named, kind) = named.zip(kind).ok_or_else(|| wrong(module, "this has no name that a set can have"))?;
    let elements = Elements::Dynamic(DynamicSet { timeout, size: DynamicSet::SIZE });
    draft.sets.push((named.clone(), SetConfig { kind, elements }));
    Ok(named)
}

fn put(
    named: (SetVerb, SetName),
    key: Vec<KeyField>,
    behind: (Option<Timeout>, Option<ElementCondition>),
    (module, draft): (&Word, &mut Draft),
) -> Result<(), Fault> {
    let update = SetUpdate::new(named, key, behind).ok_or_else(|| wrong(module, "this counts nothing"))?;
    draft.statements.push(Statement::Update(Box::new(update)));
    Ok(())
}

fn connections(module: &Word, options: &Options<'_>, draft: &mut Draft) -> Result<Ways, Fault> {
    let (over, word) = match (options.get("--connlimit-above"), options.get("--connlimit-upto")) {
        (Some(word), None) => (true, word),
        (None, Some(word)) => (false, word),
        _ => return Err(wrong(module, "take `--connlimit-above` or `--connlimit-upto`")),
    };
    let count = ConnectionCount { over, count: number(word)? };
    let side = if options.contains_key("--connlimit-daddr") { Side::Destination } else { Side::Source };
    let key = vec![address(draft.family, side, options.get("--connlimit-mask").copied())?];
    // Every rule counts for itself: its place in the file makes the name.
    let name = set(&format!("connlimit-{}", module.place.start), &key, None, (module, draft))?;
    put((SetVerb::Add, name), key, (None, Some(ElementCondition::Connections(count))), (module, draft))?;
    Ok(nothing())
}

fn rates(module: &Word, options: &Options<'_>, draft: &mut Draft) -> Result<Ways, Fault> {
    let upto = options.get("--hashlimit-upto").or_else(|| options.get("--hashlimit"));
    let (over, word) = match (options.get("--hashlimit-above"), upto) {
        (Some(word), None) => (true, word),
        (None, Some(word)) => (false, word),
        _ => return Err(wrong(module, "take `--hashlimit-above` or `--hashlimit-upto`")),
    };
    let (amount, per) = rate(word)?;
    let burst = options.get("--hashlimit-burst").map_or(Ok(BURST), |word| number(word))?;
    let limit = Limit { over, unit: LimitUnit::Packets, amount, per, burst: Some(burst) };
    let mode = options.get("--hashlimit-mode").map_or("", |word| word.text.as_str());
    let port = |side: Side| {
        let transport = match draft.protocol {
            Some(6) => Transport::Tcp,
            Some(17) => Transport::Udp,
            _ => Transport::Any,
        };
        KeyField { field: Field::Port(transport, side), mask: None }
    };
    let mut key = Vec::new();
    for part in mode.split(',') {
        key.push(match part {
            "srcip" => address(draft.family, Side::Source, options.get("--hashlimit-srcmask").copied())?,
            "dstip" => address(draft.family, Side::Destination, options.get("--hashlimit-dstmask").copied())?,
            "srcport" => port(Side::Source),
            "dstport" => port(Side::Destination),
            // One rate for all.
            _ => {
                draft.statements.push(Statement::Limit(limit));
                return Ok(nothing());
            }
        });
    }
    // What is not used for as long as its rate is about goes, where nothing else is said (`hashlimit_mt_check`).
    let expire = options.get("--hashlimit-htable-expire").map_or(Ok(per.seconds() * 1000), |word| number(word))?;
    let timeout = Timeout::from_millis(expire);
    let name = options.get("--hashlimit-name").ok_or_else(|| wrong(module, "this has no `--hashlimit-name`"))?;
    let set = set(&name.text, &key, timeout, (module, draft))?;
    put((SetVerb::Update, set), key, (None, Some(ElementCondition::Limit(limit))), (module, draft))?;
    Ok(nothing())
}

fn recent(module: &Word, options: &Options<'_>, draft: &mut Draft) -> Result<Ways, Fault> {
    if options.contains_key("--rttl") {
        return Err(wrong(module, "the TTL of what came before is not kept: take `--rttl` out"));
    }
    let name = options.get("--name").map_or("DEFAULT", |word| word.text.as_str());
    let side = if options.contains_key("--rdest") { Side::Destination } else { Side::Source };
    let key = vec![address(draft.family, side, options.get("--mask").copied())?];
    let seconds: Option<u64> = options.get("--seconds").map(|word| number(word)).transpose()?;
    let hits: u64 = options.get("--hitcount").map_or(Ok(0), |word| number(word))?;
    let timeout = seconds.and_then(|seconds| Timeout::from_millis(seconds.saturating_mul(1000)));
    if hits > 1 {
        let (Some(seconds), Some(timeout)) = (seconds, timeout) else {
            return Err(wrong(module, "`--hitcount` without `--seconds` cannot be said: take one of `--seconds 60`"));
        };
        return hits_within(name, key, (hits, seconds, timeout), (module, draft));
    }
    let set = set(name, &key, timeout, (module, draft))?;
    let verb = if options.contains_key("--remove") { SetVerb::Delete } else { SetVerb::Update };
    if ["--set", "--update", "--remove"].iter().any(|option| options.contains_key(option)) {
        put((verb, set.clone()), key.clone(), (None, None), (module, draft))?;
    }
    if options.contains_key("--set") {
        return Ok(nothing());
    }
    if key.iter().any(|part| part.mask.is_some()) {
        return Err(wrong(module, "only whole addresses can be looked up in what came before: take `--mask` out"));
    }
    Ok(holds(match draft.family {
        Family::V4 => Match::Ipv4(side, Test::set(false, set)),
        Family::V6 => Match::Ipv6(side, Test::set(false, set)),
    }))
}

/// More than some hits within a time: a bucket that holds all but the last, and fills again in that time.
fn hits_within(
    name: &str,
    key: Vec<KeyField>,
    (hits, seconds, timeout): (u64, u64, Timeout),
    (module, draft): (&Word, &mut Draft),
) -> Result<Ways, Fault> {
    let passes = hits - 1;
    let times = [LimitTime::Second, LimitTime::Minute, LimitTime::Hour, LimitTime::Day];
    let exact = times.into_iter().find(|time| (passes * time.seconds()).is_multiple_of(seconds.max(1)));
    let per = exact.unwrap_or(LimitTime::Day);
    let amount = (passes * per.seconds() / seconds.max(1)).max(1);
    let limit = Limit { over: true, unit: LimitUnit::Packets, amount, per, burst: Some(passes) };
    // What `--set` notes is for this alone, and goes in the same time.
    set(name, &key, Some(timeout), (module, draft))?;
    let set = set(&format!("{name}-hits"), &key, Some(timeout), (module, draft))?;
    put((SetVerb::Update, set), key, (None, Some(ElementCondition::Limit(limit))), (module, draft))?;
    let message = format!(
        "`--hitcount {hits} --seconds {seconds}` becomes `{limit}` for each address: after {passes} at once it lets {amount} \
         more by in a time of {}, where the other counts the last {seconds} seconds",
        Timeout::from_millis(per.seconds() * 1000).map(|time| time.to_string()).unwrap_or_default()
    );
    draft.notes.push((module.place.clone(), message));
    Ok(nothing())
}
