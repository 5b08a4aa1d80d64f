//! Which links a port of the config means: a name, or a glob of names.
//!
//! Nothing is compiled, so no text can ask for more time or memory than it is long: a pattern is walked once for a name,
//! with all places of the name that it may have come to as the bits of a number.

use thiserror::Error;

/// Longest pattern, in bytes. Names of links have 15, other names of theirs 127 (`ALTIFNAMSIZ`).
const LENGTH: usize = 256;
/// Braces inside each other.
const DEPTH: usize = 8;
/// Longest name that can fit, in bytes: there is a place behind each of its bytes, and one in front.
const NAME: usize = 127;

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// It is too long.
    #[error("it has {0} bytes; at most {LENGTH} are allowed, and names of links have 15")]
    Long(usize),
    /// Too many braces inside each other.
    #[error("more than {DEPTH} braces are open inside each other; write the names one by one")]
    Deep,
    /// A brace is not closed.
    #[error("`{{` has no `}}`; close it, or write `[{{]` for the character")]
    Open,
    /// A brace is closed that was not opened.
    #[error("`}}` has no `{{`; open it, or write `[}}]` for the character")]
    Closed,
    /// A bracket is not closed.
    #[error("`[` has no `]`; close it, or write `[[]` for the character")]
    Class,
    /// A range goes backwards.
    #[error("the range {0}-{1} goes backwards")]
    Range(char, char),
    /// Nothing is escaped.
    #[error("nothing follows the last `\\`; write `\\\\` for the character")]
    Escape,
}

/// A part of a glob.
#[derive(Clone, Debug)]
enum Piece {
    Byte(u8),
    /// `?`
    Any,
    /// `*`
    Many,
    /// `[...]`: a bit for each byte.
    Class(Box<[u64; 4]>),
    /// `{...}`
    Either(Vec<Vec<Piece>>),
}

/// The name of a link, or a glob of names.
#[derive(Clone, Debug)]
pub struct PortPattern {
    text: String,
    /// Nothing where it is a name.
    glob: Option<Vec<Piece>>,
}

impl PortPattern {
    /// From its text: `*`, `?`, `[...]`, `[!...]`, `{...,...}` as in a shell, and `\` in front of what stands for itself.
    ///
    /// # Errors
    /// What is wrong with the glob.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.len() > LENGTH {
            return Err(PatternError::Long(text.len()));
        }
        let special = text.contains(['*', '?', '[', '{', '}', '\\']);
        let glob = special.then(|| Reader { rest: text.as_bytes() }.all()).transpose()?;
        Ok(Self { text: text.to_owned(), glob })
    }

    /// The pattern that fits this name, and nothing else.
    ///
    /// # Errors
    /// The name is longer than names are.
    pub fn exact(name: &str) -> Result<Self, PatternError> {
        let mut text = String::new();
        for character in name.chars() {
            match character {
                '*' | '?' | '[' | ']' | '{' | '}' => text.extend(['[', character, ']']),
                '\\' => text.push_str("\\\\"),
                other => text.push(other),
            }
        }
        Self::new(&text)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it may mean more than one name.
    pub fn is_glob(&self) -> bool {
        self.text.contains(['*', '?', '[', '{'])
    }

    /// Whether it is a name, or the beginning of names and `*`.
    pub fn is_beginning(&self) -> bool {
        !self.text.strip_suffix('*').unwrap_or(&self.text).contains(['*', '?', '[', ']', '{', '}', '\\'])
    }

    /// Whether a link of this name is meant.
    pub fn fits(&self, link: &str) -> bool {
        self.text == link
            || self.glob.as_ref().is_some_and(|pieces| {
                let name = link.as_bytes();
                name.len() <= NAME && walk(pieces, name, 1) >> name.len() == 1
            })
    }
}

impl PartialEq for PortPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PortPattern {}

/// Where in a name one can be behind the pieces, from where one may be before: bit `n` is behind `n` bytes.
fn walk(pieces: &[Piece], name: &[u8], places: u128) -> u128 {
    let all = u128::MAX >> (NAME - name.len());
    pieces.iter().fold(places, |places, piece| {
        let step = |fits: &dyn Fn(u8) -> bool| {
            let here = name.iter().enumerate().filter(|(_, byte)| fits(**byte));
            (places & here.fold(0, |bits, (place, _)| bits | 1 << place)) << 1
        };
        match piece {
            Piece::Byte(wanted) => step(&|byte| byte == *wanted),
            Piece::Any => step(&|_| true),
            Piece::Class(bits) => step(&|byte| bits[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1),
            // From the first place on, all.
            Piece::Many => all & (places & places.wrapping_neg()).wrapping_neg(),
            Piece::Either(ways) => ways.iter().fold(0, |ends, way| ends | walk(way, name, places)),
        }
    })
}

/// What is left to be read.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn all(&mut self) -> Result<Vec<Piece>, PatternError> {
        match self.pieces(0)? {
            (pieces, None) => Ok(pieces),
            _ => Err(PatternError::Closed),
        }
    }

    /// Up to the end, or the brace or comma that ends this part of braces.
    fn pieces(&mut self, depth: usize) -> Result<(Vec<Piece>, Option<u8>), PatternError> {
        let mut pieces = Vec::new();
        while let Some(byte) = self.next() {
            pieces.push(match byte {
                b'*' => Piece::Many,
                b'?' => Piece::Any,
                b'[' => Piece::Class(self.class()?),
                b'{' if depth == DEPTH => return Err(PatternError::Deep),
                b'{' => Piece::Either(self.ways(depth + 1)?),
                b'}' => return Ok((pieces, Some(b'}'))),
                b',' if depth > 0 => return Ok((pieces, Some(b','))),
                b'\\' => Piece::Byte(self.next().ok_or(PatternError::Escape)?),
                other => Piece::Byte(other),
            });
        }
        Ok((pieces, None))
    }

    fn ways(&mut self, depth: usize) -> Result<Vec<Vec<Piece>>, PatternError> {
        let mut ways = Vec::new();
        loop {
            let (pieces, end) = self.pieces(depth)?;
            // `{,a}` is `a`: a way with nothing in it is none.
            ways.extend(Some(pieces).filter(|pieces| !pieces.is_empty()));
            match end {
                Some(b'}') if ways.is_empty() => return Ok(vec![Vec::new()]),
                Some(b'}') => return Ok(ways),
                Some(_) => {}
                None => return Err(PatternError::Open),
            }
        }
    }

    fn class(&mut self) -> Result<Box<[u64; 4]>, PatternError> {
        let negated = matches!(self.rest.first(), Some(b'!' | b'^'));
        if negated {
            self.next();
        }
        let mut bits = Box::new([0_u64; 4]);
        let mut first = true;
        loop {
            let from = self.next().ok_or(PatternError::Class)?;
            if from == b']' && !first {
                break;
            }
            first = false;
            let to = match *self.rest {
                [b'-', to, ..] if to != b']' => {
                    self.rest = &self.rest[2..];
                    to
                }
                _ => from,
            };
            if to < from {
                return Err(PatternError::Range(from.into(), to.into()));
            }
            (from..=to).for_each(|byte| bits[usize::from(byte >> 6)] |= 1 << (byte & 63));
        }
        if negated {
            bits.iter_mut().for_each(|bits| *bits = !*bits);
        }
        Ok(bits)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn names_and_globs() {
        for (pattern, fits, others) in [
            ("eth0", &["eth0"][..], &["eth", "eth00", ""][..]),
            ("eth*", &["eth", "eth0", "eth0.7"], &["et", "veth0"]),
            ("*", &["", "a", "fifteen-letters"], &[]),
            ("e*h*0", &["eh0", "eth0", "ehhh00"], &["eth1", "e0h"]),
            ("eth?", &["eth0", "ethx"], &["eth", "eth00"]),
            ("eth[0-3x]", &["eth0", "eth3", "ethx"], &["eth4", "eth-", "eth"]),
            ("eth[!0-3]", &["eth4", "ethx"], &["eth0", "eth"]),
            ("eth[^0]", &["eth4"], &["eth0"]),
            ("a[]-]b", &["a]b", "a-b"], &["ab", "a[b"]),
            ("a[[]b", &["a[b"], &["ab"]),
            ("{eth,ens}[01]", &["eth0", "ens1"], &["eth2", "{eth"]),
            ("a{b,c{d,e}f,}g", &["abg", "acdfg", "acefg"], &["ag", "acg"]),
            ("a{}b", &["ab"], &["a", "a{}b "]),
            ("{a,aa}{a,b}", &["aa", "aaa", "ab", "aab"], &["a", "b"]),
            ("a,b", &["a,b"], &["a"]),
            (r"a\*", &["a*"], &["ab", "a"]),
            ("ü?", &["üx"], &["ü"]),
            ("**", &["", "ab"], &[]),
        ] {
            let pattern = PortPattern::new(pattern).expect(pattern);
            let wrong: Vec<_> = fits.iter().filter(|name| !pattern.fits(name)).collect();
            assert!(wrong.is_empty(), "{pattern:?} must fit {wrong:?}");
            let wrong: Vec<_> = others.iter().filter(|name| pattern.text != ***name && pattern.fits(name)).collect();
            assert!(wrong.is_empty(), "{pattern:?} must not fit {wrong:?}");
        }
    }

    #[test]
    fn what_is_no_glob() {
        for (text, wrong) in [
            ("{a,b", PatternError::Open),
            ("a}", PatternError::Closed),
            ("{a}}", PatternError::Closed),
            ("[a", PatternError::Class),
            ("[]", PatternError::Class),
            ("[z-a]", PatternError::Range('z', 'a')),
            ("a\\", PatternError::Escape),
            (&"{".repeat(200), PatternError::Deep),
            (&("{".repeat(100) + "a" + &"}".repeat(100)), PatternError::Deep),
            (&"?".repeat(1 << 20), PatternError::Long(1 << 20)),
        ] {
            assert_eq!(PortPattern::new(text).err(), Some(wrong), "{text:.40}");
        }
    }

    #[test]
    fn a_name_is_meant_as_it_is() {
        for name in ["eth0", "a*b", "a[0]", "{x}", "a\\b", "?", "]", "ü"] {
            let pattern = PortPattern::exact(name).expect(name);
            assert!(pattern.fits(name) && !pattern.fits("a1b") && !pattern.fits("a0"), "{pattern:?}");
            assert_eq!(PortPattern::new(pattern.as_str()).expect(name), pattern);
        }
    }

    #[test]
    fn the_longest_pattern_takes_no_time() {
        for piece in ["*a", "{*a,a*}", "{a,aa}", "{{a,aa},{a,aaa}}", "[!b]*", "?*"] {
            let pattern = PortPattern::new(&piece.repeat(LENGTH / piece.len())).expect(piece);
            let begun = Instant::now();
            for length in [0, 15, NAME, NAME + 1, 4096] {
                let _fits = pattern.fits(&("a".repeat(length) + "b"));
            }
            assert!(begun.elapsed() < Duration::from_millis(100), "{piece}: {:?}", begun.elapsed());
        }
    }
}
