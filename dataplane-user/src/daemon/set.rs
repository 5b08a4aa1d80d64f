//! Named sets: what is in them, and elements that come and go.

use std::{collections::BTreeSet, sync::Arc};

use super::{Daemon, operate::failure};
use crate::{
    config::{Elements, SetConfig},
    control::{
        protocol::{Data, Failure, FailureKind, Reply},
        set_row::DynamicRow,
    },
    lower::own_table,
    netlink,
    rule::{ChainName, Element, SetName, parse_element},
};

impl Daemon {
    /// Puts elements into a set; those that are there already stay.
    pub(super) fn set_add(&mut self, name: &str, texts: &[String]) -> Result<Reply, Failure> {
        let (set, mut elements) = self.elements_of(name, texts)?;
        if self.is_dynamic(&set) {
            return self.change_filled(&set, true, &elements);
        }
        let mut new: BTreeSet<_> = elements.iter().cloned().collect();
        for element in self.listed(&set) {
            new.remove(element);
        }
        // Each once, in their order.
        elements.retain(|element| new.remove(element));
        if elements.is_empty() {
            return Ok(Data::Done.into());
        }
        self.change_set(&set, |listed| listed.extend(elements))
    }

    /// Takes elements out of a set; all of them must be there, as they were put in.
    pub(super) fn set_del(&mut self, name: &str, texts: &[String]) -> Result<Reply, Failure> {
        let (set, elements) = self.elements_of(name, texts)?;
        if self.is_dynamic(&set) {
            return self.change_filled(&set, false, &elements);
        }
        let mut missing: BTreeSet<_> = elements.iter().collect();
        for element in self.listed(&set) {
            missing.remove(element);
        }
        if let Some(missing) = elements.iter().find(|element| missing.contains(element)) {
            let message = format!("{set} has no element {missing}; `dataplane set list {name}` shows them");
            return Err(Failure::new(FailureKind::NotFound, message));
        }
        if elements.is_empty() {
            return Ok(Data::Done.into());
        }
        let gone: BTreeSet<_> = elements.into_iter().collect();
        self.change_set(&set, |listed| listed.retain(|element| !gone.contains(element)))
    }

    /// Makes an empty set.
    pub(super) fn set_create(
        &mut self,
        name: &str,
        kind: &str,
        dynamic: Option<&DynamicRow>,
    ) -> Result<Reply, Failure> {
        let rejected = |message: String| Failure::new(FailureKind::Rejected, message);
        // The config's own parser knows what names and types there are.
        let mut toml = format!("[sets.{name}]\ntype = \"{kind}\"\n");
        if let Some(DynamicRow { timeout, size }) = dynamic {
            let timeout = timeout.as_ref().map(|timeout| format!("timeout = \"{timeout}\"\n")).unwrap_or_default();
            toml.extend(["dynamic = true\n".to_owned(), format!("size = {size}\n"), timeout]);
        }
        let parsed = crate::config::parse(&toml, "set").map_err(|error| rejected(error.to_string()))?;
        let Some((name, set)) = parsed.sets.into_iter().next().filter(|(found, _)| found.as_str() == name) else {
            return Err(rejected(format!("`{name}` is no name of a set; take letters, digits and `_`")));
        };
        if self.desired.chains().sets().contains_key(&name) {
            let message = format!("there is a set {0} already; `dataplane set list {0}` shows it", name.as_str());
            return Err(rejected(message));
        }
        self.change_chains(|chains| {
            chains.sets_mut().insert(name, set);
            Ok(())
        })
        .map_err(failure)?;
        Ok(Data::Done.into())
    }

    /// Removes a set that no rule matches.
    pub(super) fn set_destroy(&mut self, name: &str) -> Result<Reply, Failure> {
        let name = self.set(name)?.0.clone();
        let reference = format!("@{}", name.as_str());
        for chain in ChainName::ALL {
            let mut rules = self.desired.chains().rules(chain).iter();
            let uses = |text: &str| text.split_whitespace().any(|word| word == reference);
            if let Some(user) = rules.find(|installed| uses(&installed.rule.to_string())) {
                let message = format!(
                    "rule {} of chain {chain} matches the set: `{}`; `dataplane rule del {chain} handle {}` first",
                    user.handle, user.rule, user.handle
                );
                return Err(Failure::new(FailureKind::Rejected, message));
            }
        }
        self.change_chains(|chains| {
            chains.sets_mut().remove(&name);
            Ok(())
        })
        .map_err(failure)?;
        Ok(Data::Done.into())
    }

    /// The name of a set, and what the texts mean in it.
    fn elements_of(&self, name: &str, texts: &[String]) -> Result<(SetName, Vec<Element>), Failure> {
        let (name, set) = self.set(name)?;
        let read = |text: &String| {
            let origin = format!("element of {}", name.as_str());
            let refused = |error: crate::rule::RuleError| error.render(text, &origin);
            parse_element(&set.kind, text).map_err(|error| Failure::new(FailureKind::Rejected, refused(error)))
        };
        Ok((name.clone(), texts.iter().map(read).collect::<Result<_, _>>()?))
    }

    fn is_dynamic(&self, name: &SetName) -> bool {
        self.desired.chains().sets().get(name).is_some_and(|set| set.dynamic().is_some())
    }

    /// Elements of a set that rules fill go to the kernel, which holds it.
    fn change_filled(&mut self, set: &SetName, puts: bool, elements: &[Element]) -> Result<Reply, Failure> {
        let rejected = |message: String| Failure::new(FailureKind::Rejected, message);
        let key = |element: &Element| {
            let message = format!("{element}: rules fill {set}, which holds single values: take one");
            own_table::key(element).ok_or_else(|| rejected(message))
        };
        let keys = elements.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        let there: BTreeSet<_> = self.filled(set).into_iter().collect();
        if !puts && let Some(missing) = elements.iter().find(|element| !there.contains(element)) {
            let message = format!("{set} has no element {missing}; `dataplane set list {}` shows them", set.as_str());
            return Err(Failure::new(FailureKind::NotFound, message));
        }
        self.plane.change_elements(set.as_str(), puts, &keys).map_err(|error| {
            rejected(format!("{set}: {error}; the kernel has it while a rule matches or fills it, and there are ports"))
        })?;
        Ok(Data::Done.into())
    }

    /// What the kernel has in a set that rules fill, in order.
    pub(super) fn filled(&self, name: &SetName) -> Vec<Element> {
        let Some(set) = self.desired.chains().sets().get(name).filter(|_| self.plane.writes_tables()) else {
            return Vec::new();
        };
        let there = netlink::own_elements(name.as_str()).inspect_err(|error| tracing::debug!("{error}"));
        let there = there.unwrap_or_default();
        let mut elements: Vec<_> = there.iter().filter_map(|one| own_table::element(&set.kind, &one.key)).collect();
        elements.sort();
        elements
    }

    /// What is in a set.
    fn listed(&self, name: &SetName) -> &[Element] {
        self.desired.chains().sets().get(name).and_then(SetConfig::listed).unwrap_or_default()
    }

    pub(super) fn set(&self, name: &str) -> Result<(&SetName, &SetConfig), Failure> {
        let found = SetName::new(name).and_then(|name| self.desired.chains().sets().get_key_value(&name));
        found.ok_or_else(|| {
            let message =
                format!("there is no set {name}; `dataplane set list` shows them, a table [sets.{name}] makes one");
            Failure::new(FailureKind::NotFound, message)
        })
    }

    fn change_set(&mut self, name: &SetName, change: impl FnOnce(&mut Vec<Element>)) -> Result<Reply, Failure> {
        let change = |chains: &mut super::chains::Chains| {
            if let Some(SetConfig { elements: Elements::Listed(listed), .. }) = chains.set_mut(name) {
                change(Arc::make_mut(listed));
            }
            Ok(())
        };
        self.change_chains(change).map_err(failure)?;
        Ok(Data::Done.into())
    }
}
