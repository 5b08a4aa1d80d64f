//! One interface.

use super::{Facts, PortFacts, fault, fine};
use crate::{
    control::row::{Finding, Status},
    model::XdpFeatures,
};

/// The longest packet that fits one page with XDP's headroom and the skb's tail (`veth_xdp_set`, `virtnet_xdp_set` and
/// others compute it alike, to within some bytes).
const ONE_PAGE: u32 = 3498;

pub(super) fn judge(facts: &Facts, port: &PortFacts, findings: &mut Vec<Finding>) {
    let before = findings.len();
    attachment(port, findings);
    offloads(port, findings);
    frames(facts, port, findings);
    foreign(port, findings);
    if findings.len() == before {
        let mode = port.row.as_ref().map_or("not a port", |row| row.mode.as_str());
        findings.push(fine(check("port", port), mode));
    }
}

fn check(what: &str, port: &PortFacts) -> String {
    format!("{what}: {}", port.link.name)
}

/// Whether XDP runs in the driver there, or would.
fn is_native(port: &PortFacts) -> bool {
    port.row.as_ref().is_some_and(|row| row.mode == "native")
}

fn attachment(port: &PortFacts, findings: &mut Vec<Finding>) {
    let name = &port.link.name;
    let Some(row) = &port.row else { return };
    if row.state.starts_with("failed") {
        findings.push(fault(
            check("attached", port),
            Status::Fail,
            &row.state,
            format!("dataplane attach {name} --mode tc  # after the cause is gone: `dataplane attach {name}`"),
        ));
    } else if row.state == "down" {
        // Set up, and down: it waits for the other end.
        let (found, fix) = if port.link.enabled {
            (
                "no carrier",
                format!("ip link set PEER up  # the other end of a veth; else look at cable and peer of {name}"),
            )
        } else {
            ("down", format!("ip link set {name} up"))
        };
        findings.push(fault(check("link", port), Status::Warn, found, fix));
    }
    if row.mode == "generic" {
        findings.push(fault(
            check("mode", port),
            Status::Warn,
            "generic: slower than tc alone, only for trials",
            format!("dataplane attach {name} --mode auto"),
        ));
    }
}

fn offloads(port: &PortFacts, findings: &mut Vec<Finding>) {
    if !is_native(port) {
        return;
    }
    let name = &port.link.name;
    let hardware = port.link.kind.is_none();
    if port.offloads.contains("rx-vlan-hw-parse") && hardware {
        findings.push(fault(
            check("rxvlan", port),
            Status::Fail,
            "on: XDP does not see VLAN tags that the hardware removes, and handles the packets as untagged",
            format!("ethtool -K {name} rxvlan off"),
        ));
    }
    if port.offloads.contains("rx-lro") {
        findings.push(fault(
            check("lro", port),
            Status::Fail,
            "on: merged packets are longer than the MTU of any egress",
            format!("ethtool -K {name} lro off"),
        ));
    }
}

fn frames(facts: &Facts, port: &PortFacts, findings: &mut Vec<Finding>) {
    let (name, link) = (&port.link.name, &port.link);
    let features = facts.model.features(link.ifindex);
    let known = facts.model.features.contains_key(&link.ifindex);
    if link.mtu > ONE_PAGE && known && is_native(port) && !features.contains(XdpFeatures::RX_SG) {
        findings.push(fault(
            check("mtu", port),
            Status::Fail,
            format!("{}: larger than a page, and the driver has no XDP for frames in several buffers", link.mtu),
            format!("ip link set {name} mtu {ONE_PAGE}  # or `dataplane attach {name} --mode tc`"),
        ));
    }
    // A way out that takes no XDP frames matters where some port would send it any.
    let sends = facts.ports.iter().any(is_native);
    if sends && known && link.ethernet && link.up && !features.contains(XdpFeatures::NDO_XMIT) {
        let (found, fix) = if link.kind.as_deref() == Some("veth") {
            (
                "takes no XDP frames, because its peer has no NAPI: tc sends them",
                "ethtool -K PEER gro on  # at the other end",
            )
        } else {
            (
                "its driver takes no XDP frames: tc sends them",
                "ethtool -i IFACE  # the driver; some need an XDP program first",
            )
        };
        let fix = fix.replace("IFACE", name);
        findings.push(fault(check("egress", port), Status::Warn, found, fix));
    }
}

fn foreign(port: &PortFacts, findings: &mut Vec<Finding>) {
    let name = &port.link.name;
    if !port.foreign_xdp.is_empty() {
        findings.push(fault(
            check("foreign xdp", port),
            Status::Fail,
            format!("{} is attached at the driver, so this program cannot be", port.foreign_xdp.join(", ")),
            format!("ip link set {name} xdp off  # or `dataplane attach {name} --mode tc`"),
        ));
    }
    if !port.foreign_tc.is_empty() {
        findings.push(fault(
            check("foreign tc", port),
            Status::Warn,
            format!("{} at tc ingress does not see packets that dataplane forwards", port.foreign_tc.join(", ")),
            format!("bpftool net show dev {name}  # and `tc filter show dev {name} ingress`"),
        ));
    }
}
