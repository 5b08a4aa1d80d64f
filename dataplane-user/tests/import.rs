//! Rule sets of other filters, and the configs that they come to. `UPDATE_GOLDEN=1` writes the configs anew.
//!
//! `import/NAME.LANGUAGE` comes to `import/NAME.LANGUAGE.toml`; `NAME.json`, which nft printed for the same tables, to that of
//! `NAME.nft`. What `import/refused/` holds cannot be translated, and `.txt` says why.

mod fake;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use dataplane_user::control::protocol::Data;
use fake::{Daemon, dataplane, directory, text};

/// The files of a folder that are not goldens, by name.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import").join(folder);
    let entries = fs::read_dir(&folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let source = |path: &PathBuf| path.is_file() && !matches!(extension(path), "toml" | "txt");
    let mut files: Vec<_> = entries.filter(source).collect();
    files.sort();
    files
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(OsStr::to_str).unwrap_or_default()
}

/// Runs the verb where the file is, so that messages name it without its folder.
fn import(path: &Path) -> std::process::Output {
    import_with(path, &[])
}

fn import_with(path: &Path, options: &[&str]) -> std::process::Output {
    let verb = if extension(path).ends_with("tables") { "iptables" } else { "nft" };
    let mut command = dataplane();
    command.current_dir(path.parent().expect("a folder")).args(["import", verb]).arg(path.file_name().expect("a name"));
    command.args(options);
    command.output().expect("it runs")
}

fn golden(path: &Path, found: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() && extension(path) != "json" {
        fs::write(path, found).expect("the golden is written");
    }
    let want = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, want, "{}", path.display());
}

#[test]
fn rule_sets_come_to_valid_configs() {
    let directory = directory();
    let mut layouts = 0;
    for path in files("") {
        let output = import(&path);
        assert!(output.status.success(), "{}: {}", path.display(), text(&output.stderr));
        let of_text = if extension(&path) == "json" { path.with_extension("nft") } else { path.clone() };
        golden(&PathBuf::from(format!("{}.toml", of_text.display())), text(&output.stdout));
        layouts += usize::from(extension(&path) != "json");

        let config = directory.path().join("config.toml");
        fs::write(&config, &output.stdout).expect("a file");
        let check = dataplane().args(["config", "check"]).arg(&config).output().expect("it runs");
        assert!(check.status.success(), "{}: {}", path.display(), text(&check.stderr));
    }
    assert!(layouts >= 12, "only {layouts} layouts");
}

#[test]
fn untranslatable_rules_are_reported_at_their_position() {
    for path in files("refused") {
        let output = import(&path);
        assert_eq!(output.status.code(), Some(5), "{}: {}", path.display(), text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "{}", path.display());
        golden(&PathBuf::from(format!("{}.txt", path.display())), text(&output.stderr));
    }
}

/// Of what is refused, the rest can be had: each construct that is left out is named in it, and the exit code stays.
#[test]
fn what_can_be_translated_is_printed_if_that_is_wanted() {
    let (mut taken, mut nothing) = (0, 0);
    for path in files("refused") {
        let output = import_with(&path, &["--keep-going"]);
        assert_eq!(output.status.code(), Some(5), "{}: {}", path.display(), text(&output.stderr));
        let refused = fs::read_to_string(format!("{}.txt", path.display())).expect("the golden");
        if output.stdout.is_empty() {
            assert_eq!(text(&output.stderr), refused, "{}", path.display());
            nothing += 1;
            continue;
        }
        taken += 1;
        golden(&PathBuf::from(format!("{}.toml", path.display())), text(&output.stdout));
        assert!(text(&output.stderr).contains(refused.trim_end()), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("read what is left out before you apply it"), "{}", text(&output.stderr));
        let config = dataplane_user::config::parse(text(&output.stdout), "printed").expect("a config");
        let came_to_rules = config.chains.iter().any(|chain| !chain.rules.is_empty());
        let lost = refused.contains("dormant") || text(&output.stdout).contains("# left out: all rules of chain");
        assert_eq!(came_to_rules, !lost, "{}", path.display());
        let file = path.file_name().and_then(OsStr::to_str).expect("a name");
        let places = |text: &str, start: &str| -> Vec<String> {
            let starts = format!("{start}{file}:");
            let lines = text.lines().filter_map(|line| line.strip_prefix(&starts));
            lines.map(|rest| rest.splitn(3, ':').take(2).collect::<Vec<_>>().join(":")).collect()
        };
        assert_eq!(places(text(&output.stdout), "# left out: "), places(&refused, "error: "), "{}", path.display());
    }
    assert!(taken >= 3 && nothing >= 1, "{taken} and {nothing}");
    // A config that is whole says nothing of the kind.
    for path in files("") {
        let (plain, kept) = (import(&path), import_with(&path, &["--keep-going"]));
        assert_eq!((plain.stdout, plain.stderr, plain.status), (kept.stdout, kept.stderr, kept.status));
    }
}

/// A chain that is lost as a whole lets everything through, whatever its policy was: that is said.
#[test]
fn a_chain_of_which_nothing_is_left_is_named() {
    let directory = directory();
    let path = directory.path().join("two.nft");
    let chain = |name: &str| {
        format!("chain {name} {{ type filter hook input priority 0; policy drop; tcp dport 22 accept; }}\n")
    };
    let other = "chain f { type filter hook forward priority 0; policy drop; ct zone 1 accept; }\n";
    fs::write(&path, format!("table inet t {{\n{}{}{other}}}\n", chain("a"), chain("b"))).expect("a file");
    let output = import_with(&path, &["--keep-going"]);
    let config = text(&output.stdout);
    assert!(config.contains("# left out: all rules of chain input and its policy"), "{config}");
    assert!(!config.contains("rules of chain forward") && config.contains("[chains.forward]"), "{config}");
}

#[test]
fn a_file_is_read_from_stdin_too_and_errors_have_their_codes() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import/home-router.nft");
    let run = |words: &[&str], stdin: &Path| {
        let input = fs::File::open(stdin).expect("a file");
        dataplane().args(words).stdin(input).output().expect("it runs")
    };
    let output = run(&["import", "nft", "-", "-j"], &source);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let config: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(config["chains"]["forward"]["policy"], "drop");
    for (words, code, said) in [
        (["import", "nft", "/nonexistent"], 3, "cannot read /nonexistent"),
        (["import", "pf", "-"], 2, "pf"),
        (["import", "iptables", "-"], 5, "stdin:1:1: "),
    ] {
        let output = run(&words, &source);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{words:?}: {}", text(&output.stderr));
    }
}

#[test]
fn ports_are_those_that_were_named() {
    let running = "[ports]\nwan0 = { mode = \"tc\" }\n";
    let daemon = Daemon::start(move |_| Ok(Data::Config(running.to_owned()).into()));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import/home-router.nft");
    let file = file.to_str().expect("UTF-8");
    for (ports, want) in [
        (&[][..], &["*"][..]),
        (&["--ports", "eth0,eth1"], &["eth0", "eth1"]),
        (&["--ports", "veth*"], &["veth*"]),
        (&["--ports", "running"], &["wan0"]),
    ] {
        let output = daemon.dataplane(&[&["import", "nft", file], ports].concat());
        assert!(output.status.success(), "{ports:?}: {}", text(&output.stderr));
        let config = dataplane_user::config::parse(text(&output.stdout), "printed").expect("a config");
        let found: Vec<_> = config.ports.iter().map(|port| port.pattern.as_str()).collect();
        assert_eq!(found, want, "{ports:?}");
    }
    let output = daemon.dataplane(&["import", "nft", file, "--ports", "a[b"]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
}

#[test]
fn of_many_errors_the_first_fifty_are_shown() {
    let directory = directory();
    let path = directory.path().join("many.nft");
    let rules = "ct zone 1 accept\n".repeat(70);
    fs::write(
        &path,
        format!("table inet t {{ chain c {{\ntype filter hook input priority 0; policy accept;\n{rules}}} }}\n"),
    )
    .expect("a file");
    let output = import(&path);
    assert_eq!(text(&output.stderr).matches("many.nft:").count(), 50);
    assert!(text(&output.stderr).ends_with("error: and 20 more\n"), "{}", text(&output.stderr));
}

/// Address space and processor time of an import that comes to nothing; of a debug build, too.
const MEMORY_KIB: u32 = 1_500_000;
const SECONDS: u32 = 20;

#[test]
fn what_comes_to_too_much_is_refused_soon() {
    let directory = directory();
    let base = "chain input { type filter hook input priority 0; policy accept;";
    let jumps = |number: u32| format!("chain c{number} {{ jump c{0}; jump c{0}; }}\n", number + 1);
    let jumps: String = (0..40).map(jumps).collect();
    let leave = |number: u32| format!("ip saddr 192.0.2.{number} ip daddr 192.0.2.{number} return\n");
    let returns: String = (0..30).map(leave).collect();
    let ports: Vec<_> = (0..20_000).map(|port| (port * 2).to_string()).collect();
    let elements: Vec<_> = (0..60_000).map(|at| format!("198.18.{}.{} . 80 : drop", at / 256, at % 256)).collect();
    let saved = |rule: &str| {
        format!("# Generated by iptables-save\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {rule} -j DROP\nCOMMIT\n")
    };
    for (name, verb, rules) in [
        (
            "jumps",
            "nft",
            format!("table inet t {{\n{jumps}chain c40 {{ tcp dport 1 drop; }}\n{base} jump c0; }}\n}}\n"),
        ),
        ("returns", "nft", format!("table ip t {{\nchain a {{\n{returns}drop\n}}\n{base} jump a; }}\n}}\n")),
        (
            "list",
            "nft",
            format!(
                "table ip t {{\nchain a {{\n{}}}\n{base} tcp dport {{ {} }} jump a; }}\n}}\n",
                "ip ttl 1 drop\n".repeat(2000),
                ports.join(", ")
            ),
        ),
        (
            "map",
            "nft",
            format!(
                "table ip t {{\nmap m {{ type ipv4_addr . inet_service : verdict; elements = {{ {} }} }}\n{base}\n{}}}\n}}\n",
                elements.join(", "),
                "ip saddr . tcp dport vmap @m\n".repeat(20)
            ),
        ),
        ("matches", "nft", format!("table ip t {{\n{base} {}drop; }}\n}}\n", "ip saddr 192.0.2.1 ".repeat(20_000))),
        ("options", "iptables", saved(&"-s 192.0.2.1 ".repeat(30_000))),
        ("ways", "iptables", saved(&format!("-p tcp -m multiport {}", "--ports 1,2 ".repeat(24)))),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, rules).expect("a file");
        let limits = format!("ulimit -v {MEMORY_KIB}; ulimit -t {SECONDS}; exec \"$@\"");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &limits, "sh"]).arg(dataplane().get_program()).args(["import", verb]).arg(&path);
        let output = command.output().expect("it runs");
        let told = text(&output.stderr).chars().take(600).collect::<String>();
        assert_eq!(output.status.code(), Some(5), "{name}: {:?}: {told}", output.status);
        assert!(told.contains("come to more than") || told.contains("asks at most 128"), "{name}: {told}");
        assert!(output.stderr.len() < 100_000, "{name}: {} bytes of errors", output.stderr.len());
    }
}

#[test]
fn many_errors_and_notes_are_reported_quickly() {
    let directory = directory();
    let path = directory.path().join("many.nft");
    for (rule, code) in [("ct zone 1 accept", 5), ("ip6 nexthdr udp drop", 0)] {
        let rules = format!("{rule}\n").repeat(30_000);
        let tables =
            format!("table inet t {{ chain c {{ type filter hook input priority 0; policy accept;\n{rules}}} }}\n");
        fs::write(&path, tables).expect("a file");
        // Processor time: other tests run beside this one.
        let limit = "ulimit -t 10; exec \"$@\"";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", limit, "sh"]).arg(dataplane().get_program()).args(["import", "nft"]).arg(&path);
        assert_eq!(command.output().expect("it runs").status.code(), Some(code), "{rule}");
    }
}

#[test]
fn output_of_iptables_extensions_is_no_comment() {
    let directory = directory();
    let path = directory.path().join("listing.nft");
    let table = |rule: &str| {
        format!(
            "table ip filter {{\n\tchain INPUT {{\n\t\ttype filter hook input priority filter; policy accept;\n\t\t{rule}\n\t}}\n}}\n"
        )
    };
    for rule in [
        "iifname \"wg0\" meta l4proto tcp # xt_recent counter packets 3 bytes 180 drop",
        "# xt_rpfilter counter packets 1555 bytes 118695 return",
        "ip protocol icmp counter packets 1 bytes 84 #xt_LOG",
    ] {
        fs::write(&path, table(rule)).expect("a file");
        let output = import(&path);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(5), ""), "{rule}");
        let column = rule.find('#').expect("a comment") + 3;
        let told = text(&output.stderr);
        assert!(
            told.contains(&format!("listing.nft:4:{column}: ")) && told.contains("iptables-save"),
            "{rule}: {told}"
        );
    }
    fs::write(&path, table("tcp dport 1 drop comment \"# xt_x\" # handle 4")).expect("a file");
    assert!(import(&path).status.success());
}
