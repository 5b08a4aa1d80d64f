//! New inputs from old ones.

use fastrand::Rng;

/// More than this nobody learns from, and large inputs are slow.
const LONGEST: usize = 16 << 10;
/// Numbers at which something often changes.
const CORNERS: [u64; 12] = [0, 1, 7, 8, 63, 64, 127, 255, 256, 65_535, 65_536, u64::MAX];

/// One of the corpus, changed in a few places.
pub fn mutate(corpus: &[Vec<u8>], words: &[&str], random: &mut Rng) -> Vec<u8> {
    let mut input = corpus[random.usize(..corpus.len())].clone();
    for _ in 0..=random.usize(..6) {
        let at = random.usize(..=input.len());
        let end = (at + random.usize(..=(input.len() - at).min(16))).min(input.len());
        match random.u8(..9) {
            0 => drop(input.drain(at..end)),
            1 if at < input.len() => input[at] ^= 1 << random.u8(..8),
            2 if at < input.len() => input[at] = random.u8(..),
            3 => {
                let part = input[at..end].to_vec();
                let to = random.usize(..=input.len());
                input.splice(to..to, part.repeat(1 + random.usize(..3)));
            }
            4 => drop(input.splice(at..end, CORNERS[random.usize(..CORNERS.len())].to_string().into_bytes())),
            5 if !words.is_empty() => {
                let word = words[random.usize(..words.len())];
                input.splice(at..end, format!(" {word} ").into_bytes());
            }
            6 => {
                let other = &corpus[random.usize(..corpus.len())];
                let from = random.usize(..=other.len());
                let to = from + random.usize(..=(other.len() - from).min(256));
                input.splice(at..end, other[from..to].iter().copied());
            }
            7 => input.truncate(at),
            8 if end - at >= 2 => {
                let corner = CORNERS[random.usize(..CORNERS.len())] as u16;
                input[at..at + 2].copy_from_slice(&corner.to_be_bytes());
            }
            _ => {}
        }
    }
    input.truncate(LONGEST);
    input
}
