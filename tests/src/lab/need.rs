//! What a test needs of the machine. Without it the test is skipped, with the reason; `cargo xtask test` counts that.

use std::{env, path::PathBuf};

/// Something that not every machine has.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Root: namespaces, BPF.
    Root,
    /// A program.
    Tool(&'static str),
    /// A feature of the kernel: its name, and a check for it.
    Kernel(&'static str, fn() -> bool),
}

impl Need {
    /// Why it is not met, or nothing if it is.
    pub fn unmet(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::Tool(program) => (!exists(program)).then(|| format!("needs the program {program}")),
            Self::Kernel(feature, there) => (!there()).then(|| format!("this kernel has no {feature}")),
        }
    }
}

/// Whether all needs are met. If not, says so in the form that `cargo xtask test` counts; the test then returns:
///
/// ```no_run
/// # use dataplane_tests::lab::{Need, ready};
/// # fn test() {
/// if !ready(&[Need::Root, Need::Tool("iperf3")]) {
///     return;
/// }
/// # }
/// ```
pub fn ready(needs: &[Need]) -> bool {
    let unmet: Vec<_> = needs.iter().filter_map(|need| need.unmet()).collect();
    if !unmet.is_empty() {
        println!("SKIPPED: {}", unmet.join(", "));
    }
    unmet.is_empty()
}

/// Whether the kernel tells which devices XDP may send to: generic netlink family `netdev`, Linux 6.3.
pub fn tells_xdp_features() -> bool {
    kernel_at_least(6, 3)
}

/// Whether the kernel is of this version or later.
pub fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

fn exists(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmet_need_has_a_reason() {
        assert_eq!(Need::Tool("sh").unmet(), None);
        assert!(ready(&[Need::Tool("sh"), Need::Kernel("network", || true)]));
        assert_eq!(Need::Tool("dataplane-no-such").unmet().as_deref(), Some("needs the program dataplane-no-such"));
        assert_eq!(Need::Kernel("warp drive", || false).unmet().as_deref(), Some("this kernel has no warp drive"));
    }
}
