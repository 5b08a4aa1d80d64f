//! What a daemon does that cannot trust the state: it does not know what must be dropped, and must not find out on the wire.
//!
//! Where programs of an earlier daemon are attached they stay as they are, with their maps, and go on filtering. Where none
//! are, as after a boot, all is dropped that the config may have dropped: on the ports and in the chains that it used, if that
//! is known, else everywhere. An operator ends that with one command: `config apply FILE`, or `detach --all`.

use std::collections::BTreeMap;

use dataplane_common::abi::Ifindex;

use super::{Daemon, recovery::RecoveredState, running::RunningConfig, service, state::RuleHandles};
use crate::{
    config::{ChainConfig, Config, PortConfig, PortPattern},
    control::{
        protocol::{Apply, Failure, FailureKind, Reply, Request, Selection},
        row::{Finding, Status},
    },
    model::{Mode, ModeChoice},
    rule::{ChainName, Policy},
};

/// What ends it.
const CURE: &str =
    "dataplane config apply FILE  # with the config that is to be in force; `dataplane detach --all` for none";

/// The state cannot be trusted, and no operator has said yet what is to be in force.
#[derive(Debug)]
pub(super) struct Quarantine {
    /// Programs of an earlier daemon are attached, and stay as they are; else all is dropped.
    attached: bool,
    /// Slots of its ports.
    slots: BTreeMap<Ifindex, u32>,
    /// An operator has said it, and this is being done.
    ending: bool,
}

impl Quarantine {
    /// Whether programs of an earlier daemon are to be left as they are.
    fn leaves_ports(&self) -> bool {
        self.attached && !self.ending
    }

    /// Whether programs of an earlier daemon are attached.
    fn is_attached(&self) -> bool {
        self.attached
    }

    /// Slots of ports of an earlier daemon.
    fn slots(&self) -> &BTreeMap<Ifindex, u32> {
        &self.slots
    }

    /// An operator has said what is to be in force, and this is being done; or it did not work.
    pub(super) fn end(&mut self, ending: bool) {
        self.ending = ending;
    }

    fn in_force(&self) -> &'static str {
        if self.attached {
            "what an earlier daemon attached goes on as it was, and nothing changes"
        } else {
            "all that the config may have dropped is dropped"
        }
    }
}

impl RecoveredState {
    /// Puts what is to be done without the state in its place.
    pub(super) fn quarantine(&mut self, attached: bool, slots: &mut BTreeMap<Ifindex, u32>) -> Quarantine {
        let (config, nothing) = (if attached { Config::default() } else { closed(self) }, RuleHandles::default());
        self.running = RunningConfig::new(&config, &nothing);
        Quarantine { attached, slots: if attached { std::mem::take(slots) } else { BTreeMap::new() }, ending: false }
    }
}

/// A config that drops all that the one that is lost may have dropped.
fn closed(lost: &RecoveredState) -> Config {
    let all = || vec!["*".to_owned()];
    let mode = ModeChoice::Fixed(Mode::Tc);
    let port = |name: &String| PortPattern::new(name).map(|pattern| PortConfig::new(pattern, mode));
    let ports = |names: &[String]| names.iter().map(port).collect::<Result<Vec<_>, _>>();
    // What cannot be read may be anything.
    let ports = ports(&lost.patterns.clone().unwrap_or_else(all)).or_else(|_| ports(&all())).unwrap_or_default();
    let used = |name: ChainName| lost.used.as_ref().is_none_or(|used| used.contains(&name));
    // What only translates drops nothing.
    let drops = |name: ChainName| used(name) && name.misplaced_policy(Policy::Drop).is_none();
    let policy = |name| if drops(name) { Policy::Drop } else { Policy::Accept };
    let chains = ChainName::ALL.map(|name| ChainConfig { policy: policy(name), ..ChainConfig::default() });
    Config { ports, chains, ..Config::default() }
}

impl Daemon {
    /// Whether programs of an earlier daemon are to be left as they are.
    pub(super) fn leaves_ports(&self) -> bool {
        self.store.quarantine().is_some_and(Quarantine::leaves_ports)
    }

    /// The slots of ports of an earlier daemon that are left as they are.
    pub(super) fn quarantined_slots(&self) -> &BTreeMap<Ifindex, u32> {
        const NONE: &BTreeMap<Ifindex, u32> = &BTreeMap::new();
        self.store.quarantine().filter(|quarantine| !quarantine.ending).map_or(NONE, Quarantine::slots)
    }

    /// What is wrong, what that means and how it ends.
    fn quarantine_text(&self, quarantine: &Quarantine) -> String {
        let faults: Vec<_> = self.store.faults().iter().filter(|fault| fault.grave).map(ToString::to_string).collect();
        let place = self.store.path("");
        format!(
            "the state in {} cannot be trusted ({}): {}, until `dataplane config apply FILE` says which config is to be in \
             force, or `dataplane detach --all` that none is",
            place.display(),
            faults.join("; "),
            quarantine.in_force()
        )
    }

    /// Says what was found, and prepares for what follows from it.
    pub(super) fn begin_quarantine(&mut self) {
        for fault in self.store.faults() {
            tracing::error!("{}: {}", self.store.path(fault.file).display(), fault.what);
        }
        let Some(quarantine) = self.store.quarantine() else { return };
        let text = self.quarantine_text(quarantine);
        tracing::error!("{text}");
        service::status(&text);
        self.plane.hold(quarantine.attached);
    }

    /// Removes what earlier daemons left.
    pub(super) fn clear_away(&mut self) {
        self.plane.clear_away(self.store.quarantine().is_none());
    }

    /// Whether a request cannot be answered while the state cannot be trusted.
    pub(super) fn refuses(&self, request: &Request) -> bool {
        let Some(quarantine) = self.store.quarantine() else { return false };
        match request {
            Request::Careful(careful) => self.refuses(&careful.change),
            Request::ConfigApply(_) | Request::Detach(Selection::All) => false,
            // Nobody knows what an earlier daemon has in its maps.
            Request::ConfigShow | Request::ConfigDiff(_) | Request::RuleList { .. } | Request::SetList { .. } => {
                quarantine.attached
            }
            request => request.is_change(),
        }
    }

    /// Why it cannot.
    pub(super) fn refusal(&self) -> Failure {
        let text = self.store.quarantine().map(|quarantine| self.quarantine_text(quarantine));
        Failure::new(FailureKind::Degraded, text.unwrap_or_default())
    }

    /// Answers a request, also while the state cannot be trusted.
    pub(super) fn answer_to(&mut self, request: &Request, uid: u32) -> Result<Reply, Failure> {
        let Some(quarantine) = self.store.quarantine() else { return self.operate(request, uid) };
        let text = self.quarantine_text(quarantine);
        match request {
            Request::ConfigApply(apply) => self.end_quarantine(apply),
            Request::Careful(careful) if careful.change == Request::Detach(Selection::All) => {
                match careful.care.confirm {
                    Some(_) => Err(nothing_to_go_back_to()),
                    None => self.answer_to(&careful.change, uid),
                }
            }
            Request::Detach(Selection::All) => {
                self.end_quarantine(&Apply {
                    path: "no config".to_owned(),
                    toml: String::new(),
                    confirm: None,
                    force: true,
                    session: None,
                })?;
                self.operate(request, uid)
            }
            request => self.operate(request, uid).map(|reply| reply.warn(text)),
        }
    }

    /// An operator says which config is to be in force. What could not be trusted is kept beside it.
    fn end_quarantine(&mut self, apply: &Apply) -> Result<Reply, Failure> {
        if apply.confirm.is_some() {
            return Err(nothing_to_go_back_to());
        }
        let config = super::operate::parse(&apply.path, &apply.toml)?;
        let warning = self.lockout(&config, &apply.care())?;
        let unkept =
            |error: anyhow::Error| Failure::new(FailureKind::Failed, format!("{error:#}; nothing was changed"));
        self.store.set_aside().map_err(unkept)?;
        if let Some(quarantine) = self.store.quarantine().filter(|quarantine| quarantine.is_attached()) {
            // As a daemon does that starts.
            self.plane.adopt(quarantine.slots());
            self.observed.touch_all();
        }
        self.store.end_quarantine(true);
        let done = self.put_in_force(&config, &apply.path, &apply.toml);
        if done.is_err() {
            self.store.end_quarantine(false);
            return done;
        }
        self.store.trust();
        self.clear_away();
        self.store.forget_pending();
        self.save();
        service::status("the state is trusted again");
        tracing::info!("the state is trusted again");
        Ok(warning.into_iter().fold(done?, Reply::warn))
    }

    /// What is wrong with the state, for the doctor.
    pub(super) fn state_findings(&self) -> Vec<Finding> {
        let finding = |status, found: String, fix: &str| Finding {
            check: "state".to_owned(),
            status,
            found,
            fix: fix.to_owned(),
        };
        if let Some(quarantine) = self.store.quarantine() {
            return vec![finding(Status::Fail, self.quarantine_text(quarantine), CURE)];
        }
        let place = self.store.path("");
        let fix = format!("ls {}*.damaged-*  # what was found is kept there", place.display());
        let faults = self.store.faults().iter().map(|fault| finding(Status::Warn, fault.to_string(), &fix));
        let mut findings: Vec<_> = faults.collect();
        findings.extend(self.store.unsaved().map(|error| {
            let found = format!("what is in force is not written down, and a restart would undo it: {error}");
            finding(Status::Fail, found, "df -h, then make room; it is tried again each second")
        }));
        if findings.is_empty() {
            findings.push(finding(Status::Ok, format!("what is in force is written down in {}", place.display()), ""));
        }
        findings
    }
}

fn nothing_to_go_back_to() -> Failure {
    Failure::new(
        FailureKind::Rejected,
        "there is no config to go back to: the state cannot be trusted; make this change without --confirm",
    )
}
