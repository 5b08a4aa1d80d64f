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

#[test]
fn what_happened_happens_again() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path());
    let (mut running, mut ledger) = (Config::default(), Ledger::default());
    journal(directory.path()).replay(FILES, &mut running, &mut ledger);
    assert_eq!(rules(&running), ["tcp dport 1 drop", "tcp dport 3 drop"]);
    let handles: Vec<_> = ledger.rules.iter().map(|entry| entry.handle).collect();
    assert_eq!((handles, ledger.next), (vec![8, 9], 10));
}

#[test]
fn behind_other_files_it_is_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut filled = filled(directory.path());
    for files in [["[chains.input]\n", "{}"], [FILES[0], "{ }"], ["", ""]] {
        let (mut running, mut ledger) = (Config::default(), Ledger::default());
        journal(directory.path()).replay(files, &mut running, &mut ledger);
        assert_eq!((rules(&running), ledger.next), (vec![], 0), "{files:?}");
    }
    filled.begin(FILES);
    let (mut running, mut ledger) = (Config::default(), Ledger::default());
    journal(directory.path()).replay(FILES, &mut running, &mut ledger);
    assert_eq!(rules(&running), [""; 0], "what was written down is not done again");
}

#[test]
fn where_it_breaks_off_it_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path());
    let path = directory.path().join("journal.json");
    let whole = fs::read_to_string(&path).expect("a journal");
    let ends: Vec<_> = whole.match_indices('\n').map(|(at, _)| at).collect();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).expect("it is written");
        let (mut running, mut ledger) = (Config::default(), Ledger::default());
        journal(directory.path()).replay(FILES, &mut running, &mut ledger);
        // Lines whose end is there, without the first; the last but one of all takes a rule away.
        let lines = ends.iter().filter(|end| **end < cut).count();
        assert_eq!(rules(&running).len(), lines.saturating_sub(1), "cut at {cut}");
    }
}
