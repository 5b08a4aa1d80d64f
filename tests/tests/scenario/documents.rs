//! What README and quickstart show: each command is run in a lab, in order, and its output compared.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use dataplane_tests::lab::{Need, binary, ready};

use super::scene::turn;

/// The lab's name in the documents.
const NAME: &str = "demo";
/// Verbs that change nothing: they are run again until a change before them is in force.
const READING: [&str; 6] = [" list", " get", " show", " stats", " explain", " doctor"];
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A command that a document shows, with its output.
#[derive(Debug)]
struct Step {
    line: usize,
    command: String,
    shown: Vec<String>,
}

/// The steps of a document: in indented blocks, lines that begin with `# `, and what follows them.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut within = false;
    for (index, line) in text.lines().enumerate() {
        let code = line.strip_prefix("    ");
        within = within && (code.is_some() || line.is_empty());
        match code.and_then(|code| code.strip_prefix("# ")) {
            Some(command) => {
                within = true;
                steps.push(Step { line: index + 1, command: command.trim_end().to_owned(), shown: Vec::new() });
            }
            None if within => {
                steps.last_mut().expect("the step that this is of").shown.push(code.unwrap_or("").to_owned());
            }
            None => {}
        }
    }
    steps
}

/// What of a line is the same in every run: counters, link addresses and times are masked, and columns need not stand under
/// each other.
fn masked(line: &str) -> String {
    let cells: Vec<_> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(cell).collect();
    cells.join(" | ")
}

fn cell(text: &str) -> String {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if number(text) {
        return "N".to_owned();
    }
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let counted = words.last().is_some_and(|last| last == "packets" || last == "bytes") && number(word);
        let mac =
            word.len() == 17 && word.split(':').all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok());
        let time = word.strip_suffix("ms").is_some_and(number);
        words.push(match () {
            () if counted => "N".to_owned(),
            () if mac => "MAC".to_owned(),
            () if time => "Nms".to_owned(),
            () => word.to_owned(),
        });
    }
    words.join(" ")
}

/// Whether an output is the one shown; `...` stands for any lines.
fn same(shown: &[String], found: &[String]) -> bool {
    match shown.split_first() {
        None => found.is_empty(),
        Some((first, rest)) if first == "..." => (0..=found.len()).any(|skip| same(rest, &found[skip..])),
        Some((first, rest)) => found.split_first().is_some_and(|(line, others)| first == line && same(rest, others)),
    }
}

fn lines(text: &[impl AsRef<str>]) -> Vec<String> {
    text.iter().map(|line| masked(line.as_ref())).filter(|line| !line.is_empty()).collect()
}

/// A lab that goes with the test, and a shell in it.
struct Walk {
    lab: String,
    folder: tempfile::TempDir,
    inside: bool,
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.shell(&format!("dataplane lab down {}", self.lab));
    }
}

impl Walk {
    /// Runs a line of a shell; its exit code and what it printed.
    fn shell(&self, line: &str) -> (Option<i32>, String) {
        let program = binary().expect("the binary");
        let path =
            format!("{}:{}", program.parent().expect("a folder").display(), std::env::var("PATH").unwrap_or_default());
        let output = Command::new("sh")
            .args(["-c", &format!("{{ {line}\n}} 2>&1")])
            .env("PATH", path)
            .env_remove("DATAPLANE_SOCKET")
            .current_dir(self.folder.path())
            .output()
            .expect("a shell runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).replace(&self.lab, NAME))
    }

    /// Runs a command as the reader would.
    fn run(&mut self, command: &str) -> (Option<i32>, String) {
        let in_lab = command.replace(&format!(" {NAME}"), &format!(" {}", self.lab));
        match command {
            "exit" => self.inside = false,
            _ if command == format!("dataplane lab shell {NAME}") => self.inside = true,
            _ if command.starts_with("dataplane lab ") => return self.shell(&in_lab),
            // Files keep their names.
            _ if self.inside => {
                let quoted = command.replace('\'', "'\\''");
                return self.shell(&format!("dataplane lab shell {} -- sh -c '{quoted}'", self.lab));
            }
            _ => panic!("`{command}` would touch the machine: it is shown outside of a shell in the lab"),
        }
        (Some(0), String::new())
    }

    /// Runs a step; what is wrong with it, if anything is.
    fn step(&mut self, step: &Step) -> Option<String> {
        let reading = READING.iter().any(|verb| step.command.contains(verb));
        let end = Instant::now() + PATIENCE;
        let wanted = lines(&step.shown);
        loop {
            let (code, output) = self.run(&step.command);
            let found = lines(&output.lines().collect::<Vec<_>>());
            let succeeded = code == Some(0) || step.command.contains("config diff") && code == Some(6);
            if succeeded && same(&wanted, &found) {
                return None;
            }
            if !reading || Instant::now() > end {
                return Some(format!(
                    "line {}: `{}`: exit code {code:?}\nshown, masked:\n  {}\nprinted, masked:\n  {}",
                    step.line,
                    step.command,
                    wanted.join("\n  "),
                    found.join("\n  ")
                ));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn walk(document: &str, least: usize) {
    if !ready(&[Need::Root, Need::Tool("ip"), Need::Tool("nsenter"), Need::Tool("ping")]) {
        return;
    }
    let _turn = turn();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let steps = steps(&fs::read_to_string(&path).expect("the document"));
    assert!(steps.len() >= least, "{document} shows only {} commands", steps.len());
    let folder = tempfile::tempdir().expect("a folder");
    let mut walk = Walk { lab: format!("docs-{}", std::process::id()), folder, inside: false };
    let wrong: Vec<_> = steps.iter().filter_map(|step| walk.step(step)).collect();
    assert!(wrong.is_empty(), "{document} shows what is not so:\n{}", wrong.join("\n\n"));
    let (code, said) = walk.shell(&format!("dataplane lab down {}", walk.lab));
    assert_eq!(code, Some(3), "{document} leaves its lab behind: {said}");
}

#[test]
fn readme_shows_what_is_printed() {
    walk("README.md", 8);
}

#[test]
fn quickstart_shows_what_is_printed() {
    walk("docs/quickstart.md", 15);
}

#[test]
fn a_wrong_output_is_seen() {
    let rows: [(&[&str], &[&str], bool); 10] = [
        (&["a: attached, mode tc"], &["a: attached, mode tc"], true),
        (&["a: attached, mode tc"], &["a: attached, mode native"], false),
        (&["drop # handle 1 packets 0 bytes 0"], &["drop # handle 1 packets 7 bytes 420"], true),
        (&["drop # handle 1 packets 0 bytes 0"], &["drop # handle 2 packets 0 bytes 0"], false),
        (&["tcp dport 23 drop"], &["tcp dport 24 drop"], false),
        (&["eth0  2  tc  02:00:00:00:00:01"], &["eth0     3  tc  02:00:00:00:00:ff"], true),
        (&["...", "b", "..."], &["a", "b"], true),
        (&["...", "b", "..."], &["a", "c"], false),
        (&[], &["a"], false),
        (&["a"], &[], false),
    ];
    for (shown, found, wanted) in rows {
        assert_eq!(same(&lines(shown), &lines(found)), wanted, "{shown:?} and {found:?}");
    }
}

#[test]
fn steps_are_read_out_of_a_document() {
    let found = steps("# heading\n\ntext\n\n    # dataplane a\n    b\n\n    c\n    # exit\ntext\n    d\n");
    let found: Vec<_> = found.iter().map(|step| (step.line, step.command.as_str(), step.shown.len())).collect();
    assert_eq!(found, [(5, "dataplane a", 3), (9, "exit", 0)]);
}
