use std::path::Path;

use super::*;
use crate::daemon::{
    confirm::Pending,
    journal::Line,
    state::{Entry, private},
};

const CONFIG: &str = "[ports]\na0 = { mode = \"tc\" }\n\n[chains.forward]\npolicy = \"drop\"\nrules = [\n    \"tcp dport 22 accept\",\n]\n";
const ADDED: &str = "tcp dport 23 drop";

fn open(directory: &Path) -> State {
    State::open(directory).expect("a state")
}

fn parsed(text: &str) -> Config {
    config::parse(text, "test").expect("a config")
}

/// What a daemon leaves that has this config, whether it waits for confirmation or not.
fn save(directory: &Path, config: &Config, pending_config: bool) {
    let running = RunningConfig::new(config, &RuleHandles::default());
    open(directory).save(&running, Features::FORWARD, pending_config).expect("it is written");
}

/// The same, with a rule that came afterwards.
fn save_and_add(directory: &Path) {
    let config = parsed(CONFIG);
    let mut state = open(directory);
    let running = RunningConfig::new(&config, &RuleHandles::default());
    state.save(&running, Features::FORWARD, false).expect("it is written");
    let entry = Entry { chain: "forward".to_owned(), rule: ADDED.to_owned(), handle: 9, counter: 9 };
    state.note(&Line::Add { entry, in_front: false }).expect("it is written");
}

fn faults(directory: &Path, attached: bool) -> Vec<(&'static str, bool)> {
    let recovered = open(directory).recover(attached);
    recovered.faults.iter().map(|fault| (fault.file, fault.grave)).collect()
}

fn write(directory: &Path, name: &str, text: impl AsRef<[u8]>) {
    fs::write(directory.join(name), text).expect("it is written");
}

#[test]
fn what_was_written_is_remembered() {
    let directory = tempfile::tempdir().expect("a directory");
    let recovered = open(directory.path()).recover(false);
    assert!(!recovered.any && recovered.faults.is_empty());
    save_and_add(directory.path());
    let recovered = open(directory.path()).recover(true);
    assert!(recovered.any && recovered.faults.is_empty(), "{:?}", recovered.faults);
    let running = recovered.running.config();
    let rules = &running.chain(ChainName::Forward).rules;
    assert_eq!(rules.iter().map(ToString::to_string).collect::<Vec<_>>(), ["tcp dport 22 accept", ADDED]);
    assert_eq!((recovered.used, recovered.patterns), (Some(vec![ChainName::Forward]), Some(vec!["a0".to_owned()])));
}

#[test]
fn a_running_config_that_is_not_the_one_that_was_written_is_missed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    save(path, &parsed(CONFIG), false);
    let whole = fs::read_to_string(path.join(RUNNING)).expect("a file");
    let damaged = (0..whole.len()).map(|cut| whole[..cut].to_owned()).chain([
        String::new(),
        "\0".repeat(4096),
        whole.replace("drop", "accept"),
        // A key of a later version, as it writes it.
        seal::toml("[later]\nnetfilter = \"follow\"\n".to_owned()),
        "[later]\nnetfilter = \"follow\"\n".to_owned(),
    ]);
    for text in damaged {
        write(path, RUNNING, &text);
        for attached in [false, true] {
            assert_eq!(faults(path, attached), [(RUNNING, true)], "{text}");
        }
    }
    write(path, RUNNING, [0xff, 0xfe]);
    assert_eq!(faults(path, false), [(RUNNING, true)]);
    fs::remove_file(path.join(RUNNING)).expect("removed");
    assert_eq!(faults(path, false), [(RUNNING, true)]);
    // All is gone: that is known from what is attached.
    fs::remove_file(path.join(HANDLES)).expect("removed");
    assert_eq!((faults(path, false), faults(path, true)), (vec![], vec![(RUNNING, true)]));
}

#[test]
fn handles_are_made_anew_unless_the_journal_needs_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    save(path, &parsed(CONFIG), false);
    let whole = fs::read_to_string(path.join(HANDLES)).expect("a file");
    for text in ["", "{", &whole[..whole.len() / 2], &whole.replace("22", "23")] {
        write(path, HANDLES, text);
        assert_eq!(faults(path, true), [(HANDLES, false)], "{text}");
        let recovered = open(path).recover(true);
        assert_eq!(recovered.running.chains().rules(ChainName::Forward).len(), 1);
        assert_eq!((recovered.used, recovered.patterns), (None, None));
    }
    save_and_add(path);
    let whole = fs::read_to_string(path.join(HANDLES)).expect("a file");
    for text in ["", &whole[1..]] {
        write(path, HANDLES, text);
        assert_eq!(faults(path, true), [(HANDLES, true)], "{text}");
    }
    fs::remove_file(path.join(HANDLES)).expect("removed");
    assert_eq!(faults(path, true), [(HANDLES, true)]);
    save_and_add(path);
    fs::remove_file(path.join(JOURNAL)).expect("removed");
    assert_eq!(faults(path, true), [(JOURNAL, true)]);
}

/// As daemons wrote it until version 0.1.0: without seals.
#[test]
fn files_of_earlier_versions_are_cross_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let handles = r#"{"next":2,"off":[],"features":4,"rules":[{"chain":"forward","rule":"tcp dport 22 accept","handle":1,"counter":0}]}"#;
    write(path, HANDLES, handles);
    write(path, RUNNING, CONFIG);
    assert_eq!(faults(path, true), []);
    for text in [&CONFIG[..28], "", &CONFIG.replace("22", "23"), "[chains.forward]\npolicy = \"drop\"\nrules = []\n"] {
        write(path, RUNNING, text);
        assert_eq!(faults(path, true), [(RUNNING, true)], "{text}");
    }
    // A policy is all that there was.
    write(path, HANDLES, r#"{"next":1,"features":4}"#);
    write(path, RUNNING, &CONFIG[..28]);
    assert_eq!(faults(path, true), [(RUNNING, true)]);
    // A daemon that had nothing to do wrote an empty file.
    write(path, HANDLES, r#"{"next":1,"off":[],"features":0,"rules":[]}"#);
    write(path, RUNNING, "");
    assert_eq!((faults(path, false), faults(path, true)), (vec![], vec![(RUNNING, true)]));
}

#[test]
fn a_probation_does_not_become_permanent() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let pending = Pending { deadline: 70, seconds: 60, before: CONFIG.to_owned(), by: String::new(), off: Vec::new() };
    let wait = |pending_config| {
        open(path).write_pending(Some(&pending)).expect("it is written");
        save(path, &parsed(CONFIG), pending_config);
    };
    wait(true);
    assert_eq!(open(path).recover(true).pending.as_ref(), Some(&pending));
    let whole = fs::read_to_string(path.join(PENDING[0])).expect("a file");
    for text in ["", "deadline", &whole[..whole.len() - 4], &whole.replace("70", "99")] {
        write(path, PENDING[0], text);
        assert_eq!(faults(path, true), [(PENDING[0], false)], "{text}");
        assert_eq!(open(path).recover(true).pending.as_ref(), Some(&pending));
    }
    fs::remove_file(path.join(PENDING[0])).expect("removed");
    assert_eq!(open(path).recover(true).pending.as_ref(), Some(&pending));
    write(path, PENDING[1], "");
    assert_eq!(faults(path, true), [(PENDING[0], true)]);
    // It was confirmed: by this version, and by one that does not know the copy.
    wait(true);
    save(path, &parsed(CONFIG), false);
    open(path).write_pending(None).expect("removed");
    assert_eq!((faults(path, true), open(path).recover(true).pending), (vec![], None));
    wait(true);
    fs::remove_file(path.join(PENDING[0])).expect("removed");
    save(path, &parsed(CONFIG), false);
    assert_eq!((faults(path, true), open(path).recover(true).pending), (vec![], None));
}

#[test]
fn untrusted_state_is_kept_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    save_and_add(path);
    write(path, RUNNING, "damaged");
    write(path, HISTORY, "damaged, too");
    write(path, "history-3.toml", "# three\n");
    fs::set_permissions(path.join(RUNNING), fs::Permissions::from_mode(0o644)).expect("as former daemons did");
    let mut state = open(path);
    let recovered = state.recover(true);
    state.set_aside(&recovered.faults).expect("kept");
    drop(state);
    save(path, &parsed(CONFIG), false);
    let files = || fs::read_dir(path).expect("files").map(|entry| entry.expect("a file").path());
    let kept = |what: &str| files().any(|file| fs::read_to_string(file).is_ok_and(|text| text == what));
    assert!(kept("damaged") && kept("damaged, too") && kept("# three\n"));
    assert!(files().any(|file| file.to_string_lossy().contains("journal.json.damaged-")));
    for file in files() {
        let mode = fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    assert!(private().write(true).open(path.join("none")).is_err());
}
