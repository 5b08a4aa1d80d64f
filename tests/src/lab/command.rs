//! Child processes with a deadline. A failure tells the command line and what it printed.

use std::{
    fs::{DirEntry, File},
    io::Read,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How often a child is asked whether it is done.
const POLL: Duration = Duration::from_millis(2);
/// How long a killed process may take to be gone.
const DYING: Duration = Duration::from_secs(10);

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    /// The command as a person would type it.
    pub line: String,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// How it ended.
    pub status: ExitStatus,
}

impl Output {
    /// Stdout, if the command succeeded; otherwise an error with everything it said.
    pub fn checked(self) -> anyhow::Result<String> {
        if !self.status.success() {
            bail!("`{}` failed ({}){}", self.line, self.status, self.said());
        }
        Ok(self.stdout)
    }

    /// What it printed, for an error message.
    pub fn said(&self) -> String {
        let text = format!("{}\n{}", self.stdout.trim(), self.stderr.trim());
        let text = text.trim();
        if text.is_empty() { ", without a word".to_owned() } else { format!(":\n{text}") }
    }
}

/// Runs a command to its end. Past the limit it is killed, with its children, and that is an error.
pub(super) fn output(command: &mut Command, limit: Duration) -> anyhow::Result<Output> {
    let line = line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("`{line}` did not start; `cargo xtask setup` installs what the tests run"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let ended = wait(&mut child, limit)?;
    if ended.is_none() {
        kill_group(&child);
        child.wait()?;
    }
    let text =
        |reader: thread::JoinHandle<Vec<u8>>| String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned();
    let (stdout, stderr) = (text(stdout), text(stderr));
    match ended {
        Some(status) => Ok(Output { line, stdout, stderr, status }),
        None => bail!("`{line}` was not done after {limit:?} and was killed; it had said:\n{stdout}{stderr}"),
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks has given what it had.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn kill_group(child: &Child) {
    // It may have ended in between.
    let _ = kill_process_group(pid(child), Signal::KILL);
}

/// Whether a process of the group is left. One that only waits to be asked how it ended holds nothing any more.
fn is_alive(group: Pid) -> bool {
    let member = |entry: std::io::Result<DirEntry>| {
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        // Behind the name, which may hold anything: state, parent, group (`proc_pid_stat(5)`).
        let mut words = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, _parent, of) = (words.next()?, words.next()?, words.next()?);
        (of == group.as_raw_nonzero().to_string() && !matches!(state, "Z" | "X")).then_some(())
    };
    std::fs::read_dir("/proc").is_ok_and(|mut entries| entries.any(|entry| member(entry).is_some()))
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        if word.is_empty() || word.contains([' ', '"', '$', '*', ';']) {
            format!("'{word}'")
        } else {
            word.into_owned()
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// A command that goes on beside the test; killed with its children when dropped. What it prints is in a file.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    log: PathBuf,
}

impl Running {
    pub(super) fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let line = line(command);
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("can not write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("`{line}` did not start; `cargo xtask setup` installs what the tests run"))?;
        Ok(Self { child, line, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed until now.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        match wait(&mut self.child, limit)? {
            Some(status) => Ok(status),
            None => bail!("`{}` was not done after {limit:?}; it said:\n{}", self.line, self.said()),
        }
    }

    /// Kills it as `kill -9` does, with its children, and waits for the end of them all.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        kill_group(&self.child);
        self.child.wait()?;
        let end = Instant::now() + DYING;
        while is_alive(pid(&self.child)) {
            if Instant::now() >= end {
                bail!("a child of `{}` is still there {DYING:?} after it was killed", self.line);
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM), and waits for its end.
    pub fn terminate(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        if self.ended()?.is_none() {
            kill_process(pid(&self.child), Signal::TERM).with_context(|| format!("can not signal `{}`", self.line))?;
        }
        self.wait(limit)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_group(&self.child);
            // Nothing is left to do about a child that can not be waited for.
            let _ = self.child.wait();
        }
    }
}
