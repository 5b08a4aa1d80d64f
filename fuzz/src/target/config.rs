//! The config file: read without a panic; what was read is written so that it reads as the same.

use std::path::Path;

use dataplane_user::config::parse;

use super::{Target, WORDS, files};

const EXAMPLE: &str = r#"
[ports]
eth0 = { mode = "native" }
"veth*" = { mode = "tc" }
[fib]
ipv4_routes = 1_000_000
[heartbeat]
after = 60
[sets.blocked]
type = "ipv4_addr . inet_service"
elements = ["192.0.2.1 . 80", "192.0.2.0/24 . 8000-8080"]
[sets.a]
type = "ipv4_addr"
elements = ["192.0.2.1", "192.0.2.4-192.0.2.9"]
[chains.forward]
policy = "drop"
rules = ['iif eth0 ip saddr @a drop', 'tcp dport { 22, 80 } limit rate 10/second burst 5 packets accept comment "x"']
"#;

pub const TARGET: Target = Target { name: "config", corpus, words: WORDS, feed };

fn corpus(root: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut corpus = files(&root.join("dataplane-user/tests/import"), &[".toml"])?;
    corpus.push(EXAMPLE.into());
    Ok(corpus)
}

fn feed(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    match parse(text, "fuzz.toml") {
        Ok(config) => {
            let written = config.to_toml();
            let again = parse(&written, "written").unwrap_or_else(|error| panic!("{error}\n{written}"));
            assert_eq!(again, config, "{written}");
        }
        Err(error) => assert!(!error.to_string().is_empty() && error.line <= text.lines().count() + 1, "{error}"),
    }
}
