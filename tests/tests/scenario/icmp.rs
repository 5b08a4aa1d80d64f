//! What only the kernel can answer is still answered.

use dataplane_tests::lab::{Need, ROUTER_CLIENT, SERVER};

use crate::scene::Scene;

fn answers(mode: &str) {
    let Some(scene) = Scene::attached(&[Need::Tool("traceroute")], mode) else { return };
    let routers = [ROUTER_CLIENT.v4, "2001:db8::1"];
    for (option, router, server) in [("-4", routers[0], SERVER.v4), ("-6", routers[1], "2001:db8:1::2")] {
        let before = scene.stats().reason("ttl_expired");
        let ping = scene.client().attempt(&format!("ping {option} -n -c 1 -t 1 -W 2 {server}")).expect("ping runs");
        let line = ping.stdout.lines().find(|line| line.contains(&format!("From {router}")));
        let line = line.unwrap_or_else(|| panic!("{mode}: no answer of the router{}", ping.said()));
        assert!(line.contains("Time to live exceeded") || line.contains("Hop limit"), "{line}");
        assert_eq!(scene.stats().reason("ttl_expired"), before + 1);

        let trace = format!("traceroute {option} -n -q 1 -w 2 -m 4 {server}");
        let said = scene.client().run(&trace).expect("traceroute runs");
        let hops: Vec<_> = said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(hops, [router, server], "{mode}: {said}");
    }
    scene.close();
}

#[test]
fn ttl_and_traceroute_in_native() {
    answers("native");
}

#[test]
fn ttl_and_traceroute_in_tc() {
    answers("tc");
}
