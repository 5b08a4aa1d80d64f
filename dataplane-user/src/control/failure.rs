//! Why a request was not fulfilled, and the exit code of that.

use serde::{Deserialize, Serialize};

/// Why a request was not fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Sort of failure: the exit code.
    pub kind: FailureKind,
    /// What was wrong, with the value found, and what to do next.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Sorts of failure, one for each exit code of the operator's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FailureKind {
    /// None of the others.
    Failed = 1,
    /// The request itself makes no sense.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// No daemon answers.
    Unreachable = 4,
    /// The input is not valid.
    Rejected = 5,
    /// Two things that were compared differ.
    Differences = 6,
    /// Done, or going on, but not in full.
    Degraded = 7,
}

impl FailureKind {
    /// For `exit(2)`.
    pub const fn exit_code(self) -> u8 {
        self as u8
    }
}
