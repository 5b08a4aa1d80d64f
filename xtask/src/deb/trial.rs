//! `cargo xtask test deb`: the package on a Debian machine that has nothing else, from install to purge.
//!
//! The machine has systemd, so the unit runs as it is: its user, its capabilities, its mount namespace. It is a container, and
//! its kernel this machine's.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    machine::{Machine, make_root},
    make,
    network::{CLOSED, Network, OPEN, Stream, loaded, tables},
};
use crate::{
    build,
    command::{self, run},
    package::obstacle,
    setup::{self, Need, Toolchain},
    tally::Tally,
};

/// From the first command to a router that forwards and filters.
const PROMISE: Duration = Duration::from_mins(1);
/// Versions beside the package's own: before it, and behind it.
const OLD: &str = "0.0.1-1";
const NEW: &str = "9.9.9-1";
/// What the file of the first start says once the administrator has written it.
const CONFIG: &str = r#"[ports]
lan = { mode = "auto" }
wan = { mode = "auto" }

[chains.forward]
rules = [
    'ip daddr 198.18.1.3 drop comment "closed"',
    'ip6 daddr 2001:db8:1::3 drop comment "closed"',
]
"#;
/// The daemon's capabilities in `/proc/PID/status`: `NET_ADMIN`, `NET_RAW`, PERFMON, BPF (`linux/capability.h`).
const CAPABILITIES: u64 = 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;

/// Installs, upgrades, downgrades, removes and purges the package. What does not hold is a failure; so is a mirror that does not
/// answer.
pub(crate) fn trial() -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let reason = match obstacle() {
        Some(obstacle) => Some(format!("{obstacle}, and the package is for Debian 12")),
        None if std::env::consts::ARCH != "x86_64" => Some(format!("this is {}", std::env::consts::ARCH)),
        None => None,
    };
    if let Some(reason) = reason {
        tally.skip("deb".to_owned(), reason);
        return Ok(tally);
    }
    let start = Instant::now();
    let toolchain = setup::toolchain(Need::Test)?;
    let mut trial = Trial { tally };
    if let Err(error) = trial.all(&toolchain) {
        trial.tally.trouble(format!("deb: {error:#}"));
    }
    println!("== deb took {:.0} s", start.elapsed().as_secs_f64());
    Ok(trial.tally)
}

struct Trial {
    tally: Tally,
}

impl Trial {
    fn all(&mut self, toolchain: &Toolchain) -> anyhow::Result<()> {
        ensure!(command::find("mmdebstrap").is_some(), "there is no mmdebstrap: `cargo xtask setup` installs it");
        let folder = build::target().join("deb-trial");
        // What an ended run left.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("can not make {}", folder.display()))?;
        let package = make(toolchain, &["--fast"])?;
        let packages =
            Packages { old: repack(&package, &folder, OLD)?, new: repack(&package, &folder, NEW)?, own: package };
        let root = folder.join("root");
        make_root(&root, &[packages.own.clone(), packages.old.clone(), packages.new.clone()])?;
        let machine = Machine::boot(&root)?;
        let network = Network::connect(&machine)?;
        let router = Router { machine: &machine, network: &network };
        self.install(&router, &packages)?;
        self.service(&router)?;
        self.change(&router, &packages.new, NEW, "upgrade")?;
        self.change(&router, &packages.old, OLD, "downgrade")?;
        self.remove(&router)?;
        self.again(&router, &packages)?;
        self.purge(&router)
    }

    /// Counts and prints what must hold.
    fn hold(&mut self, what: &str, holds: bool, seen: impl Display) {
        println!("{} {what}", if holds { "ok    " } else { "FAILED" });
        self.tally.single(&format!("deb: {what}"), holds.then_some(()).ok_or(seen.to_string()));
    }

    /// Three commands from a router of the kernel's to one that forwards and filters here.
    fn install(&mut self, router: &Router<'_>, packages: &Packages) -> anyhow::Result<()> {
        let Router { machine, network } = router;
        ensure!(network.reaches(OPEN[0])? && network.reaches(CLOSED[0])?, "the kernel alone does not route");
        fs::write(machine.file("/root/router.toml"), CONFIG)?;
        let start = Instant::now();
        machine.must(&format!("apt-get -qq install --yes {}", at(&packages.own)))?;
        let said = machine
            .must("systemctl is-enabled dataplane; systemctl is-active dataplane || true; getent passwd dataplane")?;
        self.hold("install starts nothing", !said.lines().any(|line| line == "active"), &said);
        machine.must("systemctl enable --now dataplane")?;
        machine.must("dataplane config apply /root/router.toml")?;
        for (open, closed) in OPEN.into_iter().zip(CLOSED) {
            self.hold(&format!("{open} is reached"), network.reaches(open)?, "ping gets no answer");
            self.hold(&format!("{closed} is not"), !network.reaches(closed)?, "ping gets an answer");
        }
        let took = start.elapsed();
        self.hold("three commands make a router within a minute", took < PROMISE, format!("{took:?}"));
        println!("       it took {:.1} s", took.as_secs_f64());
        for file in [
            "/usr/share/man/man1/dataplane.1*",
            "/usr/share/man/man7/dataplane-reasons.7*",
            "/usr/share/bash-completion/completions/dataplane",
            "/usr/share/doc/dataplane/docs/grafana.json",
            "/usr/lib/sysctl.d/60-dataplane.conf",
            "/usr/lib/modules-load.d/dataplane.conf",
        ] {
            let said = machine.run(&format!("ls {file}"))?;
            self.hold(&format!("{file} is there"), said.ok, said.text);
        }
        Ok(())
    }

    /// What the unit promises.
    fn service(&mut self, router: &Router<'_>) -> anyhow::Result<()> {
        let machine = router.machine;
        let status = machine.must("cat /proc/$(systemctl show --value --property MainPID dataplane)/status")?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let uid = machine.must("id -u dataplane")?;
        self.hold("the daemon runs as its user", field("Uid:").starts_with(&format!("{}\t", uid.trim())), &status);
        for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
            let has = u64::from_str_radix(field(set), 16);
            self.hold(&format!("{set} its four capabilities"), has == Ok(CAPABILITIES), &status);
        }
        let doctor = machine.run("dataplane doctor")?;
        self.hold("doctor finds nothing that fails", doctor.ok, doctor.text);
        let counters = machine.must("dataplane stats --json")?;
        let counted = ["\"forwarded\":0", "\"filter_forward\":0"].iter().all(|none| !counters.contains(none));
        let names = counters.contains("\"filter_forward\":");
        self.hold("the programs forward and drop", counted && names, counters);
        let user = machine.run("su -s /bin/sh -c 'dataplane status' nobody")?;
        self.hold("other users are not let in", !user.ok, user.text);
        machine.must("sed '/^rules/a \"tcp dport 9 drop\",' router.toml >/etc/dataplane/dataplane.toml")?;
        machine.must("systemctl reload dataplane")?;
        let rules = machine.must("dataplane rule list")?;
        self.hold("reload applies the file", rules.contains("tcp dport 9 drop"), rules);
        machine.must("kill -KILL $(systemctl show --value --property MainPID dataplane)")?;
        let back = router.answers();
        self.hold("a daemon that is killed is started again", back.is_ok(), format!("{back:?}"));
        Ok(())
    }

    /// Another version comes in place of the one that runs.
    fn change(&mut self, router: &Router<'_>, package: &Path, version: &str, word: &str) -> anyhow::Result<()> {
        let Router { machine, network } = router;
        machine.must(&format!(
            "dataplane rule add forward udp dport {} drop comment '\"before the {word}\"'",
            port(word)
        ))?;
        let before = machine.must("dataplane rule list; systemctl show --property MainPID dataplane")?;
        let streams = OPEN.map(|address| network.stream(address));
        let streams: Vec<Stream> = streams.into_iter().collect::<Result<_, _>>()?;
        machine.must(&format!("apt-get -qq install --yes --allow-downgrades {}", at(package)))?;
        router.answers()?;
        for (stream, address) in streams.into_iter().zip(OPEN) {
            let (sent, lost) = stream.lost()?;
            self.hold(
                &format!("{word} loses no packet to {address}"),
                lost == 0 && sent > 20,
                format!("{lost} of {sent}"),
            );
        }
        let has = machine.must("dpkg-query --show --showformat '${Version} ${Status}' dataplane")?;
        self.hold(&format!("{word} installs {version}"), has == format!("{version} install ok installed"), has);
        let after = machine.must("dataplane rule list; systemctl show --property MainPID dataplane")?;
        let pid = |text: &str| text.lines().last().map(str::to_owned);
        self.hold(&format!("{word} starts the other daemon"), pid(&before) != pid(&after), &after);
        self.hold(&format!("{word} keeps rules"), handles(&before) == handles(&after), format!("{before}{after}"));
        let counted = |text: &str| text.lines().find(|line| line.contains("198.18.1.3")).map(str::to_owned);
        self.hold(&format!("{word} keeps counters"), counted(&before) == counted(&after), format!("{before}{after}"));
        let config = machine.must("cat /etc/dataplane/dataplane.toml")?;
        self.hold(&format!("{word} keeps the file that was changed"), config.contains("tcp dport 9"), config);
        self.filters(router, word)
    }

    fn filters(&mut self, router: &Router<'_>, when: &str) -> anyhow::Result<()> {
        for (open, closed) in OPEN.into_iter().zip(CLOSED) {
            let right = router.network.reaches(open)? && !router.network.reaches(closed)?;
            self.hold(&format!("behind {when}, {open} is reached and {closed} is not"), right, "the other way");
        }
        Ok(())
    }

    /// Removed, the kernel routes alone; what the administrator wrote stays.
    fn remove(&mut self, router: &Router<'_>) -> anyhow::Result<()> {
        let Router { machine, network } = router;
        machine.must("dataplane rule add forward ct state invalid tcp dport 9 drop")?;
        let table = tables(machine)?;
        self.hold("own rules with state are a table of nftables", table.contains("inet dataplane"), table);
        let user = router.user()?;
        self.hold("programs are loaded", !loaded(user)?.is_empty(), "bpftool shows none");
        machine.must("apt-get -qq remove --yes dataplane")?;
        self.gone(router, user, "remove")?;
        let kept = machine.run("ls /etc/dataplane/dataplane.toml /var/lib/dataplane/running.toml")?;
        self.hold("remove keeps config and state", kept.ok, kept.text);
        for address in OPEN.into_iter().chain(CLOSED) {
            self.hold(
                &format!("the kernel routes alone to {address}"),
                network.reaches(address)?,
                "ping gets no answer",
            );
        }
        Ok(())
    }

    /// What neither `remove` nor `purge` leaves.
    fn gone(&mut self, router: &Router<'_>, user: u32, word: &str) -> anyhow::Result<()> {
        let machine = router.machine;
        let end = Instant::now() + Duration::from_secs(5);
        // The kernel frees programs a moment after their last link.
        while !loaded(user)?.is_empty() && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
        let programs = loaded(user)?;
        self.hold(&format!("{word} takes the programs off"), programs.is_empty(), format!("{programs:?} are loaded"));
        let mounts = machine.must("cat /proc/mounts")?;
        self.hold(&format!("{word} unmounts the pins"), !mounts.contains("dataplane"), mounts);
        let run = machine.must("ls /run")?;
        self.hold(&format!("{word} clears /run"), !run.contains("dataplane"), run);
        let tables = tables(machine)?;
        self.hold(&format!("{word} takes the table of nftables off"), tables.trim().is_empty(), tables);
        let rules = machine.must("ip rule; ip -6 rule; ip route show table all")?;
        self.hold(&format!("{word} leaves no routing rule"), !rules.contains("218"), rules);
        let processes = machine.must("cat /proc/[0-9]*/comm")?;
        self.hold(&format!("{word} ends the daemon"), !processes.lines().any(|name| name == "dataplane"), processes);
        Ok(())
    }

    /// Installed again, it is what it was.
    fn again(&mut self, router: &Router<'_>, packages: &Packages) -> anyhow::Result<()> {
        router.machine.must(&format!("apt-get -qq install --yes {}", at(&packages.own)))?;
        router.machine.must("systemctl enable --now dataplane")?;
        router.answers()?;
        let rules = router.machine.must("dataplane rule list")?;
        self.hold("a second install has the rules of the first", rules.contains("before the downgrade"), rules);
        self.filters(router, "a second install")
    }

    /// Purged, nothing is left but the locked user.
    fn purge(&mut self, router: &Router<'_>) -> anyhow::Result<()> {
        let machine = router.machine;
        let user = router.user()?;
        machine.must("apt-get -qq purge --yes dataplane")?;
        self.gone(router, user, "purge")?;
        // Not what dpkg itself remembers, the journal, nor the packages that were laid here.
        let left = machine.must(
            "find / -xdev '(' -path /proc -o -path /root -o -path /var/log -o -path /var/cache/apt ')' -prune \
             -o '(' -name '*dataplane*' -o -user dataplane -o -group dataplane ')' -print",
        )?;
        self.hold("purge leaves no file", left.trim().is_empty(), left);
        let known = machine.run("dpkg-query --show dataplane")?;
        self.hold("purge leaves no package", !known.ok, known.text);
        let units = machine.must("systemctl list-unit-files --no-legend; systemctl list-units --all --no-legend")?;
        self.hold("purge leaves no unit", !units.contains("dataplane"), units);
        // As Debian's system users do: their number may be in backups and the journal.
        let account = machine.must("getent passwd dataplane; grep ^dataplane: /etc/shadow")?;
        let locked = account.contains(":/usr/sbin/nologin\n") && account.contains("dataplane:!");
        self.hold("the user that purge leaves is locked", locked, account);
        Ok(())
    }
}

struct Router<'a> {
    machine: &'a Machine,
    network: &'a Network,
}

impl Router<'_> {
    /// Waits for a daemon that answers.
    fn answers(&self) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let said = self.machine.run("dataplane status")?;
            if said.ok {
                return Ok(());
            }
            ensure!(Instant::now() < end, "no daemon answers: {}", said.text);
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The number of the daemon's user.
    fn user(&self) -> anyhow::Result<u32> {
        Ok(self.machine.must("id -u dataplane")?.trim().parse()?)
    }
}

struct Packages {
    own: PathBuf,
    old: PathBuf,
    new: PathBuf,
}

/// Where a package is on the machine.
fn at(package: &Path) -> String {
    format!("/root/{}", package.file_name().unwrap_or_default().display())
}

/// The same package with another version.
fn repack(package: &Path, folder: &Path, version: &str) -> anyhow::Result<PathBuf> {
    let (files, made) = (folder.join("files"), folder.join(format!("dataplane_{version}_amd64.deb")));
    let _ = fs::remove_dir_all(&files);
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&files))?;
    let control = files.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let lines = text
        .lines()
        .map(|line| if line.starts_with("Version: ") { format!("Version: {version}") } else { line.to_owned() });
    fs::write(&control, lines.collect::<Vec<_>>().join("\n") + "\n")?;
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "--build"]).arg(&files).arg(&made))?;
    fs::remove_dir_all(&files)?;
    Ok(made)
}

/// A port for the rule of a step.
fn port(word: &str) -> usize {
    2000 + word.len()
}

/// The handles and texts of listed rules, without what they counted.
fn handles(listed: &str) -> Vec<String> {
    let rules = listed.lines().filter(|line| line.contains("handle") || line.contains("drop"));
    rules
        .map(|line| {
            line.split_whitespace()
                .filter(|word| !word.chars().all(|c| c.is_ascii_digit()))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}
