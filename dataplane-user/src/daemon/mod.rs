//! The ring: event, model, lower, diff, apply.
//!
//! One task owns everything. What the kernel says and what operators ask for arrive here in turn, so no state is ever seen
//! half changed.

mod absent;
mod careful;
mod chains;
mod confirm;
mod counter;
mod delivery;
mod desired;
mod difference;
mod doctor;
mod epoch;
mod explain;
mod flow_grace;
mod flow_handle;
mod flow_query;
mod flow_survey;
mod flow_thread;
mod flow_trace;
mod flows;
mod follow;
mod former;
mod guard;
mod handed_on;
mod heartbeat;
mod history;
mod journal;
mod large;
mod list;
mod metrics;
mod mirror;
mod name;
mod neighbour;
mod netfilter;
mod observed;
mod obstacle;
mod operate;
mod own_table;
mod packet_log;
mod packets;
mod peer;
mod pin;
mod plane;
mod privilege;
mod prospect;
mod proxy;
mod quarantine;
mod query;
mod queue;
mod raw;
mod recipient;
mod recovery;
mod rejecter;
mod route_get;
mod running;
mod seal;
mod serve;
mod service;
mod set;
mod sflow;
mod socket_query;
mod startup;
mod state;
mod status;
mod steer;
mod steer_verbs;
mod store;
mod trace;
mod trace_row;
mod traced;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, bail};
use dataplane_common::abi::PacketEvent;

use crate::{
    control::{page::Part, protocol::Request, server::Call},
    heap::{self, Heap},
    kernel::Haste,
    netlink::Mirror,
};
use delivery::Delivery;
use desired::Desired;
use flows::FlowFollower;
use metrics::MetricsEndpoint;
use observed::Observed;
use packets::Packets;
use plane::{DataPlane, Facts};
use sflow::SflowExporter;
use startup::Begun;
use status::ConfigFile;
use steer::Steering;
use store::Store;

/// Rules that are written down in a few milliseconds.
const FEW: usize = 1000;

/// What `dataplane run` is told.
#[derive(Debug)]
pub struct Options {
    /// The config file.
    pub config: Option<PathBuf>,
    /// The config file where no config is remembered.
    pub first_config: Option<PathBuf>,
    /// The user to become.
    pub user: Option<String>,
    /// The control socket.
    pub socket: PathBuf,
    /// What outlives a restart.
    pub state: PathBuf,
    /// Where maps and links are pinned.
    pub bpffs: PathBuf,
}

/// Runs until SIGTERM or SIGINT, and leaves the data plane forwarding.
pub fn run(options: &Options) -> anyhow::Result<()> {
    heap::gather();
    // The config first: a bad one must not touch anything.
    let config = options.config.as_deref().map(startup::read).transpose()?;
    // This one is looked at only where no config is remembered.
    let first = options.first_config.as_deref().map(startup::read);
    let haste = Haste::open();
    // Before there is a second thread: each has rights of its own.
    privilege::shed(options)?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime =
        runtime.enable_all().on_thread_start(service::give_way).build().context("cannot start the runtime")?;
    runtime.block_on(serve::serve(options, (config, first), haste))
}

/// The controller: five owners, and the loop that passes what one knows to another.
struct Daemon {
    observed: Observed,
    desired: Desired,
    plane: DataPlane,
    store: Store,
    packets: Packets,
    /// What has packets delivered that rules hand to proxies.
    delivery: Delivery,
    /// Sockets that get what is not sent to their addresses.
    steering: Steering,
    /// Connections that netfilter lets through.
    flows: FlowFollower,
    /// Calls that change something, and wait until the kernel's tables are read.
    early: Vec<Call>,
    /// Metrics over HTTP.
    metrics_endpoint: MetricsEndpoint,
    /// Samples of packets for a collector.
    sflow: SflowExporter,
    /// How far this daemon's clock is ahead of the kernel half's.
    offset: i128,
    /// Memory that can be given back.
    heap: Heap,
    /// When the daemon started.
    born: Instant,
    /// The config file that it was started with.
    file: ConfigFile,
}

impl Daemon {
    /// Goes on where an earlier daemon ended, with a plane that holds nothing yet.
    fn new(begun: Begun, kernel: Box<dyn plane::Plane>, metrics_endpoint: MetricsEndpoint) -> Self {
        let Begun { store, running, slots, .. } = begun;
        let mut daemon = Self {
            observed: Observed::default(),
            desired: Desired::new(running),
            plane: DataPlane::new(kernel, slots),
            store,
            packets: Packets::new(Instant::now()),
            delivery: Delivery::default(),
            steering: Steering::default(),
            flows: FlowFollower::default(),
            early: Vec::new(),
            metrics_endpoint,
            sflow: SflowExporter::new(Instant::now()),
            offset: heartbeat::offset(),
            heap: Heap::default(),
            born: Instant::now(),
            file: ConfigFile::default(),
        };
        daemon.metrics_endpoint.want(daemon.desired.running().metrics());
        daemon.begin_quarantine();
        // Where links are left as they are, whoever waited waits on.
        if !daemon.leaves_ports() {
            daemon.plane.close_gate(Facts::new(&daemon.observed, &daemon.desired, &daemon.packets));
        }
        daemon
    }

    /// Fills the maps and swaps the programs in: from here on traffic is ours.
    fn start(&mut self) -> anyhow::Result<()> {
        self.beat();
        self.commit()?;
        if self.store.quarantine().is_none() {
            self.store.set_aside()?;
            if !self.store.has_config() {
                // Programs without a word of them on the disk would be taken for those of a daemon whose state is gone.
                self.save();
            }
        }
        self.follow();
        self.follow_sflow();
        // What an earlier daemon left goes on as it is.
        if let Some(reason) = self.plane.ports().postponed().values().next() {
            bail!("{reason}");
        }
        if !self.leaves_ports() {
            self.steer_config();
            self.clear_away();
            let facts = Facts::new(&self.observed, &self.desired, &self.packets);
            self.plane.open_gate(facts);
            self.plane.prepare(facts);
        }
        self.save();
        self.heap.note_garbage();
        Ok(())
    }

    /// Begins to work as soon as all tables have been read.
    fn finish_startup(&mut self, mirror: &Mirror) -> anyhow::Result<()> {
        if self.observed.is_loading() && mirror.is_settled() {
            self.begin_work()?;
        } else if self.observed.is_loading() {
            self.observed.set_loading(Some(mirror.read_so_far()));
        }
        Ok(())
    }

    /// All tables have been read: traffic is ours, and who waited for that is answered.
    fn begin_work(&mut self) -> anyhow::Result<()> {
        self.observed.set_loading(None);
        self.start()?;
        service::ready();
        let model = self.observed.model();
        tracing::info!(routes4 = model.routes4.len(), routes6 = model.routes6.len(), "ready");
        self.notice_file();
        for call in std::mem::take(&mut self.early).into_iter().filter(Call::is_wanted) {
            self.answer(call);
        }
        Ok(())
    }

    /// Takes a call: answers it now, or once the tables are read if it changes something.
    fn take(&mut self, call: Call) {
        if self.observed.is_loading() && call.request.is_change() {
            self.early.push(call);
        } else {
            self.answer(call);
        }
    }

    /// Answers a call. One that makes the daemon panic is answered, too.
    fn answer(&mut self, mut call: Call) {
        let (verb, changes) = (call.request.verb(), call.request.is_change());
        let (stream, sockets) = (call.stream.take(), std::mem::take(&mut call.sockets));
        let waits = self.waits_with(&call.request);
        let mut through = false;
        let mut answer = guard::answered(verb, || {
            let answer = match (&call.request, stream) {
                (request, _) if self.refuses(request) => Err(self.refusal()),
                (Request::Trace { filter, one_in, bytes }, Some(stream)) => {
                    self.trace((filter, *one_in, *bytes), stream).map(Part::from)
                }
                (Request::SteerAdd { entry, replace }, _) => self.steer_add(entry, *replace, sockets).map(Part::from),
                (request, _) if request.is_listing() => self.list(request, call.from.as_ref()),
                (request, _) => self.answer_to(request, call.peer.uid).map(Part::from),
            };
            through = true;
            answer
        });
        if changes && !through {
            self.recover();
        }
        if changes
            && through
            && let Some(warning) = waits
        {
            answer = answer.map(|part| Part { reply: part.reply.warn(warning), ..part });
        }
        if changes && let Some(error) = self.store.unsaved() {
            let warning = format!("in force, but not written down: {error}; a restart would undo it");
            answer = answer.map(|part| Part { reply: part.reply.warn(warning), ..part });
        }
        self.heap.note_garbage();
        large::reply(call, answer);
    }

    /// After a panic nobody knows what was done of a change: everything is written again.
    fn recover(&mut self) {
        self.plane.doubt();
        self.observed.touch_all();
        if let Err(panic) = guard::guarded(|| self.follow()) {
            tracing::error!("an unfinished change could not be undone: {panic}; restart the daemon");
        }
    }

    /// Writes down what a next daemon must know.
    fn save(&mut self) {
        self.store.save(self.desired.running(), self.plane.features());
    }

    /// At the end: what was written down is on the disk, and daemons of before can read it.
    fn settle(&mut self) {
        if self.store.has_news() {
            self.save();
        }
        self.store.settle().map(std::thread::JoinHandle::join);
    }

    /// Writes one change down; everything, where that does not work or has become long.
    fn note(&mut self, line: &journal::Line) {
        // What is written in a moment stays readable for daemons of before.
        let is_quick = self.desired.chains().rule_count() < FEW;
        if line.is_news() && is_quick || self.store.note(line) {
            self.save();
        }
    }

    /// Logs and answers what a rule says of a packet.
    fn log_packet(&mut self, event: &PacketEvent) {
        let links = &self.observed.model().links;
        let name = |ifindex| links.get(&ifindex).map_or("", |link| link.name.as_str());
        self.packets.log(event, &self.desired, name);
    }
}

#[cfg(test)]
mod tests;
