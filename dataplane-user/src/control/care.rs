//! How carefully a change is made: whether it is rolled back unless it is confirmed, and whose session it must not cut.

use serde::{Deserialize, Serialize};

use super::protocol::{ConfigText, Request};

/// How carefully.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Care {
    /// Seconds after which it is rolled back unless it was confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<u32>,
    /// Also when it may drop the session's own packets, or leaves no port.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// `SSH_CONNECTION` of the session that sends the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// A change, and how carefully.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Careful {
    /// What is changed.
    pub change: Request,
    /// How carefully.
    pub care: Care,
}

/// A config to apply, and how carefully.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// As [`ConfigText::path`].
    pub path: String,
    /// As [`ConfigText::toml`].
    pub toml: String,
    /// As [`Care::confirm`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<u32>,
    /// As [`Care::force`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// As [`Care::session`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

impl From<ConfigText> for Apply {
    fn from(ConfigText { path, toml }: ConfigText) -> Self {
        Self { path, toml, confirm: None, force: false, session: None }
    }
}

impl Apply {
    /// How carefully.
    pub fn care(&self) -> Care {
        Care { confirm: self.confirm, force: self.force, session: self.session.clone() }
    }
}

/// Beside which rule another is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Before it; else behind it.
    pub before: bool,
    /// Its handle.
    pub handle: u64,
}
