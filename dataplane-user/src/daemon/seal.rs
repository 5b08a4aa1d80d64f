//! Seals of the files of the state: one that was cut off, or changed by hand, may still be a config, but not the one that was
//! written down.
//!
//! Daemons of before read the same files: to them a seal is a comment of TOML, or a field of JSON that they do not know.

/// In front of a file of TOML, then the hash of all behind that line.
const TOML: &str =
    "# Written by dataplane, which refuses it once it is changed: `dataplane config apply FILE` changes it. Seal: ";
/// At the end of a file or line of JSON, then the hash of all before.
const JSON: &str = ",\"seal\":\"";
/// Digits of a hash.
const DIGITS: usize = 16;

/// What is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsealed<'t> {
    /// Without the seal.
    pub text: &'t str,
    /// Whether there was one: daemons of before wrote none.
    pub sealed: bool,
}

/// The seal does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was changed or is incomplete: its seal does not match")]
pub(super) struct Broken;

/// FNV-1a: the same in every version of this program.
pub(super) fn hash<'t>(texts: impl IntoIterator<Item = &'t str>) -> u64 {
    let bytes = texts.into_iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn digits(text: &str) -> String {
    format!("{:0DIGITS$x}", hash([text]))
}

/// A file of TOML with its seal.
pub(super) fn toml(mut text: String) -> String {
    let seal = format!("{TOML}{}\n", digits(&text));
    text.insert_str(0, &seal);
    text
}

/// What is in a file of TOML.
pub(super) fn open_toml(file: &str) -> Result<Unsealed<'_>, Broken> {
    let Some(behind) = file.strip_prefix(TOML) else { return Ok(Unsealed { text: file, sealed: false }) };
    let (seal, text) = behind.split_once('\n').ok_or(Broken)?;
    if seal == digits(text) { Ok(Unsealed { text, sealed: true }) } else { Err(Broken) }
}

/// An object of JSON with its seal, in the innermost object at its end: an enum has no room for more than its variant.
pub(super) fn json(mut object: String) -> String {
    let open = object.trim_end_matches('}');
    let (end, seal) = (open.len(), format!("{JSON}{}\"", digits(open)));
    object.insert_str(end, &seal);
    object
}

/// An object of JSON. The seal stays where it is: whoever reads the object does not know that field.
pub(super) fn open_json(file: &str) -> Result<Unsealed<'_>, Broken> {
    let Some((open, seal)) = file.rsplit_once(JSON) else { return Ok(Unsealed { text: file, sealed: false }) };
    let seal = seal.trim_end().trim_end_matches('}').strip_suffix('"').ok_or(Broken)?;
    if seal == digits(open) { Ok(Unsealed { text: file, sealed: true }) } else { Err(Broken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_detects_changes() {
        for (file, open) in [
            (toml("[ports]\na = 1\n".to_owned()), open_toml as fn(&str) -> Result<Unsealed<'_>, Broken>),
            (toml(String::new()), open_toml),
            (json(r#"{"next":3,"rules":[{"seal":"no"}]}"#.to_owned()), open_json),
            (json(r#"{"add":{"in_front":false}}"#.to_owned()), open_json),
        ] {
            let whole = open(&file).expect("whole");
            assert!(whole.sealed, "{file}");
            // Without the braces behind its seal it is no JSON.
            for cut in 1..file.trim_end_matches('}').len() {
                // What has lost its seal is not sealed; everything else is broken.
                assert!(!matches!(open(&file[..cut]), Ok(Unsealed { sealed: true, .. })), "{}", &file[..cut]);
                let mut bytes = file.clone().into_bytes();
                bytes[cut] ^= 1;
                let changed = String::from_utf8(bytes).expect("text");
                assert!(!matches!(open(&changed), Ok(Unsealed { sealed: true, .. })), "{changed}");
            }
        }
        assert_eq!(open_toml(&toml("a = 1\n".to_owned())), Ok(Unsealed { text: "a = 1\n", sealed: true }));
        assert_eq!(open_toml("a = 1\n"), Ok(Unsealed { text: "a = 1\n", sealed: false }));
        assert_eq!(open_json("{}"), Ok(Unsealed { text: "{}", sealed: false }));
    }
}
