//! JSON as text: lines on the socket, documents on stdout.

use serde::{Serialize, de::DeserializeOwned};

/// One object on one line, without the line's end.
///
/// # Errors
/// None for the types of this folder: all their keys are strings.
pub fn line(value: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string(value)
}

/// One object from one line.
///
/// # Errors
/// What is wrong, with the column.
pub fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(line)
}

/// What `-j` prints for a config: the same tables and keys as the TOML document.
///
/// # Errors
/// The text is not TOML.
pub fn from_toml(text: &str) -> Result<String, toml_edit::de::Error> {
    let document: serde_json::Value = toml_edit::de::from_str(text)?;
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_keeps_tables_and_keys() {
        let text = "[ports]\neth0 = { mode = \"auto\" }\n[chains.forward]\npolicy = \"drop\"\nrules = ['accept']\n";
        let want = r#"{"chains":{"forward":{"policy":"drop","rules":["accept"]}},"ports":{"eth0":{"mode":"auto"}}}"#;
        assert_eq!(from_toml(text).expect("TOML"), want);
        assert!(from_toml("ports = ").is_err());
    }
}
