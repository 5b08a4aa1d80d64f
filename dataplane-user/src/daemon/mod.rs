//! The ring: event, model, lower, diff, apply.
//!
//! One task owns everything. What the kernel says and what operators ask for arrive here in turn, so no state is ever seen
//! half changed.

mod apply;
mod attach;
mod chains;
mod commit;
mod confirm;
mod counter;
mod difference;
mod doctor;
mod egress;
mod explain;
mod former;
mod gate;
mod guard;
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
mod operate;
mod packet_log;
mod patch;
mod pin;
mod port;
mod postpone;
mod privilege;
mod quarantine;
mod query;
mod queue;
mod recovery;
mod rejecter;
mod route_get;
mod running;
mod rx_handler;
mod seal;
mod self_test;
mod service;
mod set;
mod state;
mod trace;
mod trace_row;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use dataplane_common::abi::map;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::MissedTickBehavior,
};

use crate::{
    config::{self, Config, FibConfig, FlowsConfig, HeartbeatConfig},
    control::{
        page::Part,
        protocol::Request,
        server::{Call, Server},
    },
    fib::TableSizes,
    filter::Image,
    heap::{self, Heap},
    kernel::{Bpffs, Links, Object, PinDirs, Pins, RxHandlers, Tables, TxErrorMonitor, earlier_slots},
    lower::{Lowering, Problem, filter::unsupported},
    model::{Model, Touched},
    netlink::{Mirror, Prober},
    rule::ChainName,
};
use chains::Chains;
use commit::Committed;
use confirm::PendingConfig;
use egress::EgressState;
use explain::DryRun;
use gate::PortGate;
use history::History;
use metrics::MetricsEndpoint;
use mirror::{COMPARE, ResyncStats};
use name::Names;
use neighbour::Probes;
use packet_log::PacketLog;
use pin::PinHealth;
use port::Ports;
use quarantine::Quarantine;
use queue::{ANSWER, Queue};
use recovery::{Fault, RecoveredState};
use self_test::LoadedSelfTest;
use state::State;
use trace::TraceSubscribers;
use trace_row::RuleIndex;

/// How long news may wait for more of its kind, so that a burst becomes one change.
const GATHER: Duration = Duration::from_millis(5);
/// Calls that may wait to be taken over by the ring.
const CALLS: usize = 64;

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
    let config = options.config.as_deref().map(read).transpose()?;
    // This one is looked at only where no config is remembered.
    let first = options.first_config.as_deref().map(read);
    // Before there is a second thread: each has rights of its own.
    privilege::shed(options)?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime =
        runtime.enable_all().on_thread_start(service::give_way).build().context("cannot start the runtime")?;
    runtime.block_on(serve(options, config, first))
}

async fn serve(options: &Options, config: Option<Config>, first: Option<anyhow::Result<Config>>) -> anyhow::Result<()> {
    let server = Server::bind(&options.socket)?;
    let state = State::open(&options.state)?;
    let bpffs = Bpffs::open(&options.bpffs)?;
    let mut mirror = Mirror::open()?;
    let mut prober = Prober::open()?;
    let (calls, mut waiting) = mpsc::channel(CALLS);
    let service = service::Service::new()?;
    let metrics_endpoint = MetricsEndpoint::new(calls.clone(), service.handle());
    let mut daemon = Daemon::new(bpffs, state, (config, first), metrics_endpoint)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;

    let serving = service.serve(server, calls)?;
    let (mut queue, (done, mut concluding)) = (Queue::new(), mpsc::unbounded_channel());
    let mut watchdog = service::Watchdog::new();

    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let mut compare = tokio::time::interval_at((Instant::now() + COMPARE).into(), COMPARE);
    compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut probe = tokio::time::interval(neighbour::ROUND);
    probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beat = tokio::time::interval(heartbeat::BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut glance = tokio::time::interval(trace::GLANCE);
    glance.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut packets, mut trace_records) = daemon.tables.rings()?.context("the rings are read by somebody else")?;
    let mut due = None;
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = until(daemon.unconfirmed()) => daemon.expire(),
            () = watchdog.alive() => {}
            _ = beat.tick(), if daemon.loading.is_none() => daemon.tick(&mut mirror),
            _ = hangup.recv() => mirror.compare(),
            _ = compare.tick() => mirror.compare(),
            () = until(daemon.trace_subscribers.due()) => daemon.expire_subscribers(),
            () = until(daemon.packet_log.due()) => daemon.packet_log.report_suppressed(Instant::now()),
            () = until(daemon.heap.due()) => daemon.heap.collect(),
            () = until(due) => {
                due = None;
                daemon.reconcile_if_touched();
            }
            _ = probe.tick(), if daemon.loading.is_none() => {
                // An entry that was made permanent a moment ago must not be used: the kernel would take that from it.
                match mirror.advance(ANSWER) {
                    Ok(events) => daemon.on_events(events, &mut mirror),
                    Err(error) => tracing::error!("the kernel's tables cannot be read at the moment: {error}"),
                }
                daemon.probe(&mut prober);
                if !daemon.touched.is_empty() {
                    due.get_or_insert_with(|| Instant::now() + GATHER);
                }
            }
            Some(call) = waiting.recv() => queue.fill(call, &mut waiting),
            () = until(queue.due()) => {
                if daemon.serve_next(&mut queue, &mut mirror, &done)? {
                    due = None;
                }
            }
            events = mirror.next() => {
                match events {
                    Ok(events) => daemon.on_events(events, &mut mirror),
                    Err(error) if daemon.loading.is_some() => return Err(error.into()),
                    Err(error) => {
                        // The next call lists everything again.
                        tracing::error!("the kernel's tables cannot be followed at the moment: {error}");
                        mirror.resync();
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
                daemon.finish_startup(&mirror)?;
                if daemon.loading.is_none() && !daemon.touched.is_empty() {
                    due.get_or_insert_with(|| Instant::now() + GATHER);
                }
            }
            Some(doing) = concluding.recv() => daemon.conclude(doing, &done),
            // Last: whoever floods a rule that logs waits, and not the ring.
            events = packets.next() => {
                match events {
                    Ok(events) => events.iter().for_each(|event| daemon.log_packet(event)),
                    Err(error) => tracing::error!("events of packets cannot be read: {error}"),
                }
            }
            _ = glance.tick(), if daemon.trace_subscribers.due().is_some() => {
                let taken = std::iter::repeat_with(|| trace_records.take()).take(trace::GLANCES);
                taken.take_while(|seen| !seen.is_empty()).for_each(|seen| daemon.show(&seen));
            }
        }
        if std::mem::take(&mut daemon.relinked) {
            mirror.programs_changed();
        }
    }
    service::stopping();
    daemon.state.journal.settle().map(std::thread::JoinHandle::join);
    drop((waiting, queue));
    serving.end();
    tracing::info!("stopped; the data plane goes on forwarding (`dataplane detach --all` takes it off)");
    Ok(())
}

/// Waits until an instant; for ever when there is none.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) if due <= Instant::now() => {}
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Reads a config file. Rules that can be read but not done yet are refused here: nothing has been touched.
fn read(path: &std::path::Path) -> anyhow::Result<Config> {
    let (config, text) = config::load(path)?;
    let name = path.display().to_string();
    for chain in ChainName::ALL {
        for (index, rule) in config.chain(chain).rules.iter().enumerate() {
            if let Some(what) = unsupported(rule) {
                return Err(config::at_rule(&text, &name, chain, index, &what.to_string()).into());
            }
        }
    }
    Ok(config)
}

/// All that the ring owns.
struct Daemon {
    bpffs: Bpffs,
    state: State,
    object: Object,
    tables: Tables,
    /// What the tables of routes were made with.
    sizes: TableSizes,
    /// Where their maps are pinned.
    pin_dirs: PinDirs,
    /// How often they were made anew.
    generation: u32,
    /// How many places of them the largest ones have no room for.
    exhausted: [usize; 2],
    /// Maps that are pinned.
    pins: Pins,
    /// Whether all is pinned that should be.
    pin_health: PinHealth,
    links: Links,
    tx_errors: TxErrorMonitor,
    /// Whether losses behind redirects are counted, or why not; `None` while no port is at XDP.
    tx_error_status: Option<Result<(), String>>,
    /// Who tells of others that take frames; none where that failed.
    rx_handlers: Option<Result<RxHandlers, ()>>,
    /// Whether programs came or went since the mirror was told.
    relinked: bool,
    model: Model,
    lowering: Lowering,
    /// What changed of the model since it was lowered.
    touched: Touched,
    /// A write failed, or none was tried: nobody knows what the maps hold.
    maps_dirty: bool,
    /// What the operator has been told.
    problems: Vec<Problem>,
    /// Ways out for packets that the kernel forwards.
    egress_state: EgressState,
    /// How many routes are read, until all are for the first time.
    loading: Option<(usize, usize)>,
    /// Calls that change something, and wait for that.
    early: Vec<Call>,
    ports: Ports,
    names: Names,
    chains: Chains,
    /// What room for routes was asked for.
    fib: FibConfig,
    /// How long the data plane goes on without this daemon.
    heartbeat: HeartbeatConfig,
    /// How flows get on with what else the kernel would do.
    flows: FlowsConfig,
    /// What of that the operator has been told.
    netfilter_notices: netfilter::NetfilterNotices,
    /// Links whose packets wait.
    port_gate: PortGate,
    /// Metrics over HTTP.
    metrics_endpoint: MetricsEndpoint,
    /// How far this daemon's clock is ahead of the kernel half's.
    offset: i128,
    /// The filter that is live.
    committed: Committed,
    /// The tables of the filter as last written.
    image: Image,
    /// Why what is in force could not be written down.
    unsaved: Option<String>,
    /// Why the maps could not be written, the last time.
    unwritten: Option<String>,
    /// What is wrong with the state that was found.
    faults: Vec<Fault>,
    /// It cannot be trusted, and nobody has said yet what is to be in force.
    quarantine: Option<Quarantine>,
    /// The config in force waits for `config confirm`.
    pending_config: Option<PendingConfig>,
    history: History,
    /// Comparisons of the mirror with the kernel.
    resync_stats: ResyncStats,
    /// Neighbours that are kept alive.
    probes: Probes,
    /// Packets that rules log or reject.
    packet_log: PacketLog,
    /// Those who watch packets.
    trace_subscribers: TraceSubscribers,
    /// Where rules stand, by their counters.
    rule_index: RuleIndex,
    /// Programs to try packets on.
    dry_run: Option<Arc<Mutex<DryRun>>>,
    /// The program that tries the tables of a commit.
    self_test: Option<LoadedSelfTest>,
    /// Memory that can be given back.
    heap: Heap,
    /// When the daemon started.
    born: Instant,
}

impl Daemon {
    /// Makes fresh maps beside those that an earlier daemon left, and remembers what it was doing. A config given now takes
    /// the place of what was remembered, the `first` one of nothing.
    #[expect(clippy::too_many_lines, reason = "a list of what the ring owns, each once")]
    fn new(
        bpffs: Bpffs,
        state: State,
        (config, first): (Option<Config>, Option<anyhow::Result<Config>>),
        metrics_endpoint: MetricsEndpoint,
    ) -> anyhow::Result<Self> {
        // A daemon that did not come far left maps without ports: the one before it is the one that counts.
        let slots = bpffs.earlier().iter().map(|earlier| earlier_slots(earlier)).find(|slots| !slots.is_empty());
        let mut slots = slots.unwrap_or_default();
        let links = Links::new(bpffs.links());
        let attached = links.are_attached();
        let mut recovered = state.recover(attached);
        let first = first.filter(|_| config.is_none() && !recovered.any && !attached).transpose()?;
        let config = config.or(first);
        let doubtful = config.is_none() && recovered.faults.iter().any(|fault| fault.grave);
        let quarantine = doubtful.then(|| recovered.quarantine(attached && !bpffs.is_closed(), &mut slots));
        let RecoveredState { ports, mut chains, running, features, history, pending, faults, .. } = recovered;
        let (sizes, generation) = (TableSizes::SMALL, 0);
        let pin_dirs = bpffs.pin_dirs(generation)?;
        let inherited = pin_dirs.lasting.join(map::RULE_COUNTERS).exists();
        // Most likely what it will come to. Programs are loaded for the first port that needs them.
        let mut object = Object::open(features, sizes, &pin_dirs)?;
        let tables = Tables::take(&mut object, sizes)?;
        let mut pins = Pins::default();
        pins.hold(&pin_dirs)?;
        if !inherited {
            chains.counters.are_zero();
        }
        let port_gate = PortGate::new(&bpffs.links());
        let tx_errors = TxErrorMonitor::new(bpffs.links());
        let mut daemon = Self {
            bpffs,
            state,
            object,
            tables,
            sizes,
            pin_dirs,
            generation,
            exhausted: [0; 2],
            pins,
            pin_health: PinHealth::default(),
            links,
            tx_errors,
            tx_error_status: None,
            rx_handlers: None,
            relinked: false,
            model: Model::default(),
            lowering: Lowering::new(slots.clone()),
            touched: Touched::all(),
            maps_dirty: true,
            problems: Vec::new(),
            egress_state: EgressState::default(),
            loading: Some((0, 0)),
            early: Vec::new(),
            ports,
            names: Names::default(),
            chains,
            fib: running.fib,
            heartbeat: running.heartbeat,
            flows: running.flows,
            netfilter_notices: netfilter::NetfilterNotices::default(),
            port_gate,
            metrics_endpoint,
            offset: heartbeat::offset(),
            committed: Committed::default(),
            image: Image::default(),
            unsaved: None,
            unwritten: None,
            faults,
            quarantine,
            pending_config: None,
            history,
            resync_stats: ResyncStats::default(),
            probes: Probes::default(),
            packet_log: PacketLog::new(Instant::now()),
            trace_subscribers: TraceSubscribers::default(),
            rule_index: None,
            dry_run: None,
            self_test: None,
            heap: Heap::default(),
            born: Instant::now(),
        };
        daemon.ports.adopt_slots(slots);
        let mut metrics = running.metrics;
        if let Some(config) = config {
            daemon.ports.replace(&config);
            daemon.chains.replace(&config)?;
            daemon.fib = config.fib;
            daemon.heartbeat = config.heartbeat;
            daemon.flows = config.flows;
            metrics = config.metrics;
            daemon.state.set_aside(&daemon.faults)?;
            daemon.state.write_pending(None)?;
        } else if let Some(pending) = pending.filter(|_| !doubtful) {
            let pending_config = pending.resume(confirm::now());
            if pending_config.until <= Instant::now() {
                let before = config::parse(pending_config.before(), "pending.toml")?;
                daemon.ports.replace(&before);
                daemon.chains.replace(&before)?;
                daemon.fib = before.fib;
                daemon.heartbeat = before.heartbeat;
                daemon.flows = before.flows;
                metrics = before.metrics;
                tracing::warn!("the config was not confirmed before the daemon ended: going back to the one before");
            }
            // Until everything is in force and written down, what is pending stays on disk.
            daemon.pending_config = Some(pending_config);
        }
        daemon.metrics_endpoint.want(metrics);
        daemon.begin_quarantine();
        daemon.close_gate();
        Ok(daemon)
    }

    /// Fills the maps and swaps the programs in: from here on traffic is ours.
    fn start(&mut self) -> anyhow::Result<()> {
        self.beat();
        self.commit_first()?;
        if self.quarantine.is_none() {
            self.state.set_aside(&self.faults)?;
            if !self.state.path("running.toml").exists() {
                // Programs without a word of them on the disk would be taken for those of a daemon whose state is gone.
                self.save();
            }
        }
        self.follow();
        // What an earlier daemon left goes on as it is.
        if let Some(reason) = self.ports.postponed.values().next() {
            bail!("{reason}");
        }
        if !self.leaves_ports() {
            self.clear_away();
            self.open_gate();
            self.prepare();
        }
        self.save();
        self.heap.note_garbage();
        Ok(())
    }

    /// Begins to work as soon as all tables have been read, and answers who waited for that.
    fn finish_startup(&mut self, mirror: &Mirror) -> anyhow::Result<()> {
        if self.loading.is_some() && mirror.is_settled() {
            self.loading = None;
            self.start()?;
            service::ready();
            tracing::info!(routes4 = self.model.routes4.len(), routes6 = self.model.routes6.len(), "ready");
            for call in std::mem::take(&mut self.early).into_iter().filter(Call::is_wanted) {
                self.answer(call);
            }
        } else if self.loading.is_some() {
            self.loading = Some(mirror.read_so_far());
        }
        Ok(())
    }

    /// Follows what was heard. Ports and rules depend on links alone.
    fn reconcile_if_touched(&mut self) {
        if self.touched.links {
            self.follow();
        } else if !self.touched.is_empty() || self.maps_dirty {
            let _logged = self.reconcile();
        }
    }

    /// Takes a call: answers it now, or once the tables are read if it changes something.
    fn take(&mut self, call: Call) {
        if self.loading.is_some() && call.request.is_change() {
            self.early.push(call);
        } else {
            self.answer(call);
        }
    }

    /// Answers a call. One that makes the daemon panic is answered, too.
    fn answer(&mut self, mut call: Call) {
        let (verb, changes) = (call.request.verb(), call.request.is_change());
        let stream = call.stream.take();
        let mut through = false;
        let mut answer = guard::answered(verb, || {
            let answer = match (&call.request, stream) {
                (request, _) if self.refuses(request) => Err(self.refusal()),
                (Request::Trace { filter, one_in, bytes }, Some(stream)) => {
                    self.trace((filter, *one_in, *bytes), stream).map(Part::from)
                }
                (request, _) if request.is_listing() => self.list(request, call.from.as_ref()),
                (request, _) => self.answer_to(request, call.peer.uid).map(Part::from),
            };
            through = true;
            answer
        });
        if changes && !through {
            self.recover();
        }
        if changes && let Some(error) = &self.unsaved {
            let warning = format!("in force, but not written down: {error}; a restart would undo it");
            answer = answer.map(|part| Part { reply: part.reply.warn(warning), ..part });
        }
        self.heap.note_garbage();
        large::reply(call, answer);
    }

    /// After a panic nobody knows what was done of a change: everything is written again.
    fn recover(&mut self) {
        (self.maps_dirty, self.touched) = (true, Touched::all());
        if let Err(panic) = guard::guarded(|| self.follow()) {
            tracing::error!("what was half done could not be put right: {panic}; `dataplane run` starts afresh");
        }
    }

    /// Writes down what a next daemon must know.
    fn save(&mut self) {
        if self.quarantine.is_some() {
            return;
        }
        let (running, pending_config) = (self.running(), self.pending_config.is_some());
        let saved = self.state.save(&running, &self.ports, &self.chains, self.object.features(), pending_config);
        self.note_saved(saved);
    }

    /// Writes one change down; everything, where that does not work or has become long.
    fn note(&mut self, line: &journal::Line) {
        match self.state.note(line) {
            Ok(false) if self.unsaved.is_none() => {}
            _ => self.save(),
        }
    }

    fn note_saved(&mut self, saved: anyhow::Result<()>) {
        let unsaved = saved.err().map(|error| format!("{error:#}"));
        if let Some(error) = &unsaved
            && self.unsaved.is_none()
        {
            tracing::error!("cannot write the state: {error}; a restart would come back with older rules and ports");
        } else if unsaved.is_none() && self.unsaved.is_some() {
            tracing::info!("the state is written again");
        }
        self.unsaved = unsaved;
    }
}
