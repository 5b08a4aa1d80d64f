//! Lines on the control socket: read without a panic; what was read is written so that it reads as the same.

use std::path::Path;

use dataplane_user::control::{json, protocol::Request};

use super::{Target, WORDS};

const REQUESTS: &[&str] = &[
    r#"{"verb":"attach","with":{"ifaces":["eth0","eth1"],"mode":"native"}}"#,
    r#"{"verb":"detach","with":"all"}"#,
    r#"{"verb":"detach","with":{"ifaces":["eth0"]}}"#,
    r#"{"verb":"port list"}"#,
    r#"{"verb":"route list","with":{"prefix":"192.0.2.0/24"}}"#,
    r#"{"verb":"route get","with":{"addr":"192.0.2.1","from":"2001:db8::1","iif":"eth0"}}"#,
    r#"{"verb":"rule add","with":{"chain":"forward","rule":"tcp dport 22 drop"}}"#,
    r#"{"verb":"rule del","with":{"chain":"input","handle":18446744073709551615}}"#,
    r#"{"verb":"set add","with":{"name":"a","elements":["192.0.2.1"]}}"#,
    r#"{"verb":"config apply","with":{"path":"x","toml":"[ports]\neth0 = { mode = \"tc\" }\n","confirm":60,"force":true}}"#,
    r#"{"verb":"config confirm"}"#,
    r#"{"verb":"stats","with":{"iface":null}}"#,
    r#"[[[[[[[[[[[[[[[[{"verb":{}}]]]]]]]]]]]]]]]]"#,
];

pub const TARGET: Target = Target { name: "request", corpus, words: WORDS, feed };

#[expect(clippy::unnecessary_wraps, reason = "those of other targets are files")]
fn corpus(_: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    Ok(REQUESTS.iter().map(|line| line.as_bytes().to_vec()).collect())
}

fn feed(input: &[u8]) {
    if let Ok(request) = json::parse::<Request>(input) {
        let line = json::line(&request).expect("a request can be written");
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(json::parse::<Request>(line.as_bytes()).expect("and read again"), request);
    }
}
