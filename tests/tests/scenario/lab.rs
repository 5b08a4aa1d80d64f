//! `dataplane lab`: built, played with, taken away, with nothing left.

use std::{fs, path::Path, process::Command};

use dataplane_tests::lab::{Need, binary, ready};

/// Runs a verb; its exit code and what it printed.
fn verb(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary().expect("the binary")).args(words).output().expect("it runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

/// A lab that goes with the test.
struct Lab(String);

impl Drop for Lab {
    fn drop(&mut self) {
        verb(&["lab", "down", &self.0]);
    }
}

#[test]
fn a_lab_can_be_played_with() {
    if !ready(&[Need::Root, Need::Tool("ip"), Need::Tool("nsenter"), Need::Tool("ping")]) {
        return;
    }
    let name = format!("test-{}", std::process::id());
    let lab = Lab(name.clone());
    let program = binary().expect("the binary").display().to_string();
    let shell = |machine: &str, words: &[&str]| {
        let all: Vec<_> = ["lab", "shell", &name, machine, "--"].iter().chain(words).copied().collect();
        verb(&all)
    };
    assert_eq!(shell("client", &["true"]).0, Some(3), "no such lab yet");
    let (code, said) = verb(&["lab", "up", &name]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("lab shell"), "{said}");
    assert_eq!(verb(&["lab", "up", &name]).0, Some(2), "twice");

    for address in ["198.18.1.2", "2001:db8:1::2"] {
        let (code, said) = shell("client", &["ping", "-c", "2", "-i", "0.2", "-W", "2", address]);
        assert_eq!(code, Some(0), "{said}");
    }
    let (code, said) = shell("router", &[&program, "port", "list"]);
    assert!(code == Some(0) && said.contains("client0") && said.contains("server0"), "{said}");
    let (code, said) = shell("router", &[&program, "rule", "add", "forward", "icmp type echo-request drop"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = shell("client", &["ping", "-c", "1", "-W", "1", "198.18.1.2"]);
    assert_eq!(code, Some(1), "the rule acts: {said}");
    assert_eq!(shell("client", &["sh", "-c", "exit 7"]).0, Some(7), "the code of what was run");

    let (code, said) = verb(&["lab", "down", &name]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(verb(&["lab", "down", &name]).0, Some(3), "it is gone");
    let namespaces = fs::read_dir("/var/run/netns").expect("namespaces").flatten();
    let left: Vec<_> = namespaces.filter(|entry| entry.file_name().to_string_lossy().contains(&name)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!Path::new("/run/dataplane/lab").join(&name).exists());
    assert!(!fs::read_to_string("/proc/self/mounts").expect("mounts").contains(&name));
    drop(lab);
}
