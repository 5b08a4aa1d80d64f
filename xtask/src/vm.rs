//! `cargo xtask test vm`: the kernel tests in guests with other kernels, and with emulated network cards.
//!
//! The guest's files are Debian's packages, downloaded and never installed; the tests are those that cargo built here. All
//! of it is one initramfs, so the guest needs no disk. It reports over its serial console.

mod guest;
mod image;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{
    build,
    command::{self, answer},
    package, root,
    setup::{self, Need, Toolchain},
    tally::Tally,
};
use image::Image;

/// The kernels, by series; of each the latest that Debian has.
pub(crate) const KERNELS: &[&str] = &["6.1", "6.12"];
/// The emulator, and the package that has it.
const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
/// How long one guest may take.
const LIMIT: Duration = Duration::from_hours(1);

/// What a guest runs: a test program, and the tests of it. An emulated processor is slow, so these are the ones that tell most
/// about a kernel.
const PLAN: &[(&str, &[&str])] = &[
    (
        "fixture",
        &[
            "every_program_is_cheap_to_verify",
            "every_reason_has_a_row",
            "every_row_ends_as_it_says",
            "equal_paths_share_the_flows_and_keep_each_whole",
            "xdp_and_tc_together_count_once_and_send",
            "tc_alone_counts_once_and_sends",
        ],
    ),
    (
        "scenario",
        &[
            "bond::",
            "bridge::",
            "card::",
            "detach::from",
            "exclusive::a_second_daemon_is_refused",
            "filter::",
            "icmp::",
            "loss::",
            "mode::auto",
            "mode::generic",
            "mode::native",
            "mode::tc",
            "neighbour::",
            "rebind::",
            "survive::",
            "vlan::",
            "vrf::",
        ],
    ),
];

/// Runs the tests in a guest for each kernel. `names` leaves those whose name contains one of them, and the kernels that it
/// names.
pub(crate) fn all(names: &[String]) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    if let Some(reason) = unable() {
        for kernel in KERNELS {
            tally.skip(format!("vm {kernel}"), reason.clone());
        }
        return Ok(tally);
    }
    let toolchain = setup::toolchain(Need::Test)?;
    let tests = Tests::build(&toolchain)?;
    let (kernels, names): (Vec<_>, Vec<_>) = names.iter().cloned().partition(|name| KERNELS.contains(&name.as_str()));
    let names = &names;
    for kernel in KERNELS.iter().filter(|kernel| kernels.is_empty() || kernels.iter().any(|name| name == *kernel)) {
        let start = Instant::now();
        match one(kernel, &tests, names) {
            Ok(done) => tally.add(done.within(&format!("vm {kernel}"))),
            Err(error) => match error.downcast::<image::Unavailable>() {
                Ok(missing) => tally.skip(format!("vm {kernel}"), missing.to_string()),
                Err(error) => tally.trouble(format!("vm {kernel}: {error:#}")),
            },
        }
        println!("== vm {kernel} took {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(tally)
}

/// Why no guest can be made here.
fn unable() -> Option<String> {
    if let Some(obstacle) = package::obstacle() {
        return Some(format!("{obstacle}, and the guest is made of Debian 12's packages"));
    }
    if std::env::consts::ARCH != "x86_64" {
        return Some(format!("this is {}, and the guest is x86_64", std::env::consts::ARCH));
    }
    if command::find(QEMU.0).is_none() && package::install(&[QEMU.1.to_owned()]).is_err() {
        return Some(format!("needs {}, and {} can not be installed", QEMU.0, QEMU.1));
    }
    None
}

/// What runs in the guests.
struct Tests {
    /// Name in the guest, and file here.
    programs: Vec<(String, PathBuf)>,
}

impl Tests {
    /// Builds the daemon and the tests, and finds them.
    fn build(toolchain: &Toolchain) -> anyhow::Result<Self> {
        // As everywhere, another build may be named.
        let daemon = match std::env::var_os("DATAPLANE_BIN") {
            Some(named) => named.into(),
            None => build::release(toolchain)?,
        };
        let mut programs = vec![("dataplane".to_owned(), daemon)];
        let mut cargo = toolchain.command("cargo");
        // The emulated processor is slow enough as it is.
        cargo.args(["test", "--release", "--no-run", "--package", "dataplane-tests", "--message-format=json"]);
        println!("$ {}", command::line(&cargo));
        let said = answer(&mut cargo).with_context(|| format!("`{}` failed", command::line(&cargo)))?;
        for (test, _) in PLAN {
            let file = said.lines().filter_map(|line| executable(line, test)).next_back();
            programs.push(((*test).to_owned(), file.with_context(|| format!("cargo built no test `{test}`"))?.into()));
        }
        Ok(Self { programs })
    }
}

/// The file of a test program, if a message of cargo tells it:
/// `{"reason":"compiler-artifact",...,"executable":"/x/NAME-HASH",...}`.
fn executable<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once("\"executable\":\"")?;
    let (path, _) = rest.split_once('"')?;
    let file = Path::new(path).file_name()?.to_str()?;
    (file.rsplit_once('-')?.0 == name).then_some(path)
}

/// Boots one kernel and counts what its console says.
fn one(kernel: &str, tests: &Tests, names: &[String]) -> anyhow::Result<Tally> {
    let image = Image::of(kernel)?;
    let folder = build::target().join("vm").join(kernel);
    // What an earlier run left.
    let _ = fs::remove_dir_all(&folder);
    let test = folder.join("root/test");
    fs::create_dir_all(&test)?;
    for (name, file) in &tests.programs {
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(test.join(name)).arg(file);
        if answer(&mut strip).is_none() {
            fs::copy(file, test.join(name)).with_context(|| format!("can not copy {}", file.display()))?;
        }
    }
    fs::copy(root().join("tests/guest/init"), folder.join("root/init")).context("can not copy tests/guest/init")?;
    fs::write(test.join("modules"), image::MODULES.join("\n"))?;
    fs::write(test.join("run"), script(names)?)?;
    let initramfs = folder.join("initramfs");
    image.pack(&folder.join("root"), &initramfs)?;
    guest::run(QEMU.0, &image.kernel, &initramfs, LIMIT)
}

/// What the guest's shell does.
fn script(names: &[String]) -> anyhow::Result<String> {
    let mut script = "export DATAPLANE_BIN=/test/dataplane\n".to_owned();
    for (program, tests) in PLAN {
        let options = "--include-ignored --test-threads=1 --show-output --color=never";
        // One after the other: what a test says is told at the end of its run, and a guest may be stopped before.
        for test in tests.iter().flat_map(|test| asked(test, names)) {
            script.extend(["/test/", program, " ", options, " ", test, " 2>&1\n"]);
        }
    }
    if !script.contains("--show-output") {
        bail!("no test of the guests has a name with {}", names.join(" or "));
    }
    Ok(script)
}

/// What to run of an entry of the plan: all of it if nothing was named or a part of its name was, else the tests named that
/// it stands for.
fn asked<'a>(entry: &'a str, names: &'a [String]) -> Vec<&'a str> {
    if names.is_empty() || names.iter().any(|name| entry.contains(name.as_str())) {
        return vec![entry];
    }
    names.iter().map(String::as_str).filter(|name| name.contains(entry)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_tells_where_a_test_is() {
        let message = r#"{"reason":"compiler-artifact","executable":"/t/debug/deps/fixture-0a1b","fresh":true}"#;
        assert_eq!(executable(message, "fixture"), Some("/t/debug/deps/fixture-0a1b"));
        assert_eq!(executable(message, "scenario"), None);
        assert_eq!(executable(r#"{"reason":"compiler-artifact","executable":null}"#, "fixture"), None);
    }

    #[test]
    fn the_guest_runs_what_was_asked_for() {
        let all = script(&[]).expect("a script");
        assert!(all.contains("/test/fixture ") && all.contains(" survive:: "), "{all}");
        assert!(all.lines().all(|line| line.ends_with(" 2>&1") || line.starts_with("export ")), "{all}");
        let one = script(&["survive".to_owned()]).expect("a script");
        assert!(!one.contains("/test/fixture") && one.contains(" survive:: ") && !one.contains("vrf"), "{one}");
        let test = script(&["vlan::in_tc".to_owned()]).expect("a script");
        assert!(test.contains(" vlan::in_tc 2>&1"), "{test}");
        assert!(script(&["no-such-test".to_owned()]).is_err());
    }
}
