//! Exit codes, help, and what each command line asks of the daemon.

mod fake;
mod grammar;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
};

use dataplane_common::Reason;
use dataplane_user::control::{
    protocol::{Data, Failure, FailureKind, Reply},
    row::{Counts, Difference, Stats},
};
use fake::{Daemon, dataplane, directory, text};
use grammar::{CONFIG, grammar};

#[test]
fn each_verb_sends_its_request_and_returns_the_exit_code() {
    const KINDS: [FailureKind; 5] = [
        FailureKind::Failed,
        FailureKind::NotFound,
        FailureKind::Unreachable,
        FailureKind::Rejected,
        FailureKind::Degraded,
    ];
    let directory = directory();
    let file = directory.path().join("new.toml");
    fs::write(&file, CONFIG).expect("a file");
    for (index, (command, request)) in grammar(file.to_str().expect("UTF-8")).into_iter().enumerate() {
        let kind = KINDS[index % KINDS.len()];
        let daemon = Daemon::start(move |_| Err(Failure::new(kind, "eth0 is purple; paint it")));
        let output = daemon.dataplane(&command.split(' ').collect::<Vec<_>>());
        assert_eq!(daemon.take_calls(), [request], "{command}: {}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(i32::from(kind.exit_code())), "{command}");
        assert_eq!(text(&output.stdout), "", "{command}");
        assert_eq!(text(&output.stderr), "error: eth0 is purple; paint it\n", "{command}");
    }
}

#[test]
fn without_a_daemon_each_verb_is_4_with_a_hint() {
    let directory = directory();
    let file = directory.path().join("new.toml");
    fs::write(&file, CONFIG).expect("a file");
    let missing = directory.path().join("no.sock");
    let dead = directory.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("a socket"));
    for (command, _) in grammar(file.to_str().expect("UTF-8")) {
        for socket in [&missing, &dead] {
            let output = dataplane().arg("--socket").arg(socket).args(command.split(' ')).output().expect("it runs");
            assert_eq!(output.status.code(), Some(4), "{command}: {}", text(&output.stderr));
            let start = format!("`dataplane run --socket {}`", socket.display());
            assert!(text(&output.stderr).contains(&start), "{command}: {}", text(&output.stderr));
            assert_eq!(text(&output.stdout), "", "{command}");
        }
    }
}

#[test]
fn a_daemon_that_hangs_up_is_4() {
    let daemon = Daemon::start_with(dataplane_user::control::server::Limits::default(), drop);
    let output = daemon.dataplane(&["port", "list"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
}

#[test]
fn bad_usage_is_2_without_a_request() {
    let rows = [
        "",
        "frobnicate",
        "attach",
        "attach eth0 --mode fast",
        "attach a/b",
        "stats --interval 2",
        "stats --count 2",
        "stats --watch --interval 0",
        "stats --watch --count 0",
        "stats --reasons eth0",
        "stats --reasons --watch",
        "attach interface-name-too-long",
        "detach",
        "detach eth0 --all",
        "route list 198.18.0.1/15",
        "route list nonsense",
        "route get",
        "route get nonsense",
        "route get 198.18.0.1 from",
        "route get 198.18.0.1 from 2001:db8::1",
        "route get 198.18.0.1 oif eth0",
        "rule list sideways",
        "rule add forward",
        "rule add sideways drop",
        "rule add forward # nothing",
        "rule del forward 7 8",
        "rule insert forward before drop",
        "rule replace forward drop",
        "chain policy forward reject",
        "set create",
        "rule del forward handle",
        "rule del forward handle seven",
        "rule del forward number 7",
        "rule flush",
        "import",
        "import nft",
        "import pf f",
        "set add",
        "set add blocked",
        "set add blocked { }",
        "set del blocked",
        "config check",
        "config apply",
        "config apply a.toml --confirm 0",
        "stats a/b",
        "stats --watch=often",
        "completions cobol",
        "man",
        "--nonsense",
    ];
    let daemon = Daemon::start(|_| Ok(Data::Done.into()));
    for command in rows {
        let output = daemon.dataplane(&command.split_whitespace().collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{command}: {}", text(&output.stderr));
        assert_ne!(text(&output.stderr), "", "{command}");
        assert_eq!(text(&output.stdout), "", "{command}");
    }
    assert_eq!(daemon.take_calls(), []);
}

#[test]
fn help_of_each_verb_shows_an_example() {
    let directory = directory();
    let mut commands: Vec<_> = grammar("f").into_iter().map(|(command, _)| command).collect();
    commands.extend(
        ["run", "config check f", "import nft f", "import iptables f", "completions bash", "man d"].map(str::to_owned),
    );
    for command in commands {
        let objects = ["port", "route", "neigh", "socket", "rule", "chain", "set", "config", "import"];
        let words: Vec<_> = command.split(' ').filter(|word| *word != "-j").collect();
        // Short forms have the help of what they stand for.
        if command.starts_with("-6") || words[0].len() <= 2 || words == ["route"] || words == ["port"] {
            continue;
        }
        let verb = &words[..if objects.contains(&words[0]) { 2 } else { 1 }];
        let output = dataplane().current_dir(&directory).args(verb).arg("--help").output().expect("it runs");
        assert!(output.status.success(), "{command}");
        let example = format!("  dataplane {}", verb.join(" "));
        let help = text(&output.stdout);
        assert!(help.contains("Example") && help.contains(&example), "{command}:\n{help}");
    }
}

#[test]
fn config_check_needs_no_daemon() {
    let directory = directory();
    let rows: [(&str, Option<&[u8]>, i32, &str); 4] = [
        ("good.toml", Some(CONFIG.as_bytes()), 0, "good.toml: valid"),
        ("bad.toml", Some(b"[ports\n"), 5, "bad.toml"),
        ("latin.toml", Some(b"# ok\n# \xe9t\xe9\n"), 5, "latin.toml:2:3: this is not UTF-8"),
        ("none.toml", None, 3, "none.toml: No such file"),
    ];
    for (name, bytes, code, message) in rows {
        let file = directory.path().join(name);
        if let Some(bytes) = bytes {
            fs::write(&file, bytes).expect("a file");
        }
        for verb in ["check", "apply"] {
            let output = dataplane().args(["config", verb]).arg(&file).output().expect("it runs");
            // What is wrong with the file is known before a daemon is looked for.
            let code = if verb == "apply" && code == 0 { 4 } else { code };
            assert_eq!(output.status.code(), Some(code), "{verb} {name}: {}", text(&output.stderr));
            assert!(code == 4 || text(&output.stderr).contains(message), "{verb} {name}: {}", text(&output.stderr));
            assert_eq!(text(&output.stdout), "", "{verb} {name}");
        }
    }
}

#[test]
fn equal_configs_are_0_different_ones_6() {
    let directory = directory();
    let file = directory.path().join("new.toml");
    fs::write(&file, CONFIG).expect("a file");
    let other = Difference { add: vec!["port eth1".to_owned()], ..Difference::default() };
    for (difference, diff, apply) in [(Difference::default(), 0, "nothing to change"), (other, 6, "applied")] {
        let daemon = Daemon::start(move |_| Ok(Data::Difference(difference.clone()).into()));
        let file = file.to_str().expect("UTF-8");
        assert_eq!(daemon.dataplane(&["config", "diff", file]).status.code(), Some(diff));
        let output = daemon.dataplane(&["config", "apply", file]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stderr).contains(apply), "{}", text(&output.stderr));
    }
}

#[test]
fn warnings_go_to_stderr_and_data_to_stdout() {
    let daemon = Daemon::start(|_| Ok(Reply::from(Data::Ports(Vec::new())).warn("2 nft rules are bypassed")));
    for command in [["attach", "eth0", "-j"], ["--json", "port", "list"]] {
        let output = daemon.dataplane(&command);
        assert_eq!(text(&output.stdout), "[]\n", "{command:?}");
        assert_eq!(text(&output.stderr), "warning: 2 nft rules are bypassed\n", "{command:?}");
        assert!(output.status.success(), "{command:?}");
    }
}

#[test]
fn an_answer_to_another_question_is_an_error() {
    let daemon = Daemon::start(|_| Ok(Data::Config(String::new()).into()));
    for (command, _) in grammar("/dev/null") {
        if ["config show", "c"].contains(&command.as_str()) {
            continue;
        }
        let output = daemon.dataplane(&command.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(1), "{command}: {}", text(&output.stderr));
    }
}

#[test]
fn watch_is_one_object_a_line_and_ends_with_its_reader() {
    let daemon = Daemon::start(|_| {
        let totals = Counts::new(1, 0, 0, 0);
        Ok(Data::Stats(Stats { totals, ..Stats::default() }).into())
    });
    let mut child = dataplane()
        .args(["stats", "--watch", "-j", "--socket"])
        .arg(&daemon.socket)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    for _ in 0..2 {
        let line = lines.next().expect("a line").expect("UTF-8");
        assert!(line.starts_with("{\"totals\":{\"rx\":1,"), "{line}");
    }
    drop(lines);
    assert!(child.wait().expect("it ends").success());
    assert!(daemon.take_calls().len() >= 2);
}

#[test]
fn watch_prints_rates_and_ends_after_its_count() {
    let looks = AtomicU64::new(0);
    let daemon = Daemon::start(move |_| {
        let packets = looks.fetch_add(1_000_000, Ordering::Relaxed);
        let reasons = [("forwarded".to_owned(), packets)].into();
        Ok(Data::Stats(Stats { totals: Counts::new(packets, 0, 0, 0), reasons, ..Stats::default() }).into())
    });
    let output = daemon.dataplane(&["stats", "--watch", "--interval", "0.1", "--count", "2", "-j"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(!lines[0].contains("\"rates\""), "{}", lines[0]);
    let (_, rates) = lines[1].split_once("\"rates\":{\"totals\":{\"rx\":").expect("rates");
    let rate: u64 = rates.split(',').next().expect("a number").parse().expect("a number");
    assert!((1..=10_000_000).contains(&rate), "a million packets came in a tenth of a second or more: {rates}");
    assert!(rates.contains(&format!("\"reasons\":{{\"forwarded\":{rate}}}")), "{rates}");

    // Not a terminal: blocks of text without control sequences.
    let output = daemon.dataplane(&["stats", "--watch", "--interval", "0.1", "--count", "2"]);
    let blocks = text(&output.stdout);
    assert_eq!(blocks.matches("RX  FORWARDED").count(), 2, "{blocks}");
    assert_eq!(blocks.matches("per second").count(), 1, "{blocks}");
    assert!(!blocks.contains('\x1b'), "{blocks}");
}

#[test]
fn reasons_are_listed_without_a_daemon() {
    let output = dataplane().args(["stats", "--reasons"]).output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), Reason::COUNT + 1);
    let output = dataplane().args(["stats", "--reasons", "-j"]).output().expect("it runs");
    let first = r#"[{"name":"forwarded","verdict":"forward","meaning":"Forwarded to the next hop.","advice":"nothing"#;
    assert!(text(&output.stdout).starts_with(first), "{}", text(&output.stdout));
    assert_eq!(text(&output.stdout).matches("\"name\":").count(), Reason::COUNT);
}

#[test]
fn metrics_are_printed_as_they_came() {
    let exposition = "# HELP a b.\n# TYPE a gauge\na 1\n# EOF\n";
    let daemon = Daemon::start(move |_| Ok(Data::Metrics(exposition.to_owned()).into()));
    assert_eq!(text(&daemon.dataplane(&["metrics"]).stdout), exposition);
    assert_eq!(
        text(&daemon.dataplane(&["metrics", "-j"]).stdout),
        "\"# HELP a b.\\n# TYPE a gauge\\na 1\\n# EOF\\n\"\n"
    );
}

#[test]
fn completions_and_manual_pages_are_made() {
    let output = dataplane().args(["completions", "bash"]).output().expect("it runs");
    assert!(text(&output.stdout).contains("complete -F"));
    let directory = directory();
    let pages = directory.path().join("man1");
    assert!(dataplane().arg("man").arg(&pages).status().expect("it runs").success());
    let page = fs::read_to_string(pages.join("dataplane-rule-add.1")).expect("a page for each verb");
    assert!(page.contains("tcp dport 23 drop"), "{page}");
}
