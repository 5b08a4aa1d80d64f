//! What a rule of iptables says: `-j`.

use super::super::chain::Says;
use super::asked::wrong;
use super::change;
use super::ipset;
use super::rule::{Draft, Fault, Words};
use super::translation;
use super::word::Word;
use std::net::IpAddr;

use crate::rule::display::Named as _;
use crate::rule::{
    Action, Change, Family, Helper, Log, LogLevel, LogTarget, Port, Proxy, RejectWith, Statement, Text, Unreachable4,
    Unreachable6,
};

/// Targets that change packets or keep something.
const FOREIGN: &[(&str, &str)] = &[
    ("NOTRACK", "rules do not keep packets from connection tracking here: take the rule out"),
    ("TEE", "packets are not sent elsewhere by rules here: take the rule out"),
    ("NFQUEUE", "no packet is handed to a program here: take the rule out, or take DROP"),
    ("QUEUE", "no packet is handed to a program here: take the rule out, or take DROP"),
    ("SET", "packets do not change sets here: `dataplane set add` and `set del` do"),
    ("TOS", "packets are not changed here: take the rule out"),
    ("CLASSIFY", "packets are not changed here: take the rule out"),
    ("AUDIT", "take LOG"),
    ("TRACE", "take the rule out; `dataplane stats` shows what becomes of packets"),
];

/// What a line of log shows, and how much a group gets of a packet.
const SHAPES: [&str; 8] = [
    "--log-tcp-sequence",
    "--log-tcp-options",
    "--log-ip-options",
    "--log-uid",
    "--log-macdecode",
    "--nflog-size",
    "--nflog-range",
    "--nflog-threshold",
];

/// What is said about codes that our language has no word for.
const CODES: &str = "this code cannot be sent here; take one of the others of `man iptables-extensions`";

/// The target, with its options.
pub(super) fn says(target: &Word, draft: &mut Draft, words: &mut Words<'_>) -> Result<Says, Fault> {
    match target.text.as_str() {
        "ACCEPT" => Ok(Says::Action(Action::Accept)),
        "DROP" => Ok(Says::Action(Action::Drop)),
        "RETURN" => Ok(Says::Return),
        "REJECT" => reject(draft.family, words).map(|with| Says::Action(Action::Reject(with))),
        "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" => {
            translation::to(target, draft.family, words).map(|to| Says::Action(Action::Translate(to)))
        }
        name if change::TARGETS.contains(&name) => {
            draft.statements.push(Statement::Change(change::change(target, draft.family, words)?));
            Ok(Says::Action(Action::Continue))
        }
        "TPROXY" => proxy(draft, words),
        "CT" => helper(target, words).map(|helper| {
            draft.statements.push(Statement::Change(Change::Helper(helper)));
            Says::Action(Action::Continue)
        }),
        "SET" => ipset::put(target, draft, words).map(|_| Says::Action(Action::Continue)),
        "LOG" => log(draft, words, ["--log-prefix", "--log-level"]),
        "NFLOG" => log(draft, words, ["--nflog-prefix", "--nflog-group"]),
        name => match FOREIGN.iter().find(|(known, _)| *known == name) {
            Some((_, said)) => {
                skip(words);
                Err((target.place.clone(), format!("`-j {name}`: {said}")))
            }
            None => Ok(Says::Jump(name.to_owned())),
        },
    }
}

/// `CT --helper ftp`.
fn helper(target: &Word, words: &mut Words<'_>) -> Result<Helper, Fault> {
    let option = words.next().ok_or_else(|| wrong(target, "this target needs an option"))?;
    if option.text != "--helper" {
        return Err(wrong(option, "of how connections are tracked, rules set only helpers: take the rule out"));
    }
    let word = words.value(option)?;
    let known = Helper::NAMES.iter().find(|(name, _)| *name == word.text).map(|(_, helper)| *helper);
    known.ok_or_else(|| wrong(word, "this helper is not known here"))
}

/// `TPROXY`: without a socket the packet is dropped (`tproxy_tg4`); the mark is for packets that get one.
fn proxy(draft: &mut Draft, words: &mut Words<'_>) -> Result<Says, Fault> {
    let mut to = Proxy { family: Some(draft.family), address: None, port: None, or_drop: true };
    while let Some(option) = words.next() {
        let value = words.value(option)?;
        let wrong = |what: &str| (value.place.clone(), format!("`{}`: {what}", value.text));
        match option.text.as_str() {
            // 0: the packet's own.
            "--on-port" => {
                let port: u16 = value.text.parse().map_err(|_| wrong("a port is 0 to 65535"))?;
                to.port = (port != 0).then_some(Port(port));
            }
            "--on-ip" => {
                let address: IpAddr = value.text.parse().map_err(|_| wrong("this is not an address"))?;
                to.address = (!address.is_unspecified()).then_some(address);
            }
            "--tproxy-mark" => {
                let mark = change::masked(value)?;
                if mark.0 != 0 {
                    draft.statements.push(Statement::Change(change::marked_bits(mark)));
                }
            }
            _ => return Err((option.place.clone(), format!("`{}` cannot be translated: take it out", option.text))),
        }
    }
    Ok(Says::Action(Action::Proxy(to)))
}

/// The options of a target that is not known.
fn skip(words: &mut Words<'_>) {
    while words.next().is_some() {}
}

fn reject(family: Family, words: &mut Words<'_>) -> Result<RejectWith, Fault> {
    let Some(option) = words.peek().filter(|word| word.text == "--reject-with") else { return Ok(RejectWith::Default) };
    words.next();
    let with = words.value(option)?;
    let code = match (family, with.text.as_str()) {
        (_, "tcp-reset") => Some(RejectWith::TcpReset),
        (Family::V4, word) => match word.strip_prefix("icmp-").or(word.strip_prefix("icmp")) {
            Some("net-unreachable") => Some(Unreachable4::Net),
            Some("host-unreachable") => Some(Unreachable4::Host),
            Some("proto-unreachable") => Some(Unreachable4::Protocol),
            Some("port-unreachable") => Some(Unreachable4::Port),
            Some("net-prohibited") => Some(Unreachable4::NetProhibited),
            Some("host-prohibited") => Some(Unreachable4::HostProhibited),
            Some("admin-prohibited") => Some(Unreachable4::AdminProhibited),
            _ => None,
        }
        .map(RejectWith::Icmp),
        (Family::V6, word) => match word.strip_prefix("icmp6-") {
            Some("no-route") => Some(Unreachable6::NoRoute),
            Some("adm-prohibited") => Some(Unreachable6::AdminProhibited),
            Some("addr-unreachable") => Some(Unreachable6::Address),
            Some("port-unreachable") => Some(Unreachable6::Port),
            _ => None,
        }
        .map(RejectWith::Icmpv6),
    };
    code.ok_or_else(|| (with.place.clone(), format!("`--reject-with {}`: {CODES}", with.text)))
}

/// `LOG` goes to the kernel's log and asks the next rule; `NFLOG` goes to a group.
fn log(draft: &mut Draft, words: &mut Words<'_>, known: [&str; 2]) -> Result<Says, Fault> {
    let mut log = Log::default();
    if known[1] == "--nflog-group" {
        log.target = Some(LogTarget::Group(0));
    }
    while let Some(option) = words.next() {
        if SHAPES.contains(&option.text.as_str()) {
            let message = format!("`{}` is not kept: a line shows what can be read of a packet here", option.text);
            draft.notes.push((option.place.clone(), message));
            // Some have a size behind them.
            words.skip_if(|word| word.text.bytes().all(|byte| byte.is_ascii_digit()));
            continue;
        }
        if !known.contains(&option.text.as_str()) {
            let message = format!("`{}`: a line of log has a prefix and a level; take it out", option.text);
            skip(words);
            return Err((option.place.clone(), message));
        }
        let value = words.value(option)?;
        let wrong = |what: &str| (value.place.clone(), format!("`{}`: {what}", value.text));
        match option.text.as_str() {
            "--log-level" => {
                log.target = Some(level(&value.text).ok_or_else(|| wrong("a level is 0 to 7, or its name"))?);
            }
            "--nflog-group" => {
                log.target = Some(LogTarget::Group(value.text.parse().map_err(|_| wrong("a group is 0 to 65535"))?));
            }
            _ => {
                log.prefix = Some(
                    Text::new(&value.text)
                        .ok_or_else(|| wrong("a prefix is one line without quotes, of at most 128 bytes"))?,
                );
            }
        }
    }
    draft.statements.push(Statement::Log(log));
    Ok(Says::Action(Action::Continue))
}

/// By number or name (syslog(3)). The usual one, 4, is not said.
fn level(text: &str) -> Option<LogTarget> {
    let level = match text {
        "0" | "emerg" | "panic" => LogLevel::Emerg,
        "1" | "alert" => LogLevel::Alert,
        "2" | "crit" => LogLevel::Crit,
        "3" | "err" | "error" => LogLevel::Err,
        "4" | "warning" | "warn" => LogLevel::Warn,
        "5" | "notice" => LogLevel::Notice,
        "6" | "info" => LogLevel::Info,
        "7" | "debug" => LogLevel::Debug,
        _ => return None,
    };
    Some(LogTarget::Level(level))
}
