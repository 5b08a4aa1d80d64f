//! The packets that some matches do not fit.

use crate::rule::{
    Connection, ConnectionBits, Family, Field, Fragment, Match, Protocol, ProtocolField, Range, Reachability, TcpFlags,
    Test, Values,
};

/// Ways of not fitting beyond which a chain is better written anew.
const MOST: usize = 16;

/// Conditions that together hold for just the packets that do not fit all `matches`, no packet meeting two of them; none
/// when that cannot be said. `family` is that of all packets, if they are of one.
///
/// A packet whose ports, flags or types cannot be read fits neither a match that asks for them nor its opposite; only rules
/// that drop meet it all the same. Such a match has an opposite only where `drops` says that all rules drop.
pub(super) fn complement(matches: &[Match], family: Option<Family>, drops: bool) -> Option<Vec<Vec<Match>>> {
    let mut ways = Vec::new();
    let mut before: Vec<Match> = Vec::new();
    for asked in matches {
        let known = before.iter().find_map(Match::family).or(family);
        for way in opposite(asked, known, drops)? {
            ways.push(before.iter().cloned().chain(way).collect());
        }
        before.push(asked.clone());
    }
    (ways.len() <= MOST).then_some(ways)
}

/// Whether a match asks for what can not be read in every packet: ports, flags or types.
pub(super) fn asks_transport(asked: &Match) -> bool {
    match asked {
        Match::Port(..)
        | Match::TcpFlags(_)
        | Match::IcmpType(_)
        | Match::Icmpv6Type(_)
        | Match::IcmpCode(_)
        | Match::Icmpv6Code(_) => true,
        Match::Concatenation(asked) => asked.fields().iter().any(|field| matches!(field, Field::Port(..))),
        _ => false,
    }
}

/// The ways not to fit one match.
fn opposite(asked: &Match, family: Option<Family>, drops: bool) -> Option<Vec<Vec<Match>>> {
    let readable = |flipped: Option<Match>| if drops { flipped } else { None };
    let flipped = match asked {
        Match::Ipv4(side, test) => Some(Match::Ipv4(*side, flip(test)?)),
        Match::Ipv6(side, test) => Some(Match::Ipv6(*side, flip(test)?)),
        // Each packet has a state.
        Match::Connection(Connection::Bits(ConnectionBits::State, negated, bits)) => {
            Some(Match::Connection(Connection::Bits(ConnectionBits::State, !negated, *bits)))
        }
        Match::Connection(Connection::Route(asked)) => {
            Some(Match::Connection(Connection::Route(Reachability { found: asked.found.opposite(), ..asked.clone() })))
        }
        Match::Protocol(ProtocolField::Ip6, _)
        | Match::Vlan(_)
        | Match::Ether(..)
        | Match::Concatenation(_)
        | Match::Connection(_) => None,
        Match::Protocol(field @ (ProtocolField::Ip | ProtocolField::Meta), test) => {
            Some(Match::Protocol(*field, flip(test)?))
        }
        Match::Dscp(family, test) => Some(Match::Dscp(*family, flip(test)?)),
        Match::HopLimit(family, test) => Some(Match::HopLimit(*family, flip(test)?)),
        Match::Length(test) => Some(Match::Length(flip(test)?)),
        Match::Link(field, test) => Some(Match::Link(*field, flip(test)?)),
        Match::Fragment(fragment) => Fragment::new(fragment.mask(), flip(fragment.test())?).map(Match::Fragment),
        Match::Family(family) => return Some(vec![vec![Match::Family(other(*family))]]),
        Match::Port(transport, side, test) => readable(Some(Match::Port(*transport, *side, flip(test)?))),
        Match::IcmpType(test) => readable(Some(Match::IcmpType(flip(test)?))),
        Match::Icmpv6Type(test) => readable(Some(Match::Icmpv6Type(flip(test)?))),
        Match::IcmpCode(test) => readable(Some(Match::IcmpCode(flip(test)?))),
        Match::Icmpv6Code(test) => readable(Some(Match::Icmpv6Code(flip(test)?))),
        Match::PacketType(test) => Some(Match::PacketType(flip(test)?)),
        Match::TcpFlags(flags) => {
            readable(TcpFlags::new(flags.mask(), !flags.negated(), flags.values().to_vec()).map(Match::TcpFlags))
        }
    }?;
    let mut ways = Vec::new();
    // All packets of the other family, then those of other protocols.
    let own = flipped.family();
    if own.is_some() && family != own {
        ways.extend(own.map(|own| vec![Match::Family(other(own))]));
    }
    if let (false, Some(protocols)) = (matches!(asked, Match::Protocol(..)), flipped.protocols()) {
        let all = protocols.into_iter().map(|number| Range::single(Protocol(number))).collect();
        let others = Match::Protocol(ProtocolField::Meta, Test::listed(true, all)?);
        ways.push(own.map(Match::Family).into_iter().chain([others]).collect());
    }
    ways.push(vec![flipped]);
    Some(ways)
}

fn flip<I: Ord + Clone>(test: &Test<I>) -> Option<Test<I>> {
    match test.values() {
        Values::Listed(items) => Test::listed(!test.negated(), items.clone()),
        Values::Set(name) => Some(Test::set(!test.negated(), name.clone())),
    }
}

const fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::parse;

    #[test]
    fn rows() {
        let v4 = Some(Family::V4);
        for (matches, family, drops, want) in [
            ("ip saddr 192.0.2.1", v4, false, "ip saddr != 192.0.2.1"),
            ("ip saddr 192.0.2.1", None, false, "meta nfproto ipv6 / ip saddr != 192.0.2.1"),
            ("iifname != \"eth0\"", None, false, "iifname \"eth0\""),
            ("ip saddr @good", v4, false, "ip saddr != @good"),
            ("tcp dport 22", None, false, ""),
            ("tcp dport 22", None, true, "meta l4proto != tcp / tcp dport != 22"),
            (
                "iifname \"eth0\" ip daddr 192.0.2.1",
                v4,
                false,
                "iifname != \"eth0\" / iifname \"eth0\" ip daddr != 192.0.2.1",
            ),
            (
                "icmp type echo-request",
                None,
                true,
                "meta nfproto ipv6 / meta nfproto ipv4 meta l4proto != icmp / icmp type != echo-request",
            ),
            ("vlan id 7", None, true, ""),
        ] {
            let rule = parse(&format!("{matches} drop")).expect(matches);
            let ways = complement(rule.matches(), family, drops).unwrap_or_default();
            let text = |way: &Vec<Match>| way.iter().map(Match::to_string).collect::<Vec<_>>().join(" ");
            assert_eq!(ways.iter().map(text).collect::<Vec<_>>().join(" / "), want, "{matches}");
        }
    }
}
