//! Named sets: what is in them, and elements that come and go.

use std::collections::BTreeSet;

use super::{Daemon, operate::failure};
use crate::{
    config::{Elements, SetConfig},
    control::protocol::{Data, Failure, FailureKind, Reply},
    rule::{Element, SetName, parse_element},
};

impl Daemon {
    /// Puts elements into a set; those that are there already stay.
    pub(super) fn set_add(&mut self, name: &str, texts: &[String]) -> Result<Reply, Failure> {
        let (set, elements, mut listed) = self.set_with(name, texts)?;
        let mut known: BTreeSet<_> = listed.iter().cloned().collect();
        listed.extend(elements.into_iter().filter(|element| known.insert(element.clone())));
        self.set_elements(&set, listed)
    }

    /// Takes elements out of a set; all of them must be there, as they were put in.
    pub(super) fn set_del(&mut self, name: &str, texts: &[String]) -> Result<Reply, Failure> {
        let (set, elements, mut listed) = self.set_with(name, texts)?;
        let known: BTreeSet<_> = listed.iter().collect();
        if let Some(missing) = elements.iter().find(|element| !known.contains(element)) {
            let message = format!("{set} has no element {missing}; `dataplane set list {name}` shows them");
            return Err(Failure::new(FailureKind::NotFound, message));
        }
        let gone: BTreeSet<_> = elements.into_iter().collect();
        listed.retain(|element| !gone.contains(element));
        self.set_elements(&set, listed)
    }

    /// A set, what the texts mean in it, and what is in it.
    fn set_with(&self, name: &str, texts: &[String]) -> Result<(SetName, Vec<Element>, Vec<Element>), Failure> {
        let (name, set) = self.set(name)?;
        let read = |text: &String| {
            let origin = format!("element of {}", name.as_str());
            let refused = |error: crate::rule::RuleError| error.render(text, &origin);
            parse_element(&set.kind, text).map_err(|error| Failure::new(FailureKind::Rejected, refused(error)))
        };
        let elements = texts.iter().map(read).collect::<Result<_, _>>()?;
        Ok((name.clone(), elements, set.listed().unwrap_or_default().to_vec()))
    }

    pub(super) fn set(&self, name: &str) -> Result<(&SetName, &SetConfig), Failure> {
        let found = SetName::new(name).and_then(|name| self.chains.sets().get_key_value(&name));
        found.ok_or_else(|| {
            let message =
                format!("there is no set {name}; `dataplane set list` shows them, a table [sets.{name}] makes one");
            Failure::new(FailureKind::NotFound, message)
        })
    }

    fn set_elements(&mut self, name: &SetName, elements: Vec<Element>) -> Result<Reply, Failure> {
        let same = self.chains.sets().get(name).and_then(SetConfig::listed) == Some(&elements);
        if !same {
            let change = |chains: &mut super::filter::Chains| {
                if let Some(set) = chains.set_mut(name) {
                    set.elements = Elements::Listed(elements);
                }
                Ok(())
            };
            self.change_chains(change).map_err(failure)?;
        }
        Ok(Data::Done.into())
    }
}
