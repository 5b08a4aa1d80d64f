//! Macvlan devices on a port: what is for their link addresses meets the chains.

use std::{process::Command, thread};

use anyhow::ensure;
use dataplane_tests::lab::{Need, SERVER};

use crate::{
    passage::{AFTERMATH, Flood, arrived, count_ports, run},
    scene::{PROMPT, Scene, within},
};

/// A VRRP router has its virtual address, and the link address that goes with it, on a macvlan device. What hosts send there
/// meets the chains, with that device as the way in.
#[test]
fn what_is_for_a_virtual_router_meets_the_chains() {
    for mode in ["native", "tc", "generic"] {
        virtual_router(mode, false);
    }
}

/// The same behind a VLAN tag: the macvlan device is on a VLAN device.
#[test]
fn what_is_for_a_virtual_router_behind_a_tag_meets_the_chains() {
    for mode in ["native", "tc", "generic"] {
        virtual_router(mode, true);
    }
}

fn virtual_router(mode: &str, tagged: bool) {
    const MAC: &str = "00:00:5e:00:01:33";
    let config = format!(
        "[ports]\nclient0 = {{ mode = \"{mode}\" }}\nserver0 = {{ mode = \"{mode}\" }}\n\
         [chains.forward]\nrules = ['iifname \"vrrp0\" udp dport {{ 7, 67 }} drop']\n\
         [chains.input]\nrules = ['iifname \"vrrp0\" udp dport {{ 7, 67 }} drop']\n"
    );
    let device = if tagged { "VLAN" } else { "macvlan" };
    let needs = [Need::Tool("nft"), Need::Kernel(device, if tagged { can_have_both } else { can_have_macvlan })];
    let Some(scene) = Scene::configured(&needs, &config) else { return };
    let (dev, on, v4, v6) = if tagged {
        make_vlans(&scene);
        ("eth0.7", "client0.7", "198.18.7.254", "2001:db8:7::254")
    } else {
        ("eth0", "client0", "198.18.0.254", "2001:db8::254")
    };
    run(
        scene.router(),
        &[
            &format!("ip link add link {on} name vrrp0 address {MAC} type macvlan mode private"),
            "ip link set vrrp0 up",
            &format!("ip addr add {v4}/32 dev vrrp0"),
            &format!("ip addr add {v6}/128 dev vrrp0 nodad"),
        ],
    );
    run(
        scene.client(),
        &[
            &format!("ip neigh replace {v4} lladdr {MAC} dev {dev} nud permanent"),
            &format!("ip neigh replace {v6} lladdr {MAC} dev {dev} nud permanent"),
            &format!("ip route replace default via {v4}"),
            &format!("ip -6 route replace default via {v6}"),
        ],
    );
    within(PROMPT * 10, || {
        scene.carries();
        ensure!(scene.stats().reason("virtual_address") > 0, "{mode}: the device is not known yet");
        Ok(())
    });
    for host in [scene.server(), scene.router()] {
        count_ports(host, "{ 7, 67 }");
    }
    // Raw sockets that wait for DHCP may see what is dropped; nothing else may.
    let sent = [7, 67].map(|port| {
        let flood = Flood::to_port(&scene.lab, &[SERVER.v4, SERVER.v6, v4, v6], port);
        thread::sleep(AFTERMATH * 3);
        flood.stop()
    });
    assert!(sent.iter().all(|sent| *sent > 1000), "the client sent {sent:?} only");
    let stats = scene.stats();
    for host in [scene.server(), scene.router()] {
        let came = arrived(host);
        assert_eq!(came, 0, "{mode}: of {sent:?} that the chains drop, so many came to {}: {stats:?}", host.short());
    }
    for reason in ["filter_forward", "filter_input", "virtual_address"] {
        assert!(stats.reason(reason) > 10, "{mode}: {reason} counts: {stats:?}");
    }
    scene.close();
}

/// VLAN devices with addresses at both ends of the client's link.
fn make_vlans(scene: &Scene) {
    run(
        scene.router(),
        &[
            "ip link add link client0 name client0.7 type vlan id 7",
            "ip link set client0.7 up",
            "ip addr add 198.18.7.1/24 dev client0.7",
            "ip addr add 2001:db8:7::1/64 dev client0.7 nodad",
        ],
    );
    run(
        scene.client(),
        &[
            "ip link add link eth0 name eth0.7 type vlan id 7",
            "ip link set eth0.7 up",
            "ip addr add 198.18.7.2/24 dev eth0.7",
            "ip addr add 2001:db8:7::2/64 dev eth0.7 nodad",
        ],
    );
}

/// Whether the kernel has macvlan devices, which are made on another link.
fn can_have_macvlan() -> bool {
    can_have("ip link add probe0 type veth && ip link add link probe0 probe1 type macvlan")
}

/// Whether it has VLAN devices, too.
fn can_have_both() -> bool {
    can_have_macvlan() && can_have("ip link add probe0 type veth && ip link add link probe0 probe1 type vlan id 7")
}

fn can_have(words: &str) -> bool {
    let output = Command::new("unshare").args(["--net", "sh", "-c", words]).output();
    output.is_ok_and(|output| output.status.success())
}
