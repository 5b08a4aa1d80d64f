//! A line of `iptables-save` as words, each with its place.

use super::super::problem::Position;

/// A word: what it says, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) place: Position,
}

/// The words of a line. In quotes, `\"` and `\\` stand for what is behind the backslash (`xtables_save_string`).
///
/// # Errors
/// Quotes that are not closed.
pub(super) fn words(line: &str, start: usize) -> Result<Vec<Word>, (Position, String)> {
    let mut words = Vec::new();
    let mut letters = line.char_indices().peekable();
    while let Some((begin, first)) = letters.next() {
        if first.is_whitespace() {
            continue;
        }
        let mut text = String::new();
        let mut end = begin + first.len_utf8();
        if first == '"' {
            let mut closed = false;
            while let Some((at, letter)) = letters.next() {
                end = at + letter.len_utf8();
                match letter {
                    '"' => {
                        closed = true;
                        break;
                    }
                    '\\' => text.extend(letters.next().map(|(_, letter)| letter)),
                    _ => text.push(letter),
                }
            }
            if !closed {
                return Err((start + begin..start + line.len(), "these quotes are not closed".to_owned()));
            }
        } else {
            text.push(first);
            while let Some((at, letter)) = letters.next_if(|(_, letter)| !letter.is_whitespace()) {
                text.push(letter);
                end = at + letter.len_utf8();
            }
        }
        words.push(Word { text, place: start + begin..start + end });
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_places() {
        let found = words(r#"-A IN --comment "a \"b\" c" x"#, 10).expect("words");
        let texts: Vec<_> = found.iter().map(|word| (word.text.as_str(), word.place.start)).collect();
        assert_eq!(texts, [("-A", 10), ("IN", 13), ("--comment", 16), ("a \"b\" c", 26), ("x", 38)]);
        assert_eq!(words("-A \"x", 0), Err((3..5, "these quotes are not closed".to_owned())));
    }
}
