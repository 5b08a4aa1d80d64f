//! Frames from what an operator says or has: an expression, hexadecimal digits, a capture file. Pure but for the reader of
//! the file; runs in the command line, never in the daemon.

mod capture;
mod expression;

pub use capture::{CaptureError, Frame, Recorder, frames};
pub use expression::{ExpressionError, build};

/// The frame that hexadecimal digits say; colons and white space between them are passed over.
///
/// # Errors
/// What is no digit, or too few.
pub fn from_hex(text: &str) -> Result<Vec<u8>, hex::FromHexError> {
    let digits: String = text.chars().filter(|letter| !letter.is_whitespace() && *letter != ':').collect();
    hex::decode(digits)
}
