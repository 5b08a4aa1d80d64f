//! Running qemu and reading the guest's serial console.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{
    command::line,
    tally::{Tally, Transcript},
};

/// How the guest's first process says that all has run.
const DONE: &str = "GUEST done";
/// Lines of the console that are shown when a guest does not end well.
const TAIL: usize = 40;
/// Memory of the guest, of which the initramfs takes a part.
const MEMORY: &str = "3G";

/// Boots a kernel and counts the tests that its console tells of. A guest that panics or hangs is a failed test.
pub(super) fn run(qemu: &str, kernel: &Path, initramfs: &Path, limit: Duration) -> anyhow::Result<Tally> {
    let mut command = emulator(qemu, kernel, initramfs);
    println!("$ {}", line(&command));
    let mut child = Guest(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("qemu did not start")?);
    let lines = read_lines(child.0.stdout.take().context("qemu has no stdout")?);
    let end = Instant::now() + limit;
    let (mut transcript, mut tail, mut done) = (Transcript::default(), VecDeque::new(), false);
    let mut late = false;
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(text) => {
                if transcript.read(&text) {
                    println!("  {text}");
                }
                done |= text.starts_with(DONE);
                tail.push_back(text);
                if tail.len() > TAIL {
                    tail.pop_front();
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                late = true;
                break;
            }
        }
    }
    drop(child);
    let mut tally = transcript.finish();
    if !done {
        let how = if late { format!("was not done after {limit:?}") } else { "ended before it was done".to_owned() };
        tally.trouble(format!("the guest {how}; the end of its console:\n{}", Vec::from(tail).join("\n")));
    } else if tally.is_empty() {
        bail!("the guest ran no test");
    }
    Ok(tally)
}

/// qemu, ended when this is dropped.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two pairs of cards, each on a wire of its own: virtio on one, e1000e on the other. `tests/tests/scenario/card.rs` knows them
/// by their addresses.
fn emulator(qemu: &str, kernel: &Path, initramfs: &Path) -> Command {
    let mut command = Command::new(qemu);
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    command.args(["-append", "console=ttyS0 panic=-1 loglevel=3 mitigations=off"]);
    for (wire, card) in [(0, "virtio-net-pci"), (1, "e1000e")] {
        for end in 0..2 {
            let id = format!("wire{wire}end{end}");
            command.args(["-netdev", &format!("hubport,id={id},hubid={wire}")]);
            command.args(["-device", &format!("{card},netdev={id},mac=02:00:00:ca:0{wire}:0{end},romfile=")]);
        }
    }
    command
}

/// Lines as they come, without what a serial console adds.
fn read_lines(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        while from.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
            bytes.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Runs a shell script in the place of qemu.
    fn console(script: &str, limit: Duration) -> (u64, String) {
        let folder =
            std::env::temp_dir().join(format!("dataplane-xtask-{}-{:?}", std::process::id(), thread::current().id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let qemu = folder.join("qemu");
        std::fs::write(&qemu, format!("#!/bin/sh\n{script}\n")).expect("a script");
        std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).expect("a program");
        let outcome = run(qemu.to_str().expect("text"), Path::new("/k"), Path::new("/i"), limit);
        std::fs::remove_dir_all(&folder).expect("cleaned up");
        outcome.map_or_else(|error| (1, error.to_string()), |tally| (tally.failed, tally.line()))
    }

    #[test]
    fn a_guest_is_judged_by_its_console() {
        let test = "printf 'running 1 test\\r\\ntest a ... ok\\r\\n";
        let result = "\\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\\r\\n'";
        let done = "echo 'GUEST done, 9 s'";
        let second = Duration::from_secs(1);
        let rows = [
            (format!("{test}{result}; {done}"), "1 passed, 0 failed, 0 skipped"),
            (format!("{test}{result}; echo 'Kernel panic'"), "1 passed, 1 failed, 0 skipped"),
            (format!("{test}{result}; exec sleep 20"), "1 passed, 1 failed, 0 skipped"),
            (format!("{test}'; {done}"), "0 passed, 1 failed, 0 skipped"),
            (done.to_owned(), "the guest ran no test"),
        ];
        for (script, expected) in rows {
            assert_eq!(console(&script, second).1, expected, "{script}");
        }
    }
}
