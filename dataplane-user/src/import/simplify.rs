//! Rules put together from several, without what they say twice.

use crate::rule::{LinkField, LinkPattern, Match, Test, Values};

/// The same question in fewer words; none when no packet can meet it.
pub(super) fn simplified(matches: Vec<Match>) -> Option<Vec<Match>> {
    let matches = links(links(matches, true)?, false)?;
    let needed = |(index, asked): &(usize, &Match)| {
        let others = || matches.iter().enumerate().filter(|(other, _)| other != index).map(|(_, other)| other);
        // Of two that say the same, the first stays.
        if matches[..*index].contains(asked) {
            return false;
        }
        match asked {
            Match::Family(family) => !others().any(|other| other != *asked && other.family() == Some(*family)),
            Match::Protocol(..) => {
                let implied = |other: &Match| {
                    !matches!(other, Match::Protocol(..))
                        && other.protocols().is_some()
                        && other.protocols() == asked.protocols()
                };
                let guarded = asked.family().is_none() || others().any(|other| other.family() == asked.family());
                !(others().any(implied) && guarded)
            }
            _ => true,
        }
    };
    Some(matches.iter().enumerate().filter(needed).map(|(_, asked)| asked.clone()).collect())
}

/// What is asked of one end by name comes to a list of names, if anything asks for names without `*`.
fn links(matches: Vec<Match>, way_in: bool) -> Option<Vec<Match>> {
    let this = |asked: &Match| match asked {
        Match::Link(field, test) if matches!(field, LinkField::Iif | LinkField::Iifname) == way_in => {
            Some((*field, test.clone()))
        }
        _ => None,
    };
    let tests: Vec<_> = matches.iter().filter_map(this).collect();
    let names = |test: &Test<LinkPattern>| match test.values() {
        Values::Listed(names) if !test.negated() && !names.iter().any(LinkPattern::is_wildcard) => Some(names.clone()),
        _ => None,
    };
    let Some((field, names)) = tests.iter().find_map(|(field, test)| Some((*field, names(test)?))) else {
        return Some(matches);
    };
    if tests.len() < 2 || tests.iter().any(|(_, test)| test.set_name().is_some()) {
        return Some(matches);
    }
    let fits = |name: &LinkPattern| {
        tests.iter().all(|(_, test)| match test.values() {
            Values::Listed(patterns) => patterns.iter().any(|pattern| pattern.fits(name.as_str())) != test.negated(),
            Values::Set(_) => true,
        })
    };
    let one = Match::Link(field, Test::listed(false, names.into_iter().filter(fits).collect())?);
    let first = matches.iter().position(|asked| this(asked).is_some())?;
    let rest = matches.iter().enumerate().filter(|(index, asked)| *index == first || this(asked).is_none());
    Some(rest.map(|(index, asked)| if index == first { one.clone() } else { asked.clone() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::parse;

    #[test]
    fn rows() {
        for (long, short) in [
            ("meta l4proto tcp tcp dport 22", "tcp dport 22"),
            ("ip protocol tcp tcp dport 22", "ip protocol tcp tcp dport 22"),
            ("ip saddr 192.0.2.1 ip protocol tcp tcp dport 22", "ip saddr 192.0.2.1 tcp dport 22"),
            ("meta l4proto { tcp, udp } th dport 53", "meta l4proto { tcp, udp } th dport 53"),
            ("meta l4proto tcp meta l4proto tcp", "meta l4proto tcp"),
            ("meta nfproto ipv4 ip saddr 192.0.2.1", "ip saddr 192.0.2.1"),
            ("meta nfproto ipv4 meta nfproto ipv4", "meta nfproto ipv4"),
            ("iifname \"a\" iifname != \"b\" oifname \"b\"", "iifname \"a\" oifname \"b\""),
            ("iifname { \"a\", \"b\", \"c\" } iifname != \"b*\"", "iifname { \"a\", \"c\" }"),
            ("iifname != \"a\" iifname \"a\"", "-"),
            ("iifname \"a*\" iifname != \"ab\"", "iifname \"a*\" iifname != \"ab\""),
            ("oifname @s oifname \"a\"", "oifname @s oifname \"a\""),
        ] {
            let found = simplified(parse(&format!("{long} drop")).expect(long).matches().to_vec());
            let text = |matches: Vec<Match>| matches.iter().map(Match::to_string).collect::<Vec<_>>().join(" ");
            assert_eq!(found.map_or_else(|| "-".to_owned(), text), short, "{long}");
        }
    }
}
