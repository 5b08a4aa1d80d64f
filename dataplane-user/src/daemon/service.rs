//! What a service manager hears (`sd_notify(3)`): ready, alive, stopping. Without one nobody listens.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Tells the service manager that traffic is ours.
pub(super) fn ready() {
    tell(NotifyState::Ready);
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
        tracing::warn!("the service manager cannot be told: {error}");
    }
}
