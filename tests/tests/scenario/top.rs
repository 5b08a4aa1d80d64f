//! `top`, in a real terminal.

use std::{process::Command, time::Duration};

use anyhow::ensure;
use dataplane_tests::lab::{Need, ROUTER_CLIENT, binary};

use crate::scene::{Scene, within};

/// A terminal of 80 by 24, in a tmux server of its own.
struct Terminal(String);

impl Terminal {
    fn run(&self, words: &[&str]) -> String {
        let output = Command::new("tmux").args(["-f", "/dev/null", "-L", &self.0]).args(words).output().expect("tmux");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn shows(&self, words: &[&str]) {
        within(Duration::from_secs(10), || {
            let text = self.run(&["capture-pane", "-p"]);
            ensure!(words.iter().all(|words| text.contains(words)), "not all of {words:?} is on\n{text}");
            Ok(())
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn of_a_router_at_work() {
    let Some(scene) = Scene::attached(&[Need::Tool("tmux")], "tc") else { return };
    scene.rule("forward", "ip protocol icmp accept comment \"pings\"");
    let terminal = Terminal(format!("dp-top-{}", std::process::id()));
    let (binary, socket) = (binary().expect("the binary"), scene.daemon.socket());
    let line = format!("{} --socket {} top; echo ended; sleep 60", binary.display(), socket.display());
    terminal.run(&["new-session", "-d", "-x", "80", "-y", "24", &line]);
    terminal.shows(&["dataplane top", ROUTER_CLIENT.port, "q end"]);
    scene.ping().expect("pings are answered");
    terminal.shows(&["forwarded  ", "kernel", "ip protocol icmp accept"]);
    terminal.run(&["send-keys", "/"]);
    terminal.run(&["send-keys", "nothing-has-this"]);
    terminal.shows(&["filter: nothing-has-this_"]);
    terminal.run(&["send-keys", "Escape"]);
    terminal.shows(&["ip protocol icmp accept"]);
    terminal.run(&["send-keys", "?"]);
    terminal.shows(&["Press any key."]);
    terminal.run(&["send-keys", "x"]);
    // Behind a reason are its advice and live packets.
    terminal.run(&["send-keys", "/"]);
    terminal.run(&["send-keys", "forwarded"]);
    terminal.run(&["send-keys", "Enter", "2", "Enter"]);
    terminal.shows(&["reason forwarded: forward"]);
    scene.ping().expect("pings are answered");
    terminal.shows(&["client0 tc forward: forwarded", "PROTO=ICMP"]);
    terminal.run(&["send-keys", "Escape"]);
    terminal.shows(&["60 s"]);
    terminal.run(&["send-keys", "Escape"]);
    // On a larger screen there is more.
    terminal.run(&["resize-window", "-x", "120", "-y", "40"]);
    terminal.shows(&["FWD/s", "LOCAL/s"]);
    terminal.run(&["send-keys", "q"]);
    // The screen of before is back.
    terminal.shows(&["ended"]);
    drop(terminal);

    // When the daemon goes, so does it, and the terminal is as it was.
    let terminal = Terminal(format!("dp-gone-{}", std::process::id()));
    terminal.run(&["new-session", "-d", "-x", "80", "-y", "24", &line]);
    terminal.shows(&["q end"]);
    drop(scene);
    terminal.shows(&["ended"]);
}
