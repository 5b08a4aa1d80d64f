//! What a rule does, and what it says.

use chumsky::prelude::*;

use super::change;
use super::fault::Fault;
use super::field::named;
use super::token::{Extra, integer, keyword, quoted, symbol};
use super::update;
use crate::rule::display::BYTE_UNITS;
use crate::rule::statement::{Action, Limit, LimitUnit, Log, LogTarget, RejectWith, Statement};

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

/// `counter`, with figures or without: every rule counts, so it says nothing.
pub(crate) fn counter<'a>() -> Boxed<'a, ()> {
    let figures = keyword("packets").ignore_then(integer()).then_ignore(keyword("bytes")).then(integer());
    keyword("counter").then(figures.or_not()).ignored().boxed()
}

/// A statement other than `counter`.
pub(crate) fn any<'a>() -> Boxed<'a, Statement> {
    choice((
        limit().map(Statement::Limit),
        log().map(Statement::Log),
        change::any().map(Statement::Change),
        update::any().map(|update| Statement::Update(Box::new(update))),
        update::count().map(Statement::Connections),
    ))
    .boxed()
}

pub(super) fn limit<'a>() -> Boxed<'a, Limit> {
    let sizes: Vec<_> = BYTE_UNITS.iter().map(|(word, size)| keyword(word).to(*size).boxed()).collect();
    let bytes = choice(sizes).map(Some).boxed();
    let over = keyword("over").or_not().map(|over| over.is_some());
    let rate = over.then(integer()).then(bytes.clone().or_not()).then_ignore(symbol("/")).then(named());
    let unit = choice((keyword("packets").to(None).boxed(), bytes));
    let burst = keyword("burst").ignore_then(integer()).then(unit).or_not();
    keyword("limit")
        .ignore_then(keyword("rate"))
        .ignore_then(rate)
        .then(burst)
        .try_map_with(|((((over, amount), size), per), burst), extra| {
            let (span, size) = (extra.span(), size.flatten());
            let unit = if size.is_some() { LimitUnit::Bytes } else { LimitUnit::Packets };
            if burst.is_some_and(|(_, burst_size)| burst_size.is_some() != size.is_some()) {
                return Err(Fault::invalid(span, "rate and burst must both count packets, or both bytes"));
            }
            let scaled = |amount: u64, size: Option<u64>| {
                amount.checked_mul(size.unwrap_or(1)).ok_or_else(|| Fault::invalid(span, "this rate is too large"))
            };
            let burst = burst.map(|(amount, size)| scaled(amount, size)).transpose()?;
            match scaled(amount, size)? {
                0 => Err(Fault::invalid(span, "a rate must be greater than zero")),
                amount => Ok(Limit { over, unit, amount, per, burst }),
            }
        })
        .boxed()
}

fn log<'a>() -> Boxed<'a, Log> {
    /// One option of `log`.
    #[derive(Clone)]
    enum Option {
        Prefix(crate::rule::text::Text),
        Target(LogTarget),
        /// What a line shows, and how much a group gets: a line shows what can be read here, and no group gets anything.
        Shape,
    }
    let group = keyword("group").ignore_then(integer()).try_map_with(|group, extra| {
        u16::try_from(group).map_err(|_| Fault::invalid(extra.span(), format!("a group is 0 to 65535, not {group}")))
    });
    let option = choice((
        keyword("prefix").ignore_then(quoted("a prefix in quotes")).map(Option::Prefix).boxed(),
        keyword("level").ignore_then(named()).map(LogTarget::Level).map(Option::Target).boxed(),
        group.map(LogTarget::Group).map(Option::Target).boxed(),
        shape().to(Option::Shape).boxed(),
    ));
    keyword("log")
        .ignore_then(option.repeated().collect::<Vec<_>>())
        .try_map_with(|options, extra| {
            let mut log = Log::default();
            for option in options {
                let repeated = match option {
                    Option::Prefix(prefix) => log.prefix.replace(prefix).is_some(),
                    Option::Target(target) => log.target.replace(target).is_some(),
                    Option::Shape => false,
                };
                if repeated {
                    return Err(Fault::invalid(extra.span(), "log takes one prefix, and one of level and group"));
                }
            }
            Ok(log)
        })
        .boxed()
}

/// `flags tcp sequence,options`, `snaplen 64`, `queue-threshold 10`.
fn shape<'a>() -> Boxed<'a, ()> {
    let of_tcp = keyword("tcp").or_not().ignore_then(choice((keyword("sequence"), keyword("options"))));
    let of_ip = keyword("ip").ignore_then(keyword("options"));
    let flag = choice((keyword("all"), keyword("skuid"), keyword("ether"), of_ip, of_tcp)).boxed();
    let flags = flag.separated_by(symbol(",")).at_least(1);
    let size = choice((keyword("snaplen"), keyword("queue-threshold"))).ignore_then(integer());
    choice((keyword("flags").ignore_then(flags).boxed(), size.ignored().boxed())).boxed()
}

/// What the rule says.
pub(crate) fn action<'a>() -> Boxed<'a, Action> {
    choice((
        keyword("accept").to(Action::Accept),
        keyword("drop").to(Action::Drop),
        keyword("continue").to(Action::Continue),
        reject().map(Action::Reject),
    ))
    .boxed()
}

fn reject<'a>() -> Boxed<'a, RejectWith> {
    let kind = || keyword("type").or_not();
    let default = keyword("port-unreachable").to(RejectWith::Default);
    let with = choice((
        keyword("tcp").ignore_then(keyword("reset")).to(RejectWith::TcpReset).boxed(),
        keyword("icmp").ignore_then(kind()).ignore_then(named()).map(RejectWith::Icmp).boxed(),
        keyword("icmpv6").ignore_then(kind()).ignore_then(named()).map(RejectWith::Icmpv6).boxed(),
        keyword("icmpx").ignore_then(kind()).ignore_then(choice((default, named().map(RejectWith::Icmpx)))).boxed(),
    ));
    keyword("reject")
        .ignore_then(keyword("with").ignore_then(with).or_not())
        .map(|with| with.unwrap_or(RejectWith::Default))
        .boxed()
}
