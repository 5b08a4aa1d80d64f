//! Writing: the canonical form.

use std::fmt::Display;

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, value};
use toml_writer::TomlWrite as _;

use super::{
    ChainConfig, Config, DynamicSet, Elements, FibConfig, FlowsConfig, HeartbeatConfig, PeerChoice, SetConfig,
    SflowConfig, UntilReady,
};
use crate::model::ObstacleKind;
use crate::rule::{ChainName, Fragments, Policy};

impl Config {
    /// The file that says the same. Chains that accept everything are left out.
    pub fn to_toml(&self) -> String {
        let mut document = DocumentMut::new();
        if self.fragments != Fragments::default() {
            document.insert("fragments", value(self.fragments.name()));
        }
        if !self.assertions.is_empty() {
            document.insert("assert", value(list(&self.assertions)));
        }
        if !self.steer.is_empty() {
            document.insert("steer", value(list(&self.steer)));
        }
        if !self.ports.is_empty() {
            let mut ports = Table::new();
            for port in &self.ports {
                let mut settings = InlineTable::new();
                settings.insert("mode", port.mode.to_string().into());
                if port.until_ready != UntilReady::default() {
                    settings.insert("until_ready", port.until_ready.name().into());
                }
                if port.peer != PeerChoice::default() {
                    settings.insert("peer", port.peer.name().into());
                }
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
        if let Some(listen) = self.metrics.listen {
            let metrics: Table = [("listen", value(listen.to_string()))].into_iter().collect();
            document.insert("metrics", Item::Table(metrics));
        }
        if self.sflow != SflowConfig::default() {
            document.insert("sflow", Item::Table(sflow(&self.sflow)));
        }
        if self.flows != FlowsConfig::default() {
            document.insert("flows", Item::Table(flows(&self.flows)));
        }
        let mut text = document.to_string();
        // A hundred thousand rules: too many for a tree of them.
        for (name, set) in &self.sets {
            begin(&mut text, "sets", name.as_str());
            write_set(&mut text, set);
        }
        for name in ChainName::ALL {
            let chain = self.chain(name);
            if *chain != ChainConfig::default() {
                begin(&mut text, "chains", name.name());
                pair(&mut text, "policy", Policy::name(chain.policy));
                lines(&mut text, "rules", &chain.rules);
            }
        }
        text
    }
}

/// A list with one item a line.
fn list(items: &[impl ToString]) -> Array {
    let mut list: Array = items.iter().map(ToString::to_string).collect();
    list.iter_mut().for_each(|one| one.decor_mut().set_prefix("\n    "));
    list.set_trailing("\n");
    list.set_trailing_comma(true);
    list
}

/// What is not left at its default.
fn sflow(config: &SflowConfig) -> Table {
    let default = SflowConfig::default();
    let mut sflow = Table::new();
    for (key, address) in [
        ("collector", config.collector.map(|address| address.to_string())),
        ("agent", config.agent.map(|address| address.to_string())),
    ] {
        if let Some(address) = address {
            sflow.insert(key, value(address));
        }
    }
    for (key, number, usual) in [("rate", config.rate, default.rate), ("polling", config.polling, default.polling)] {
        if number != usual {
            sflow.insert(key, value(i64::from(number)));
        }
    }
    sflow
}

/// What is not left at its default.
fn flows(config: &FlowsConfig) -> Table {
    let default = FlowsConfig::default();
    let mut flows = Table::new();
    if config.netfilter != default.netfilter {
        flows.insert("netfilter", value(config.netfilter.name()));
    }
    for (key, number, usual) in [("max", config.max, default.max), ("lease", config.lease, default.lease)] {
        if number != usual {
            flows.insert(key, value(i64::from(number)));
        }
    }
    if config.ignore != default.ignore {
        flows.insert("ignore", value(config.ignore.iter().map(ObstacleKind::name).collect::<Array>()));
    }
    flows
}

/// The heading of a table.
fn begin(text: &mut String, outer: &str, name: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    // A name may have dots, which would be tables inside tables.
    let quote = if name.contains('.') { "\"" } else { "" };
    for piece in ["[", outer, ".", quote, name, quote, "]\n"] {
        text.push_str(piece);
    }
}

fn write_set(text: &mut String, set: &SetConfig) {
    pair(text, "type", &set.kind.to_string());
    match &set.elements {
        Elements::Listed(elements) => lines(text, "elements", elements),
        Elements::File(path) => pair(text, "file", &path.to_string_lossy()),
        Elements::Dynamic(dynamic) => {
            text.push_str("dynamic = true\n");
            if let Some(timeout) = dynamic.timeout {
                pair(text, "timeout", &timeout.to_string());
            }
            if dynamic.size != DynamicSet::SIZE {
                text.extend(["size = ", &dynamic.size.to_string(), "\n"]);
            }
        }
    }
}

fn pair(text: &mut String, key: &str, value: &str) {
    text.push_str(key);
    text.push_str(" = ");
    quote(text, value);
    text.push('\n');
}

/// A list with one item a line.
fn lines<T: Display>(text: &mut String, key: &str, items: &[T]) {
    text.push_str(key);
    text.push_str(" = [");
    for item in items {
        text.push_str("\n    ");
        quote(text, &item.to_string());
        text.push(',');
    }
    text.push_str(if items.is_empty() { "]\n" } else { "\n]\n" });
}

fn quote(text: &mut String, value: &str) {
    // Writing to a string does not fail.
    let _written = text.value(value);
}
