//! What packets that are being judged may still hold, and the proof that they do not any more.

/// All packets are through that were being judged when this was waited for.
#[derive(Debug)]
pub struct Grace(());

impl Grace {
    /// Who waits for packets says when that is over: [`crate::kernel::grace`], and planes without a kernel.
    pub(crate) fn passed() -> Self {
        Self(())
    }

    /// Gives back what was retired before the wait began.
    pub fn release<T>(&self, retired: Retired<T>) -> T {
        retired.0
    }
}

/// Something that packets were led to, and are not any more: it comes back only by [`Grace::release`].
#[derive(Clone, Debug)]
pub struct Retired<T>(T);

impl<T> Retired<T> {
    /// Nothing new leads there from now on.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// What it is, to compare it only.
    pub fn peek(&self) -> &T {
        &self.0
    }
}
