//! The TOML file. Stand-in: replaced at merge.

/// A config.
#[derive(Debug)]
pub struct Config(toml_edit::DocumentMut);

/// What is wrong with a config.
#[derive(Debug, thiserror::Error)]
#[error("error: {path}: {message}")]
pub struct ConfigError {
    path: String,
    message: String,
}

impl Config {
    /// Parses `text`, which came from `path`.
    pub fn parse(text: &str, path: &str) -> Result<Self, ConfigError> {
        text.parse()
            .map(Self)
            .map_err(|error: toml_edit::TomlError| ConfigError { path: path.to_owned(), message: error.to_string() })
    }

    /// Canonical text.
    pub fn to_toml(&self) -> String {
        self.0.to_string()
    }
}
