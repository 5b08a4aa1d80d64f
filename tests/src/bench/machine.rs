//! What the figures depend on: kernel, CPU, mitigations, the hypervisor.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// `USER_HZ`: the unit of `/proc/stat` on every architecture that Linux still runs on.
const USER_HZ: u64 = 100;

/// Facts that belong beside every figure.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Release and build.
    pub kernel: String,
    /// Model, as the kernel names it.
    pub cpu: String,
    /// CPUs online.
    pub cpus: usize,
    /// The line about Spectre v2, which tells whether retpolines slow indirect calls.
    pub mitigations: String,
    /// `CONFIG_HZ`, when the kernel tells.
    pub hz: Option<String>,
    /// Whether BPF programs are compiled: `bpf_jit_enable`.
    pub jit: String,
    /// Whether the kernel's own packet generator is there.
    pub pktgen: bool,
}

impl Machine {
    /// Reads them; what cannot be read says `unknown`.
    pub fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let unknown = || "unknown".to_owned();
        let kernel = [read("/proc/sys/kernel/osrelease"), read("/proc/sys/kernel/version")];
        let model = read("/proc/cpuinfo").and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
            Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
        });
        Self {
            kernel: kernel.into_iter().flatten().collect::<Vec<_>>().join(" "),
            cpu: model.unwrap_or_else(unknown),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            mitigations: read("/sys/devices/system/cpu/vulnerabilities/spectre_v2").unwrap_or_else(unknown),
            hz: config()
                .and_then(|text| Some(text.lines().find_map(|line| line.strip_prefix("CONFIG_HZ="))?.to_owned())),
            jit: read("/proc/sys/net/core/bpf_jit_enable").unwrap_or_else(unknown),
            pktgen: pktgen(),
        }
    }
}

/// The kernel's build configuration, where it is kept.
fn config() -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let output = Command::new("zcat").arg("/proc/config.gz").output().ok().filter(|output| output.status.success());
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .or_else(|| fs::read_to_string(format!("/boot/config-{}", release.trim())).ok())
}

fn pktgen() -> bool {
    let module = || Command::new("modprobe").args(["--dry-run", "--quiet", "pktgen"]).status();
    Path::new("/proc/net/pktgen").exists() || module().is_ok_and(|status| status.success())
}

/// Milliseconds that the hypervisor has taken from a CPU since boot (`proc_stat(5)`).
pub fn steal(cpu: usize) -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("cpu{cpu} ")));
    let ticks = line.and_then(|line| line.split_whitespace().nth(7)?.parse::<u64>().ok());
    Ok(ticks.with_context(|| format!("/proc/stat has no steal time of CPU {cpu}"))? * 1000 / USER_HZ)
}
