//! What would become of a packet by the rules of a config that is not in force: the programs say where it goes, without the
//! chains in force; the config's own rules judge it on the way.

use dataplane_common::{Reason, Verdict, abi::Ifindex};

use super::{Daemon, explain::Arrived, trace_row};
use crate::{
    config::{ChainConfig, ChainVerdict, Config, Culprit, Egress, Subject, WayIn},
    control::row::{Explanation, Stage},
    model::Macvlan,
    rule::{ChainName, MacAddress},
};

impl Daemon {
    /// The explanation, by the rules of a config.
    pub(super) fn under(&self, config: &Config, arrived: &Arrived, explanation: Explanation) -> Explanation {
        let Some(mut subject) = Subject::of_frame(&arrived.frame, arrived.record.offset as usize) else {
            return explanation;
        };
        if let Some(way) = self.way_of(arrived.ifindex, &subject) {
            subject = subject.through(way);
        }
        let reason = trace_row::reason(&arrived.record);
        let second = match reason.verdict() {
            Verdict::Forward => Some(ChainName::Forward),
            Verdict::Deliver => Some(ChainName::Input),
            // What is dropped or left to the kernel before a chain is met.
            _ => None,
        };
        let Explanation { mut judgement, mut frame, mut stages } = explanation;
        let parsed = stages.iter().position(|stage| stage.name == "parse").map_or(0, |place| place + 1);
        let mut place = parsed;
        for chain in [Some(ChainName::Prerouting), second].into_iter().flatten() {
            if chain != ChainName::Prerouting {
                let out = judgement.dev.clone().filter(|_| chain == ChainName::Forward);
                subject = subject.leaving(out.map_or(Egress::Nowhere, Egress::Link));
                place = stages.iter().position(|stage| stage.name == "verdict").unwrap_or(stages.len());
            }
            let verdict = config.judge(chain, &subject);
            let stage = Stage { name: chain.name().to_owned(), result: said(&verdict) };
            stages.insert(place, stage);
            let dropped = matches!(verdict, ChainVerdict::Drops(_));
            let (ChainVerdict::Drops(culprit) | ChainVerdict::Passes(culprit)) = verdict else { continue };
            judgement.chain = Some(chain);
            judgement.rule = match culprit {
                Culprit::Rule(_, _, rule) => Some(rule),
                Culprit::Policy(_) => None,
            };
            if dropped {
                let reason = dropped_by(chain);
                stages.truncate(place + 1);
                stages.push(Stage {
                    name: "verdict".to_owned(),
                    result: format!("{}: {}: {}", reason.verdict().name(), reason.name(), reason.meaning()),
                });
                (judgement.verdict, judgement.reason) = (reason.verdict().name().to_owned(), reason.name().to_owned());
                frame = None;
                if chain == ChainName::Prerouting {
                    // No route is looked up for it.
                    (judgement.prefix, judgement.dev, judgement.via, judgement.lladdr) = (None, None, None, None);
                }
                break;
            }
        }
        let mut rules = config.chains.iter().flat_map(ChainConfig::rules);
        if rules.any(|rule| crate::config::needs_kernel(rule, &config.sets)) {
            let result = "rules with `ct` or address translation would be decided by the kernel; they are judged here for a packet \
                          that opens a connection, or, if it acknowledges, of one that stands";
            stages.push(Stage { name: "note".to_owned(), result: result.to_owned() });
        }
        Explanation { judgement, frame, stages }
    }

    /// The link that a frame comes in through: the port, or the VLAN or macvlan device on it that it is for.
    pub(super) fn way_of(&self, port: Ifindex, subject: &Subject) -> Option<WayIn> {
        let model = self.observed.model();
        let on = |link: &&crate::model::Link| link.up && model.under(link).is_some_and(|under| under.ifindex == port);
        let tagged = subject.tag().filter(|tag| *tag != 0);
        let mut above = model.links.values().filter(on);
        let device = above.find(|link| match (tagged, link.vlan, link.macvlan) {
            (Some(tag), Some(vlan), _) => vlan.tag.id() == tag,
            (None, None, Some(Macvlan::Apart | Macvlan::Bridge)) => {
                link.mac.map(|mac| MacAddress(mac.0)) == subject.recipient() && link.mac.is_some()
            }
            _ => false,
        });
        let link = device.or_else(|| model.links.get(&port).filter(|_| tagged.is_none()))?;
        Some(self.way_through(link))
    }
}

fn said(verdict: &ChainVerdict) -> String {
    match verdict {
        ChainVerdict::Passes(culprit) => format!("accept, by {culprit}"),
        ChainVerdict::Drops(culprit) => format!("drop, by {culprit}"),
        ChainVerdict::Translates(culprit, _) => {
            format!("accept, by {culprit}; what follows is about the packet before the translation")
        }
        ChainVerdict::Unsure(culprit) => {
            format!("not known: {culprit} may match or not; what follows is about a packet that passes")
        }
    }
}

const fn dropped_by(chain: ChainName) -> Reason {
    match chain {
        ChainName::Prerouting => Reason::FilterPrerouting,
        ChainName::Input => Reason::FilterInput,
        _ => Reason::FilterForward,
    }
}
