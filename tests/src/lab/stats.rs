//! What `dataplane stats -j` prints, and the sum that must always hold.

use std::collections::BTreeMap;

use anyhow::bail;
use serde::Deserialize;

/// Packets since attaching.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Counts {
    /// Received.
    pub rx: u64,
    /// Transmitted by the data plane.
    pub forwarded: u64,
    /// Given to this machine, by decision of the data plane.
    pub delivered: u64,
    /// Dropped.
    pub dropped: u64,
    /// Left to the kernel to decide.
    pub passed: u64,
}

/// One attached port.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Port {
    /// The interface.
    pub name: String,
    /// Its index; 0 while there is none of that name.
    pub ifindex: u32,
    /// The mode in use: `native`, `generic` or `tc`.
    pub mode: String,
    /// `up`, `down`, `absent` or `failed: ...`.
    pub state: String,
    /// What became of the packets it received.
    #[serde(flatten)]
    pub counts: Counts,
}

/// All counters.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Stats {
    /// Sums over the ports.
    pub totals: Counts,
    /// By reason.
    pub reasons: BTreeMap<String, u64>,
    /// By port.
    pub ports: Vec<Port>,
    /// Seconds without a daemon until routed packets are the kernel's.
    #[serde(default)]
    pub heartbeat: u32,
}

impl Stats {
    /// The count of a reason, 0 if it is not listed.
    pub fn reason(&self, name: &str) -> u64 {
        self.reasons.get(name).copied().unwrap_or(0)
    }

    /// The port of that name.
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }
}

/// Whether every packet is accounted for: `rx = forwarded + delivered + dropped + passed`, in total and on each port.
pub fn balanced(stats: &Stats) -> anyhow::Result<()> {
    let ports = stats.ports.iter().map(|port| (port.name.as_str(), port.counts));
    for (name, counts) in ports.chain([("all ports", stats.totals)]) {
        let sum = counts.forwarded + counts.delivered + counts.dropped + counts.passed;
        if counts.rx != sum {
            bail!("{name}: rx is {}, but forwarded + delivered + dropped + passed is {sum}: {counts:?}", counts.rx);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"totals":{"rx":6,"forwarded":3,"delivered":1,"dropped":1,"passed":1},
        "reasons":{"forwarded":3,"local":1,"filter_forward":1,"not_ip":1},
        "ports":[{"name":"eth0","ifindex":2,"mode":"native","state":"up","rx":6,"forwarded":3,"delivered":1,"dropped":1,"passed":1}]}"#;

    #[test]
    fn a_packet_too_few_is_seen() {
        let stats: Stats = serde_json::from_str(TEXT).expect("stats");
        balanced(&stats).expect("balanced");
        assert_eq!(stats.reason("local"), 1);
        assert_eq!(stats.reason("blackhole"), 0);
        assert_eq!(stats.port("eth0").map(|port| port.counts.rx), Some(6));
        let changes: [fn(&mut Stats); 2] = [|stats| stats.totals.rx += 1, |stats| stats.ports[0].counts.dropped -= 1];
        for change in changes {
            let mut wrong = stats.clone();
            change(&mut wrong);
            assert!(balanced(&wrong).is_err(), "{wrong:?}");
        }
    }
}
