//! Macvlan devices on a port, as VRRP routers have: what is for their link addresses came in through them.

use std::{process::Command, thread};

use anyhow::ensure;
use dataplane_tests::lab::{
    Need, SERVER,
    traffic::{self, Family},
};

use crate::{
    passage::{AFTERMATH, Flood, arrived, count_ports, run},
    scene::{PORTS, PROMPT, Scene, within},
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

/// Link address of the virtual router.
const MAC: &str = "00:00:5e:00:01:33";

fn virtual_router(mode: &str, tagged: bool) {
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
    within(PROMPT * 10, || forwarded_here(&scene, mode));
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
    for reason in ["filter_forward", "filter_input"] {
        assert!(stats.reason(reason) > 10, "{mode}: {reason} counts: {stats:?}");
    }
    scene.close();
}

/// Whether the kernel forwards none of what the client sends.
fn forwarded_here(scene: &Scene, what: &str) -> anyhow::Result<()> {
    let before = scene.kernel_forwarded();
    scene.carries();
    let by_kernel = scene.kernel_forwarded() - before;
    ensure!(by_kernel == 0, "{what}: the kernel forwarded {by_kernel} packets");
    Ok(())
}

/// The hosts' gateway is a virtual router on the client's side.
fn gateway(scene: &Scene) {
    run(scene.router(), &DEVICE);
    run(
        scene.client(),
        &[
            &format!("ip neigh replace 198.18.0.254 lladdr {MAC} dev eth0 nud permanent"),
            &format!("ip neigh replace 2001:db8::254 lladdr {MAC} dev eth0 nud permanent"),
            "ip route replace default via 198.18.0.254",
            "ip -6 route replace default via 2001:db8::254",
        ],
    );
}

/// What makes the device that is the gateway.
const DEVICE: [&str; 5] = [
    "ip link add link client0 name vrrp0 address 00:00:5e:00:01:33 type macvlan mode private",
    "sysctl -qw net.ipv4.conf.vrrp0.rp_filter=0",
    "ip link set vrrp0 up",
    "ip addr add 198.18.0.254/32 dev vrrp0",
    "ip addr add 2001:db8::254/128 dev vrrp0 nodad",
];

/// What is set on the device of a virtual router, what takes that back, and what arrives then over IPv4 and over IPv6.
type Setting = (&'static str, &'static [&'static str], &'static [&'static str], [bool; 2]);

const SETTINGS: [Setting; 5] = [
    ("as it is", &[], &[], [true, true]),
    (
        "not forwarding",
        &["sysctl -qw net.ipv4.conf.vrrp0.forwarding=0"],
        &["sysctl -qw net.ipv4.conf.vrrp0.forwarding=1"],
        [false, true],
    ),
    (
        "the way back is the port's",
        &["sysctl -qw net.ipv4.conf.vrrp0.rp_filter=1"],
        &["sysctl -qw net.ipv4.conf.vrrp0.rp_filter=0"],
        [false, true],
    ),
    (
        "down",
        &["ip link set vrrp0 down"],
        &["ip link set vrrp0 up", "ip addr add 2001:db8::254/128 dev vrrp0 nodad"],
        [false; 2],
    ),
    ("gone", &["ip link del vrrp0"], &DEVICE, [false; 2]),
];

/// A virtual router under traffic: what its device says holds for what is for its link address, as in the kernel; when it is
/// taken away (its address goes to another router) nothing more is forwarded.
#[test]
fn a_virtual_router_forwards_as_its_device_says() {
    for mode in [None, Some("native"), Some("tc")] {
        let needs = [Need::Tool("sysctl"), Need::Kernel("macvlan", can_have_macvlan)];
        let Some(scene) = Scene::idle(&needs) else { return };
        scene.take_frames();
        gateway(&scene);
        if let Some(mode) = mode {
            scene.attach(&PORTS, mode);
        }
        for (what, done, undone, expected) in SETTINGS {
            let what = format!("{mode:?}, {what}");
            run(scene.router(), done);
            within(PROMPT * 3, || {
                for (family, expected) in Family::BOTH.into_iter().zip(expected) {
                    let arrived = traffic::datagrams(&scene.lab, family, 5301, 20)?;
                    let expected = if expected { 20 } else { 0 };
                    ensure!(arrived == expected, "{what}: {arrived} datagrams arrived over {}", family.name());
                }
                Ok(())
            });
            run(scene.router(), undone);
        }
        if mode.is_some() {
            within(PROMPT * 10, || forwarded_here(&scene, &format!("{mode:?}")));
        }
        scene.close();
    }
}

/// Through a device of its own, the router reaches a network: frames leave the port with the device's link address.
/// Routes to the server leave through a macvlan device on the router's port, whose name this gives.
pub fn route_through_macvlan(scene: &Scene) -> &'static str {
    run(
        scene.router(),
        &[
            "ip link add link server0 name out0 address 00:00:5e:00:01:34 type macvlan mode private",
            "ip link set out0 up",
            "ip addr add 198.18.1.254/32 dev out0",
            "ip addr add 2001:db8:1::254/128 dev out0 nodad",
            "ip neigh replace 198.18.1.2 lladdr 02:00:00:00:01:02 dev out0 nud permanent",
            "ip neigh replace 2001:db8:1::2 lladdr 02:00:00:00:01:02 dev out0 nud permanent",
            "ip route replace 198.18.1.2/32 dev out0",
            "ip -6 route replace 2001:db8:1::2/128 dev out0",
        ],
    );
    "out0"
}

#[test]
fn what_is_routed_through_the_device_leaves_with_its_address() {
    for mode in ["native", "tc"] {
        let needs = [Need::Tool("nft"), Need::Kernel("macvlan", can_have_macvlan)];
        let Some(scene) = Scene::idle(&needs) else { return };
        scene.take_frames();
        route_through_macvlan(&scene);
        for line in [
            "nft add table netdev dp-seen",
            "nft add chain netdev dp-seen in { type filter hook ingress device eth0 priority 0; }",
            "nft add rule netdev dp-seen in ether saddr 00:00:5e:00:01:34 udp dport 5301 counter",
        ] {
            scene.server().run(line).expect("a counter");
        }
        scene.attach(&PORTS, mode);
        within(PROMPT * 10, || forwarded_here(&scene, mode));
        let counted = scene.server().run("nft list table netdev dp-seen").expect("a counter");
        let count = counted.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        assert!(count.is_some_and(|count| count >= 40), "{mode}: with the device's address:\n{counted}");
        scene.close();
    }
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
pub fn can_have_macvlan() -> bool {
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
