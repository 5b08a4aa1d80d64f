//! Rows of `set list`.

use serde::{Deserialize, Serialize};

/// One row of `set list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRow {
    /// As rules ask it, without `@`.
    pub name: String,
    /// As nft names it: `ipv4_addr`, `ipv4_addr . inet_service`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// What is said of it, if rules fill it; then its elements are those that the kernel has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<DynamicRow>,
    /// In canonical form, in the order in which they were put in. Last: pages go on behind it.
    pub elements: Vec<String>,
}

/// What is said of a set that rules fill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DynamicRow {
    /// How long elements stay, such as `1h30m`; none: until they are deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// How many there may be.
    pub size: u32,
}
