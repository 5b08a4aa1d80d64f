//! Whether a config would cut off the session that applies it, judged by the rules as they are written.

use std::fmt;
use std::net::IpAddr;

use super::session::{Session, WayIn};
use super::{Config, Elements};
use crate::rule::{
    Action, ChainName, Concatenation, Connection, ConnectionBits, ESTABLISHED, Element, Family, Field, Fragment,
    FragmentWord, Item, LinkField, LinkPattern, Match, PacketType, Policy, Port, Protocol, Range, Rule, SetName, Side,
    TcpFlags, Test, Transport, Value, Values,
};

/// TCP's number (RFC 9293).
const TCP: u8 = 6;
/// The flags of a segment of a session that stands: ACK (RFC 9293, section 3.1).
const ACK: u8 = 0x10;
/// What `ip frag-off` is for a packet that is no fragment: with and without "don't fragment" (RFC 791, section 3.1).
const WHOLE: [u16; 2] = [0x4000, 0];

/// What may drop a session's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// A rule, by its place from 0.
    Rule(ChainName, usize, String),
    /// The policy.
    Policy(ChainName),
}

impl Culprit {
    /// Whether both are the same rule, at whatever place, or the same policy.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rule(chain, _, rule), Self::Rule(other, _, text)) => chain == other && rule == text,
            (Self::Policy(chain), Self::Policy(other)) => chain == other,
            _ => false,
        }
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(chain, index, rule) => write!(f, "chain {chain}, rule {}: `{rule}`", index + 1),
            Self::Policy(chain) => write!(f, "the policy of chain {chain}"),
        }
    }
}

/// What is known of a match or a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MatchedRule {
    Yes,
    No,
    /// It depends on what is not known beforehand: the link, the length, the hop limit.
    Maybe,
}

impl MatchedRule {
    /// Of all together.
    fn all(each: impl Iterator<Item = Self>) -> Self {
        each.fold(Self::Yes, |all, one| match (all, one) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Maybe, _) | (_, Self::Maybe) => Self::Maybe,
            _ => Self::Yes,
        })
    }
}

impl From<bool> for MatchedRule {
    fn from(matched: bool) -> Self {
        if matched { Self::Yes } else { Self::No }
    }
}

impl Config {
    /// What may drop the packets of a session that come in on a known way; none when they surely pass.
    pub fn locks_out(&self, session: &Session, iif: Option<&WayIn>) -> Option<Culprit> {
        if iif.is_some_and(|way| !way.ports.iter().any(|link| self.port(link).is_some())) {
            return None;
        }
        [ChainName::Prerouting, ChainName::Input].into_iter().find_map(|chain| {
            for (index, rule) in self.chain(chain).rules.iter().enumerate() {
                match (self.meets(rule, session, iif), rule.action()) {
                    (MatchedRule::Yes, Action::Accept) => return None,
                    (MatchedRule::Yes | MatchedRule::Maybe, Action::Drop | Action::Reject(_)) => {
                        return Some(Culprit::Rule(chain, index, rule.to_string()));
                    }
                    _ => {}
                }
            }
            (self.chain(chain).policy == Policy::Drop).then_some(Culprit::Policy(chain))
        })
    }

    fn meets(&self, rule: &Rule, session: &Session, iif: Option<&WayIn>) -> MatchedRule {
        // A limit lets some packets by.
        let limited = if rule.statements().is_empty() { MatchedRule::Yes } else { MatchedRule::Maybe };
        MatchedRule::all(rule.matches().iter().map(|asked| self.holds(asked, session, iif)).chain([limited]))
    }

    fn holds(&self, asked: &Match, session: &Session, iif: Option<&WayIn>) -> MatchedRule {
        let family = if session.peer.is_ipv4() { Family::V4 } else { Family::V6 };
        if asked.family().is_some_and(|other| other != family) {
            return MatchedRule::No;
        }
        let end = |side: Side| if side == Side::Source { session.peer } else { session.here };
        match asked {
            Match::Ipv4(side, test) => match end(*side).ip() {
                IpAddr::V4(address) => self.ranges(test, address, |item| match item {
                    Item::Ipv4(range) => Some(range.contains(address)),
                    _ => None,
                }),
                IpAddr::V6(_) => MatchedRule::No,
            },
            Match::Ipv6(side, test) => match end(*side).ip() {
                IpAddr::V6(address) => self.ranges(test, address, |item| match item {
                    Item::Ipv6(range) => Some(range.contains(address)),
                    _ => None,
                }),
                IpAddr::V4(_) => MatchedRule::No,
            },
            Match::Port(Transport::Tcp | Transport::Any, side, test) => {
                let port = Port(end(*side).port());
                self.ranges(test, port, |item| match item {
                    Item::Service(range) => Some(range.contains(port)),
                    _ => None,
                })
            }
            Match::Port(..) | Match::IcmpType(_) | Match::Icmpv6Type(_) | Match::IcmpCode(_) | Match::Icmpv6Code(_) => {
                MatchedRule::No
            }
            // A session is between two.
            Match::PacketType(test) => self.ranges(test, PacketType(0), |_| None),
            Match::Protocol(_, test) => self.ranges(test, Protocol(TCP), |item| match item {
                Item::Protocol(range) => Some(range.contains(Protocol(TCP))),
                _ => None,
            }),
            Match::TcpFlags(flags) => flagged(flags).into(),
            Match::Fragment(fragment) => whole(fragment),
            Match::Link(field, test) => self.link(*field, test, iif),
            Match::Family(_) => MatchedRule::Yes,
            // A session is established.
            Match::Connection(Connection::Bits(ConnectionBits::State, negated, bits)) => {
                (*negated != (bits & ESTABLISHED != 0)).into()
            }
            Match::Connection(_) => MatchedRule::Maybe,
            Match::Concatenation(asked) => self.together(asked, session, iif),
            Match::Dscp(..) | Match::HopLimit(..) | Match::Length(_) | Match::Vlan(_) | Match::Ether(..) => {
                MatchedRule::Maybe
            }
        }
    }

    fn together(&self, asked: &Concatenation, session: &Session, iif: Option<&WayIn>) -> MatchedRule {
        let elements = match asked.test().values() {
            Values::Listed(elements) => elements.as_slice(),
            Values::Set(name) => match self.elements(name) {
                Some(elements) => elements,
                None => return MatchedRule::Maybe,
            },
        };
        let fits = |element: &Element| {
            let fields = asked.fields().iter().zip(&element.0);
            MatchedRule::all(fields.map(|(field, item)| part(*field, item, session, iif)))
        };
        let matched: Vec<_> = elements.iter().map(fits).collect();
        let lacks = asked.protocols().is_some_and(|protocols| !protocols.contains(&TCP));
        match (lacks, asked.test().negated()) {
            (true, _) => MatchedRule::No,
            (false, _) if !matched.contains(&MatchedRule::Yes) && matched.contains(&MatchedRule::Maybe) => {
                MatchedRule::Maybe
            }
            (false, negated) => (matched.contains(&MatchedRule::Yes) != negated).into(),
        }
    }

    fn ranges<T: Value>(&self, test: &Test<Range<T>>, value: T, inside: impl Fn(&Item) -> Option<bool>) -> MatchedRule {
        match test.values() {
            Values::Listed(ranges) => (ranges.iter().any(|range| range.contains(value)) != test.negated()).into(),
            Values::Set(name) => {
                self.set(name, inside).map_or(MatchedRule::Maybe, |held| (held != test.negated()).into())
            }
        }
    }

    /// Whether a set holds the value that `inside` knows; none when that cannot be said.
    fn set(&self, name: &SetName, inside: impl Fn(&Item) -> Option<bool>) -> Option<bool> {
        let Elements::Listed(elements) = &self.sets.get(name)?.elements else { return None };
        elements.iter().try_fold(false, |held, element| match element.0.as_slice() {
            [item] => inside(item).map(|here| held || here),
            _ => None,
        })
    }

    fn link(&self, field: LinkField, test: &Test<LinkPattern>, iif: Option<&WayIn>) -> MatchedRule {
        let way = match field {
            LinkField::Iif | LinkField::Iifname => iif,
            // What is delivered has no way out.
            LinkField::Oif | LinkField::Oifname => return test.negated().into(),
        };
        let Some(way) = way else { return MatchedRule::Maybe };
        match test.values() {
            Values::Listed(patterns) => {
                (patterns.iter().any(|pattern| way.is(pattern, field)) != test.negated()).into()
            }
            Values::Set(set) => {
                let held = self.set(set, |item| match item {
                    Item::Link(pattern) => Some(way.is(pattern, field)),
                    _ => None,
                });
                held.map_or(MatchedRule::Maybe, |held| (held != test.negated()).into())
            }
        }
    }
}

/// Whether one part of an element holds a session's packets.
fn part(field: Field, item: &Item, session: &Session, iif: Option<&WayIn>) -> MatchedRule {
    let end = |side: Side| if side == Side::Source { session.peer } else { session.here };
    match (field, item) {
        (Field::Ipv4(side), Item::Ipv4(range)) => match end(side).ip() {
            IpAddr::V4(address) => range.contains(address).into(),
            IpAddr::V6(_) => MatchedRule::No,
        },
        (Field::Ipv6(side), Item::Ipv6(range)) => match end(side).ip() {
            IpAddr::V6(address) => range.contains(address).into(),
            IpAddr::V4(_) => MatchedRule::No,
        },
        (Field::Port(_, side), Item::Service(range)) => range.contains(Port(end(side).port())).into(),
        (Field::Protocol(_), Item::Protocol(range)) => range.contains(Protocol(TCP)).into(),
        (Field::Link(field @ (LinkField::Iif | LinkField::Iifname)), Item::Link(pattern)) => {
            iif.map_or(MatchedRule::Maybe, |way| way.is(pattern, field).into())
        }
        // What is delivered has no way out.
        (Field::Link(_), _) => MatchedRule::No,
        _ => MatchedRule::Maybe,
    }
}

fn flagged(flags: &TcpFlags) -> bool {
    flags.values().contains(&(ACK & flags.mask())) != flags.negated()
}

fn whole(fragment: &Fragment) -> MatchedRule {
    let Values::Listed(ranges) = fragment.test().values() else { return MatchedRule::Maybe };
    let holds = |word: u16| {
        let word = FragmentWord(word & fragment.mask());
        ranges.iter().any(|range| range.contains(word)) != fragment.test().negated()
    };
    match WHOLE.map(holds) {
        [true, true] => MatchedRule::Yes,
        [false, false] => MatchedRule::No,
        _ => MatchedRule::Maybe,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::parse, WayIn};

    /// The chain input, and what drops a session of ssh from 192.0.2.7 on eth0.
    const ROWS: &[(&str, &str, Option<&str>)] = &[
        ("nothing is asked", "policy = 'accept'", None),
        ("a policy", "policy = 'drop'", Some("the policy of chain input")),
        ("ssh is let in", "policy = 'drop'\nrules = ['tcp dport 22 accept']", None),
        ("another port is", "policy = 'drop'\nrules = ['tcp dport 2222 accept']", Some("the policy of chain input")),
        (
            "the peer is shut out",
            "rules = ['ip saddr 192.0.2.0/24 drop']",
            Some("rule 1: `ip saddr 192.0.2.0/24 drop`"),
        ),
        ("another is", "rules = ['ip saddr != 192.0.2.0/24 drop']", None),
        ("order decides", "rules = ['tcp dport 22 accept', 'drop']", None),
        ("a rule that continues decides nothing", "rules = ['tcp dport 22 continue', 'drop']", Some("rule 2: `drop`")),
        ("v6 rules never see v4", "rules = ['meta nfproto ipv6 drop']", None),
        ("segments of a session are no SYN", "rules = ['tcp flags & (syn | ack) == syn drop']", None),
        ("they are no fragments", "rules = ['ip frag-off & 0x1fff != 0 drop']", None),
        ("the link", "policy = 'drop'\nrules = ['iif eth0 accept']", None),
        ("another link", "policy = 'drop'\nrules = ['iifname \"eth1*\" accept']", Some("the policy of chain input")),
        ("the way out", "policy = 'drop'\nrules = ['oif eth0 accept']", Some("the policy of chain input")),
        ("what is not known may drop", "rules = ['ip ttl < 60 drop']", Some("rule 1: `ip ttl 0-59 drop`")),
        ("and may not save", "policy = 'drop'\nrules = ['ip ttl > 60 accept']", Some("the policy of chain input")),
        ("a concatenation", "rules = ['ip saddr . tcp dport 192.0.2.7 . 22 drop']", Some("rule 1: ")),
        ("another port in it", "rules = ['ip saddr . tcp dport 192.0.2.7 . 23 drop']", None),
        ("another protocol in it", "rules = ['ip saddr . udp dport != 192.0.2.7 . 23 drop']", None),
        ("a link in it", "rules = ['iifname . ip saddr { eth0 . 192.0.2.0/24 } drop']", Some("rule 1: ")),
        ("a set", "rules = ['ip saddr @bad drop']", Some("rule 1: `ip saddr @bad drop`")),
        ("an empty set", "rules = ['ip saddr @none drop']", None),
        ("a set in a file", "rules = ['ip saddr @filed drop']", Some("rule 1: `ip saddr @filed drop`")),
    ];

    #[test]
    fn sessions() {
        let session = "192.0.2.7 50000 192.0.2.1 22".parse().expect("a session");
        for (what, chain, expected) in ROWS {
            let text = format!(
                "[ports]\neth0 = {{}}\n[sets.bad]\ntype = 'ipv4_addr'\nelements = ['192.0.2.6-192.0.2.9']\n\
                 [sets.none]\ntype = 'ipv4_addr'\n[sets.filed]\ntype = 'ipv4_addr'\nfile = 'x'\n[chains.input]\n{chain}\n"
            );
            let config = parse(&text, "some.toml").expect(what);
            let way = |link: &str, under: &[&str]| WayIn {
                link: link.to_owned(),
                ports: [&[link], under].concat().into_iter().map(str::to_owned).collect(),
                ..WayIn::default()
            };
            let found = config.locks_out(&session, Some(&way("eth0", &[]))).map(|culprit| culprit.to_string());
            assert_eq!(found.is_some(), expected.is_some(), "{what}: {found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{what}");
            assert_eq!(config.locks_out(&session, Some(&way("eth1", &[]))), None, "{what}: eth1 is no port");
            let tagged = config.locks_out(&session, Some(&way("eth1.7", &["eth1"])));
            assert_eq!(tagged, None, "{what}: a VLAN device on no port");
            let tagged = config.locks_out(&session, Some(&way("lan", &["eth0"])));
            assert!(
                chain.contains("eth0") || tagged.is_some() == expected.is_some(),
                "{what}: a VLAN device on a port"
            );
        }
    }

    #[test]
    fn rules_mean_a_link_by_its_names() {
        let session = "192.0.2.7 50000 192.0.2.1 22".parse().expect("a session");
        let way = WayIn {
            link: "vlan7".to_owned(),
            altnames: vec!["office".to_owned()],
            former: vec!["eth9".to_owned()],
            ports: ["vlan7", "office", "eth9", "eth0"].map(str::to_owned).to_vec(),
        };
        for (rule, drops) in [
            ("iif vlan7 drop", true),
            ("iif office drop", true),
            ("iif eth9 drop", true),
            ("iif eth0 drop", false),
            ("iifname \"vlan*\" drop", true),
            ("iifname \"off*\" drop", false),
            ("iifname \"eth9\" drop", false),
            ("iifname . ip saddr { vlan7 . 192.0.2.7 } drop", true),
        ] {
            let text = format!("[ports]\neth0 = {{}}\n[chains.input]\nrules = ['{rule}']\n");
            let config = parse(&text, "some.toml").expect(rule);
            assert_eq!(config.locks_out(&session, Some(&way)).is_some(), drops, "{rule}");
        }
    }
}
