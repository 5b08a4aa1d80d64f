//! What the daemon may do: what its work asks, and no more, from before it hears the first word of anybody.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, chown, lchown},
    path::Path,
};

use anyhow::{Context as _, ensure};
use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{User, geteuid, initgroups, setresgid, setresuid};

use super::Options;
use crate::kernel;

/// Programs and maps; links, neighbours and attaching; observers of losses; answers to senders of rejected packets.
const NEEDED: [Capability; 4] =
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON, Capability::CAP_NET_RAW];

/// Does what takes more rights than the daemon keeps, then gives up all others, for good.
///
/// # Errors
/// Above all, `--user` by somebody who is not root.
pub(super) fn shed(options: &Options) -> anyhow::Result<()> {
    let user = options.user.as_deref().map(find).transpose()?;
    kernel::prepare(&options.bpffs)?;
    let had = caps::read(None, CapSet::Permitted).context("cannot read the capabilities of this process")?;
    let kept: CapsHashSet = NEEDED.into_iter().filter(|capability| had.contains(capability)).collect();
    if had.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::runtime::thread_all_supported().difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).with_context(|| format!("cannot give up {capability}"))?;
        }
    }
    if let Some(user) = &user {
        hand_over(options, user)?;
        become_user(user).with_context(|| format!("cannot become user {}", user.name))?;
    }
    for (set, capabilities) in [
        (CapSet::Ambient, &CapsHashSet::new()),
        (CapSet::Effective, &kept),
        (CapSet::Permitted, &kept),
        (CapSet::Inheritable, &CapsHashSet::new()),
    ] {
        caps::set(None, set, capabilities).context("cannot give up capabilities")?;
    }
    rustix::thread::set_no_new_privs(true).context("cannot forbid new privileges")
}

fn find(name: &str) -> anyhow::Result<User> {
    ensure!(geteuid().is_root(), "--user {name} takes root; without it the daemon stays who it is");
    let user = User::from_name(name).with_context(|| format!("cannot look up user {name}"))?;
    user.with_context(|| format!("there is no user {name}; `adduser --system --group {name}` makes one"))
}

/// Root's directory of pins becomes the user's, and so do directories that are not there yet. Others are left as they are:
/// they may be anybody's.
fn hand_over(options: &Options, user: &User) -> anyhow::Result<()> {
    let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
    let failed = |path: &Path| format!("cannot give {} to user {}", path.display(), user.name);
    for directory in [Some(options.state.as_path()), options.socket.parent()].into_iter().flatten() {
        if !directory.as_os_str().is_empty() && !directory.exists() {
            fs::create_dir_all(directory).with_context(|| failed(directory))?;
            chown(directory, uid, gid).with_context(|| failed(directory))?;
        }
    }
    let pins = &options.bpffs;
    if fs::metadata(pins).with_context(|| failed(pins))?.uid() != user.uid.as_raw() {
        walk(pins, &|path| lchown(path, uid, gid)).with_context(|| failed(pins))?;
    }
    Ok(())
}

/// Calls a function for a path and all that is under it.
fn walk(path: &Path, function: &impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    function(path)?;
    if !fs::symlink_metadata(path)?.is_dir() {
        return Ok(());
    }
    fs::read_dir(path)?.try_for_each(|entry| walk(&entry?.path(), function))
}

/// Changes user and groups; capabilities that are permitted stay so.
fn become_user(user: &User) -> anyhow::Result<()> {
    caps::securebits::set_keepcaps(true)?;
    initgroups(&std::ffi::CString::new(user.name.clone())?, user.gid)?;
    setresgid(user.gid, user.gid, user.gid)?;
    setresuid(user.uid, user.uid, user.uid)?;
    Ok(caps::securebits::set_keepcaps(false)?)
}
