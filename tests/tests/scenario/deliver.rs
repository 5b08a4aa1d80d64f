//! To this machine: a real HTTP server on the router, fetched from by a client.

use std::{fs, time::Duration};

use anyhow::ensure;
use dataplane_tests::lab::{Need, ROUTER_CLIENT};

use crate::scene::{Scene, within};

/// Bytes of the file.
const LENGTH: usize = 2 << 20;

fn fetches(mode: &str) {
    let Some(scene) = Scene::attached(&[Need::Tool("curl"), Need::Tool("python3"), Need::Tool("ss")], mode) else {
        return;
    };
    let site = scene.lab.dir().join("site");
    let content: Vec<u8> = (0..LENGTH).map(|at| (at * 31 + (at >> 8)) as u8).collect();
    fs::create_dir(&site).and_then(|()| fs::write(site.join("file"), &content)).expect("a file to serve");
    let router = scene.router();
    let mut command = router.command("python3");
    command.args(["-m", "http.server", "8080", "--bind", "::", "--directory"]).arg(&site);
    let server = router.spawn(&mut command, &scene.lab.dir().join("http.log")).expect("a server");
    within(Duration::from_secs(10), || {
        ensure!(!router.run("ss -Hltn sport = :8080")?.is_empty(), "no server: {}", server.said());
        Ok(())
    });
    for host in [ROUTER_CLIENT.v4.to_owned(), format!("[{}]", ROUTER_CLIENT.v6)] {
        let before = scene.stats();
        let fetched = scene.lab.dir().join("fetched");
        let line = format!("curl -sSg --max-time 20 -o {} http://{host}:8080/file", fetched.display());
        scene.client().run(&line).expect("the file is served");
        assert!(fs::read(&fetched).expect("what was fetched") == content, "{mode}: {host} served something else");
        let after = scene.stats();
        let (local, delivered) =
            (after.reason("local") - before.reason("local"), after.totals.delivered - before.totals.delivered);
        // At least SYN, request, acknowledgements and FIN.
        assert!(local >= 5 && local == delivered, "{mode}: {host}: local {local}, delivered {delivered}");
        assert_eq!(after.totals.dropped, before.totals.dropped);
    }
    drop(server);
    scene.close();
}

#[test]
fn http_in_native() {
    fetches("native");
}

#[test]
fn http_in_tc() {
    fetches("tc");
}

#[test]
fn http_in_generic() {
    fetches("generic");
}
