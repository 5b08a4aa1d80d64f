//! Writing: the canonical form.

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value, value};

use super::{ChainConfig, Config, Elements, FibConfig, HeartbeatConfig, SetConfig};
use crate::rule::{ChainName, Policy};

impl Config {
    /// The file that says the same. Chains that accept everything are left out.
    pub fn to_toml(&self) -> String {
        let mut document = DocumentMut::new();
        if !self.ports.is_empty() {
            let mut ports = Table::new();
            for port in &self.ports {
                let mut settings = InlineTable::new();
                settings.insert("mode", port.mode.to_string().into());
                ports.insert(port.pattern.as_str(), value(settings));
            }
            document.insert("ports", Item::Table(ports));
        }
        let room = [("ipv4_routes", self.fib.ipv4_routes), ("ipv6_routes", self.fib.ipv6_routes)];
        if self.fib != FibConfig::default() {
            let asked = room.into_iter().filter(|(_, routes)| *routes != 0);
            let fib: Table = asked.map(|(key, routes)| (key, value(i64::from(routes)))).collect();
            document.insert("fib", Item::Table(fib));
        }
        if self.heartbeat != HeartbeatConfig::default() {
            let heartbeat: Table = [("after", value(i64::from(self.heartbeat.after)))].into_iter().collect();
            document.insert("heartbeat", Item::Table(heartbeat));
        }
        let sets = self.sets.iter().map(|(name, set)| (name.as_str(), set_table(set)));
        insert_tables(&mut document, "sets", sets);
        let used = ChainName::ALL.into_iter().filter(|name| *self.chain(*name) != ChainConfig::default());
        insert_tables(&mut document, "chains", used.map(|name| (name.name(), chain_table(self.chain(name)))));
        document.to_string()
    }
}

/// `[outer.inner]` for each, without a heading for the outer table alone.
fn insert_tables<'a>(document: &mut DocumentMut, outer: &str, tables: impl Iterator<Item = (&'a str, Table)>) {
    let mut all = Table::new();
    all.set_implicit(true);
    all.extend(tables.map(|(name, table)| (name.to_owned(), Item::Table(table))));
    if !all.is_empty() {
        document.insert(outer, Item::Table(all));
    }
}

fn set_table(set: &SetConfig) -> Table {
    let mut table = Table::new();
    table.insert("type", value(set.kind.to_string()));
    match &set.elements {
        Elements::Listed(elements) => table.insert("elements", lines(elements)),
        Elements::File(path) => table.insert("file", value(path.to_string_lossy().into_owned())),
    };
    table
}

fn chain_table(chain: &ChainConfig) -> Table {
    let mut table = Table::new();
    table.insert("policy", value(Policy::name(chain.policy)));
    table.insert("rules", lines(&chain.rules));
    table
}

/// A list with one item a line.
fn lines<T: ToString>(items: &[T]) -> Item {
    let mut array = Array::new();
    for item in items {
        let mut line = Value::from(item.to_string());
        line.decor_mut().set_prefix("\n    ");
        array.push_formatted(line);
    }
    if !items.is_empty() {
        array.set_trailing_comma(true);
        array.set_trailing("\n");
    }
    value(array)
}
