//! The laboratory itself, without a daemon: the kernel forwards.

use std::{panic, path::Path, time::Duration};

use super::*;

const NEEDS: &[Need] =
    &[Need::Root, Need::Tool("ip"), Need::Tool("nsenter"), Need::Tool("ping"), Need::Tool("bpftool")];

fn namespaces_of(prefix: &str) -> usize {
    let Ok(entries) = fs::read_dir("/var/run/netns") else { return 0 };
    entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).count()
}

#[test]
fn the_kernel_forwards_both_families_in_the_standard_picture() {
    if !ready(NEEDS) {
        return;
    }
    let before = Leftovers::now().expect("looked");
    let lab = Lab::router().expect("a laboratory");
    assert_eq!(namespaces_of(&lab.prefix), 3);
    for (family, address) in [("-4", SERVER.v4), ("-6", SERVER.v6)] {
        let ping = lab.namespace("client").run(&format!("ping {family} -n -c 2 -i 0.05 -W 2 {address}"));
        let said = ping.expect("the server answers");
        // 64 at the server, one hop less here: the router was on the way.
        assert!(said.contains("ttl=63"), "{said}");
    }
    let macs = lab.namespace("router").run("ip -br link").expect("links");
    assert!(macs.contains(ROUTER_CLIENT.mac) && macs.contains(ROUTER_SERVER.mac), "{macs}");
    drop(lab);
    before.check().expect("nothing left");
}

#[test]
fn a_panic_leaves_nothing_behind() {
    if !ready(NEEDS) {
        return;
    }
    let before = Leftovers::now().expect("looked");
    let mut prefix = String::new();
    let mut dir = PathBuf::new();
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let lab = Lab::router().expect("a laboratory");
        lab.prefix.clone_into(&mut prefix);
        lab.dir().clone_into(&mut dir);
        let client = lab.namespace("client");
        let _sleeper = client.spawn(client.command("sleep").arg("1000"), &lab.dir().join("log")).expect("a process");
        fs::create_dir(lab.dir().join("bpffs")).expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "bpf", "bpf"]).arg(lab.dir().join("bpffs"));
        command::output(&mut mount, SETTING_UP).and_then(Output::checked).expect("mounted");
        assert!(before.check().is_err(), "what is there now would not be noticed");
        // As `panic!` does, without its message on stderr.
        panic::resume_unwind(Box::new("as planned"));
    }));
    let message = outcome.expect_err("it panicked");
    assert_eq!(message.downcast_ref(), Some(&"as planned"));
    assert!(prefix.starts_with("dp-") && namespaces_of(&prefix) == 0);
    assert!(!dir.exists());
    before.check().expect("nothing left");
}

#[test]
fn what_a_dead_process_left_is_removed() {
    if !ready(NEEDS) {
        return;
    }
    // A process that has ended: its id is free, and the kernel does not give it out again soon.
    let mut child = Command::new("true").spawn().expect("a process");
    let prefix = clean::prefix_of(child.id());
    child.wait().expect("it ended");
    let dir = std::env::temp_dir().join(format!("{prefix}0"));
    fs::create_dir_all(dir.join("state")).expect("a folder");
    ip(&["netns", "add", &format!("{prefix}0-router")]).expect("a namespace");
    clean::clear_dead();
    assert_eq!(namespaces_of(&prefix), 0);
    assert!(!dir.exists());
    assert!(Path::new("/proc/self").exists());
}

#[test]
fn a_command_past_its_limit_is_killed_and_told() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo begun; sleep 100"]);
    let error = command::output(&mut command, Duration::from_millis(300)).expect_err("too long").to_string();
    assert!(error.contains("sleep 100") && error.contains("begun"), "{error}");
}

#[test]
fn a_failing_command_tells_its_line_and_words() {
    let rows = [("ls /dataplane-no-such", "/dataplane-no-such"), ("dataplane-no-such-program x", "did not start")];
    for (line, expected) in rows {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().expect("a program"));
        let error = command::output(command.args(words), SETTING_UP).and_then(Output::checked).expect_err("it fails");
        let error = format!("{error:#}");
        assert!(error.contains(line) && error.contains(expected), "{error}");
    }
}
