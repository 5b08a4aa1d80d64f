//! The grammar of the command line.

use super::*;

#[test]
fn the_grammar_is_consistent() {
    Cli::grammar().debug_assert();
}

/// The first command of an example is one of ours, and its options are taken as options.
fn can_be_typed(example: &str) {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in example.trim().chars() {
        match c {
            '\'' | '"' if quote.is_none() => quote = Some(c),
            _ if quote == Some(c) => quote = None,
            ' ' if quote.is_none() => words.push(String::new()),
            _ => words.last_mut().expect("a word").push(c),
        }
    }
    // A picture is none.
    let Some(first) = words.iter().position(|word| word == "dataplane") else { return };
    let words: Vec<_> =
        words.into_iter().skip(first).take_while(|word| !word.starts_with(['>', '#', '&', '|'])).collect();
    let matches = Cli::grammar().try_get_matches_from(spelled_out(words.iter().map(OsString::from)));
    let cli = Cli::from_arg_matches(&matches.unwrap_or_else(|error| panic!("{example}: {error}")));
    assert_eq!(cli.expect(example).json, words.iter().any(|word| word == "-j"), "{example}");
}

#[test]
fn every_verb_has_an_example() {
    fn walk(command: &mut clap::Command, seen: &mut usize) {
        let help = command.render_long_help().to_string();
        assert!(help.contains("Example"), "no example in the help of {}:\n{help}", command.get_name());
        let after = command.get_after_help().expect("examples").to_string();
        for example in after.lines().filter(|line| line.starts_with("  ")) {
            assert!(example.len() <= 80, "too wide for a terminal: {example}");
            can_be_typed(example);
        }
        *seen += 1;
        for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
            walk(verb, seen);
        }
    }
    let mut seen = 0;
    walk(&mut Cli::command(), &mut seen);
    assert!(seen >= 25, "only {seen} verbs were found");
}

/// No word of a filter, rule or route begins with `-`: options may stand behind them.
#[test]
fn options_are_options_behind_words() {
    for (line, want) in [
        ("trace reason no_route -j --count 5", "filter: [\"reason\", \"no_route\"], sample: 1, count: Some(5)"),
        ("trace tcp dport 80 - 90 --sample 7 -j", "\"80\", \"-\", \"90\"], sample: 7"),
        ("capture -w x icmp --count 3 -j", "filter: [\"icmp\"], sample: 1, count: Some(3)"),
        ("route get 198.18.1.2 -j", "addr: 198.18.1.2, words: []"),
        ("route get 198.18.1.2 iif eth0 -j", "words: [\"iif\", \"eth0\"]"),
        ("route add blackhole 2001:db8:bad::/48 -j", "words: [\"blackhole\", \"2001:db8:bad::/48\"]"),
        ("rule add forward tcp dport 23 drop --confirm 30 -j", "\"23\", \"drop\"]"),
    ] {
        let words = ["dataplane"].into_iter().chain(line.split(' ')).map(OsString::from);
        let matches =
            Cli::grammar().try_get_matches_from(spelled_out(words)).unwrap_or_else(|error| panic!("{line}: {error}"));
        let cli = Cli::from_arg_matches(&matches).expect(line);
        let found = format!("{:?}", cli.verb);
        assert!(found.contains(want) && cli.json, "{line}: {found}");
    }
}

#[test]
fn verbs_have_short_forms() {
    for (line, want) in [
        ("r l", "Route(Object { verb: Some(List { words: [] }) })"),
        ("r", "Route(Object { verb: None })"),
        ("ro sh default", "Route(Object { verb: Some(List { words: [\"default\"] }) })"),
        ("route show", "Route(Object { verb: Some(List { words: [] }) })"),
        ("-4 route ls", "Route(Object { verb: Some(List { words: [] }) })"),
        ("ru l forward", "Rule(Object { verb: Some(List { chain: Some(Forward) }) })"),
        ("rule lst", "Rule(Object { verb: Some(List { chain: None }) })"),
        ("neigh show eth0", "Neigh(Object { verb: Some(List { iface: Some(\"eth0\") }) })"),
        ("--socket r p -br", "Port(Object { verb: None })"),
        ("s", "Status(Status)"),
        ("c s", "Config(Object { verb: Some(Show) })"),
    ] {
        let words = ["dataplane"].into_iter().chain(line.split(' ')).map(OsString::from);
        let matches =
            Cli::grammar().try_get_matches_from(spelled_out(words)).unwrap_or_else(|error| panic!("{line}: {error}"));
        let cli = Cli::from_arg_matches(&matches).expect(line);
        assert_eq!(format!("{:?}", cli.verb), want, "{line}");
        assert_eq!(cli.v4, line.starts_with("-4"), "{line}");
    }
}

#[test]
fn names_of_interfaces() {
    for good in ["lo", "eth0.100", "wg-a", "fifteen-bytes-x"] {
        assert!(iface(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "a b", "a/b", "a:b", "sixteen-bytes-xy"] {
        assert!(iface(bad).is_err(), "{bad}");
    }
}

#[test]
fn exit_codes_come_from_the_cause() {
    let failure = Failure::new(FailureKind::NotFound, "no port");
    let rows = [
        (anyhow::anyhow!("anything"), FailureKind::Failed),
        (usage("words"), FailureKind::Usage),
        (anyhow::Error::from(failure).context("deleting"), FailureKind::NotFound),
        (crate::config::parse("=", "x").map(drop).expect_err("no TOML").into(), FailureKind::Rejected),
        (LoadError::from(crate::config::parse("=", "x").expect_err("no TOML")).into(), FailureKind::Rejected),
    ];
    for (error, want) in rows {
        assert_eq!(kind(&error), want, "{error:#}");
    }
}
