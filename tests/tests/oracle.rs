//! dataplane against the kernel, packet by packet: what CI runs. `cargo xtask test oracle --packets N --seed S` runs more.

use dataplane_tests::{
    lab::{Need, ready},
    oracle::{Order, run, stateful},
};

#[test]
fn nothing_differs_from_the_kernel_but_what_is_known() {
    if !ready(&[Need::Root, Need::Tool("ip"), Need::Tool("ethtool"), Need::Tool("nsenter"), Need::Tool("sysctl")]) {
        return;
    }
    run(&Order { packets: 20_000, seed: 1, picture: None, mode: None }).expect("no unexplained difference");
}

/// Connections through the rules of five routers, in native and tc.
#[test]
fn connections_fare_as_without_us() {
    let needs = ["ip", "ethtool", "nsenter", "sysctl", "nft"].map(Need::Tool);
    if !ready(&[&[Need::Root], needs.as_slice()].concat()) {
        return;
    }
    stateful::run(&Order { packets: 12_000, seed: 1, picture: None, mode: None }).expect("no unexplained difference");
}
