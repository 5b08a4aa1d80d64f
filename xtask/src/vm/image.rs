//! The guest's files: Debian's packages, unpacked side by side, and packed with the tests into an initramfs.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use crate::{
    command::{answer, run},
    linker,
};

/// Programs of the guest and the libraries that they need.
const PACKAGES: &[&str] = &[
    "bash",
    "bpftool",
    "coreutils",
    "cpio",
    "debianutils",
    "ethtool",
    "grep",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "mount",
    "netcat-openbsd",
    "nftables",
    "procps",
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "sed",
    "tcpdump",
    "traceroute",
    "util-linux",
    // Libraries.
    "gcc-12-base",
    "libacl1",
    "libattr1",
    "libaudit1",
    "libblkid1",
    "libbpf1",
    "libbsd0",
    "libbz2-1.0",
    "libc6",
    "libcap-ng0",
    "libcap2",
    "libcom-err2",
    "libcrypt1",
    "libdb5.3",
    "libedit2",
    "libelf1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "libgcrypt20",
    "libgmp10",
    "libgpg-error0",
    "libgssapi-krb5-2",
    "libidn2-0",
    "libiperf0",
    "libjansson4",
    "libk5crypto3",
    "libkeyutils1",
    "libkmod2",
    "libkrb5-3",
    "libkrb5support0",
    "liblz4-1",
    "liblzma5",
    "libmd0",
    "libmnl0",
    "libmount1",
    "libncursesw6",
    "libnftables1",
    "libnftnl11",
    "libnsl2",
    "libpam0g",
    "libpcap0.8",
    "libpcre2-8-0",
    "libproc2-0",
    "libreadline8",
    "libsctp1",
    "libselinux1",
    "libsmartcols1",
    "libsqlite3-0",
    "libssl3",
    "libsystemd0",
    "libtinfo6",
    "libtirpc3",
    "libudev1",
    "libunistring2",
    "libuuid1",
    "libxtables12",
    "libzstd1",
    "zlib1g",
    "libdbus-1-3",
];

/// Modules that the guest loads, by which it has what this project's machines may lack.
pub(super) const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_net",
    "e1000e",
    "veth",
    "8021q",
    "vrf",
    "bonding",
    "bridge",
    "dummy",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "nf_tables",
    "nft_ct",
    "nft_limit",
    "nft_log",
    "nft_reject_inet",
    "tun",
    "sit",
    "ipip",
    "wireguard",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "af_packet_diag",
];

/// What the guest does not need of the packages.
const USELESS: &[&str] =
    &["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/lib/x86_64-linux-gnu/gconv"];

/// Packages can not be had: the network's or the archive's affair, not a failure of ours.
#[derive(Debug)]
pub(super) struct Unavailable(String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Debian's packages can not be had: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}

/// A kernel and the archives that it starts from.
pub(super) struct Image {
    pub(super) kernel: PathBuf,
    /// Unpacked packages, with `cpio` among them.
    base: PathBuf,
    /// The folder with the modules.
    modules: PathBuf,
}

impl Image {
    /// The image of a kernel, made once for each version of its package and kept beside bpf-linker.
    pub(super) fn of(series: &str) -> anyhow::Result<Self> {
        let cache = linker::cache()?.join("vm");
        let package = kernel_package(series)?;
        let base = unpacked(&cache, "base", PACKAGES, finish_base)?;
        let folder = unpacked(&cache, &package, &[&package], |_| Ok(()))?;
        let release = package.strip_prefix("linux-image-").context("a kernel's package")?;
        let kernel = folder.join("boot").join(format!("vmlinuz-{release}"));
        let modules = cache.join(format!("modules-{release}"));
        if !modules.join("done").exists() {
            pick_modules(&base, &folder, release, &modules)?;
        }
        Ok(Self { kernel, base, modules })
    }

    /// Packs the system, the modules and `tests` into one archive.
    pub(super) fn pack(&self, tests: &Path, archive: &Path) -> anyhow::Result<()> {
        let mut out = fs::File::create(archive).with_context(|| format!("can not write {}", archive.display()))?;
        for folder in [&self.base, &self.modules, tests] {
            let find = Command::new("find").arg(".").current_dir(folder).stdout(Stdio::piped()).spawn();
            let mut find = find.context("find did not start")?;
            let mut cpio = Command::new(self.base.join("bin/cpio"));
            cpio.args(["--create", "--format=newc", "--quiet", "--owner=+0:+0"]).current_dir(folder);
            cpio.stdin(find.stdout.take().context("find has no stdout")?);
            let packed = cpio.output().context("cpio did not start")?;
            if !packed.status.success() || !find.wait()?.success() {
                bail!("cpio can not pack {}: {}", folder.display(), String::from_utf8_lossy(&packed.stderr));
            }
            out.write_all(&packed.stdout)?;
        }
        Ok(())
    }
}

/// The latest kernel of a series, e.g. `linux-image-6.1.0-56-amd64`: what Debian's name for the series depends on.
fn kernel_package(series: &str) -> anyhow::Result<String> {
    for meta in [format!("linux-image-{series}-amd64"), "linux-image-amd64".to_owned()] {
        let said = answer(Command::new("apt-cache").args(["depends", "--important", &meta])).unwrap_or_default();
        if let Some(found) = dependency(&said, series) {
            return Ok(found);
        }
    }
    Err(Unavailable(format!("apt knows no kernel {series}; `apt-get update` may help")).into())
}

/// The image of a series that `apt-cache depends` tells of.
fn dependency(said: &str, series: &str) -> Option<String> {
    let names = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let wanted = format!("linux-image-{series}.");
    names.map(str::to_owned).find(|name| name.starts_with(&wanted) && name.ends_with("-amd64"))
}

/// A folder with unpacked packages, made once.
fn unpacked(
    cache: &Path,
    name: &str,
    packages: &[&str],
    finish: impl Fn(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let done = cache.join(name);
    // Another list of packages is another folder's content.
    let list = packages.join("\n");
    let told = cache.join(format!("{name}.packages"));
    if done.exists() && fs::read_to_string(&told).is_ok_and(|text| text == list) {
        return Ok(done);
    }
    let work = cache.join(format!("{name}.{}", std::process::id()));
    let debs = work.join("debs");
    fs::create_dir_all(&debs).with_context(|| format!("can not make {}", debs.display()))?;
    let outcome = download(&debs, packages).and_then(|()| {
        let root = work.join("root");
        fs::create_dir(&root)?;
        for entry in fs::read_dir(&debs)? {
            let mut dpkg = Command::new("dpkg-deb");
            dpkg.arg("--extract").arg(entry?.path()).arg(&root);
            answer(&mut dpkg).context("dpkg-deb can not unpack a package")?;
        }
        finish(&root)?;
        // The folder of before may be of another list.
        let _ = fs::remove_dir_all(&done);
        fs::rename(&root, &done).with_context(|| format!("can not make {}", done.display()))?;
        Ok(fs::write(&told, &list)?)
    });
    let _ = fs::remove_dir_all(&work);
    outcome.map(|()| done)
}

fn download(into: &Path, packages: &[&str]) -> anyhow::Result<()> {
    let attempt = || run(Command::new("apt-get").args(["-qq", "download"]).args(packages).current_dir(into));
    if attempt().is_ok() {
        return Ok(());
    }
    println!("the package lists may be old: refreshing them");
    run(Command::new("apt-get").args(["-qq", "update"]))
        .and_then(|()| attempt())
        .map_err(|error| Unavailable(error.to_string()).into())
}

/// What installing would have done, as far as the guest needs it.
fn finish_base(root: &Path) -> anyhow::Result<()> {
    for folder in USELESS {
        // Not every list of packages has all of them.
        let _ = fs::remove_dir_all(root.join(folder));
    }
    for folder in ["proc", "sys", "dev", "run", "tmp", "root", "var", "etc"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for (link, target) in [("bin/sh", "bash"), ("usr/bin/python3", "python3.11"), ("var/run", "/run")] {
        let link = root.join(link);
        if !link.exists() {
            symlink(target, &link).with_context(|| format!("can not make {}", link.display()))?;
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    Ok(())
}

/// Copies [`MODULES`], and what they depend on, out of a kernel's package.
fn pick_modules(base: &Path, kernel: &Path, release: &str, into: &Path) -> anyhow::Result<()> {
    // `kmod` is what its first word says.
    let kmod = |name: &str| {
        let mut command = Command::new(base.join("bin/kmod"));
        command.arg0(name);
        command
    };
    let _ = fs::remove_dir_all(into);
    let depmod = |root: &Path| {
        answer(kmod("depmod").arg("-b").arg(root).arg(release)).context("depmod can not read the kernel's modules")
    };
    depmod(kernel)?;
    for module in MODULES {
        let mut show = kmod("modprobe");
        show.arg("-d").arg(kernel).args(["-S", release, "--show-depends", module]);
        let said = answer(&mut show).with_context(|| format!("kernel {release} has no module {module}"))?;
        for file in said.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            // Behind the file may come options, which this machine's `modprobe.d` gives.
            let file = Path::new(file.split_whitespace().next().context("modprobe names no file")?);
            let target = into.join(file.strip_prefix(kernel).context("a module outside of its kernel")?);
            fs::create_dir_all(target.parent().context("a module has a folder")?)?;
            fs::copy(file, target)?;
        }
    }
    let folder = Path::new("lib/modules").join(release);
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(kernel.join(&folder).join(list), into.join(&folder).join(list))?;
    }
    depmod(into)?;
    Ok(fs::write(into.join("done"), "")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_of_a_series_is_told_from_others() {
        let said = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(dependency(said, "6.1").as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(dependency(said, "6.12"), None);
        assert_eq!(dependency("", "6.1"), None);
        let backport = "linux-image-6.12-amd64\n  Depends: linux-image-6.12.117+deb12-amd64\n";
        assert_eq!(dependency(backport, "6.12").as_deref(), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(dependency(backport, "6.1"), None);
    }
}
