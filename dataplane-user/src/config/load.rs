//! A config from its file, with the files of its sets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Broken, Config, ConfigError, Elements, WayIn, at_assertion, parse, parse_set_file};

/// Why a file does not give a config.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Unread {
        /// The config, or the file of one of its sets.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// What it says is wrong.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
}

/// Reads a config file and, relative to its directory, the files of its sets: their elements are listed in the result.
/// Gives the text too, for errors that come later.
///
/// # Errors
/// A file that cannot be read, or the first thing that is wrong in one, with its place.
pub fn load(path: &Path) -> Result<(Config, String), LoadError> {
    let bytes = fs::read(path).map_err(|cause| LoadError::Unread { path: path.to_owned(), cause })?;
    load_bytes(bytes, path)
}

/// Whether the assertions of a config hold, as far as that can be told without the machine; `text` is what it was read from.
///
/// # Errors
/// The first that does not hold, with its place.
pub fn check_assertions(config: &Config, text: &str, path: &Path) -> Result<(), ConfigError> {
    let named = |link: &str| WayIn { link: link.to_owned(), ports: vec![link.to_owned()], ..WayIn::default() };
    match config.broken(named) {
        None => Ok(()),
        Some(Broken { index, message }) => Err(at_assertion(text, &path.display().to_string(), index, &message)),
    }
}

/// The same of a file that has been read already; `path` is for messages, and for the files of sets.
///
/// # Errors
/// As [`load`].
pub fn load_bytes(bytes: Vec<u8>, path: &Path) -> Result<(Config, String), LoadError> {
    let text = utf8(bytes, path)?;
    let mut config = parse(&text, &path.display().to_string())?;
    for set in config.sets.values_mut() {
        if let Elements::File(file) = &set.elements {
            let file = path.parent().unwrap_or(Path::new("")).join(file);
            let elements = parse_set_file(&set.kind, &read(&file)?, &file.display().to_string())?;
            set.elements = Elements::Listed(elements.into());
        }
    }
    Ok((config, text))
}

fn read(path: &Path) -> Result<String, LoadError> {
    let bytes = fs::read(path).map_err(|cause| LoadError::Unread { path: path.to_owned(), cause })?;
    utf8(bytes, path)
}

fn utf8(bytes: Vec<u8>, path: &Path) -> Result<String, LoadError> {
    String::from_utf8(bytes).map_err(|error| {
        let end = error.utf8_error().valid_up_to();
        let valid = String::from_utf8_lossy(&error.as_bytes()[..end]).into_owned();
        let message = "this is not UTF-8; save the file as UTF-8";
        ConfigError::new(&valid, &path.display().to_string(), end..end, message).into()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_of_sets_are_beside_the_config() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("dataplane.toml");
        let text = "[sets.bad]\ntype = 'ipv4_addr'\nfile = 'bad.txt'\n[chains.input]\nrules = ['ip saddr @bad drop']\n";
        fs::write(&path, text).expect("a file");
        let error = load(&path).expect_err("no file of elements").to_string();
        assert!(error.contains("bad.txt"), "{error}");
        fs::write(directory.path().join("bad.txt"), "192.0.2.1 # one\n\n198.51.100.0/24\n").expect("a file");
        let (config, _) = load(&path).expect("a config");
        assert!(config.to_toml().contains("\"198.51.100.0/24\""), "{}", config.to_toml());
        fs::write(directory.path().join("bad.txt"), "192.0.2.1\n  192.0.2.x\n").expect("a file");
        let error = load(&path).expect_err("no address").to_string();
        assert!(error.contains("bad.txt:2:3: "), "{error}");
        fs::write(&path, b"[sets.bad]\ntype = '\xff'\n").expect("a file");
        let error = load(&path).expect_err("no UTF-8").to_string();
        assert!(error.contains("dataplane.toml:2:9: this is not UTF-8"), "{error}");
    }
}
