//! The kernel, its file systems, and what this process may do.

use std::path::Path;

use super::{Facts, fault, fine};
use crate::{
    control::row::{Finding, Status},
    release::{self, Addition, version},
};

/// Since this kernel, BPF memory is not counted against `RLIMIT_MEMLOCK`.
const UNLIMITED: (u32, u32) = (5, 11);
/// What loading and attaching need: either all of the first, or the other.
const CAPABILITIES: [(u32, &str); 2] = [(39, "CAP_BPF"), (12, "CAP_NET_ADMIN")];
const CAP_SYS_ADMIN: u32 = 21;

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    findings.push(match &facts.daemon {
        Ok(()) => fine("daemon", "answers"),
        Err(why) if facts.unit => fault("daemon", Status::Warn, why, "systemctl start dataplane"),
        Err(why) => fault("daemon", Status::Warn, why, "dataplane run &"),
    });
    findings.push(kernel(facts));
    findings.push(if facts.btf {
        fine("btf", "/sys/kernel/btf/vmlinux is there")
    } else {
        fault(
            "btf",
            Status::Warn,
            "no /sys/kernel/btf/vmlinux: tracing programs need it",
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        )
    });
    findings.push(match facts.jit {
        Some(0) => fault(
            "jit",
            Status::Fail,
            "net.core.bpf_jit_enable is 0: programs are interpreted, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(value) => fine("jit", format!("net.core.bpf_jit_enable is {value}")),
        None => fine("jit", "not readable for this user in this network namespace"),
    });
    findings.extend(facts.bpffs.as_ref().map(|(path, mounted)| bpffs(path, *mounted)));
    findings.extend(facts.elsewhere.as_ref().map(|(pid, why)| {
        fault(
            "namespace",
            Status::Warn,
            format!("the daemon is in another network namespace, whose links and routes were not checked: {why}"),
            format!("sudo nsenter --net=/proc/{pid}/ns/net dataplane doctor"),
        )
    }));
    findings.push(capabilities(facts));
    findings.push(memlock(facts));
}

fn bpffs(place: &Path, mounted: bool) -> Finding {
    let path = place.display();
    if mounted {
        return fine("bpffs", format!("{path} is on a BPF file system"));
    }
    let fix = if place.starts_with("/sys/fs/bpf") {
        "mount -t bpf bpf /sys/fs/bpf".to_owned()
    } else {
        format!("mkdir -p {path} && mount -t bpf bpf {path}")
    };
    fault("bpffs", Status::Fail, format!("{path} is not on a BPF file system: nothing can be pinned"), fix)
}

fn kernel(facts: &Facts) -> Finding {
    let release = &facts.release;
    let Some(version) = version(release) else {
        return fault("kernel", Status::Warn, format!("release `{release}` is not a version"), "uname -r");
    };
    let Some(status) = release::missing(version).map(|addition| addition.without).max() else {
        return fine("kernel", release);
    };
    let lacks: Vec<_> = release::missing(version)
        .map(|Addition { since: (major, minor), what, before, .. }| format!("{what} (Linux {major}.{minor}; {before})"))
        .collect();
    let (major, minor) = release::missing(version).map(|addition| addition.since).max().unwrap_or(release::OLDEST);
    let found = format!("{release} is older than {}", lacks.join(", "));
    fault("kernel", status, found, format!("install a kernel of Linux {major}.{minor} or later and boot it"))
}

fn capabilities(facts: &Facts) -> Finding {
    if facts.daemon.is_ok() {
        return fine("capabilities", "the daemon has what it needs");
    }
    let has = |bit: u32| facts.capabilities & (1 << bit) != 0;
    let able = |bit: u32| has(bit) || (bit == 39 && has(CAP_SYS_ADMIN));
    let missing: Vec<_> = CAPABILITIES.iter().filter(|(bit, _)| !able(*bit)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return fine("capabilities", "CAP_BPF and CAP_NET_ADMIN are there");
    }
    fault(
        "capabilities",
        Status::Fail,
        format!("this user lacks {}: nothing can be loaded or attached", missing.join(" and ")),
        "sudo dataplane run",
    )
}

fn memlock(facts: &Facts) -> Finding {
    match (facts.memlock, version(&facts.release)) {
        (Some(bytes), Some(version)) if version < UNLIMITED => fault(
            "memlock",
            Status::Fail,
            format!("this kernel counts maps as locked memory, and the limit is {bytes} bytes"),
            "ulimit -l unlimited",
        ),
        _ => fine("memlock", "maps are not limited"),
    }
}
