//! What rules do, as steps of nftables.

use std::net::IpAddr;

use super::asked::{self, MARK};
use super::change;
use super::list::FIRST;
use crate::{
    lower::filter::FilterFault,
    model::{DELIVERY_MARK, OwnUpdate, Place, Step},
    rule::{
        Action, Addresses, ConnectionCount, ElementCondition, Family, Limit, LimitUnit, Log, LogLevel, LogTarget,
        Proxy, Range, RejectWith, Rule, SetUpdate, SetVerb, Statement, Timeout, Translation, TranslationKind,
        Unreachable4, Unreachable6, UnreachableAny, Value,
    },
};

/// `NFPROTO_*`.
pub(super) const ANY_FAMILY: u32 = 0;
pub(super) const IPV4: u32 = 2;
pub(super) const IPV6: u32 = 10;
/// `NFT_REJECT_*`.
const ICMP: u32 = 0;
const RESET: u32 = 1;
const ICMPX: u32 = 2;
/// `NFT_REJECT_ICMPX_PORT_UNREACH`.
const ICMPX_PORT: u8 = 1;
/// `NF_NAT_RANGE_*`. Without the first the kernel takes no notice of ports where it masquerades or redirects.
const PORTS_GIVEN: u32 = 1 << 1;
const RANDOM: u32 = 1 << 2;
const PERSISTENT: u32 = 1 << 3;
const FULLY_RANDOM: u32 = 1 << 4;
/// Longest prefix of a log line (`NF_LOG_PREFIXLEN`), without its zero.
const PREFIX: usize = 127;

/// What the rest depends on, then the counter, as a rule counts what that lets pass, then all else in its order.
pub(super) fn statements(rule: &Rule) -> Vec<Step> {
    let (conditions, others): (Vec<_>, Vec<_>) =
        rule.statements().iter().partition(|statement| statement.is_condition());
    let step = |statement: &&Statement| match statement {
        Statement::Limit(limit) => vec![self::limit(limit)],
        Statement::Log(log) => vec![self::log(log)],
        Statement::Change(change) => change::steps(*change),
        Statement::Update(update) => self::update(update),
        Statement::Connections(count) => vec![connections(*count)],
    };
    let steps = conditions.iter().flat_map(step).chain([Step::Count]).chain(others.iter().flat_map(step));
    steps.collect()
}

/// The key of the element goes into places, its bits that do not count are cleared.
fn update(update: &SetUpdate) -> Vec<Step> {
    let fields: Vec<_> = update.key().iter().map(|part| part.field).collect();
    let (mut steps, kinds) = asked::load(&fields);
    let mut place = FIRST;
    for (part, kind) in update.key().iter().zip(kinds) {
        steps.extend(part.mask.map(|mask| Step::Mask(place, kind.bytes(mask))));
        place += kind.places();
    }
    let condition = update.condition.map(|condition| match condition {
        ElementCondition::Limit(limit) => self::limit(&limit),
        ElementCondition::Connections(count) => connections(count),
    });
    steps.push(Step::Update(Box::new(OwnUpdate {
        operation: match update.verb {
            SetVerb::Add => 0,
            SetVerb::Update => 1,
            SetVerb::Delete => 2,
        },
        set: update.set.as_str().to_owned(),
        key: FIRST,
        timeout: update.timeout.map(Timeout::millis),
        condition,
    })));
    steps
}

const fn connections(count: ConnectionCount) -> Step {
    Step::Connections(count.over, count.count)
}

/// Statements and verdict of a rule that does not translate.
pub(super) fn acts(rule: &Rule) -> Result<Vec<Step>, FilterFault> {
    let mut steps = statements(rule);
    match rule.action() {
        Action::Accept => steps.push(Step::Accept),
        Action::Drop => steps.push(Step::Drop),
        Action::Reject(with) => steps.push(reject(with)),
        Action::Continue => {}
        Action::Translate(to) => return Err(FilterFault::Kernel(format!("`{}` cannot stand here", to.word()))),
        Action::Proxy(to) => {
            // It counts what gets a socket.
            let counts = steps.iter().position(|step| *step == Step::Count).unwrap_or(steps.len());
            steps.splice(counts..counts, proxy(to));
            steps.extend(mark());
            steps.push(Step::Accept);
        }
    }
    Ok(steps)
}

fn limit(limit: &Limit) -> Step {
    let seconds = limit.per.seconds();
    let burst = limit.burst.map_or(0, |burst| u32::try_from(burst).unwrap_or(u32::MAX));
    Step::Limit { over: limit.over, bytes: limit.unit == LimitUnit::Bytes, amount: limit.amount, seconds, burst }
}

fn log(log: &Log) -> Step {
    let prefix = log.prefix.as_ref().map(|prefix| {
        let text = prefix.as_str();
        let end = (0..=text.len().min(PREFIX)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text[..end].to_owned()
    });
    let level = match log.target {
        Some(LogTarget::Level(level)) => Some(match level {
            LogLevel::Emerg => 0,
            LogLevel::Alert => 1,
            LogLevel::Crit => 2,
            LogLevel::Err => 3,
            LogLevel::Warn => 4,
            LogLevel::Notice => 5,
            LogLevel::Info => 6,
            LogLevel::Debug => 7,
        }),
        _ => None,
    };
    let group = if let Some(LogTarget::Group(group)) = log.target { Some(group) } else { None };
    Step::Log { prefix, level, group }
}

/// Address and port of the socket go into places.
fn proxy(to: Proxy) -> Vec<Step> {
    let mut steps = Vec::new();
    let address = to.address.map(|address| {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        steps.push(Step::Put(FIRST, bytes));
        FIRST
    });
    let port = to.port.map(|port| {
        let place = FIRST + 4;
        steps.push(Step::Put(place, (port.bits() as u16).to_be_bytes().to_vec()));
        place
    });
    let family = match to.family() {
        Some(Family::V4) => IPV4,
        Some(Family::V6) => IPV6,
        None => ANY_FAMILY,
    };
    steps.push(Step::Proxy(family, address, port));
    steps
}

/// The packet is delivered to this machine.
pub(super) fn mark() -> [Step; 3] {
    [
        Step::Meta(MARK, FIRST),
        Step::Flip(FIRST, (!DELIVERY_MARK).to_ne_bytes().to_vec(), DELIVERY_MARK.to_ne_bytes().to_vec()),
        Step::SetMeta(MARK, FIRST),
    ]
}

/// Whether it is.
pub(super) fn is_marked() -> [Step; 3] {
    let bit = DELIVERY_MARK.to_ne_bytes().to_vec();
    [Step::Meta(MARK, FIRST), Step::Mask(FIRST, bit.clone()), Step::Compare(FIRST, false, bit)]
}

const fn reject(with: RejectWith) -> Step {
    let (kind, code) = match with {
        RejectWith::Default => (ICMPX, ICMPX_PORT),
        RejectWith::TcpReset => (RESET, 0),
        RejectWith::Icmp(code) => (
            ICMP,
            match code {
                Unreachable4::Net => 0,
                Unreachable4::Host => 1,
                Unreachable4::Protocol => 2,
                Unreachable4::Port => 3,
                Unreachable4::NetProhibited => 9,
                Unreachable4::HostProhibited => 10,
                Unreachable4::AdminProhibited => 13,
            },
        ),
        RejectWith::Icmpv6(code) => (
            ICMP,
            match code {
                Unreachable6::NoRoute => 0,
                Unreachable6::AdminProhibited => 1,
                Unreachable6::Address => 3,
                Unreachable6::Port => 4,
            },
        ),
        RejectWith::Icmpx(code) => (
            ICMPX,
            match code {
                UnreachableAny::NoRoute => 0,
                UnreachableAny::Host => 2,
                UnreachableAny::AdminProhibited => 3,
            },
        ),
    };
    Step::Reject(kind, code)
}

/// Addresses and ports go into places, and from there into the connection.
pub(super) fn translation(to: Translation) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut put = |from: Place, low: u128, high: u128, bytes: usize| {
        let number = |value: u128| value.to_be_bytes()[16 - bytes..].to_vec();
        if low == high {
            steps.push(Step::Put(from, number(low)));
            return (from, from);
        }
        let next = from + bytes.div_ceil(4) as Place;
        steps.extend([Step::Put(from, number(low)), Step::Put(next, number(high))]);
        (from, next)
    };
    let ends = |range: (u128, u128), put: &mut dyn FnMut(u128, u128) -> (Place, Place)| put(range.0, range.1);
    let choice = to.choice;
    let mut flags = if to.ports.is_some() { PORTS_GIVEN } else { 0 };
    flags |= if choice.random { RANDOM } else { 0 };
    flags |= if choice.persistent { PERSISTENT } else { 0 };
    flags |= if choice.fully_random { FULLY_RANDOM } else { 0 };
    // Behind two addresses of sixteen bytes.
    let ports = to.ports.map(|ports| ends(numbers(ports), &mut |low, high| put(FIRST + 8, low, high, 2)));
    let addresses = match to.kind {
        TranslationKind::Source(addresses) | TranslationKind::Destination(addresses) => Some(match addresses {
            Addresses::V4(range) => ends(numbers(range), &mut |low, high| put(FIRST, low, high, 4)),
            Addresses::V6(range) => ends(numbers(range), &mut |low, high| put(FIRST, low, high, 16)),
        }),
        TranslationKind::Masquerade | TranslationKind::Redirect => None,
    };
    steps.push(match (to.kind, addresses) {
        (TranslationKind::Redirect, _) => Step::Redirect(ports, flags),
        (TranslationKind::Source(given) | TranslationKind::Destination(given), Some(addresses)) => Step::Nat {
            destination: matches!(to.kind, TranslationKind::Destination(_)),
            family: if given.family() == Family::V4 { IPV4 } else { IPV6 },
            addresses,
            ports,
            flags,
        },
        _ => Step::Masquerade(ports, flags),
    });
    steps
}

fn numbers<T: Value>(range: Range<T>) -> (u128, u128) {
    let (low, high) = range.ends();
    (low.bits(), high.bits())
}
