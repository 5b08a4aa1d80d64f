//! The loop: what happens, one after the other.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::MissedTickBehavior,
};

use super::{
    Daemon, Options, heartbeat,
    metrics::MetricsEndpoint,
    mirror::COMPARE,
    neighbour,
    plane::KernelPlane,
    queue::{ANSWER, Queue},
    service,
    startup::{self, Configs},
    state::State,
    status::ConfigFile,
    steer::Steering,
    trace,
};
use crate::{
    control::server::Server,
    kernel::{Bpffs, Haste, Links},
    netlink::{Mirror, Prober},
};

/// How long news may wait for more of its kind, so that a burst becomes one change.
const GATHER: Duration = Duration::from_millis(5);
/// Calls that may wait to be taken over by the ring.
const CALLS: usize = 64;

/// Serves until SIGTERM or SIGINT.
pub(super) async fn serve(options: &Options, configs: Configs, haste: Haste) -> anyhow::Result<()> {
    let server = Server::bind(&options.socket)?;
    let mut mirror = Mirror::open()?;
    let mut prober = Prober::open()?;
    let (calls, mut waiting) = mpsc::channel(CALLS);
    let service = service::Service::new()?;
    let metrics_endpoint = MetricsEndpoint::new(calls.clone(), service.handle());
    let mut daemon = open(options, configs, metrics_endpoint, haste)?;
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
    let (mut packets, mut trace_records) = daemon.plane.rings()?.context("the rings are already being read")?;
    let mut due = None;
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = until(daemon.unconfirmed()) => daemon.expire(),
            () = watchdog.alive() => {}
            _ = beat.tick(), if !daemon.observed.is_loading() => daemon.tick(&mut mirror),
            _ = hangup.recv() => mirror.compare(),
            _ = compare.tick() => mirror.compare(),
            () = until(daemon.packets.trace_subscribers().due()) => daemon.expire_subscribers(),
            () = until(daemon.packets.log_due()) => daemon.packets.report_suppressed(Instant::now()),
            () = until(daemon.heap.due()) => daemon.heap.collect(),
            () = until(due) => {
                due = None;
                daemon.reconcile_if_touched();
            }
            _ = probe.tick(), if !daemon.observed.is_loading() => {
                // An entry that was made permanent a moment ago must not be used: the kernel would take that from it.
                match mirror.advance(ANSWER) {
                    Ok(events) => daemon.on_events(events, &mut mirror),
                    Err(error) => tracing::error!("the kernel's tables cannot be read at the moment: {error}"),
                }
                daemon.probe(&mut prober);
                if daemon.observed.is_touched() {
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
                    Err(error) if daemon.observed.is_loading() => return Err(error.into()),
                    Err(error) => {
                        // The next call lists everything again.
                        tracing::error!("the kernel's tables cannot be followed at the moment: {error}");
                        mirror.resync();
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
                daemon.finish_startup(&mirror)?;
                if !daemon.observed.is_loading() && daemon.observed.is_touched() {
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
            _ = glance.tick(), if daemon.packets.trace_subscribers().due().is_some() => {
                let taken = std::iter::repeat_with(|| trace_records.take()).take(trace::GLANCES);
                taken.take_while(|seen| !seen.is_empty()).for_each(|seen| daemon.show(&seen));
            }
        }
        if daemon.plane.take_relinked() {
            mirror.programs_changed();
        }
    }
    service::stopping();
    daemon.settle();
    drop((waiting, queue));
    serving.end();
    tracing::info!("stopped; the data plane continues to forward (a new `dataplane run` takes it over)");
    Ok(())
}

/// Goes on where an earlier daemon ended.
fn open(
    options: &Options,
    configs: Configs,
    metrics_endpoint: MetricsEndpoint,
    haste: Haste,
) -> anyhow::Result<Daemon> {
    let state = State::open(&options.state)?;
    let bpffs = Bpffs::open(&options.bpffs)?;
    haste.noted_in(bpffs.root());
    let links = Links::new(bpffs.links()).hastened(haste);
    let place = bpffs.pin_dirs(0)?;
    let begun = startup::begin(state, configs, startup::look(&bpffs, &links, &place))?;
    let kernel = KernelPlane::new(bpffs, links, place, begun.features)?;
    let steering = Steering::adopt(&options.bpffs);
    let mut daemon = Daemon::new(begun, Box::new(kernel), metrics_endpoint);
    daemon.steering = steering;
    daemon.file = ConfigFile::new(options.config.as_deref(), options.first_config.as_deref());
    Ok(daemon)
}

/// Waits until an instant; for ever when there is none.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) if due <= Instant::now() => {}
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
