//! What operators ask for.

use dataplane_common::abi::Ifindex;

use super::{
    Daemon,
    chains::{InstalledRule, NoSuchRule},
    difference::difference,
    plane::Facts,
};
use crate::{
    config::{self, Config, ConfigError, NetfilterChoice, PortConfig, PortPattern},
    control::protocol::{Data, Failure, FailureKind, Place, Reply, Request, Selection},
    lower::{
        Problem,
        filter::{FilterError, unsupported},
    },
    model::{Link, ModeChoice},
    rule::{self, ChainName, Rule, RuleError},
};

impl Daemon {
    /// Does what a request says. A refused change changes nothing.
    pub(super) fn operate(&mut self, request: &Request, uid: u32) -> Result<Reply, Failure> {
        self.refuse_contradiction(request)?;
        match request {
            Request::Attach { ifaces, mode } => self.attach(ifaces, *mode),
            Request::Detach(Selection::All) => self.detach_everything(),
            Request::Detach(Selection::Ifaces(ifaces)) => self.detach(ifaces),
            Request::PortList => Ok(Data::Ports(self.port_rows(None)?).into()),
            Request::RuleAdd { chain, rule } => self.rule_put(*chain, rule, |daemon, rule| {
                let end = daemon.desired.chains().rules(*chain).len();
                daemon.insert_rule(*chain, rule, end)
            }),
            Request::RuleInsert { chain, rule, place } => self.rule_put(*chain, rule, |daemon, rule| {
                let beside = |place: &Place| daemon.desired.chains().beside(*chain, place);
                let place = place.as_ref().map_or(Ok(0), beside)?;
                daemon.insert_rule(*chain, rule, place)
            }),
            Request::RuleReplace { chain, handle, rule } => {
                self.rule_put(*chain, rule, |daemon, rule| daemon.replace_rule(*chain, *handle, rule))
            }
            Request::ChainList => Ok(Data::Chains(self.chain_rows()).into()),
            Request::ChainPolicy { chain, policy } => self.chain_policy(*chain, policy),
            Request::SetCreate { name, kind, dynamic } => self.set_create(name, kind, dynamic.as_ref()),
            Request::SetDestroy { name } => self.set_destroy(name),
            Request::Careful(careful) => self.careful(careful, uid),
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
            Request::SetAdd { name, elements } => self.set_add(name, elements),
            Request::SetDel { name, elements } => self.set_del(name, elements),
            Request::ConfigApply(apply) => self.config_apply(apply, uid),
            Request::ConfigConfirm => self.config_confirm(),
            Request::ConfigRollback => self.config_rollback(),
            Request::Doctor => Ok(Data::Findings(self.findings()).into()),
            Request::Whereabouts => Ok(Data::Whereabouts(self.whereabouts()).into()),
            Request::Trace { .. } => Err(Failure::new(FailureKind::Failed, "a stream is needed to watch packets")),
            // What comes in pages, or from another thread, does not come here.
            Request::RouteList { .. }
            | Request::NeighList
            | Request::SocketList
            | Request::SteerList
            | Request::SteerAdd { .. }
            | Request::FlowList { .. }
            | Request::FlowDel { .. }
            | Request::RuleList { .. }
            | Request::SetList { .. }
            | Request::Status
            | Request::ConfigShow
            | Request::ConfigDiff(_)
            | Request::ConfigHistory
            | Request::Explain { .. }
            | Request::RouteGet { .. } => {
                Err(Failure::new(FailureKind::Failed, format!("`{}` is not answered here", request.verb())))
            }
            Request::FlowFlush => Ok(self.flow_flush()),
            Request::SteerDel { id } => self.steer_del(*id),
            Request::Metrics => Ok(Data::Metrics(self.metrics()?).into()),
            Request::Stats { iface } => Ok(Data::Stats(self.stats(iface.as_deref())?).into()),
        }
    }

    /// Detaches all, and says what is still there.
    fn detach_everything(&mut self) -> Result<Reply, Failure> {
        let done = self.detach_all();
        self.save();
        match done {
            Ok(()) => Ok(Data::Done.into()),
            Err(error) => {
                let said = format!("the ports are detached, but {error:#}; it is tried again each second");
                Err(Failure::new(FailureKind::Failed, said))
            }
        }
    }

    fn attach(&mut self, ifaces: &[String], mode: ModeChoice) -> Result<Reply, Failure> {
        for name in ifaces {
            let Some(link) = self.observed.model().link_named(name) else {
                return Err(no_link(name));
            };
            if link.loopback {
                return Err(Failure::new(
                    FailureKind::Rejected,
                    format!("{name} is the loopback device: its packets never cross a driver; attach real ports"),
                ));
            }
        }
        let before = self.desired.ports().clone();
        for name in ifaces {
            let pattern = PortPattern::exact(name)
                .map_err(|error| Failure::new(FailureKind::Usage, format!("{name}: {error}")))?;
            let known = self.desired.ports().config().iter().find(|port| port.pattern == pattern);
            let wanted =
                known.map_or_else(|| PortConfig::new(pattern, mode), |port| PortConfig { mode, ..port.clone() });
            self.desired.ports_mut().want(wanted);
        }
        let wanted: Vec<_> =
            ifaces.iter().filter_map(|name| self.observed.model().link_named(name)).map(|link| link.ifindex).collect();
        let members = self.members_of(&wanted);
        for (_, name) in &members {
            self.desired.ports_mut().switch_on(name);
        }
        let all: Vec<_> = wanted.iter().copied().chain(members.iter().map(|(ifindex, _)| *ifindex)).collect();
        self.plane.ports_mut().retry(Some(&all));
        self.follow();
        let failed = wanted.iter().find_map(|ifindex| self.plane.ports().trouble(*ifindex)).cloned();
        if let Some(reason) = failed {
            *self.desired.ports_mut() = before;
            self.plane.ports_mut().retry(Some(&all));
            self.follow();
            return Err(Failure::new(FailureKind::Failed, reason));
        }
        self.save();
        let mut reply = Reply::from(Data::Ports(
            self.port_rows(None)?.into_iter().filter(|row| all.contains(&row.ifindex)).collect(),
        ));
        for (ifindex, name) in members {
            if let Some(reason) = self.plane.ports().trouble(ifindex) {
                reply = reply.warn(format!("cannot attach {name}, so its bridge gets all frames first: {reason}"));
            }
        }
        let left = self.plane.problems().iter().filter(|problem| match problem {
            Problem::Taken { port, .. } => ifaces.contains(port),
            Problem::Ipsec(_) => true,
            _ => false,
        });
        for problem in left {
            reply = reply.warn(problem.to_string());
        }
        for warning in self.passed_by(&wanted) {
            reply = reply.warn(warning);
        }
        Ok(reply)
    }

    /// The members of bridges, with their names.
    fn members_of(&self, bridges: &[Ifindex]) -> Vec<(Ifindex, String)> {
        let model = self.observed.model();
        let of = |link: &&Link| model.bridge_of(link).is_some_and(|bridge| bridges.contains(&bridge.ifindex));
        model.links.values().filter(of).map(|link| (link.ifindex, link.name.clone())).collect()
    }

    fn detach(&mut self, ifaces: &[String]) -> Result<Reply, Failure> {
        for name in ifaces {
            let wanted = match self.observed.link_called(name) {
                Some(link) => self.desired.ports().wanted_with_bridge(link, &self.observed),
                None => self.desired.ports().config().iter().find(|port| port.pattern.fits(name)),
            };
            if wanted.is_none() {
                return Err(Failure::new(
                    FailureKind::NotFound,
                    format!("{name} is not a port; `dataplane port list` shows what is attached"),
                ));
            }
        }
        for name in ifaces {
            let names = self.observed.link_called(name).map_or_else(Vec::new, |link| {
                let former = self.observed.former_names(link.ifindex).iter().map(String::as_str);
                link.names().chain(former).map(str::to_owned).collect()
            });
            for name in names.iter().chain([name]) {
                self.desired.ports_mut().unwant(name);
            }
        }
        // Its bridge still wants it.
        for name in ifaces {
            if let Some(link) = self.observed.link_called(name)
                && self.desired.ports().wanted_with_bridge(link, &self.observed).is_some()
            {
                self.desired.ports_mut().switch_off(vec![link.name.clone()]);
            }
        }
        self.follow();
        self.save();
        Ok(Data::Done.into())
    }

    /// Puts a rule among the others.
    fn rule_put(
        &mut self,
        chain: ChainName,
        text: &str,
        put: impl FnOnce(&mut Self, Rule) -> anyhow::Result<InstalledRule>,
    ) -> Result<Reply, Failure> {
        let rule = self.check(chain, text)?;
        let absent = self.absent_links(std::iter::once(&rule));
        let installed = put(self, rule).map_err(failure)?;
        let reply = Reply::from(Data::Rules(vec![self.rule_row(chain, &installed, &self.kernel_counts())?]));
        Ok(absent.into_iter().fold(reply, Reply::warn))
    }

    /// Puts a config in the place of the running one, all or nothing; `path` and `toml` are for the errors.
    pub(super) fn put_in_force(&mut self, config: &Config, path: &str, toml: &str) -> Result<Reply, Failure> {
        self.put_back(config, Vec::new(), path, toml)
    }

    /// The same, with ports that the operator had switched off although a pattern of the config fits them.
    pub(super) fn put_back(
        &mut self,
        config: &Config,
        off: Vec<String>,
        path: &str,
        toml: &str,
    ) -> Result<Reply, Failure> {
        let before = self.desired.running().clone();
        let located =
            |error: FilterError| config::at_rule(toml, path, error.chain, error.index, &error.fault.to_string());
        self.change_chains_unsaved(|chains| chains.replace(config)).map_err(|error| {
            match error.downcast::<FilterError>() {
                Ok(error) => Failure::new(FailureKind::Rejected, located(error).to_string()),
                Err(error) => failure(error),
            }
        })?;
        self.desired.set_settings(config);
        self.desired.ports_mut().switch_off(off);
        self.settings_changed();
        self.follow();
        if let Some(reason) = self.plane.amiss() {
            let chains = before.chains().clone();
            self.desired.restore_settings(before);
            self.settings_changed();
            self.restore_chains(chains);
            self.follow();
            self.save();
            let after = match self.plane.amiss() {
                None => "nothing was changed".to_owned(),
                Some(reason) => format!("what was in force before is tried again each second, too: {reason}"),
            };
            let said = format!("{reason}; {after}; `dataplane doctor` and the log say more");
            return Err(Failure::new(FailureKind::Failed, said));
        }
        self.plane.prepare(Facts::new(&self.observed, &self.desired, &self.packets));
        self.save();
        let mut reply = Reply::from(Data::Difference(difference(&before, config)));
        for (ifindex, reason) in self.plane.ports().failed() {
            let name = self.observed.model().links.get(ifindex).map_or("?", |link| &link.name);
            reply = reply.warn(format!("cannot attach {name}: {reason}"));
        }
        for warning in self.absent(config) {
            reply = reply.warn(warning);
        }
        if let Some(warning) = self.plane.gate_trouble() {
            reply = reply.warn(warning);
        }
        let troubles = [self.metrics_endpoint.trouble(), self.sflow.trouble()];
        for warning in troubles.into_iter().chain([self.steering.trouble().map(str::to_owned)]).flatten() {
            reply = reply.warn(warning);
        }
        if (before.ports().config().len(), before.flows())
            != (self.desired.ports().config().len(), self.desired.flows())
        {
            let attached: Vec<_> = self.plane.attached().keys().copied().collect();
            for warning in self.passed_by(&attached) {
                reply = reply.warn(warning);
            }
        }
        Ok(reply)
    }
}

impl Daemon {
    /// What else has to follow where a config says something else, chains and sets aside.
    fn settings_changed(&mut self) {
        self.plane.ports_mut().retry(None);
        self.steer_config();
        self.beat();
        self.metrics_endpoint.want(self.desired.running().metrics());
        self.follow_sflow();
    }
}

fn no_link(name: &str) -> Failure {
    Failure::new(FailureKind::NotFound, format!("there is no interface {name}; `ip link` lists them"))
}

impl Daemon {
    /// Reads one rule that the daemon can put in force.
    pub(super) fn check(&self, chain: ChainName, text: &str) -> Result<Rule, Failure> {
        let rejected = |message: String| Failure::new(FailureKind::Rejected, message);
        let rule = rule::parse_spanned(text)
            .and_then(|parsed| config::checked(parsed, chain, self.desired.chains().sets()))
            .map_err(|error: RuleError| rejected(error.render(text, "rule")))?;
        match unsupported(&rule) {
            Some(what) => Err(rejected(format!("`{rule}`: {what}"))),
            None if self.desired.chains().needs_kernel(&rule)
                && self.desired.flows().netfilter == NetfilterChoice::Bypass =>
            {
                Err(rejected(format!("`{rule}`: {}", config::BYPASSED)))
            }
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

impl Daemon {
    /// The link of a name, for verbs that take one.
    pub(super) fn link(&self, name: &str) -> Result<&Link, Failure> {
        self.observed.model().link_named(name).ok_or_else(|| no_link(name))
    }
}
