//! Reading.

mod set;
mod setting;

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::sync::Arc;

use toml_edit::{Array, Document, Item, Key, TableLike, Value};

use super::position::in_file;
use super::{
    ChainConfig, Config, ConfigError, NetfilterChoice, PortConfig, PortPattern, SetConfig, UntilReady, needs_kernel,
};
use crate::model::ModeChoice;
use crate::parallel::each;
use crate::rule::{self, ChainName, Parsed, Policy, RuleError, SetName};
use crate::steer::SteerConfig;
pub(crate) use set::check_sets;

/// Why rules that the kernel decides do not go with `bypass`.
pub(crate) const BYPASSED: &str =
    "rules with `ct` or address translation are decided by the kernel, so `netfilter` must be \"follow\"";

/// Reads a configuration; `path` is for the errors.
///
/// # Errors
/// The first thing in the file that is wrong, with its place.
pub fn parse(text: &str, path: &str) -> Result<Config, ConfigError> {
    let file = File { text, path };
    let document = file.document()?;
    let mut config = Config::default();
    for (key, item) in entries(document.as_table()) {
        match key.get() {
            "ports" => config.ports = file.ports(file.table(key, item)?)?,
            "assert" => config.assertions = file.words(key, item)?,
            "steer" => config.steer = file.steer(key, item)?,
            "fragments" => config.fragments = file.word(key, item)?,
            "fib" => config.fib = file.fib(file.table(key, item)?)?,
            "heartbeat" => config.heartbeat = file.heartbeat(file.table(key, item)?)?,
            "metrics" => config.metrics = file.metrics(file.table(key, item)?)?,
            "sflow" => config.sflow = file.sflow(file.table(key, item)?)?,
            "flows" => config.flows = file.flows(file.table(key, item)?)?,
            "sets" => file.sets(file.table(key, item)?, &mut config)?,
            "chains" => file.chains(file.table(key, item)?, &mut config)?,
            _ => {
                let known = "ports, fragments, assert, steer, fib, heartbeat, metrics, sflow, flows, sets or chains";
                return Err(file.unknown(key, known));
            }
        }
    }
    // Sets may stand behind the chains that ask them.
    file.rules(document.as_table(), &mut config)?;
    file.bypass(document.as_table(), &config)?;
    Ok(config)
}

/// An error about a rule that was found after reading: at the rule's place in the file.
pub fn at_rule(text: &str, path: &str, chain: ChainName, index: usize, message: &str) -> ConfigError {
    let file = File { text, path };
    let span = file.document().ok().and_then(|document| {
        let rules = document.get("chains")?.as_table_like()?.get(chain.name())?.as_table_like()?.get("rules")?;
        rules.as_array()?.get(index)?.span()
    });
    file.error(span, message)
}

/// The same about an assertion.
pub fn at_assertion(text: &str, path: &str, index: usize, message: &str) -> ConfigError {
    let file = File { text, path };
    let document = file.document().ok();
    let span = document.and_then(|document| document.get("assert")?.as_array()?.get(index)?.span());
    file.error(span, message)
}

/// The file that errors point into.
#[derive(Clone, Copy)]
struct File<'a> {
    text: &'a str,
    path: &'a str,
}

/// Keys with their places, in the order of the file.
fn entries(table: &dyn TableLike) -> impl Iterator<Item = (&Key, &Item)> {
    table.iter().filter_map(|(key, _)| table.get_key_value(key))
}

impl<'a> File<'a> {
    fn error(&self, span: Option<Range<usize>>, message: &str) -> ConfigError {
        ConfigError::new(self.text, self.path, span.unwrap_or(0..0), message)
    }

    fn unknown(&self, key: &Key, known: &str) -> ConfigError {
        self.error(key.span(), &format!("there is no key `{}` here; take {known}", key.get()))
    }

    fn document(&self) -> Result<Document<&'a str>, ConfigError> {
        Document::parse(self.text).map_err(|error| {
            // At the end of the file, the place is behind it.
            let span = error.span().map(|span| span.start.min(self.text.len())..span.end.min(self.text.len()));
            self.error(span, error.message())
        })
    }

    fn table<'t>(&self, key: &Key, item: &'t Item) -> Result<&'t dyn TableLike, ConfigError> {
        let found = || format!("`{}` must be a table, not a value of type {}", key.get(), item.type_name());
        item.as_table_like().ok_or_else(|| self.error(key.span(), &found()))
    }

    fn array<'t>(&self, key: &Key, item: &'t Item) -> Result<&'t Array, ConfigError> {
        let found = || format!("`{}` must be a list in brackets, not a value of type {}", key.get(), item.type_name());
        item.as_array().ok_or_else(|| self.error(item.span(), &found()))
    }

    fn string<'t>(
        &self,
        what: &str,
        value: Option<&'t Value>,
        span: Option<Range<usize>>,
    ) -> Result<&'t str, ConfigError> {
        let text = value.and_then(Value::as_str);
        text.ok_or_else(|| self.error(span, &format!("{what} must be a string in quotes")))
    }

    /// The string of a key, as what it stands for.
    fn word<T: FromStr<Err: ToString>>(&self, key: &Key, item: &Item) -> Result<T, ConfigError> {
        let text = self.string(&format!("`{}`", key.get()), item.as_value(), item.span())?;
        text.parse().map_err(|error: T::Err| self.error(item.span(), &error.to_string()))
    }

    /// The strings of a list, as what they stand for.
    fn words<T: FromStr<Err: ToString>>(&self, key: &Key, item: &Item) -> Result<Vec<T>, ConfigError> {
        let word = |value: &Value| {
            let text = self.string(&format!("an element of `{}`", key.get()), Some(value), value.span())?;
            text.parse().map_err(|error: T::Err| self.error(value.span(), &error.to_string()))
        };
        self.array(key, item)?.iter().map(word).collect()
    }

    /// Entries, none of which matches the same as another.
    fn steer(&self, key: &Key, item: &Item) -> Result<Vec<SteerConfig>, ConfigError> {
        let entries: Vec<SteerConfig> = self.words(key, item)?;
        for (index, one) in entries.iter().enumerate() {
            if entries[..index].iter().any(|other| other.entry.matches_as(&one.entry)) {
                let span = self.array(key, item)?.get(index).and_then(Value::span);
                return Err(self.error(span, &format!("`{}` is there twice; take one of them", one.entry)));
            }
        }
        Ok(entries)
    }

    /// The number of a key, within limits.
    fn number(&self, key: &Key, item: &Item, limits: RangeInclusive<u32>) -> Result<u32, ConfigError> {
        let number = item.as_integer().and_then(|number| u32::try_from(number).ok());
        number.filter(|number| limits.contains(number)).ok_or_else(|| {
            let message = format!("`{}` must be a number from {} to {}", key.get(), limits.start(), limits.end());
            self.error(item.span(), &message)
        })
    }

    /// The string of a value, read by one of the parsers that know places.
    fn read<T>(
        &self,
        what: &str,
        value: &Value,
        read: impl Fn(&str) -> Result<T, RuleError>,
    ) -> Result<T, ConfigError> {
        let text = self.string(what, Some(value), value.span())?;
        read(text).map_err(|error| {
            let span = value.span().map(|span| in_file(self.text, span, text, error.span.clone()));
            self.error(span, &error.to_string())
        })
    }

    fn ports(&self, table: &dyn TableLike) -> Result<Vec<PortConfig>, ConfigError> {
        let mut ports = Vec::new();
        for (key, item) in entries(table) {
            let pattern = PortPattern::new(key.get())
                .map_err(|error| self.error(key.span(), &format!("this is neither a name nor a glob: {error}")))?;
            let mut port = PortConfig::new(pattern, ModeChoice::default());
            for (inner, item) in entries(self.table(key, item)?) {
                match inner.get() {
                    "mode" => port.mode = self.word(inner, item)?,
                    "until_ready" => port.until_ready = self.word(inner, item)?,
                    "peer" => port.peer = self.word(inner, item)?,
                    _ => return Err(self.unknown(inner, "mode, until_ready or peer")),
                }
            }
            if port.until_ready == UntilReady::Drop && !port.pattern.is_beginning() {
                let message = "`until_ready = \"drop\"` takes a name, or the beginning of names with `*` behind it";
                return Err(self.error(key.span(), message));
            }
            ports.push(port);
        }
        Ok(ports)
    }

    /// The policies; the rules come when the sets are known.
    fn chains(&self, table: &dyn TableLike, config: &mut Config) -> Result<(), ConfigError> {
        for (key, item) in entries(table) {
            let chain: ChainName =
                key.get().parse().map_err(|error: rule::UnknownChain| self.error(key.span(), &error.to_string()))?;
            let mut policy = Policy::default();
            for (inner, item) in entries(self.table(key, item)?) {
                match inner.get() {
                    "policy" => {
                        policy = self.word(inner, item)?;
                        if let Some(said) = chain.misplaced_policy(policy) {
                            return Err(self.error(item.span(), said));
                        }
                    }
                    "rules" => drop(self.array(inner, item)?),
                    _ => return Err(self.unknown(inner, "policy or rules")),
                }
            }
            config.chains[chain.index()] = ChainConfig { policy, rules: Vec::new() };
        }
        Ok(())
    }

    /// What the kernel is to decide cannot be passed by.
    fn bypass(&self, document: &dyn TableLike, config: &Config) -> Result<(), ConfigError> {
        let mut rules = config.chains.iter().flat_map(ChainConfig::rules);
        let needs = rules.any(|rule| needs_kernel(rule, &config.sets));
        if config.flows.netfilter == NetfilterChoice::Follow || !needs {
            return Ok(());
        }
        let place = document.get("flows").and_then(|flows| flows.as_table_like()?.get("netfilter")?.span());
        Err(self.error(place, BYPASSED))
    }

    fn rules(&self, document: &dyn TableLike, config: &mut Config) -> Result<(), ConfigError> {
        let Some(chains) = document.get("chains").and_then(Item::as_table_like) else { return Ok(()) };
        for chain in ChainName::ALL {
            let table = chains.get(chain.name()).and_then(Item::as_table_like);
            let rules = table.and_then(|table| table.get("rules")).and_then(Item::as_array);
            let values: Vec<_> = rules.into_iter().flat_map(Array::iter).collect();
            let sets = &config.sets;
            let rules = each(&values, |value| {
                self.read("a rule", value, |text| checked(rule::parse_spanned(text)?, chain, sets)).map(Arc::new)
            });
            config.chains[chain.index()].rules = rules.into_iter().collect::<Result<_, _>>()?;
        }
        Ok(())
    }
}

/// The rule, if it can stand in the chain and there are the sets that it asks.
pub(crate) fn checked(
    parsed: Parsed,
    chain: ChainName,
    sets: &BTreeMap<SetName, SetConfig>,
) -> Result<rule::Rule, RuleError> {
    let (end, first) =
        (parsed.spans.last().map_or(0, |span| span.end), parsed.spans.first().map_or(0, |span| span.start));
    let rule = check_sets(parsed, sets)?;
    match rule.misplaced(chain) {
        Some(said) => Err(RuleError { span: first..end, fault: rule::RuleFault::Invalid(said) }),
        None => Ok(rule),
    }
}
