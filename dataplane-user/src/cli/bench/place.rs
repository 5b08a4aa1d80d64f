//! Where something is: a network namespace, and work done inside of it by a thread that enters it.

use std::{
    fs::File,
    io::Write as _,
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, anyhow, ensure};
use dataplane_common::{abi::Ifindex, wire::Mac};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace; none: our own.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Place(Option<Arc<File>>);

impl Place {
    /// The one of a file, as `/var/run/netns/NAME`.
    pub(in crate::cli) fn of(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self(Some(Arc::new(file))))
    }

    /// Goes there with this thread.
    pub(in crate::cli) fn enter(&self) -> anyhow::Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("cannot enter a namespace")
    }

    /// Works there, in a thread of its own; commands that it starts are there too.
    pub(in crate::cli) fn within<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                self.enter()?;
                work()
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command there; what it printed.
    pub(in crate::cli) fn run(&self, program: &str, words: &[&str], input: &str) -> anyhow::Result<String> {
        self.within(|| run(program, words, input))
    }

    /// Index and link address of an interface.
    pub(in crate::cli) fn link(&self, iface: &str) -> anyhow::Result<(Ifindex, Mac)> {
        self.within(|| {
            let shown = run("ip", &["-o", "link", "show", "dev", iface], "")?;
            let address = shown.split_once("link/ether ").and_then(|(_, rest)| mac(rest.split(' ').next()?));
            let address = address.ok_or_else(|| anyhow!("{iface} has no Ethernet header, so it takes no frames"))?;
            Ok((index(iface)?, address))
        })
    }

    /// Packets that came in and went out by an interface, as the kernel counts.
    pub(in crate::cli) fn counters(&self, iface: &str) -> anyhow::Result<[u64; 2]> {
        self.within(|| {
            let file = "/proc/thread-self/net/dev";
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
            let line = text.lines().find_map(|line| line.trim_start().strip_prefix(iface)?.strip_prefix(':'));
            let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
            let at = |index: usize| words.get(index).and_then(|word| word.parse().ok());
            Ok([at(1), at(9)].map(Option::unwrap_or_default))
        })
    }
}

/// Index of an interface in the namespace of this thread.
pub(in crate::cli) fn index(iface: &str) -> anyhow::Result<Ifindex> {
    use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).context("cannot open a socket")?;
    let index = name_to_index(&socket, iface);
    index.with_context(|| format!("there is no interface {iface}; `ip link` lists them"))
}

/// A link address, as it is written.
pub(in crate::cli) fn mac(text: &str) -> Option<Mac> {
    let mut bytes = text.split(':').map(|byte| (byte.len() == 2).then(|| u8::from_str_radix(byte, 16).ok())?);
    let mut mac = Mac::default();
    for byte in &mut mac.0 {
        *byte = bytes.next()??;
    }
    bytes.next().is_none().then_some(mac)
}

fn run(program: &str, words: &[&str], input: &str) -> anyhow::Result<String> {
    let line = || format!("`{program} {}`", words.join(" "));
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}; is {program} installed?", line()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read all of it says why by how it ends.
        let _unread = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {}", line()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed ({}): {}", line(), output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_addresses() {
        assert_eq!(mac("02:00:00:00:00:0a"), Some(Mac([2, 0, 0, 0, 0, 10])));
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:0a:01", "2:0:0:0:0:a", "02-00-00-00-00-0a", "zz:00:00:00:00:00"]
        {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
