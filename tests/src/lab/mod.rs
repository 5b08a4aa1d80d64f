//! The laboratory: network namespaces with veth pairs between them, and a daemon in one of them.
//!
//! Everything is done by running `ip`, `sysctl` and `nsenter`, so a scenario can be typed by hand. Every name begins with
//! `dp-PID-N-`; what a killed process left behind is removed by the next one.

mod clean;
mod command;
mod daemon;
mod leftover;
mod namespace;
mod need;
mod router;
mod stats;
pub mod stream;
pub mod traffic;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};

pub use self::{
    clean::clear_own,
    command::{Output, Running},
    daemon::{Daemon, binary},
    leftover::Leftovers,
    namespace::Namespace,
    need::{Need, kernel_at_least, ready, tells_xdp_features},
    router::{CLIENT, End, ROUTER_CLIENT, ROUTER_SERVER, SERVER},
    stats::{Counts, Port, Stats, balanced},
};

/// How long a command that only sets something up may take.
const SETTING_UP: Duration = Duration::from_secs(10);

static LABS: AtomicU32 = AtomicU32::new(0);
static REAPED: Once = Once::new();

/// Namespaces that vanish when this is dropped, also by a panic.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    dir: PathBuf,
    namespaces: Vec<Namespace>,
}

impl Lab {
    /// A laboratory without namespaces. The first one of a process removes what dead processes left.
    pub fn new() -> anyhow::Result<Self> {
        REAPED.call_once(clean::clear_dead);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}{number}-", clean::prefix_of(std::process::id()));
        let dir = std::env::temp_dir().join(prefix.trim_end_matches('-'));
        fs::create_dir_all(&dir).with_context(|| format!("can not make {}", dir.display()))?;
        Ok(Self { prefix, dir, namespaces: Vec::new() })
    }

    /// Adds a namespace, with its loopback up and duplicate address detection off: an address is usable at once.
    pub fn add(&mut self, name: &str) -> anyhow::Result<Namespace> {
        if self.namespaces.iter().any(|known| known.short() == name) {
            bail!("this laboratory already has a namespace `{name}`");
        }
        let namespace = Namespace::new(name, format!("{}{name}", self.prefix));
        ip(&["netns", "add", namespace.full()])?;
        // From here on it is ours to remove.
        self.namespaces.push(namespace.clone());
        namespace.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    /// Adds a veth pair, both ends up with a static MAC. Each end is namespace, name, MAC.
    pub fn veth(&self, one: (&str, &str, &str), other: (&str, &str, &str)) -> anyhow::Result<()> {
        let (here, there) = (self.namespace(one.0), self.namespace(other.0));
        #[rustfmt::skip]
        ip(&[
            "link", "add", one.1, "address", one.2, "netns", here.full(),
            "type", "veth", "peer", "name", other.1, "address", other.2, "netns", there.full(),
        ])?;
        here.run(&format!("ip link set {} up", one.1))?;
        there.run(&format!("ip link set {} up", other.1))?;
        Ok(())
    }

    /// The namespace of that name.
    ///
    /// # Panics
    /// When there is none: the test is wrong.
    pub fn namespace(&self, name: &str) -> &Namespace {
        let found = self.namespaces.iter().find(|namespace| namespace.short() == name);
        found.unwrap_or_else(|| panic!("this laboratory has no namespace `{name}`"))
    }

    /// A folder that vanishes with the laboratory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a daemon in the namespace, without configuration.
    pub fn daemon(&self, namespace: &str) -> anyhow::Result<Daemon> {
        Daemon::start(self.namespace(namespace), &self.dir, None)
    }

    /// Starts a daemon in the namespace, with this text as its configuration.
    pub fn daemon_with(&self, namespace: &str, config: &str) -> anyhow::Result<Daemon> {
        Daemon::start(self.namespace(namespace), &self.dir, Some(config))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for problem in clean::clear(&self.prefix) {
            eprintln!("clean-up of {}: {problem}", self.prefix);
        }
    }
}

/// Runs `ip` outside of any namespace of ours.
fn ip(args: &[&str]) -> anyhow::Result<()> {
    command::output(Command::new("ip").args(args), SETTING_UP)?.checked()?;
    Ok(())
}

#[cfg(test)]
mod tests;
