//! Rows of rules as the kernel lists them, and what an established packet meets.

use std::collections::BTreeMap;

use super::*;
use crate::model::{Comparison, Extension, NetfilterElement, NetfilterSet, ObstacleKind as Kind, Source};

/// A table in memory: chains, and sets with whether they are ranges.
#[derive(Default)]
struct Fake {
    chains: BTreeMap<&'static str, Vec<Vec<Expression>>>,
    sets: BTreeMap<&'static str, (NetfilterSet, Vec<NetfilterElement>)>,
}

impl NetfilterTable for Fake {
    fn rules(&mut self, chain: &str) -> Result<Vec<NetfilterRule>, String> {
        let rules = self.chains.get(chain).ok_or("there is no such chain")?.iter().enumerate();
        Ok(rules.map(|(at, it)| NetfilterRule { name: format!("handle {at}"), expressions: it.clone() }).collect())
    }

    fn set(&mut self, name: &str) -> Result<NetfilterSet, String> {
        Ok(self.sets.get(name).ok_or("there is no such set")?.0.clone())
    }

    fn elements(&mut self, name: &str) -> Result<Vec<NetfilterElement>, String> {
        Ok(self.sets.get(name).ok_or("there is no such set")?.1.clone())
    }
}

/// What it is, the rules of a base chain, and what is met.
type Row = (&'static str, Vec<Vec<Expression>>, Vec<Kind>);

const NEW: u8 = 8;
const ESTABLISHED: u8 = 2;
const RELATED: u8 = 4;
const INVALID: u8 = 1;

fn load(source: Source) -> Expression {
    Expression::Load(0, source)
}

fn equal(value: &[u8]) -> Expression {
    Expression::Compare(0, Comparison::Equal, value.to_vec())
}

fn unequal(value: &[u8]) -> Expression {
    Expression::Compare(0, Comparison::Unequal, value.to_vec())
}

fn masked(mask: &[u8]) -> Expression {
    Expression::Bitwise { from: 0, to: 0, mask: Some((mask.to_vec(), vec![0; mask.len()])) }
}

/// `ct state ...` as a mask, which is how nft writes lists.
fn state(bits: u8) -> Vec<Expression> {
    vec![load(Source::Ct(0)), masked(&[bits, 0, 0, 0]), unequal(&[0; 4])]
}

/// `iifname "eth0"`.
fn iif() -> Vec<Expression> {
    vec![load(Source::Meta(6)), equal(b"eth0\0\0\0\0\0\0\0\0\0\0\0\0")]
}

/// `meta l4proto`.
fn protocol(number: u8) -> Vec<Expression> {
    vec![load(Source::Meta(16)), equal(&[number])]
}

/// `tcp flags & mask == value`.
fn flags(mask: u8, value: u8) -> Vec<Expression> {
    [protocol(6), vec![load(Source::Payload(2, 13, 1)), masked(&[mask]), equal(&[value])]].concat()
}

fn does(kind: Kind) -> Vec<Expression> {
    vec![Expression::Effect(kind, None)]
}

fn verdict(verdict: NetfilterVerdict) -> Vec<Expression> {
    vec![Expression::Verdict(verdict)]
}

fn accept() -> Vec<Expression> {
    verdict(NetfilterVerdict::Accept)
}

fn drop() -> Vec<Expression> {
    verdict(NetfilterVerdict::Drop)
}

fn queue() -> Vec<Expression> {
    verdict(NetfilterVerdict::Queue)
}

fn jump(chain: &str) -> Vec<Expression> {
    verdict(NetfilterVerdict::Jump(chain.to_owned()))
}

fn goto(chain: &str) -> Vec<Expression> {
    verdict(NetfilterVerdict::Goto(chain.to_owned()))
}

fn extended(name: &str, info: Vec<u8>) -> Extension {
    Extension { name: name.to_owned(), revision: 0, info }
}

fn target(name: &str) -> Vec<Expression> {
    vec![Expression::Target(extended(name, vec![0; 16]))]
}

fn lookup(set: &str, verdicts: bool) -> Expression {
    Expression::Lookup { key: 0, set: set.to_owned(), inverted: false, to: None, verdicts }
}

fn element(key: &[u8], verdict: Option<NetfilterVerdict>) -> NetfilterElement {
    NetfilterElement { key: Some(key.to_vec()), verdict }
}

fn rule(parts: &[Vec<Expression>]) -> Vec<Expression> {
    parts.concat()
}

/// A comparison with two bytes.
fn content(source: Source) -> Vec<Expression> {
    vec![load(source), equal(&[0, 1])]
}

/// What is met from chain `base` on.
fn met(mut table: Fake, base: Vec<Vec<Expression>>, tracked: bool) -> Vec<Kind> {
    table.chains.insert("base", base);
    obstacles(&mut table, "inet t", "base", tracked).into_iter().map(|one| one.kind).collect()
}

#[test]
fn what_an_established_packet_meets_forbids() {
    let rows: Vec<Row> = vec![
        ("nothing", vec![], vec![]),
        ("a queue", vec![queue()], vec![Kind::Queue]),
        ("a queue of TCP", vec![rule(&[protocol(6), queue()])], vec![Kind::Queue]),
        ("a queue of ICMP", vec![rule(&[protocol(1), queue()])], vec![]),
        ("a queue of an interface", vec![rule(&[iif(), queue()])], vec![Kind::Queue]),
        ("a limit", vec![rule(&[does(Kind::Limit), accept()])], vec![Kind::Limit]),
        ("of new ones", vec![rule(&[state(NEW), does(Kind::Limit), accept()])], vec![]),
        ("of new ones, == ", vec![rule(&[vec![load(Source::Ct(0)), equal(&[NEW, 0, 0, 0])], queue()])], vec![]),
        (
            "of all but new ones",
            vec![rule(&[vec![load(Source::Ct(0)), unequal(&[NEW, 0, 0, 0])], queue()])],
            vec![Kind::Queue],
        ),
        ("of invalid ones", vec![rule(&[state(INVALID), does(Kind::Log), drop()])], vec![]),
        ("of related ones", vec![rule(&[state(RELATED), queue()])], vec![]),
        ("behind established", vec![rule(&[state(ESTABLISHED | RELATED), accept()]), queue()], vec![]),
        (
            "behind established with a counter",
            vec![rule(&[state(ESTABLISHED | RELATED), does(Kind::Counter), accept()]), queue()],
            vec![Kind::Counter],
        ),
        (
            "behind established of a port",
            vec![rule(&[iif(), state(ESTABLISHED), accept()]), queue()],
            vec![Kind::Queue],
        ),
        (
            "behind a limited established",
            vec![rule(&[state(ESTABLISHED), does(Kind::Limit), accept()]), queue()],
            vec![Kind::Queue, Kind::Limit],
        ),
        (
            "in front of established",
            vec![does(Kind::Log), rule(&[state(ESTABLISHED), accept()]), queue()],
            vec![Kind::Log],
        ),
        ("behind a drop of all", vec![drop(), queue()], vec![]),
        ("MSS of a SYN", vec![rule(&[flags(6, 2), does(Kind::Payload)])], vec![]),
        ("of ACK", vec![rule(&[flags(0x10, 0x10), does(Kind::Payload)])], vec![Kind::Payload]),
        ("null scans", vec![rule(&[flags(0x3f, 0), drop()])], vec![]),
        ("of PSH", vec![rule(&[flags(8, 8), drop()])], vec![Kind::Content]),
        ("a length", vec![rule(&[content(Source::Meta(0)), drop()])], vec![Kind::Content]),
        (
            "a length that is only counted",
            vec![rule(&[content(Source::Meta(0)), does(Kind::Counter)])],
            vec![Kind::Counter],
        ),
        ("at random", vec![rule(&[vec![load(Source::Random)], drop()])], vec![Kind::Random]),
        ("by the clock", vec![rule(&[content(Source::Meta(32)), drop()])], vec![Kind::Time]),
        ("not known", vec![vec![Expression::Unknown("new".to_owned())]], vec![Kind::Unreadable]),
        ("a named limit", vec![rule(&[vec![Expression::Object(4)], accept()])], vec![Kind::Limit]),
        ("a helper", vec![vec![Expression::Object(3)]], vec![Kind::Helper]),
        ("a target", vec![target("NFQUEUE")], vec![Kind::Queue]),
        ("an unknown one", vec![target("SHINY")], vec![Kind::Extension]),
        ("behind REJECT", vec![target("REJECT"), queue()], vec![]),
        ("a match", vec![vec![Expression::Match(extended("hashlimit", vec![]))]], vec![Kind::Limit]),
        ("a flowtable", vec![rule(&[protocol(6), does(Kind::Flowtable)])], vec![Kind::Flowtable]),
    ];
    for (what, base, wanted) in rows {
        assert_eq!(met(Fake::default(), base, true), wanted, "{what}");
    }
}

#[test]
fn what_differs_between_packets_of_a_connection_forbids() {
    let rows: Vec<Row> = vec![
        ("a TTL", vec![rule(&[content(Source::Payload(1, 8, 1)), drop()])], vec![Kind::Content]),
        ("ports", vec![rule(&[content(Source::Payload(2, 2, 2)), drop()])], vec![]),
        ("the frame's source", vec![rule(&[content(Source::Payload(0, 6, 6)), drop()])], vec![Kind::Content]),
        ("the frame's type", vec![rule(&[content(Source::Payload(0, 12, 2)), drop()])], vec![]),
        ("TTL and protocol", vec![rule(&[content(Source::Payload(1, 8, 2)), drop()])], vec![Kind::Content]),
        ("MSS", vec![rule(&[content(Source::Exthdr(1, 2, false)), drop()])], vec![Kind::Content]),
        ("addresses", vec![rule(&[content(Source::Payload(1, 12, 4)), drop()])], vec![]),
        ("bytes so far", vec![rule(&[content(Source::Ct(15)), drop()])], vec![Kind::Content]),
        ("routing headers", vec![rule(&[content(Source::Exthdr(0, 43, false)), drop()])], vec![]),
    ];
    for (what, base, wanted) in rows {
        assert_eq!(met(Fake::default(), base, true), wanted, "{what}");
    }
}

#[test]
fn in_front_of_conntrack_no_packet_is_established_yet() {
    let raw = vec![rule(&[state(ESTABLISHED), accept()]), rule(&[state(NEW), does(Kind::Notrack)])];
    assert_eq!(met(Fake::default(), raw, false), [Kind::Notrack]);
}

#[test]
fn chains_are_followed_where_a_packet_can_go() {
    use NetfilterVerdict::Return;
    let table = |chain: Vec<Vec<Expression>>| Fake {
        chains: [("other", chain), ("deep", vec![queue()])].into_iter().collect(),
        ..Fake::default()
    };
    let settled = || rule(&[state(ESTABLISHED), accept()]);
    let rows = [
        ("a jump", vec![jump("other")], vec![does(Kind::Log)], vec![Kind::Log]),
        ("a jump of new ones", vec![rule(&[state(NEW), jump("other")])], vec![does(Kind::Log)], vec![]),
        ("two jumps", vec![jump("other")], vec![goto("deep")], vec![Kind::Queue]),
        ("behind a jump that accepts", vec![jump("other"), queue()], vec![settled()], vec![]),
        ("behind a jump of a port", vec![rule(&[iif(), jump("other")]), queue()], vec![settled()], vec![Kind::Queue]),
        ("behind a jump that returns", vec![jump("other"), queue()], vec![verdict(Return), drop()], vec![Kind::Queue]),
        ("behind a goto", vec![goto("other"), queue()], vec![], vec![]),
        ("behind a return", vec![verdict(Return), queue()], vec![], vec![]),
        ("a chain that is not there", vec![jump("nowhere")], vec![], vec![Kind::Unreadable]),
        ("in circles", vec![jump("other")], vec![jump("base")], vec![]),
    ];
    for (what, base, other, wanted) in rows {
        assert_eq!(met(table(other), base, true), wanted, "{what}");
    }
}

#[test]
fn maps_and_sets_are_looked_into() {
    use NetfilterVerdict::{Accept, Drop, Jump};
    let states = |established| {
        vec![
            element(&[ESTABLISHED, 0, 0, 0], Some(established)),
            element(&[RELATED, 0, 0, 0], Some(Accept)),
            element(&[INVALID, 0, 0, 0], Some(Drop)),
            element(&[NEW, 0, 0, 0], Some(Jump("new".to_owned()))),
        ]
    };
    let table = |interval, elements: Vec<NetfilterElement>| {
        let set = NetfilterSet { interval, ..NetfilterSet::default() };
        let limited = NetfilterSet { expressions: does(Kind::Limit), ..NetfilterSet::default() };
        Fake {
            chains: [("new", vec![queue()]), ("old", vec![does(Kind::Log)])].into_iter().collect(),
            sets: [("set", (set, elements)), ("limited", (limited, Vec::new()))].into_iter().collect(),
        }
    };
    let of_states = || vec![load(Source::Ct(0)), lookup("set", true)];
    let keys = |states: &[u8]| states.iter().map(|state| element(&[*state, 0, 0, 0], None)).collect::<Vec<_>>();
    let is_in = || vec![load(Source::Ct(0)), lookup("set", false)];
    let by_port = || vec![load(Source::Payload(2, 2, 2)), lookup("set", true)];
    let to = |chain: &str| Some(Jump(chain.to_owned()));
    let default = NetfilterElement { key: None, verdict: to("old") };
    let longer = element(&[NEW, 0, 0, 0, 0, 22, 0, 0], None);
    let rows = [
        ("ct state vmap", table(false, states(Accept)), vec![of_states(), queue()], vec![]),
        (
            "and on",
            table(false, states(NetfilterVerdict::Continue)),
            vec![rule(&[of_states(), does(Kind::Log)]), queue()],
            vec![Kind::Queue, Kind::Log],
        ),
        (
            "to a chain",
            table(false, states(Jump("old".to_owned()))),
            vec![of_states(), queue()],
            vec![Kind::Queue, Kind::Log],
        ),
        ("without established", table(false, keys(&[NEW])), vec![rule(&[is_in(), queue()])], vec![]),
        (
            "with established",
            table(false, keys(&[ESTABLISHED, RELATED])),
            vec![rule(&[is_in(), accept()]), queue()],
            vec![],
        ),
        ("a concatenation", table(false, vec![longer]), vec![rule(&[is_in(), queue()])], vec![Kind::Queue]),
        ("ranges", table(true, keys(&[NEW])), vec![rule(&[is_in(), queue()])], vec![Kind::Queue]),
        (
            "by port",
            table(false, vec![element(&[0, 53], to("old"))]),
            vec![by_port(), queue()],
            vec![Kind::Queue, Kind::Log],
        ),
        ("what is not in it", table(false, vec![default]), vec![of_states()], vec![Kind::Log]),
        ("a set that is gone", Fake::default(), vec![rule(&[is_in(), accept()])], vec![Kind::Unreadable]),
        (
            "a limit for each element",
            table(false, vec![]),
            vec![vec![load(Source::Payload(1, 12, 4)), lookup("limited", false)]],
            vec![Kind::Limit],
        ),
    ];
    for (what, fake, base, wanted) in rows {
        assert_eq!(met(fake, base, true), wanted, "{what}");
    }
}

#[test]
fn findings_name_the_rule() {
    let mut table = Fake::default();
    table.chains.insert("base", vec![jump("other")]);
    table.chains.insert("other", vec![accept_established(), target("NFLOG"), queue()]);
    let found: Vec<_> = obstacles(&mut table, "ip filter", "base", true).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        ["rule ip filter other handle 2 has queue", "rule ip filter other handle 1 has log (target NFLOG)"]
    );
}

/// Only of an interface, so that the rest is met.
fn accept_established() -> Vec<Expression> {
    rule(&[iif(), state(ESTABLISHED), accept()])
}

/// A set is looked up by registers side by side, and names the first of them.
#[test]
fn what_is_looked_up_beside_the_first_part_counts() {
    let both = || vec![load(Source::Payload(1, 12, 4)), Expression::Load(9, Source::Payload(0, 6, 6))];
    let of = |verdict: Option<NetfilterVerdict>| Fake {
        sets: [("set", (NetfilterSet::default(), vec![element(&[0; 12], verdict)]))].into_iter().collect(),
        ..Fake::default()
    };
    let drops = Some(NetfilterVerdict::Drop);
    let rows = [
        ("in a set", of(None), rule(&[both(), vec![lookup("set", false)], drop()])),
        ("in a map of verdicts", of(drops), rule(&[both(), vec![lookup("set", true)]])),
    ];
    for (what, fake, base) in rows {
        assert_eq!(met(fake, vec![base], true), [Kind::Content], "the source of the frame {what}");
    }
}
