//! Who is served, and how it is watched over: the thread of the control socket and of metrics, and what a service manager hears
//! (`sd_notify(3)`): ready, alive, stopping. Without one nobody listens.

use std::{
    io,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::{
    runtime::{self, Handle, Runtime},
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::control::server::{Call, Server};

/// Threads that read and write what is long.
const SCRIBES: usize = 8;

/// How much less of a busy processor they, and those that do large work, have than the ring (`nice(1)`).
const WAY: i32 = 5;

/// Lets the ring go first where the processors are busy.
pub(super) fn give_way() {
    // To the kernel, a priority is a thread's (setpriority(2), C library/kernel differences).
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), WAY) {
        tracing::debug!("a thread that does large work keeps its priority: {error}");
    }
}

/// The thread that serves, while it does not yet: what peers send and take is no work of the ring.
///
/// A start that fails ends it before it has served. That happens on the loop's thread, which must not wait for another runtime.
pub(super) struct Service {
    handle: Handle,
    /// There until [`Self::serve`].
    runtime: Option<Runtime>,
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Service {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut runtime = runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(SCRIBES).on_thread_start(give_way).build();
        let runtime = runtime.context("cannot start the runtime of the control socket")?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// What else is to be served there begins here.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Begins.
    pub(super) fn serve(mut self, server: Server, calls: mpsc::Sender<Call>) -> io::Result<Serving> {
        let runtime = self.runtime.take();
        let serve = move || {
            if let Some(runtime) = runtime {
                runtime.block_on(server.serve(calls));
                // A task that still writes to a peer which does not read is not waited for.
                runtime.shutdown_background();
            }
        };
        Builder::new().name("control".to_owned()).spawn(serve).map(Serving)
    }
}

/// The thread that serves.
pub(super) struct Serving(JoinHandle<()>);

impl Serving {
    /// Waits for its end, which is when nobody takes calls any more.
    pub(super) fn end(self) {
        if self.0.join().is_err() {
            tracing::error!("the thread of the control socket panicked");
        }
    }
}

/// Tells the service manager that traffic is ours.
pub(super) fn ready() {
    tell(NotifyState::Ready);
}

/// Tells it how it goes, for `systemctl status`.
pub(super) fn status(text: &str) {
    tell(NotifyState::Status(text));
}

/// Tells it that the end was asked for.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Says at half the time that it asks for that the ring still turns.
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    /// As the service manager wants it; silent when it does not.
    pub(super) fn new() -> Self {
        let half = |limit: Duration| limit / 2;
        Self(sd_notify::watchdog_enabled().map(half).filter(|half| !half.is_zero()).map(|half| {
            let mut interval = interval(half);
            // A ring that was held up says so once, not for each time that it missed.
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits until it is time, and says it.
    pub(super) async fn alive(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
                tell(NotifyState::Watchdog);
            }
            None => std::future::pending().await,
        }
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}
