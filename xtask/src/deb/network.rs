//! The network of the machine that tries the package: a client and a server, each behind a port of it.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::machine::{Machine, Said, namespace, said};

/// What the client asks, of each family: an address of the server that the rules let through, and one that they do not.
pub(super) const OPEN: [&str; 2] = ["198.18.1.2", "2001:db8:1::2"];
pub(super) const CLOSED: [&str; 2] = ["198.18.1.3", "2001:db8:1::3"];

/// Both hosts: a process each, which keeps a network namespace.
pub(super) struct Network {
    client: Host,
    server: Host,
}

struct Host(Child);

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host {
    fn new() -> anyhow::Result<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sleep", "infinity"]).stdin(Stdio::null());
        let host = Self(unshare.spawn().context("unshare did not start")?);
        let (own, end) = (namespace("self")?, Instant::now() + Duration::from_secs(10));
        while namespace(&host.0.id().to_string())? == own {
            ensure!(Instant::now() < end, "unshare made no network namespace");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(host)
    }
}

impl Network {
    /// Connects the machine: port `lan` to the client, `wan` to the server. It routes, as one does before it gets the package.
    pub(super) fn connect(machine: &Machine) -> anyhow::Result<Self> {
        let network = Self { client: Host::new()?, server: Host::new()? };
        for (port, host, number) in [("lan", &network.client, 0), ("wan", &network.server, 1)] {
            let pid = host.0.id();
            in_network(
                machine.first,
                &format!(
                    "ip link add {port} type veth peer name eth0 netns {pid}
                     ip address add 198.18.{number}.1/24 dev {port}
                     ip address add 2001:db8:{number}::1/64 dev {port} nodad
                     ip link set {port} up"
                ),
            )?;
            let addresses = [2, 3].map(|last| {
                format!("ip address add 198.18.{number}.{last}/24 dev eth0; ip address add 2001:db8:{number}::{last}/64 dev eth0 nodad")
            });
            in_network(
                pid,
                &format!(
                    "{}
                     ip link set eth0 up
                     ip route add default via 198.18.{number}.1
                     ip route add default via 2001:db8:{number}::1",
                    addresses.join("; ")
                ),
            )?;
        }
        let forwarding = "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
        in_network(machine.first, forwarding)?;
        Ok(network)
    }

    /// Whether the client gets answers from an address.
    pub(super) fn reaches(&self, address: &str) -> anyhow::Result<bool> {
        let asked = said(enter(self.client.0.id(), &format!("ping -n -c 3 -i 0.1 -W 1 {address}")))?;
        Ok(asked.ok)
    }

    /// Asks again and again until [`Stream::lost`] ends it.
    pub(super) fn stream(&self, address: &str) -> anyhow::Result<Stream> {
        let mut ping = enter(self.client.0.id(), &format!("exec ping -n -q -i 0.02 -W 1 {address}"));
        let child = ping.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("nsenter did not start")?;
        Ok(Stream(Some(child)))
    }
}

/// A running `ping`.
pub(super) struct Stream(Option<Child>);

impl Stream {
    /// Ends it; gives what was sent and what was not answered.
    pub(super) fn lost(mut self) -> anyhow::Result<(u64, u64)> {
        let ping = self.0.take().context("a ping that ended")?;
        // The last answer is on its way.
        thread::sleep(Duration::from_millis(100));
        ensure!(said(interrupt(&ping))?.ok, "ping ended by itself");
        let output = ping.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (sent, received) = counts(&text).with_context(|| format!("ping says {text}"))?;
        Ok((sent, sent - received))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(ping) = &mut self.0 {
            let _ = ping.kill();
            let _ = ping.wait();
        }
    }
}

fn interrupt(process: &Child) -> Command {
    let mut kill = Command::new("kill");
    kill.args(["-INT", &process.id().to_string()]);
    kill
}

/// `50 packets transmitted, 50 received, 0% packet loss, time 996ms`
fn counts(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().find(|line| line.contains(" packets transmitted, "))?;
    let mut words = line.split_whitespace();
    let sent = words.next()?.parse().ok()?;
    Some((sent, words.nth(2)?.parse().ok()?))
}

/// A line of shell in the network of a process, with this machine's programs; each of its commands must succeed.
fn in_network(process: u32, line: &str) -> anyhow::Result<String> {
    let Said { ok, text } = said(enter(process, &format!("set -e\n{line}")))?;
    ensure!(ok, "`{line}` failed: {text}");
    Ok(text)
}

/// The loaded programs that a user of this number has loaded.
pub(super) fn loaded(user: u32) -> anyhow::Result<Vec<u64>> {
    let mut show = Command::new("bpftool");
    show.args(["--json", "prog", "show"]);
    let Said { ok, text } = said(show)?;
    ensure!(ok, "bpftool failed: {text}");
    Ok(programs(&text, user))
}

/// Of what `bpftool --json prog show` prints, the numbers of the programs of a user.
fn programs(listed: &str, user: u32) -> Vec<u64> {
    let user = format!("\"uid\":{user},");
    listed.split("{\"id\":").skip(1).filter(|program| program.contains(&user)).filter_map(number).collect()
}

/// The tables of nftables that the machine has.
pub(super) fn tables(machine: &Machine) -> anyhow::Result<String> {
    in_network(machine.first, "nft list tables")
}

fn number(text: &str) -> Option<u64> {
    text.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn enter(process: u32, line: &str) -> Command {
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--target", &process.to_string(), "--net", "sh", "-c", line]);
    nsenter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ping_and_bpftool_say_is_read() {
        let text =
            "--- 198.18.1.2 ping statistics ---\n50 packets transmitted, 49 received, 2% packet loss, time 996ms\n";
        assert_eq!(counts(text), Some((50, 49)));
        let errors = "5 packets transmitted, 0 received, +3 errors, 100% packet loss, time 80ms\n";
        assert_eq!(counts(errors), Some((5, 0)));
        assert_eq!(counts("ping: unknown host"), None);
        let listed = r#"[{"id":3,"type":"xdp","uid":0,"jited":true},{"id":12,"type":"xdp","uid":100,"map_ids":[5]}]"#;
        assert_eq!(programs(listed, 100), [12]);
        assert_eq!(programs("[]", 100), [0; 0]);
    }
}
