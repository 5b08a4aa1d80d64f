//! Documents that repeat what the code says: they are compared with it. `UPDATE_GOLDEN=1` writes those that are generated.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf};

use dataplane_common::{Reason, Verdict};
use dataplane_user::{
    config,
    control::{
        flow::FlowCounts,
        row::{LinkRow, PortRow, RuleRow},
    },
    metrics, release,
    rule::ChainName,
};

fn document(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

fn read(name: &str) -> String {
    let path = document(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The cells of the rows of a table under a heading, without its head.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let section = text.split_once(heading).unwrap_or_else(|| panic!("no heading \"{heading}\"")).1;
    let section = section.split("\n## ").next().expect("a part");
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

const VERDICTS: [(Verdict, &str, &str); 5] = [
    (Verdict::Forward, "Forwarded", "The packet was sent to its next hop. These count as FORWARDED."),
    (Verdict::Deliver, "Delivered", "The packet goes up the stack of this machine. These count as DELIVERED."),
    (Verdict::Drop, "Dropped", "The packet ends here. These count as DROPPED."),
    (
        Verdict::Kernel,
        "Left to the kernel",
        "The packet goes up, and the kernel decides, answers or resolves. These count as KERNEL.",
    ),
    (
        Verdict::Withhold,
        "Stopped at the egress",
        "The packet came from this machine or from its kernel, and may not leave. It is not part of what a port received.",
    ),
];

/// `docs/reasons.md`.
fn reasons() -> String {
    let mut text = "# Reasons\n\nEvery packet that a port receives counts exactly one reason at that port. `dataplane stats` shows the reasons that have counted,\n\
         `dataplane stats -j` all of them. `dataplane stats --reasons` prints this list (`-j` as JSON), and so does the manual page\n\
         `dataplane-reasons(7)` that `dataplane man DIR` writes. This page is generated from `dataplane-common/src/reason.rs`.\n"
        .to_owned();
    for (verdict, heading, what) in VERDICTS {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n## {heading}\n\nVerdict `{}`. {what}\n\n", verdict.name());
        text += "| reason | meaning | what to do |\n|---|---|---|\n";
        for reason in Reason::ALL.iter().filter(|reason| reason.verdict() == verdict) {
            let _ = writeln!(text, "| `{}` | {} | {} |", reason.name(), reason.meaning(), reason.advice());
        }
    }
    text
}

#[test]
fn the_page_of_reasons_is_that_of_the_code() {
    let (path, wanted) = (document("reasons.md"), reasons());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &wanted).expect("the page is written");
    }
    for reason in Reason::ALL {
        assert!(wanted.contains(&format!("| `{}` |", reason.name())), "{reason:?} is of no verdict of this page");
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == wanted,
        "docs/reasons.md is not what the code says: run `UPDATE_GOLDEN=1 cargo test -p dataplane-user --test documents` and commit it"
    );
}

/// What the parser of the config takes in a table: the error about an unknown key names all keys.
fn known(config: &str) -> BTreeSet<String> {
    let error = config::parse(config, "c.toml").expect_err("an unknown key").to_string();
    let list = error.split_once("here; take ").unwrap_or_else(|| panic!("{error}")).1;
    let list = list.lines().next().expect("a line").replace(" or ", ", ");
    list.split(", ").map(|key| key.trim().to_owned()).collect()
}

#[test]
fn the_page_of_the_config_has_every_key() {
    let rows = table(&read("config.md"), "## Keys");
    let documented: BTreeSet<_> = rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let mut keys = BTreeSet::new();
    for section in known("nope = 1") {
        let (name, inner) = match section.as_str() {
            "fragments" | "assert" | "steer" => {
                keys.insert(section);
                continue;
            }
            "ports" => ("ports.NAME", "[ports]\neth0 = { nope = 1 }".to_owned()),
            "chains" => ("chains.CHAIN", "[chains.input]\nnope = 1".to_owned()),
            "sets" => ("sets.NAME", "[sets.a]\nnope = 1".to_owned()),
            other => (other, format!("[{other}]\nnope = 1")),
        };
        keys.extend(known(&inner).into_iter().map(|key| format!("{name}.{key}")));
    }
    assert_eq!(documented, keys, "docs/config.md (left) and the parser (right)");
}

#[test]
fn the_words_that_the_page_of_the_config_lists_are_valid() {
    for row in table(&read("config.md"), "## Keys") {
        let key = row[0].trim_matches('`').replace("NAME", "eth0").replace("CHAIN", "input");
        for value in row[1].split(", ").chain([row[2].as_str()]).filter_map(|cell| cell.strip_prefix('`')) {
            let value = value.trim_end_matches('`').replace("ADDRESS:PORT", "127.0.0.1:9464");
            let kind = if key.starts_with("sets.") { "sets.eth0.type = \"ipv4_addr\"\n" } else { "" };
            let text = format!("{kind}{key} = {value}\n");
            config::parse(&text, "c.toml").unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// The example of the page, as it stands.
#[test]
fn the_example_of_the_page_of_the_config_is_valid() {
    let text = read("config.md");
    let example: String = text
        .split("## Keys")
        .next()
        .expect("a beginning")
        .lines()
        .filter_map(|line| line.strip_prefix("    ").or_else(|| line.is_empty().then_some("")))
        .fold(String::new(), |text, line| text + line + "\n");
    let config = config::parse(&example, "c.toml").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((config.ports.len(), config.chains.iter().map(|chain| chain.rules.len()).sum::<usize>()), (3, 5));
}

#[test]
fn the_page_of_kernels_is_that_of_the_code() {
    let text = read("kernels.md");
    let (major, minor) = release::OLDEST;
    assert!(text.contains(&format!("oldest supported kernel is Linux {major}.{minor},")), "{major}.{minor}");
    let rows = table(&text, "## What each version adds");
    let shown: Vec<_> = rows.iter().map(|row| (row[0].clone(), row[1].clone(), row[2].clone())).collect();
    let wanted: Vec<_> = release::ADDITIONS
        .iter()
        .map(|addition| {
            let (major, minor) = addition.since;
            let what = format!("{}: before, {}", addition.what, addition.before);
            (format!("{major}.{minor}"), addition.without.name().to_owned(), what)
        })
        .collect();
    assert_eq!(shown, wanted, "docs/kernels.md (left) and dataplane-user/src/release.rs (right)");
    let readme = fs::read_to_string(document("../README.md")).expect("README");
    assert!(readme.contains(&format!("Linux {major}.{minor} or later")), "README names another version");
}

/// What the dashboard and the alert rules name.
#[test]
fn series_of_the_dashboard_exist() {
    // Something of each kind: families without samples are not written.
    let port: PortRow = serde_json::from_str(
        r#"{"name":"a","ifindex":2,"mode":"tc","state":"up","mac":null,"mtu":1500,"vlan":null,"rx":0,"forwarded":0,
            "delivered":0,"dropped":0,"passed":0}"#,
    )
    .expect("a port");
    let rule = RuleRow { chain: ChainName::Input, handle: 1, rule: "drop".to_owned(), packets: 0, bytes: 0 };
    let exposition = metrics::Scrape {
        ports: vec![(port, [("forwarded", 1)].into())],
        links: vec![LinkRow::default()],
        rules: vec![rule],
        flows: Some(FlowCounts::default()),
        pending: Some(1),
        ..metrics::Scrape::default()
    };
    let exposition = exposition.text();
    let families: BTreeSet<_> =
        exposition.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for document in ["grafana.json", "alerts.yml"] {
        let text = read(document);
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let named: BTreeSet<_> = text.split(|c| !letter(c)).filter(|word| word.starts_with("dataplane_")).collect();
        assert!(named.len() >= 5, "{document}: {named:?}");
        let family = |word: &str| word.trim_end_matches("_total").trim_end_matches("_info").to_owned();
        let unknown: Vec<_> = named.iter().filter(|word| !families.contains(family(word).as_str())).collect();
        assert!(unknown.is_empty(), "docs/{document} names {unknown:?}; there are {families:?}");
    }
}

#[test]
fn the_page_of_maps_has_every_map() {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dataplane-common/src/abi/mod.rs");
    let source = fs::read_to_string(source).expect("the list of maps");
    let module = source.split_once("pub mod map {").expect("the module of names").1;
    let values = module.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split('"').nth(1));
    // Sections stand under the name of what is in them, constants of the object are no maps.
    let constants = ["OBSERVER", "KERNEL_OFFSETS", "VERDICT_MASK"];
    let wanted: BTreeSet<_> = values.filter(|name| !name.starts_with('.') && !constants.contains(name)).collect();
    assert!(wanted.len() > 20, "{wanted:?}");
    let rows = table(&read("design/maps.md"), "# The maps");
    let shown: BTreeSet<_> = rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let missing: Vec<_> = wanted.iter().filter(|name| !shown.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/design/maps.md lacks {missing:?}");
}
