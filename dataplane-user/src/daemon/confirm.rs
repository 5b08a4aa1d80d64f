//! Configs on probation: live, but taken back unless an operator confirms them in time.
//!
//! What is pending is written down before it goes live: a daemon that was killed in between knows what to take back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Daemon;
use crate::{
    config::{Broken, Config, WayIn, at_assertion},
    control::{
        protocol::{Apply, Data, Failure, FailureKind, Reply},
        status::PendingRow,
    },
    model::Link,
};

/// What a daemon that starts must know about a config that nobody has confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    /// Wall clock by which it must be confirmed, in seconds since 1970 UTC.
    pub deadline: u64,
    /// How long that was when it was applied, in seconds: a clock that was set back must not make it longer.
    pub seconds: u32,
    /// The config to go back to.
    pub before: String,
    /// What was applied, and by which user.
    #[serde(default)]
    pub by: String,
    /// Ports that were switched off before: a config does not say so.
    #[serde(default)]
    pub off: Vec<String>,
}

/// A config that waits for `config confirm`.
#[derive(Debug)]
pub(super) struct PendingConfig {
    /// When it is taken back.
    pub until: Instant,
    before: String,
    by: String,
    off: Vec<String>,
}

impl PendingConfig {
    /// The text of the config to go back to.
    pub(super) fn before(&self) -> &str {
        &self.before
    }

    /// How long it waits yet, and for whom.
    pub(super) fn row(&self) -> PendingRow {
        let left = self.until.saturating_duration_since(Instant::now());
        // Rounded, so that what was applied a moment ago has its whole time.
        PendingRow { seconds: (left + Duration::from_millis(500)).as_secs(), by: self.by.clone() }
    }
}

impl Pending {
    /// For a daemon that finds it at its start.
    pub(super) fn resume(self, now: u64) -> PendingConfig {
        let left = self.deadline.saturating_sub(now).min(self.seconds.into());
        let until = Instant::now() + Duration::from_secs(left);
        PendingConfig { until, before: self.before, by: self.by, off: self.off }
    }
}

/// Seconds since 1970 UTC.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn nothing_pending() -> Failure {
    Failure::new(
        FailureKind::NotFound,
        "no config waits for confirmation; `dataplane config apply FILE --confirm SECONDS` makes one wait, \
         and one that was not confirmed in time has been rolled back",
    )
}

impl Daemon {
    /// When the config on probation is taken back; not before the kernel's tables have been read.
    pub(super) fn unconfirmed(&self) -> Option<Instant> {
        self.store.pending_config().filter(|_| !self.observed.is_loading()).map(|pending_config| pending_config.until)
    }

    /// Applies a config: for good, or until its time is over.
    pub(super) fn config_apply(&mut self, apply: &Apply, uid: u32) -> Result<Reply, Failure> {
        self.nothing_waits()?;
        let config = super::operate::parse(&apply.path, &apply.toml)?;
        self.refuse_portless(&config, apply)?;
        self.refuse_broken(&config, apply)?;
        let warning = self.lockout(&config, &apply.care())?;
        let before = self.desired.running().clone();
        let by = format!("{}, uid {uid}", apply.path);
        if let Some(seconds) = apply.confirm {
            // What is written down meanwhile says that it waits.
            self.put_on_probation(seconds, by)?;
        }
        let reply = match self.put_in_force(&config, &apply.path, &apply.toml) {
            Ok(reply) => reply,
            Err(failure) => {
                self.end_probation();
                return Err(failure);
            }
        };
        let before = before.config();
        if self.desired.running().config() != before {
            self.store.push_history(uid, before.to_toml());
        }
        Ok(warning.into_iter().fold(reply, Reply::warn))
    }

    /// Refuses a second config on probation.
    pub(super) fn nothing_waits(&self) -> Result<(), Failure> {
        let Some(pending) = self.store.pending_config() else { return Ok(()) };
        Err(Failure::new(
            FailureKind::Rejected,
            format!(
                "another config waits for confirmation, {} s are left; `dataplane config confirm` or \
                 `dataplane config rollback` first",
                pending.row().seconds
            ),
        ))
    }

    /// Notes what a change on probation goes back to.
    pub(super) fn put_on_probation(&mut self, seconds: u32, by: String) -> Result<(), Failure> {
        let before = self.desired.running().config().to_toml();
        let off = self.desired.ports().off();
        let deadline = now() + u64::from(seconds);
        let pending = Pending { deadline, seconds, before: before.clone(), by: by.clone(), off: off.clone() };
        self.store.write_pending(Some(&pending)).map_err(unwritten)?;
        let until = Instant::now() + Duration::from_secs(seconds.into());
        self.store.set_probation(Some(PendingConfig { until, before, by, off }));
        Ok(())
    }

    /// The change on probation did not come about.
    pub(super) fn end_probation(&mut self) {
        if self.store.take_probation().is_some() {
            self.save();
            self.store.forget_pending();
        }
    }

    /// The config on probation stays.
    pub(super) fn config_confirm(&mut self) -> Result<Reply, Failure> {
        if self.store.pending_config().is_none() {
            return Err(nothing_pending());
        }
        // On disk first: a config that was confirmed must not be taken back by a daemon that starts. And what says that one waits
        // goes before what it waits for, or a daemon that starts would miss that.
        let pending_config = self.store.take_probation();
        self.save();
        let written = match self.store.unsaved() {
            None => self.store.write_pending(None),
            Some(error) => Err(anyhow::anyhow!("{error}")),
        };
        if let Err(error) = written {
            self.store.set_probation(pending_config);
            self.save();
            return Err(unwritten(error));
        }
        Ok(Data::Done.into())
    }

    /// The config that a rollback goes back to.
    pub(super) fn goal_of_rollback(&self) -> Option<String> {
        if let Some(pending_config) = self.store.pending_config() {
            return Some(pending_config.before.clone());
        }
        let running = self.desired.running().config().to_toml();
        self.store.latest_before(|before| before != running).map(|(_, toml)| toml)
    }

    /// Goes back to the config before.
    pub(super) fn config_rollback(&mut self) -> Result<Reply, Failure> {
        let toml = self.goal_of_rollback().ok_or_else(|| {
            Failure::new(FailureKind::NotFound, "there is no config before this one; `config apply` makes one")
        })?;
        let config = super::operate::parse("the config before", &toml)?;
        let pending_config = self.store.take_probation();
        let off = pending_config.as_ref().map(|pending| pending.off.clone()).unwrap_or_default();
        let reply = match self.put_back(&config, off, "the config before", &toml) {
            Ok(reply) => reply,
            Err(failure) => {
                self.store.set_probation(pending_config);
                self.save();
                return Err(failure);
            }
        };
        self.store.forget_pending();
        if let Some((place, _)) = self.store.latest_before(|before| before == toml) {
            self.store.truncate_history(place);
        }
        Ok(reply)
    }

    /// The time of the config on probation is over.
    pub(super) fn expire(&mut self) {
        match self.config_rollback() {
            Ok(_) => tracing::warn!("the config was not confirmed in time: rolled back to the one before"),
            Err(failure) => {
                tracing::error!("the config was not confirmed in time, and cannot be rolled back: {failure}");
                self.store.put_rollback_off();
            }
        }
    }

    /// Refuses a config whose rules contradict its assertions.
    fn refuse_broken(&self, config: &Config, apply: &Apply) -> Result<(), Failure> {
        let Some(Broken { index, message }) = self.broken(config) else { return Ok(()) };
        let error = at_assertion(&apply.toml, &apply.path, index, &message);
        Err(Failure::new(FailureKind::Rejected, error.to_string()))
    }

    /// The first assertion of a config that its rules contradict.
    pub(super) fn broken(&self, config: &Config) -> Option<Broken> {
        config.broken(|name| match self.observed.link_called(name) {
            Some(link) => self.way_through(link),
            None => WayIn { link: name.to_owned(), ports: vec![name.to_owned()], ..WayIn::default() },
        })
    }

    /// Refuses a config by which no link that is there would be a port, where some are now, unless that was asked for.
    fn refuse_portless(&self, config: &Config, apply: &Apply) -> Result<(), Failure> {
        let attached = self.plane.attached();
        let meant = |link: &Link| {
            let former = self.observed.former_names(link.ifindex).iter().map(String::as_str);
            !link.loopback && link.names().chain(former).any(|name| config.port(name).is_some())
        };
        let kept = self.observed.model().links.values().any(meant);
        if attached.is_empty() || kept || apply.force || apply.confirm.is_some() {
            return Ok(());
        }
        let names: Vec<_> = attached.values().map(|port| port.name.as_str()).collect();
        let why = if config.ports.is_empty() {
            "it has no [ports]"
        } else {
            "no link that is there has a name of its [ports]"
        };
        let running = Config { ports: self.desired.ports().config().to_vec(), ..Config::default() };
        Err(Failure::new(
            FailureKind::Rejected,
            format!(
                "this config would detach every port ({}), because {why}; nothing would be filtered any more. To keep what \
                 is attached, write into it:\n\n{}\nor insist with `--force`",
                names.join(", "),
                running.to_toml()
            ),
        ))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands the error over")]
fn unwritten(error: anyhow::Error) -> Failure {
    Failure::new(FailureKind::Failed, format!("{error:#}; nothing was changed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_probation() {
        // Deadline, seconds that were given, now, and what is left.
        for (deadline, seconds, now, left) in
            [(100, 60, 70, 30), (100, 60, 100, 0), (100, 60, 200, 0), (100, 60, 10, 60)]
        {
            let before = Instant::now();
            let until = Pending { deadline, seconds, before: String::new(), by: String::new(), off: Vec::new() }
                .resume(now)
                .until;
            let given = until - before;
            assert!(given >= Duration::from_secs(left) && given < Duration::from_secs(left + 30), "{now}: {given:?}");
        }
    }
}
