//! A network namespace of the bench's own, and work done inside it by a thread that enters it.

use std::{
    fs::File,
    io::Write as _,
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What all names start with; the process that made them follows, so that a later run can tell what was left behind.
const PREFIX: &str = "dpbench-";

/// A named network namespace; deleted, with all its devices, when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Makes a namespace with its loopback up; needs root.
    pub fn new(role: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        let path = Path::new("/run/netns").join(&name);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let namespace = Self { name, file };
        namespace.run("ip", &["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// As `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a new thread in this namespace. Processes it starts are in the namespace too.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("entering network namespace {}; this needs root", self.name))?;
                work()
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command in this namespace and returns what it printed; a failure carries its error output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.feed(program, arguments, "")
    }

    /// As [`Namespace::run`], with something to read on standard input.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        self.enter(|| run(Command::new(program).args(arguments), input))
    }

    /// Sets a value below `/proc/sys/net`, which shows the namespace of whoever opens it.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        self.enter(|| {
            let path = Path::new("/proc/sys/net").join(key);
            std::fs::write(&path, value).with_context(|| format!("writing {value:?} to {}", path.display()))
        })
    }

    /// Reads a file below `/proc/net` of this namespace.
    pub fn read(&self, file: &str) -> Result<String> {
        self.enter(|| {
            let path = Path::new("/proc/thread-self/net").join(file);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "del", &self.name]), "") {
            eprintln!("bench: {error:#}; remove it with: ip netns del {}", self.name);
        }
    }
}

/// Deletes what runs that were killed have left: namespaces with our prefix whose process is gone.
pub fn sweep() -> Result<()> {
    for line in run(Command::new("ip").args(["netns", "list"]), "")?.lines() {
        let Some(name) = line.split_whitespace().next() else { continue };
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            run(Command::new("ip").args(["netns", "del", name]), "")?;
        }
    }
    Ok(())
}

/// Runs a command to its end, feeding it `input`.
pub(super) fn run(command: &mut Command, input: &str) -> Result<String> {
    let described = describe(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{described}`; is it installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read all of it says why by its exit status.
        let _unread = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("waiting for `{described}`"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{described}` ended with {}: {}", output.status, errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
