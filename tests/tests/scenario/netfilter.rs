//! Rules of netfilter that forwarded packets will no longer meet are named when a port is attached.

use dataplane_tests::lab::{Need, ROUTER_CLIENT, ROUTER_SERVER};

use crate::scene::Scene;

#[test]
fn attach_warns_and_names_the_chain() {
    let Some(scene) = Scene::idle(&[Need::Tool("nft")]) else { return };
    let quiet = scene.daemon.attempt(&["attach", ROUTER_CLIENT.port, "--mode", "tc"]).expect("the verb runs");
    assert!(quiet.status.success() && !quiet.stderr.contains("netfilter"), "{}", quiet.said());
    for line in [
        "nft add table inet strict",
        "nft add chain inet strict crossing { type filter hook forward priority 0 ; policy accept ; }",
        "nft add rule inet strict crossing udp dport 5301 drop",
    ] {
        scene.router().run(line).expect("a rule of netfilter");
    }
    let loud = scene.daemon.attempt(&["attach", ROUTER_SERVER.port, "--mode", "tc", "-j"]).expect("the verb runs");
    assert!(loud.status.success(), "{}", loud.said());
    for word in ["netfilter", "inet", "strict", "crossing", "rule add"] {
        assert!(loud.stderr.contains(word), "stderr does not say `{word}`: {}", loud.stderr);
    }
    // Prose is not data.
    serde_json::from_str::<serde_json::Value>(&loud.stdout).expect("stdout is JSON");
    scene.close();
}
