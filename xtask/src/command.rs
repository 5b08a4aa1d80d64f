//! Child processes: what is run is printed, and a failure names the command line.

use std::{
    env,
    ffi::OsString,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

/// Programs that an ordinary user's PATH lacks on Debian live here.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The command as a person would type it, with the environment set for it.
pub(crate) fn line(command: &Command) -> String {
    let environment = command
        .get_envs()
        .filter(|(name, _)| *name != "PATH")
        .filter_map(|(name, value)| Some(format!("{}={}", name.display(), quoted(&value?.to_string_lossy()))));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    environment.chain(words.map(|word| quoted(&word.to_string_lossy()))).collect::<Vec<_>>().join(" ")
}

/// Prints the command, runs it with our stdout and stderr and without stdin.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    println!("$ {}", line(command));
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("`{}` did not start; is it installed?", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// What a command says on stdout, trimmed; nothing if it fails or does not exist.
pub(crate) fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where a program is, on the PATH or in the system's own folders.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The PATH with `dirs` in front and the system's folders behind.
pub(crate) fn path_with(dirs: &[PathBuf]) -> OsString {
    let old = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> =
        dirs.iter().cloned().chain(env::split_paths(&old)).chain(SYSTEM_DIRS.iter().map(PathBuf::from)).collect();
    env::join_paths(dirs).unwrap_or(old)
}

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    answer(Command::new("id").arg("-u")).is_some_and(|uid| uid == "0")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_line_can_be_typed() {
        let rows: [(&[&str], &str); 3] = [
            (&["-p", "a-b", "--x=/y"], "cargo -p a-b --x=/y"),
            (&["two words"], "cargo 'two words'"),
            (&["it's", ""], r"cargo 'it'\''s' ''"),
        ];
        for (args, expected) in rows {
            assert_eq!(line(Command::new("cargo").args(args)), expected);
        }
        assert_eq!(line(Command::new("x").env("A", "1").env("PATH", "/nowhere")), "A=1 x");
    }

    #[test]
    fn a_missing_program_is_no_answer() {
        assert_eq!(answer(&mut Command::new("dataplane-no-such-program")), None);
        assert_eq!(answer(&mut Command::new("false")), None);
        assert_eq!(answer(Command::new("echo").arg("yes")).as_deref(), Some("yes"));
    }
}
