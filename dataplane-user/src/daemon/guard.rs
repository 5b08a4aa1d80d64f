//! A request that makes the daemon panic: it is answered, logged, and ends nothing.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::control::protocol::{Failure, FailureKind};

/// What comes of some work; or what a panic said in it.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // What it leaves half done is the caller's to put right.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| said(&*panic))
}

/// The same of work whose failure is an answer.
pub(super) fn answered<T>(verb: &str, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    guarded(work).unwrap_or_else(|panic| {
        tracing::error!("`{verb}` made the daemon panic: {panic}; it continues; please report this");
        let message = format!("the daemon failed at this `{verb}` ({panic}); it continues, and its log has more");
        Err(Failure::new(FailureKind::Failed, message))
    })
}

/// The words of a panic.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer() {
        let number = |text: &str| text.parse::<u32>().ok();
        let failure = answered("stats", || Ok(number("x").expect("a number"))).expect_err("it panicked");
        assert_eq!(failure.kind, FailureKind::Failed);
        assert!(failure.message.contains("`stats` (a number)"), "{failure}");
        assert_eq!(answered("stats", || Ok(7)), Ok(7));
    }
}
