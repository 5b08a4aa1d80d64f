//! Debian's packages: which are needed for what, and how they are installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{
    command::{self, find, run},
    linker,
};

/// The compiler with `core` for BPF (security archive of Debian 12), with its linter.
pub(crate) const COMPILER: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"];

/// What the tests, the demo and the benches run: a program and the package that has it.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
    ("iptables-nft", "iptables"),
    ("ethtool", "ethtool"),
    ("traceroute", "traceroute"),
    ("tcpdump", "tcpdump"),
    ("strace", "strace"),
    ("tmux", "tmux"),
    ("curl", "curl"),
    ("jq", "jq"),
    ("bpftool", "bpftool"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("sysctl", "procps"),
    ("nc", "netcat-openbsd"),
    ("mmdebstrap", "mmdebstrap"),
];

/// Programs that tests run and whose packages would start a service: these are unpacked in our cache, not installed.
const UNPACKED: &[Unpacked] = &[
    Unpacked { programs: &["bird", "birdcl"], folder: "usr/sbin", package: "bird2", libraries: &["libssh-gcrypt-4"] },
    Unpacked { programs: &["promtool"], folder: "usr/bin", package: "prometheus", libraries: &[] },
    Unpacked {
        programs: &["openvpn"],
        folder: "usr/sbin",
        package: "openvpn",
        libraries: &["libpkcs11-helper1", "liblzo2-2", "libnl-genl-3-200"],
    },
    Unpacked {
        programs: &["squid"],
        folder: "usr/sbin",
        package: "squid",
        libraries: &[
            "squid-common",
            "libecap3",
            "libgssapi-krb5-2",
            "libldap-2.5-0",
            "libltdl7",
            "libnetfilter-conntrack3",
            "libtdb1",
        ],
    },
    Unpacked {
        programs: &["haproxy"],
        folder: "usr/sbin",
        package: "haproxy",
        libraries: &["liblua5.3-0", "libopentracing-c-wrapper0"],
    },
];

/// A package that is unpacked only.
struct Unpacked {
    /// What is kept of it.
    programs: &'static [&'static str],
    /// Where they are in it.
    folder: &'static str,
    package: &'static str,
    /// Packages that it needs, none of which has a service.
    libraries: &'static [&'static str],
}

impl Unpacked {
    fn home(&self) -> anyhow::Result<PathBuf> {
        Ok(linker::cache()?.join(self.package))
    }

    /// Where its programs are.
    fn programs(&self) -> anyhow::Result<PathBuf> {
        Ok(self.home()?.join(self.folder))
    }

    fn is_there(&self) -> anyhow::Result<bool> {
        let folder = self.programs()?;
        Ok(self.programs.iter().all(|program| find(program).is_some() || folder.join(program).is_file()))
    }
}

/// What `bench` compares with when it is there; from xdp-tools 1.5 on, which Debian 12 does not have.
pub(crate) const OPTIONAL: &str = "xdp-forward";

/// The packages with the LLVM libraries that bpf-linker is built against.
pub(crate) fn llvm(version: u32) -> [String; 2] {
    [format!("llvm-{version}-dev"), format!("libpolly-{version}-dev")]
}

/// Those of them that the demo runs.
pub(crate) const DEMO: &[&str] = &["ip", "ping", "iperf3", "nft", "bpftool", "nsenter", "mount"];

/// All programs that tests, demo and benches run.
pub(crate) fn tools() -> Vec<&'static str> {
    TOOLS.iter().map(|(program, _)| *program).collect()
}

/// The packages of those programs that this machine lacks.
pub(crate) fn missing_tools(programs: &[&str]) -> Vec<String> {
    let missing = |program: &str| programs.contains(&program) && find(program).is_none();
    TOOLS.iter().filter(|(program, _)| missing(program)).map(|(_, package)| (*package).to_owned()).collect()
}

/// Why packages can not be installed by us, or nothing if they can.
pub(crate) fn obstacle() -> Option<&'static str> {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !is_debian_12(&system) {
        Some("this is not Debian 12")
    } else if find("apt-get").is_none() {
        Some("there is no apt-get")
    } else if !command::is_root() {
        Some("this is not root")
    } else {
        None
    }
}

/// The command line that installs the packages.
pub(crate) fn install_line(packages: &[String]) -> String {
    format!("apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Installs packages; refreshes the package lists only when the first attempt fails.
pub(crate) fn install(packages: &[String]) -> anyhow::Result<()> {
    println!("installing with apt-get: {}", packages.join(" "));
    refreshing(|| run(&mut apt_install(packages)))
        .with_context(|| format!("install by hand, then start again: {}", install_line(packages)))
}

/// Does what needs package lists; once more with fresh ones where it fails.
fn refreshing(work: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    if work().is_ok() {
        return Ok(());
    }
    println!("the package lists may be old: refreshing them");
    run(&mut apt(&["update"]))?;
    work()
}

/// Unpacks what is not there yet of the packages with a service; says what it does.
pub(crate) fn unpack_services() -> anyhow::Result<()> {
    for unpacked in UNPACKED {
        if unpacked.is_there()? {
            continue;
        }
        let Unpacked { package, libraries, programs, .. } = unpacked;
        if !libraries.is_empty() {
            install(&libraries.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        }
        let home = unpacked.home()?;
        println!("unpacking {package} in {}: installed, it would start a service", home.display());
        let folder = tempdir(&home)?;
        refreshing(|| run(apt(&["download", package]).current_dir(&folder)))?;
        let archive = folder.read_dir()?.next().context("apt-get downloaded nothing")??.path();
        let all = folder.join("all");
        run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&all))?;
        let place = unpacked.programs()?;
        fs::create_dir_all(&place).with_context(|| format!("can not make {}", place.display()))?;
        for program in *programs {
            let from = all.join(unpacked.folder).join(program);
            fs::rename(&from, place.join(program)).with_context(|| format!("{package} has no {}", from.display()))?;
        }
        fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

/// The folder of a program that cargo installs: built once and kept.
pub(crate) fn cargo_tool(name: &str, version: &str) -> anyhow::Result<PathBuf> {
    let home = linker::cache()?.join(format!("{name}-{version}"));
    let folder = home.join("bin");
    if !folder.join(name).is_file() {
        let mut install = Command::new("cargo");
        install.args(["install", name, "--locked", "--version", version, "--root"]).arg(&home);
        run(&mut install)?;
    }
    Ok(folder)
}

/// Where unpacked programs are, for the PATH of tests.
pub(crate) fn unpacked_programs() -> Vec<PathBuf> {
    UNPACKED.iter().filter_map(|unpacked| unpacked.programs().ok()).filter(|dir| dir.is_dir()).collect()
}

/// An empty folder beside `home` for a download.
fn tempdir(home: &Path) -> anyhow::Result<PathBuf> {
    let folder = home.with_extension("download");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("can not make {}", folder.display()))?;
    Ok(folder)
}

fn apt_install(packages: &[String]) -> Command {
    let mut command = apt(&["install", "--yes", "--no-install-recommends"]);
    command.args(packages);
    command
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]).args(args);
    command
}

fn is_debian_12(os_release: &str) -> bool {
    let says = |wanted: &str| os_release.lines().any(|line| line.replace('"', "") == wanted);
    says("ID=debian") && says("VERSION_ID=12")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_12_is_told_from_others() {
        let rows = [
            ("ID=debian\nVERSION_ID=\"12\"\n", true),
            ("VERSION_ID='12'\nID=debian\n", false),
            ("ID=debian\nVERSION_ID=\"13\"\n", false),
            ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n", false),
            ("", false),
        ];
        for (text, expected) in rows {
            assert_eq!(is_debian_12(text), expected, "{text}");
        }
    }

    #[test]
    fn every_program_of_the_demo_has_a_package() {
        for program in DEMO {
            assert!(tools().contains(program), "{program} is not in the list of packages");
        }
    }

    #[test]
    fn the_lists_are_not_refreshed_by_the_first_attempt() {
        let line = command::line(&apt_install(&["jq".to_owned()]));
        assert!(line.starts_with("DEBIAN_FRONTEND=noninteractive apt-get "), "{line}");
        assert!(line.contains("install --yes") && line.ends_with(" jq") && !line.contains("update"), "{line}");
    }
}
