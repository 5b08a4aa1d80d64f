//! Named sets, and whether rules match and fill them as they are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml_edit::{Array, Key, TableLike, Value};

use super::{File, entries};
use crate::config::{Config, ConfigError, DynamicSet, Elements, SetConfig};
use crate::rule::{self, ElementCondition, Parsed, RuleError, SetName, SetUpdate, parse_element, parse_set_type};

/// Elements that rules may put into a set.
const LARGEST: u32 = 16_777_216;

impl File<'_> {
    pub(super) fn sets(&self, table: &dyn TableLike, config: &mut Config) -> Result<(), ConfigError> {
        for (key, item) in entries(table) {
            let name = SetName::new(key.get()).ok_or_else(|| {
                self.error(key.span(), "the name of a set is a letter, then letters, digits, `_`, `-` and `.`")
            })?;
            config.sets.insert(name, self.set(key, self.table(key, item)?)?);
        }
        Ok(())
    }

    fn set(&self, name: &Key, table: &dyn TableLike) -> Result<SetConfig, ConfigError> {
        let (mut kind, mut file) = (None, None);
        let mut listed: Option<&Array> = None;
        let mut dynamic = None;
        let mut filled = DynamicSet { timeout: None, size: DynamicSet::SIZE };
        // What only a set has that rules fill.
        let mut of_dynamic = None;
        for (key, item) in entries(table) {
            match (key.get(), item.as_value()) {
                ("type", Some(value)) => kind = Some(self.read("`type`", value, parse_set_type)?),
                ("elements", _) => listed = Some(self.array(key, item)?),
                ("file", value) => file = Some(PathBuf::from(self.string("`file`", value, item.span())?)),
                ("type", None) => return Err(self.error(item.span(), "`type` must be a string in quotes")),
                ("dynamic", value) => {
                    let said = value.and_then(Value::as_bool);
                    let message = "`dynamic` must be true or false";
                    dynamic = said.ok_or_else(|| self.error(item.span(), message))?.then_some(key.span());
                }
                ("timeout", _) => (filled.timeout, of_dynamic) = (Some(self.word(key, item)?), Some(key.span())),
                ("size", _) => (filled.size, of_dynamic) = (self.number(key, item, 1..=LARGEST)?, Some(key.span())),
                _ => return Err(self.unknown(key, "type, elements, file, dynamic, timeout or size")),
            }
        }
        let types =
            "`type` is missing; take ipv4_addr, ipv6_addr, ether_addr, inet_proto, inet_service, mark or ifname";
        let kind = kind.ok_or_else(|| self.error(name.span(), types))?;
        let elements = match (listed, file) {
            _ if dynamic.is_none() && of_dynamic.is_some() => {
                let message = "only a set that rules fill has this: write `dynamic = true` beside it";
                return Err(self.error(of_dynamic.flatten(), message));
            }
            (None, None) if dynamic.is_some() => Elements::Dynamic(filled),
            _ if dynamic.is_some() => {
                let message = "rules fill a dynamic set: take `elements` and `file` out";
                return Err(self.error(dynamic.flatten(), message));
            }
            (Some(_), Some(_)) => return Err(self.error(name.span(), "take either `elements` or `file`")),
            (None, Some(file)) => Elements::File(file),
            (listed, None) => {
                let values = listed.into_iter().flat_map(Array::iter);
                let element = |value| self.read("an element", value, |text| parse_element(&kind, text));
                Elements::Listed(values.map(element).collect::<Result<Vec<_>, _>>()?.into())
            }
        };
        Ok(SetConfig { kind, elements })
    }
}

/// The rule, if there are the sets that it asks, and they hold what it asks for.
pub(crate) fn check_sets(parsed: Parsed, sets: &BTreeMap<SetName, SetConfig>) -> Result<rule::Rule, RuleError> {
    let whole = parsed.spans.first().map_or(0, |span| span.start)..parsed.spans.last().map_or(0, |span| span.end);
    let asked = parsed.rule.matches().iter().zip(parsed.spans);
    for (asked, span) in asked {
        let Some(name) = asked.set() else { continue };
        let fault = match (sets.get(name), asked.set_type()) {
            (None, _) => format!("there is no set {name}; add a table [sets.{}]", name.as_str()),
            (Some(set), Some(kind)) if set.kind != kind => {
                format!("{name} is a set of {}; a set of {kind} can stand here", set.kind)
            }
            (Some(_), None) => format!("no set can stand here: write the values of {name} in braces"),
            (Some(_), Some(_)) => continue,
        };
        return Err(RuleError { span, fault: rule::RuleFault::Invalid(fault) });
    }
    let fault = parsed.rule.updates().find_map(|update| update_fault(update, sets));
    match fault {
        Some(fault) => Err(RuleError { span: whole, fault: rule::RuleFault::Invalid(fault) }),
        None => Ok(parsed.rule),
    }
}

/// Why a rule cannot write so into a set.
fn update_fault(update: &SetUpdate, sets: &BTreeMap<SetName, SetConfig>) -> Option<String> {
    let (name, word) = (&update.set, update.set.as_str());
    let Some(set) = sets.get(name) else {
        return Some(format!("there is no set {name}; add a table [sets.{word}] with `dynamic = true`"));
    };
    let Some(dynamic) = set.dynamic() else {
        return Some(format!("rules cannot change {name}: write `dynamic = true` into [sets.{word}]"));
    };
    match (update.set_type(), update.condition) {
        (Some(kind), _) if set.kind != kind => {
            Some(format!("{name} is a set of {}; a set of {kind} can stand here", set.kind))
        }
        (_, Some(ElementCondition::Connections(count))) if dynamic.timeout.or(update.timeout).is_some() => {
            Some(format!("the kernel cannot do `{count}` in a set whose elements time out: take the timeout out"))
        }
        _ => None,
    }
}
