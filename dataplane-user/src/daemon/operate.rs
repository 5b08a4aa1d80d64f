//! What operators ask for.

use std::collections::{HashMap, HashSet};

use super::{Daemon, filter::NoSuchRule};
use crate::{
    config::{self, Config, ConfigError, PortConfig, PortPattern},
    control::{
        protocol::{Data, Failure, FailureKind, Reply, Request, Selection},
        row::Difference,
    },
    lower::filter::{FilterError, unsupported},
    model::ModeChoice,
    netlink::netfilter,
    rule::{self, ChainName, Rule, RuleError},
};

impl Daemon {
    /// Does what a request says. A refused change changes nothing.
    pub(super) fn operate(&mut self, request: &Request, uid: u32) -> Result<Reply, Failure> {
        match request {
            Request::Attach { ifaces, mode } => self.attach(ifaces, *mode),
            Request::Detach(Selection::All) => {
                self.detach_all();
                self.save();
                Ok(Data::Done.into())
            }
            Request::Detach(Selection::Ifaces(ifaces)) => self.detach(ifaces),
            Request::PortList => Ok(Data::Ports(self.port_rows(None)?).into()),
            Request::RouteList { prefix } => Ok(Data::Routes(self.route_rows(prefix.as_deref())?).into()),
            Request::RouteGet { addr, from, iif } => {
                Ok(Data::Decision(self.decision(*addr, *from, iif.as_deref())?).into())
            }
            Request::NeighList => Ok(Data::Neighbours(self.neighbour_rows()).into()),
            Request::RuleList { chain } => Ok(Data::Rules(self.rule_rows(*chain)?).into()),
            Request::RuleAdd { chain, rule } => self.rule_add(*chain, rule, false),
            Request::RuleInsert { chain, rule } => self.rule_add(*chain, rule, true),
            Request::RuleDel { chain, handle } => {
                self.remove_rule(*chain, *handle).map_err(failure)?;
                Ok(Data::Done.into())
            }
            Request::RuleFlush { chain } => {
                self.change_chains(|chains| {
                    chains.flush(*chain);
                    Ok(())
                })
                .map_err(failure)?;
                Ok(Data::Done.into())
            }
            Request::SetList { name } => Ok(Data::Sets(self.set_rows(name.as_deref())?).into()),
            Request::SetAdd { name, elements } => self.set_add(name, elements),
            Request::SetDel { name, elements } => self.set_del(name, elements),
            Request::ConfigShow => Ok(Data::Config(self.running().to_toml()).into()),
            Request::ConfigDiff(text) => {
                Ok(Data::Difference(difference(&self.running(), &parse(&text.path, &text.toml)?)).into())
            }
            Request::ConfigApply(apply) => self.config_apply(apply, uid),
            Request::ConfigConfirm => self.config_confirm(),
            Request::ConfigRollback => self.config_rollback(),
            Request::ConfigHistory => Ok(Data::History(self.config_history()).into()),
            Request::Doctor => Ok(Data::Findings(self.findings()).into()),
            Request::Explain { iface, frames } => self.explain(iface, frames),
            Request::Trace { .. } => Err(Failure::new(FailureKind::Failed, "a stream is needed to watch packets")),
            Request::Metrics => Ok(Data::Metrics(self.metrics()?).into()),
            Request::Stats { iface } => Ok(Data::Stats(self.stats(iface.as_deref())?).into()),
        }
    }

    /// The config that is in force.
    pub(super) fn running(&self) -> Config {
        Config {
            ports: self.ports.config().to_vec(),
            fib: self.fib,
            heartbeat: self.heartbeat,
            metrics: self.exposing.wanted,
            ..self.chains.config()
        }
    }

    fn attach(&mut self, ifaces: &[String], mode: ModeChoice) -> Result<Reply, Failure> {
        for name in ifaces {
            let Some(link) = self.model.link_named(name) else {
                return Err(no_link(name));
            };
            if link.loopback {
                return Err(Failure::new(
                    FailureKind::Rejected,
                    format!("{name} is the loopback device: its packets never cross a driver; attach real ports"),
                ));
            }
        }
        let before = (self.ports.config().to_vec(), self.ports.off());
        for name in ifaces {
            let pattern = PortPattern::new(&glob_escaped(name))
                .map_err(|error| Failure::new(FailureKind::Usage, format!("{name}: {error}")))?;
            self.ports.want(PortConfig { pattern, mode });
        }
        let wanted: Vec<_> =
            ifaces.iter().filter_map(|name| self.model.link_named(name)).map(|link| link.ifindex).collect();
        for ifindex in &wanted {
            self.ports.failed.remove(ifindex);
        }
        self.follow();
        let failed = wanted.iter().find_map(|ifindex| self.ports.failed.get(ifindex).cloned());
        if let Some(reason) = failed {
            self.ports.restore(before.0, before.1);
            for ifindex in &wanted {
                self.ports.failed.remove(ifindex);
            }
            self.follow();
            return Err(Failure::new(FailureKind::Failed, reason));
        }
        self.save();
        let mut reply = Reply::from(Data::Ports(
            self.port_rows(None)?.into_iter().filter(|row| ifaces.contains(&row.name)).collect(),
        ));
        for warning in bypassed() {
            tracing::warn!("{warning}");
            reply = reply.warn(warning);
        }
        Ok(reply)
    }

    fn detach(&mut self, ifaces: &[String]) -> Result<Reply, Failure> {
        for name in ifaces {
            if self.ports.wanted(name).is_none() {
                return Err(Failure::new(
                    FailureKind::NotFound,
                    format!("{name} is not a port; `dataplane port list` shows what is attached"),
                ));
            }
        }
        for name in ifaces {
            self.ports.unwant(name);
        }
        self.follow();
        self.save();
        Ok(Data::Done.into())
    }

    fn rule_add(&mut self, chain: ChainName, text: &str, in_front: bool) -> Result<Reply, Failure> {
        let rule = self.check(text)?;
        let standing = self.add_rule(chain, rule, in_front).map_err(failure)?;
        Ok(Data::Rules(vec![self.rule_row(chain, &standing)?]).into())
    }

    /// Puts a config in the place of the running one, all or nothing; `path` and `toml` are for the errors.
    pub(super) fn put_in_force(&mut self, config: &Config, path: &str, toml: &str) -> Result<Reply, Failure> {
        let difference = difference(&self.running(), config);
        let located =
            |error: FilterError| config::at_rule(toml, path, error.chain, error.index, &error.fault.to_string());
        self.change_chains(|chains| chains.replace(config)).map_err(|error| match error.downcast::<FilterError>() {
            Ok(error) => Failure::new(FailureKind::Rejected, located(error).to_string()),
            Err(error) => failure(error),
        })?;
        let ports = self.ports.config().len();
        self.ports.replace(config);
        self.ports.failed.clear();
        self.fib = config.fib;
        self.heartbeat = config.heartbeat;
        self.beat();
        self.exposing.want(config.metrics);
        self.follow();
        self.save();
        let mut reply = Reply::from(Data::Difference(difference));
        for (ifindex, reason) in &self.ports.failed {
            let name = self.model.links.get(ifindex).map_or("?", |link| &link.name);
            reply = reply.warn(format!("cannot attach {name}: {reason}"));
        }
        if let Some(warning) = self.exposing.trouble() {
            reply = reply.warn(warning);
        }
        if ports != self.ports.config().len() {
            for warning in bypassed() {
                reply = reply.warn(warning);
            }
        }
        Ok(reply)
    }
}

/// A name as a pattern that fits nothing else.
fn glob_escaped(name: &str) -> String {
    // Names of links may hold any byte but `/` and white space; those that a glob would read differently are rare.
    if name.contains(['*', '?', '[', ']', '{', '}', '\\']) { globset::escape(name) } else { name.to_owned() }
}

/// Says which netfilter rules forwarded packets no longer meet.
fn bypassed() -> Vec<String> {
    let chains = match netfilter::forwarding_chains() {
        Ok(chains) => chains,
        Err(error) => {
            return vec![format!(
                "cannot ask the kernel for netfilter rules ({error}); forwarded packets do not meet any"
            )];
        }
    };
    if chains.is_empty() {
        return Vec::new();
    }
    let list: Vec<String> = chains.iter().map(ToString::to_string).collect();
    vec![format!(
        "WARNING: packets that dataplane forwards or delivers early bypass these netfilter chains: {}; move their rules here (`dataplane rule add`), or detach",
        list.join("; ")
    )]
}

fn no_link(name: &str) -> Failure {
    Failure::new(FailureKind::NotFound, format!("there is no interface {name}; `ip link` lists them"))
}

impl Daemon {
    /// Reads one rule that the daemon can put in force.
    fn check(&self, text: &str) -> Result<Rule, Failure> {
        let rejected = |message: String| Failure::new(FailureKind::Rejected, message);
        let rule = rule::parse_spanned(text)
            .and_then(|parsed| config::check_sets(parsed, self.chains.sets()))
            .map_err(|error: RuleError| rejected(error.render(text, "rule")))?;
        match unsupported(&rule) {
            Some(what) => Err(rejected(format!("`{rule}`: {what}"))),
            None => Ok(rule),
        }
    }
}

/// Reads a config that a peer sent, or that was written down.
pub(super) fn parse(path: &str, toml: &str) -> Result<Config, Failure> {
    config::parse(toml, path).map_err(|error: ConfigError| Failure::new(FailureKind::Rejected, error.to_string()))
}

/// The failure that an error means.
#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands the error over")]
pub(super) fn failure(error: anyhow::Error) -> Failure {
    let kind = if error.is::<NoSuchRule>() {
        FailureKind::NotFound
    } else if error.is::<FilterError>() || error.is::<crate::filter::BuildError>() {
        FailureKind::Rejected
    } else {
        FailureKind::Failed
    };
    Failure::new(kind, format!("{error:#}"))
}

/// What a config would change.
fn difference(running: &Config, wanted: &Config) -> Difference {
    let mut difference = Difference::default();
    for port in &running.ports {
        match wanted.ports.iter().find(|other| other.pattern == port.pattern) {
            None => difference.remove.push(format!("port {}", port.pattern.as_str())),
            Some(other) if other.mode != port.mode => {
                difference.change.push(format!("port {}: mode {} -> {}", port.pattern.as_str(), port.mode, other.mode));
            }
            Some(_) => {}
        }
    }
    let known = |port: &&PortConfig| !running.ports.iter().any(|other| other.pattern == port.pattern);
    difference.add.extend(wanted.ports.iter().filter(known).map(|port| format!("port {}", port.pattern.as_str())));
    if running.fragments != wanted.fragments {
        difference.change.push(format!("fragments: {} -> {}", running.fragments, wanted.fragments));
    }
    let room = |config: &Config| [("ipv4_routes", config.fib.ipv4_routes), ("ipv6_routes", config.fib.ipv6_routes)];
    for ((key, old), (_, new)) in room(running).into_iter().zip(room(wanted)).filter(|(old, new)| old != new) {
        difference.change.push(format!("fib: {key} {old} -> {new}"));
    }
    if running.heartbeat != wanted.heartbeat {
        difference.change.push(format!("heartbeat: after {} -> {}", running.heartbeat.after, wanted.heartbeat.after));
    }
    if running.metrics != wanted.metrics {
        let listen = |config: &Config| config.metrics.listen.map_or_else(|| "off".to_owned(), |it| it.to_string());
        difference.change.push(format!("metrics: listen {} -> {}", listen(running), listen(wanted)));
    }
    for (name, set) in &running.sets {
        match wanted.sets.get(name) {
            None => difference.remove.push(format!("set {}", name.as_str())),
            Some(other) if other != set => difference.change.push(format!("set {}", name.as_str())),
            Some(_) => {}
        }
    }
    let new = wanted.sets.keys().filter(|name| !running.sets.contains_key(name));
    difference.add.extend(new.map(|name| format!("set {}", name.as_str())));
    for chain in ChainName::ALL {
        let (old, new) = (running.chain(chain), wanted.chain(chain));
        if old.policy != new.policy {
            difference.change.push(format!("chain {chain}: policy {} -> {}", old.policy, new.policy));
        }
        let mut left: HashMap<&Rule, usize> = HashMap::with_capacity(old.rules.len());
        old.rules.iter().for_each(|rule| *left.entry(rule).or_default() += 1);
        let mut kept = Vec::new();
        for rule in &new.rules {
            match left.get_mut(rule).filter(|count| **count > 0) {
                Some(count) => {
                    *count -= 1;
                    kept.push(rule);
                }
                None => difference.add.push(format!("{chain} {rule}")),
            }
        }
        // Of equal rules the last are the ones that go.
        let stays: HashSet<_> = kept.iter().copied().collect();
        let gone = old.rules.iter().rev().filter(|rule| {
            let count = left.get_mut(rule).filter(|count| **count > 0);
            count.map(|count| *count -= 1).is_some()
        });
        let mut gone: Vec<_> = gone.map(|rule| format!("{chain} {rule}")).collect();
        gone.reverse();
        difference.remove.append(&mut gone);
        let before: Vec<_> = old.rules.iter().filter(|rule| stays.contains(rule)).collect();
        if before != kept {
            difference.change.push(format!("chain {chain}: order of rules"));
        }
    }
    difference
}

impl Daemon {
    /// The link of a name, for verbs that take one.
    pub(super) fn link(&self, name: &str) -> Result<&crate::model::Link, Failure> {
        self.model.link_named(name).ok_or_else(|| no_link(name))
    }
}
