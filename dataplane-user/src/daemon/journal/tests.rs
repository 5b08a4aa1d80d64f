use std::path::Path;

use super::*;

fn entry(rule: &str, handle: u64) -> Entry {
    Entry { chain: "forward".to_owned(), rule: rule.to_owned(), handle, counter: handle as u32 }
}

fn rules(running: &Config) -> Vec<String> {
    running.chains[ChainName::Forward.index()].rules.iter().map(ToString::to_string).collect()
}

/// A journal of its own in a directory of its own.
fn journal(directory: &Path) -> Journal {
    Journal::new(directory.join("journal.json"))
}

/// What a daemon that starts finds, and whether it may trust that.
fn replayed(directory: &Path, files: [&str; 2]) -> (Config, RuleHandles, anyhow::Result<()>) {
    let (mut running, mut rule_handles) = (Config::default(), RuleHandles::default());
    let done = journal(directory).replay(files, &mut running, &mut rule_handles);
    (running, rule_handles, done)
}

const FILES: [&str; 2] = ["[chains.forward]\n", "{}"];

fn filled(directory: &Path) -> Journal {
    let mut journal = journal(directory);
    journal.begin(FILES);
    journal.note(&Line::Add { entry: entry("tcp dport 2 drop", 7), in_front: false }).expect("it is written");
    journal.note(&Line::Add { entry: entry("tcp dport 1 drop", 8), in_front: true }).expect("it is written");
    journal.note(&Line::Add { entry: entry("tcp dport 3 drop", 9), in_front: false }).expect("it is written");
    journal.note(&Line::Remove { chain: "forward".to_owned(), handle: 7 }).expect("it is written");
    journal
}

/// The same, and it is known how long it is.
fn settled(directory: &Path) -> Journal {
    let mut journal = filled(directory);
    journal.settle().expect("there is more than the first line").join().expect("it is on the disk");
    let length = Length::read(&directory.join("journal.length"));
    assert_eq!(length, Some(Length { behind: seal::hash(FILES), lines: 4 }));
    journal
}

#[test]
fn what_happened_happens_again() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path());
    let (running, rule_handles, done) = replayed(directory.path(), FILES);
    done.expect("whole");
    assert_eq!(rules(&running), ["tcp dport 1 drop", "tcp dport 3 drop"]);
    let handles: Vec<_> = rule_handles.rules.iter().map(|entry| entry.handle).collect();
    assert_eq!((handles, rule_handles.next), (vec![8, 9], 10));
}

#[test]
fn a_rule_between_others_comes_between_them_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut journal = filled(directory.path());
    assert!(!journal.has_news() && !journal.has_old_news(), "daemons of before know these");
    journal.note(&Line::Insert { entry: entry("tcp dport 4 drop", 10), before: 9 }).expect("it is written");
    assert!(journal.has_news());
    assert_eq!([journal.has_old_news(), journal.has_old_news()], [false, true], "after a second without more of them");
    let (running, rule_handles, done) = replayed(directory.path(), FILES);
    done.expect("whole");
    assert_eq!(rules(&running), ["tcp dport 1 drop", "tcp dport 4 drop", "tcp dport 3 drop"]);
    let handles: Vec<_> = rule_handles.rules.iter().map(|entry| entry.handle).collect();
    assert_eq!((handles, rule_handles.next), (vec![8, 10, 9], 11));
    journal.note(&Line::Insert { entry: entry("tcp dport 5 drop", 11), before: 7 }).expect("it is written");
    replayed(directory.path(), FILES).2.expect_err("7 is gone");
    journal.begin(FILES);
    assert!(!journal.has_news());
}

#[test]
fn behind_other_files_it_is_what_was_left_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut filled = filled(directory.path());
    for files in [["[chains.input]\n", "{}"], [FILES[0], "{ }"], ["", ""]] {
        let (running, rule_handles, done) = replayed(directory.path(), files);
        done.expect("nothing is lost");
        assert_eq!((rules(&running), rule_handles.next), (vec![], 0), "{files:?}");
    }
    filled.begin(FILES);
    let (running, _, done) = replayed(directory.path(), FILES);
    done.expect("nothing is lost");
    assert_eq!(rules(&running), [""; 0], "what was written down is not done again");
    assert!(!filled.is_there());
}

#[test]
fn where_a_dying_machine_broke_it_off_it_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path());
    let path = directory.path().join("journal.json");
    let whole = fs::read_to_string(&path).expect("a journal");
    let ends: Vec<_> = whole.match_indices('\n').map(|(at, _)| at).collect();
    // The first change was forced to the disk.
    for cut in ends[1] + 1..whole.len() {
        fs::write(&path, &whole[..cut]).expect("it is written");
        let (running, _, done) = replayed(directory.path(), FILES);
        done.unwrap_or_else(|error| panic!("cut at {cut}: {error:#}"));
        // Lines whose end is there, without the first; the last but one of all takes a rule away.
        let lines = ends.iter().filter(|end| **end < cut).count();
        assert_eq!(rules(&running).len(), lines.saturating_sub(1), "cut at {cut}");
    }
}

#[test]
fn what_was_known_to_be_there_is_missed() {
    let directory = tempfile::tempdir().expect("a directory");
    settled(directory.path());
    let path = directory.path().join("journal.json");
    let whole = fs::read_to_string(&path).expect("a journal");
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).expect("it is written");
        let (_, _, done) = replayed(directory.path(), FILES);
        assert!(done.is_err(), "cut at {cut}");
    }
    fs::remove_file(&path).expect("removed");
    let (_, _, done) = replayed(directory.path(), FILES);
    assert!(done.expect_err("it is gone").to_string().contains("4 changes"));
    assert!(journal(directory.path()).is_there());
}

#[test]
fn no_bit_of_it_may_differ() {
    let directory = tempfile::tempdir().expect("a directory");
    settled(directory.path());
    let path = directory.path().join("journal.json");
    let whole = fs::read(&path).expect("a journal");
    for place in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        fs::write(&path, damaged).expect("it is written");
        let (_, _, done) = replayed(directory.path(), FILES);
        assert!(done.is_err(), "byte {place}");
    }
}

/// As daemons wrote it until version 0.1.0: no seals, and nothing that says how long it is.
#[test]
fn what_former_daemons_wrote_is_done_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.json");
    let behind = seal::hash(FILES);
    let lines = [
        format!(r#"{{"behind":{behind}}}"#),
        r#"{"add":{"entry":{"chain":"forward","rule":"tcp dport 2 drop","handle":7,"counter":7},"in_front":false}}"#
            .to_owned(),
    ];
    fs::write(&path, lines.join("\n") + "\n").expect("a journal");
    let (running, _, done) = replayed(directory.path(), FILES);
    done.expect("whole");
    assert_eq!(rules(&running), ["tcp dport 2 drop"]);
    for damaged in [String::new(), lines[0].replace('b', "c") + "\n", lines[1].clone() + "\n", lines.concat() + "\n"] {
        fs::write(&path, &damaged).expect("a journal");
        let (_, _, done) = replayed(directory.path(), FILES);
        assert!(done.is_err(), "{damaged}");
    }
}
