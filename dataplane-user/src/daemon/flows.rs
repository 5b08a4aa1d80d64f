//! Connections, as far as the ring knows them: when they are followed, and in which maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use dataplane_common::abi::{Features, Ifindex};

use super::{
    Daemon,
    flow_handle::{Command, Handle},
    flow_thread::spawn,
};
use crate::flow::{FlowStats, SetKey, Settings};

/// What does not work is tried again so much later.
const AGAIN: Duration = Duration::from_secs(5);

/// The thread that follows connections, while there is one.
#[derive(Default)]
pub(super) struct FlowFollower {
    running: Option<Running>,
    /// Why there is none, and when that was tried.
    failed: Option<(String, Instant)>,
    /// The generation of nftables' rules that the model has, and the sets by whose elements they decide.
    pub(super) surveyed: Option<(u32, Arc<BTreeSet<SetKey>>)>,
}

struct Running {
    handle: Handle,
    thread: JoinHandle<()>,
    /// Where its maps are pinned.
    maps: PathBuf,
    settings: Settings,
    local: BTreeSet<IpAddr>,
    /// The generation of rules that it knows to forbid nothing.
    judged: Option<u32>,
}

impl FlowFollower {
    /// What speaks to the thread.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.running.as_ref().map(|running| running.handle.clone())
    }

    /// What it counted; none while there is none.
    pub(super) fn stats(&self) -> Option<FlowStats> {
        self.running.as_ref().map(|running| running.handle.stats())
    }

    /// Why connections are not followed although they should be.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.failed.as_ref().map(|(error, _)| error.as_str())
    }

    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.handle.tell(Command::Stop);
            // It ends within a turn, and leaves all connections to the kernel.
            if running.thread.join().is_err() {
                tracing::error!("what follows connections had panicked");
            }
        }
    }
}

impl Drop for FlowFollower {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How long conntrack keeps connections that are carried, in seconds, as it is set now.
fn timeouts() -> Vec<u32> {
    let files = ["udp_timeout", "udp_timeout_stream", "tcp_timeout_established"];
    let read = |name| std::fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")).ok();
    files.into_iter().filter_map(|name| read(name)?.trim().parse().ok()).collect()
}

/// How long a row stays armed: what the operator says, and no more than a third of the least timeout. A packet in each lease
/// keeps the kernel's entry; had it ended meanwhile, packets would be translated by an entry that is no more.
fn lease(wanted: u32, timeouts: &[u32]) -> Duration {
    let least = timeouts.iter().min().map(|least| Duration::from_secs((*least).into()) / 3);
    let wanted = Duration::from_secs(wanted.into());
    least.map_or(wanted, |least| wanted.min(least))
}

impl Daemon {
    /// Follows connections if the programs carry them, in the maps that the programs read.
    pub(super) fn follow_flows(&mut self) {
        if !self.carries_flows() {
            self.flows.stop();
            self.flows.failed = None;
            return;
        }
        let config = self.desired.flows();
        let settings = Settings { max: config.max, lease: lease(config.lease, &timeouts()) };
        let local: BTreeSet<_> = self.observed.model().addresses.iter().map(|address| address.address).collect();
        if self.flows.running.as_ref().is_some_and(|running| running.thread.is_finished()) {
            self.flows.stop();
            self.flows.failed = Some(("it ended by itself; see the log".to_owned(), Instant::now()));
        }
        if let Some(running) = &mut self.flows.running {
            if running.settings != settings {
                running.settings = settings;
                running.handle.tell(Command::Settings(settings));
            }
            if running.local != local {
                running.local.clone_from(&local);
                running.handle.tell(Command::Local(local));
            }
            if let Some(maps) = self.plane.flow_place().filter(|maps| *maps != running.maps) {
                match self.plane.flow_maps() {
                    Ok(opened) => {
                        running.maps = maps;
                        running.handle.tell(Command::Maps(opened));
                    }
                    Err(error) => {
                        let error = error.to_string();
                        self.flows.stop();
                        self.fail_flows(error);
                    }
                }
            }
        } else if self.flows.failed.as_ref().is_none_or(|(_, at)| at.elapsed() >= AGAIN) {
            self.begin_flows(settings, local);
        }
        self.tell_judged();
    }

    /// Whether the programs carry connections, and are to.
    fn carries_flows(&self) -> bool {
        (self.plane.features() & self.plane.want().features).contains(Features::FLOWS)
    }

    /// No connection is carried any more if something forbids it: before programs are loaded that carry none.
    pub(super) fn forbid_flows(&mut self) {
        if !self.carries_flows() {
            self.flows.stop();
        }
    }

    /// Tells what follows connections that the rules it waits for are judged, once nothing of the model is left to lower.
    pub(super) fn tell_judged(&mut self) {
        if self.observed.is_touched() || !self.carries_flows() {
            return;
        }
        if let (Some((generation, watched)), Some(running)) = (&self.flows.surveyed, &mut self.flows.running)
            && running.judged != Some(*generation)
        {
            running.judged = Some(*generation);
            running.handle.tell(Command::Judged(*generation, Arc::clone(watched)));
        }
    }

    fn begin_flows(&mut self, settings: Settings, local: BTreeSet<IpAddr>) {
        // A plane without a kernel has no maps.
        let Some(maps) = self.plane.flow_place() else { return };
        let opened = self.plane.flow_maps().map_err(|error| error.to_string());
        match opened.and_then(|opened| spawn(opened, settings, &local, self.offset)) {
            Ok((handle, thread)) => {
                self.flows.failed = None;
                self.flows.running = Some(Running { handle, thread, maps, settings, local, judged: None });
                tracing::info!(max = settings.max, "connections that netfilter lets through are carried");
            }
            Err(error) => self.fail_flows(error),
        }
    }

    fn fail_flows(&mut self, error: String) {
        if self.flows.failed.is_none() {
            tracing::warn!(
                "connections cannot be followed: {error}; the kernel carries all of them, and it is tried again"
            );
        }
        self.flows.failed = Some((error, Instant::now()));
    }

    /// The names of links, for those who answer elsewhere.
    pub(super) fn link_names(&self) -> BTreeMap<Ifindex, String> {
        self.observed.model().links.iter().map(|(ifindex, link)| (*ifindex, link.name.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_shorter_than_the_kernels_patience() {
        for (wanted, timeouts, expected) in [
            (5, &[30, 120, 432_000][..], 5000),
            (5, &[3, 120][..], 1000),
            (600, &[30, 120][..], 10_000),
            (5, &[][..], 5000),
        ] {
            assert_eq!(lease(wanted, timeouts), Duration::from_millis(expected), "{wanted} {timeouts:?}");
        }
    }
}
