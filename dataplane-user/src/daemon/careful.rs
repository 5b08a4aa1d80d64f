//! Changes with care: refused where they may drop the session that makes them, and taken back unless they are confirmed.

use std::sync::Arc;

use super::Daemon;
use crate::{
    config::{self, Broken, Config, Culprit, Elements, NoSession, PortConfig, PortPattern, Session, WayIn},
    control::protocol::{Care, Careful, Failure, FailureKind, Place, Reply, Request, Selection},
    model::{Link, Macvlan},
    netlink,
    rule::{ChainName, Policy, Rule, SetName, parse_element},
};

/// Chains that packets of a session meet on their way in; those on their way out are not checked.
const OWN: [ChainName; 2] = [ChainName::Prerouting, ChainName::Input];

impl Daemon {
    /// Makes a change with care.
    pub(super) fn careful(&mut self, careful: &Careful, uid: u32) -> Result<Reply, Failure> {
        let Careful { change, care } = careful;
        let verb = change.verb();
        let warning = self.lockout_by(change, care)?;
        let Some(seconds) = care.confirm else {
            let reply = self.operate(change, uid)?;
            return Ok(warning.into_iter().fold(reply, Reply::warn));
        };
        if !change.can_wait() {
            let message = format!("`{verb}` is not part of the config, so it cannot wait for confirmation");
            return Err(Failure::new(FailureKind::Usage, message));
        }
        self.nothing_waits()?;
        self.put_on_probation(seconds, format!("{verb}, uid {uid}"))?;
        match self.operate(change, uid) {
            Ok(reply) => {
                // All of it: a single change in the journal does not say that it waits.
                self.save();
                Ok(warning.into_iter().fold(reply, Reply::warn))
            }
            Err(failure) => {
                self.end_probation();
                Err(failure)
            }
        }
    }

    /// Refuses a change after which packets of the caller's session may be dropped that are not dropped now. With `--force` or
    /// `--confirm` it is a warning.
    fn lockout_by(&self, change: &Request, care: &Care) -> Result<Option<String>, Failure> {
        if care.session.is_none() {
            return Ok(None);
        }
        let Some(config) = self.prospect(change, |chain| OWN.contains(chain))? else { return Ok(None) };
        // What may already drop this session is no reason to refuse a change; something else is.
        let before = self.culprit(&self.desired.running().config(), care)?;
        let after = self.culprit(&config, care)?;
        match (before, after) {
            (Some((_, before)), Some((_, after))) if before.is_same(&after) => Ok(None),
            _ => self.lockout(&config, care),
        }
    }

    /// Refuses a config that may drop the session that applies it. With `--force` or `--confirm` it is a warning.
    pub(super) fn lockout(&self, config: &Config, care: &Care) -> Result<Option<String>, Failure> {
        let Some((session, culprit)) = self.culprit(config, care)? else { return Ok(None) };
        let found = format!("this change may drop the packets of your own session ({session}): {culprit}");
        if care.force || care.confirm.is_some() {
            return Ok(Some(found));
        }
        Err(Failure::new(
            FailureKind::Rejected,
            format!(
                "{found}; try it with `--confirm 60`, which takes it back unless you confirm, or insist with `--force`"
            ),
        ))
    }

    /// The session that makes a change, and what of a config may drop its packets; none if nothing does.
    fn culprit(&self, config: &Config, care: &Care) -> Result<Option<(Session, Culprit)>, Failure> {
        let Some(session) = &care.session else { return Ok(None) };
        let session: Session =
            session.parse().map_err(|error: NoSession| Failure::new(FailureKind::Usage, error.to_string()))?;
        let way = self.link_of(&session).map(|link| self.way_through(link));
        Ok(config.locks_out(&session, way.as_ref()).map(|culprit| (session, culprit)))
    }

    /// The link that packets of a session come in through; none where that cannot be said.
    fn link_of(&self, session: &Session) -> Option<&Link> {
        let model = self.observed.model();
        // Most likely they come in where packets to the peer go out.
        let path = netlink::path(session.peer.ip(), None).ok().and_then(Result::ok);
        let route = path.and_then(|path| model.links.get(&path.dev));
        // Not so in a VRF, whose routes are not those of other processes.
        let here = model.addresses.iter().find(|address| address.address == session.here.ip());
        let owner = here.and_then(|here| model.links.get(&here.ifindex));
        match owner.map(|owner| (owner, model.domain(owner))) {
            Some((owner, _)) if owner.kind.as_deref() == Some("vrf") => None,
            Some((owner, vrf)) if vrf.ifindex != owner.ifindex => Some(owner),
            _ => route,
        }
    }

    /// The names by which ports and rules may mean what comes in through a link.
    pub(super) fn way_through(&self, link: &Link) -> WayIn {
        let crossed = self.observed.model().crossed(link);
        // What is under a device that takes all frames sees them as they come and judges none.
        let taking = crossed.iter().position(|link| link.macvlan == Some(Macvlan::Taking));
        let judging = &crossed[..taking.map_or(crossed.len(), |taking| taking + 1)];
        let former = |link: &Link| self.observed.former_names(link.ifindex).to_vec();
        WayIn {
            link: link.name.clone(),
            altnames: link.altnames.clone(),
            former: former(link),
            ports: judging.iter().flat_map(|link| link.names().map(str::to_owned).chain(former(link))).collect(),
        }
    }

    /// Refuses a change after which the rules contradict an assertion that they do not contradict now.
    pub(super) fn refuse_contradiction(&self, change: &Request) -> Result<(), Failure> {
        // A rollback is the cure, whatever the config before asserted.
        let cure = matches!(change, Request::ConfigRollback | Request::Careful(_));
        if cure || !change.is_change() || !self.desired.running().has_assertions() {
            return Ok(());
        }
        let Some(config) = self.prospect(change, |_| true)? else { return Ok(()) };
        let Some(Broken { index, message }) = self.broken(&config) else { return Ok(()) };
        if self.broken(&self.desired.running().config()).is_some_and(|before| before.index == index) {
            return Ok(());
        }
        let cure = "it stands in `assert` of the running config (`dataplane config show`), which `dataplane config apply` changes";
        Err(Failure::new(FailureKind::Rejected, format!("{message}; {cure}")))
    }

    /// The config that a change would give; none where it cannot concern packets of chains that count here, or is refused for
    /// another reason.
    fn prospect(&self, change: &Request, concerns: impl Fn(&ChainName) -> bool) -> Result<Option<Config>, Failure> {
        let position = |chain: ChainName, handle: u64| self.desired.chains().position(chain, handle);
        Ok(match change {
            Request::RuleAdd { chain, rule } if concerns(chain) => {
                let rule = self.check(*chain, rule)?;
                Some(self.with_rules(*chain, |rules| rules.push(rule.into())))
            }
            Request::RuleInsert { chain, rule, place } if concerns(chain) => {
                let rule = self.check(*chain, rule)?;
                let at = match place {
                    None => Some(0),
                    Some(Place { before, handle }) => {
                        position(*chain, *handle).map(|(place, _)| place + usize::from(!before))
                    }
                };
                at.map(|at| self.with_rules(*chain, |rules| rules.insert(at, rule.into())))
            }
            Request::RuleReplace { chain, handle, rule } if concerns(chain) => {
                let rule = self.check(*chain, rule)?;
                position(*chain, *handle).map(|(at, _)| self.with_rules(*chain, |rules| rules[at] = rule.into()))
            }
            Request::RuleDel { chain, handle } if concerns(chain) => {
                position(*chain, *handle).map(|(at, _)| self.with_rules(*chain, |rules| drop(rules.remove(at))))
            }
            Request::RuleFlush { chain } if concerns(chain) => Some(self.with_rules(*chain, Vec::clear)),
            Request::ChainPolicy { chain, policy } if concerns(chain) => policy.parse::<Policy>().ok().map(|policy| {
                let mut config = self.desired.running().config();
                config.chains[chain.index()].policy = policy;
                config
            }),
            Request::SetAdd { name, elements } => self.with_elements(name, elements, true),
            Request::SetDel { name, elements } => self.with_elements(name, elements, false),
            Request::Attach { ifaces, mode } => {
                let mut config = self.desired.running().config();
                let ports = ifaces.iter().filter_map(|name| PortPattern::exact(name).ok());
                config.ports.extend(ports.map(|pattern| PortConfig::new(pattern, *mode)));
                Some(config)
            }
            // What is under a device that is a port no longer judges its packets instead.
            Request::Detach(Selection::Ifaces(ifaces)) => {
                let mut config = self.desired.running().config();
                config.ports.retain(|port| !ifaces.iter().any(|name| port.pattern.as_str() == name));
                Some(config)
            }
            Request::ConfigRollback => {
                self.goal_of_rollback().and_then(|toml| config::parse(&toml, "the config before").ok())
            }
            _ => None,
        })
    }

    fn with_rules(&self, chain: ChainName, change: impl FnOnce(&mut Vec<Arc<Rule>>)) -> Config {
        let mut config = self.desired.running().config();
        change(&mut config.chains[chain.index()].rules);
        config
    }

    fn with_elements(&self, name: &str, texts: &[String], add: bool) -> Option<Config> {
        let name = SetName::new(name)?;
        let mut config = self.desired.running().config();
        let set = config.sets.get_mut(&name)?;
        let elements: Vec<_> = texts.iter().filter_map(|text| parse_element(&set.kind, text).ok()).collect();
        let mut listed = set.listed()?.to_vec();
        if add {
            listed.extend(elements);
        } else {
            listed.retain(|element| !elements.contains(element));
        }
        set.elements = Elements::Listed(listed.into());
        Some(config)
    }

    /// The warning for a change that is made while a config waits.
    pub(super) fn waits_with(&self, request: &Request) -> Option<String> {
        let inner = match request {
            Request::Careful(careful) => &careful.change,
            request => request,
        };
        let pending = self.store.pending_config().filter(|_| inner.can_wait())?.row();
        Some(format!(
            "a config waits for confirmation ({}): this change is rolled back with it in {} s unless `dataplane config confirm` comes before",
            pending.by, pending.seconds
        ))
    }
}
