//! Rule sets of nft and iptables: read without a panic; what they come to is a config.

use std::path::Path;

use dataplane_user::{
    config::parse,
    import::{Extent, Language, import},
};

use super::{Target, files};

const WORDS: &[&str] = &[
    "table inet x {",
    "chain y {",
    "type filter hook forward priority 0; policy drop;",
    "jump y",
    "goto y",
    "return",
    "}",
    "vmap { 1 : accept, 2 : jump y }",
    "set z { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } }",
    "@z",
    "ct state",
    "-A FORWARD",
    "-j",
    "-m multiport --dports 1,2",
    "!",
    "-s 192.0.2.0/24",
    "COMMIT",
    "*filter",
    ":X - [0:0]",
    "-i eth0",
    "--syn",
    "--ports 1,2",
    "--icmp-type 3/4",
    "-j LOG --log-uid",
    "icmp type . icmp code { 3 . 4, 8 . 0 }",
    "meta pkttype { host, broadcast }",
    "log flags all",
    "limit rate 5/second",
    "ip version 4",
    "# xt_LOG",
];

pub const TARGET: Target = Target { name: "import", corpus, words: WORDS, feed };

fn corpus(root: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let ends = [".nft", ".json", ".iptables", ".ip6tables"];
    let folder = root.join("dataplane-user/tests/import");
    let mut corpus = files(&folder, &ends)?;
    corpus.extend(files(&folder.join("refused"), &ends)?);
    Ok(corpus)
}

fn feed(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    for language in [Language::Nft, Language::Iptables] {
        for extent in [Extent::Whole, Extent::Possible] {
            match import(language, extent, text, "fuzz") {
                Ok(imported) => {
                    let comments = imported.left_out.map(|left_out| left_out.comments()).unwrap_or_default();
                    let written = comments + &imported.config.to_toml();
                    parse(&written, "written").unwrap_or_else(|error| panic!("{error}\n{written}"));
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}
