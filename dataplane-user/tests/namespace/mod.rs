//! A network namespace for a test.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

/// A network namespace that goes away with the value, also in a panic.
pub(crate) struct Namespace(String);

impl Namespace {
    /// Makes one, and moves this thread into it.
    pub(crate) fn enter(name: &str) -> Self {
        let namespace = Self(format!("dp-mirror-{}-{name}", std::process::id()));
        run(&["netns", "add", &namespace.0]);
        let file = File::open(format!("/var/run/netns/{}", namespace.0)).expect("the new namespace");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("needs root");
        namespace
    }

    /// Many commands, one a line.
    pub(crate) fn batch(&self, commands: &str) {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(commands.as_bytes()).expect("space");
        run(&["-n", &self.0, "-batch", file.path().to_str().expect("a plain name")]);
    }

    /// `sysctl NAME=VALUE`, `ethtool ...`, or arguments of `ip`.
    pub(crate) fn step(&self, step: &str) {
        if let Some(setting) = step.strip_prefix("sysctl ") {
            let (name, value) = setting.split_once('=').expect("a value");
            std::fs::write(format!("/proc/sys/{name}"), value).expect("a setting of this namespace");
        } else if let Some(arguments) = step.strip_prefix("ethtool ") {
            let status = Command::new("ethtool").args(arguments.split_whitespace()).status().expect("ethtool");
            assert!(status.success(), "{step}");
        } else {
            self.ip(step);
        }
    }

    /// Type and device of the route that the kernel takes, or its error.
    pub(crate) fn ask(&self, destination: &str) -> Result<(String, String), String> {
        let arguments = ["-n", &self.0, "-j", "route", "get", destination];
        let output = Command::new("ip").args(arguments).output().expect("iproute2");
        let Ok(Value::Array(answer)) = serde_json::from_slice::<Value>(&output.stdout) else {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        };
        let field = |name: &str| answer[0][name].as_str().map(str::to_owned);
        Ok((field("type").unwrap_or_else(|| "unicast".to_owned()), field("dev").unwrap_or_default()))
    }

    /// Runs `ip` on it.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.0];
        all.extend(arguments.split_whitespace());
        run(&all)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
