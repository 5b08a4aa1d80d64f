//! `status`: its fields are the contract, and it needs no more than a daemon.

mod fake;

use std::collections::BTreeMap;

use dataplane_user::control::{
    protocol::{Data, Failure, FailureKind, Reply, Request},
    row::{Counts, Finding, LinkRow, MirrorState, Stats, Status},
    status::{FileRow, PendingRow, StatusRow},
};
use fake::{Daemon, text};
use serde_json::Value;

fn row(pending: bool) -> StatusRow {
    StatusRow {
        version: "9.8.7".to_owned(),
        uptime: 273_600,
        since: 1_763_900_000,
        state: MirrorState::Live,
        routes4: 1204,
        routes6: 12,
        rules: 17,
        sets: 2,
        flows: 312,
        pending: pending.then(|| PendingRow { seconds: 23, by: "b.toml, uid 0".to_owned() }),
        config: FileRow {
            file: Some("/etc/dataplane.toml".to_owned()),
            differs: Some(true),
            add: 1,
            ..FileRow::default()
        },
    }
}

fn answer(request: &Request, pending: bool) -> Result<Reply, Failure> {
    Ok(match request {
        Request::Status => Data::Status(row(pending)).into(),
        Request::Stats { .. } => Data::Stats(Stats {
            totals: Counts::default(),
            reasons: BTreeMap::new(),
            links: vec![LinkRow { name: "eth0".to_owned(), ifindex: 2, ..LinkRow::default() }],
            ..Stats::default()
        })
        .into(),
        Request::PortList => Data::Ports(Vec::new()).into(),
        Request::Doctor => Data::Findings(vec![Finding {
            check: "state".to_owned(),
            status: Status::Fail,
            found: "broken".to_owned(),
            fix: "mend it".to_owned(),
        }])
        .into(),
        request => return Err(Failure::new(FailureKind::Failed, request.verb())),
    })
}

#[test]
fn json_is_the_contract() {
    for pending in [false, true] {
        let daemon = Daemon::start(move |request| answer(request, pending));
        let output = daemon.dataplane(&["status", "-j"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        for (name, want) in [("uptime", 273_600), ("ports", 0), ("routes4", 1204), ("routes6", 12), ("rules", 17)] {
            assert_eq!(found[name], want, "{name}");
        }
        assert_eq!(found["version"], "9.8.7");
        assert_eq!(found["flows"], 312);
        assert_eq!((&found["bits_per_second"]["rx"], &found["bits_per_second"]["tx"]), (&0.into(), &0.into()));
        assert_eq!(
            (&found["config"]["file"], &found["config"]["differs"]),
            (&"/etc/dataplane.toml".into(), &true.into())
        );
        assert_eq!(found["doctor"], "fail");
        assert_eq!(
            found.get("pending").map(|row| (&row["seconds"], &row["by"])),
            pending.then_some((&23.into(), &"b.toml, uid 0".into()))
        );
    }
}

#[test]
fn text_fits_on_a_screen() {
    let daemon = Daemon::start(|request| answer(request, true));
    let output = daemon.dataplane(&["status"]);
    let found = text(&output.stdout);
    for part in
        ["dataplane 9.8.7, up 3 d 4 h", "1,204 IPv4", "rolled back in 23 s (b.toml, uid 0)", "(+1 -0 ~0)", "fix: "]
    {
        assert!(found.contains(part), "{part} is missing:\n{found}");
    }
    assert!(found.lines().count() <= 12, "{found}");
}

#[test]
fn without_a_daemon_it_says_so() {
    let output = fake::dataplane().arg("status").output().expect("it runs");
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
}
