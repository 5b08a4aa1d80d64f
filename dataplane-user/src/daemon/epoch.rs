//! What holds for one epoch only: of the rules, or of the tables.

/// A value that was made in one epoch, and is not given out in another.
#[derive(Debug)]
pub(super) struct PerEpoch<T>(Option<(u64, T)>);

impl<T> Default for PerEpoch<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> PerEpoch<T> {
    /// The value, if it was made in this epoch.
    pub(super) fn get(&self, epoch: u64) -> Option<&T> {
        self.0.as_ref().filter(|(made, _)| *made == epoch).map(|(_, value)| value)
    }

    /// Takes the value out, if it was made in this epoch. One of another epoch is dropped.
    pub(super) fn take(&mut self, epoch: u64) -> Option<T> {
        self.0.take().filter(|(made, _)| *made == epoch).map(|(_, value)| value)
    }

    /// Puts a value in that was made in this epoch.
    pub(super) fn put(&mut self, epoch: u64, value: T) {
        self.0 = Some((epoch, value));
    }

    /// Drops the value, if it was made in another epoch.
    pub(super) fn keep(&mut self, epoch: u64) {
        self.0.take_if(|(made, _)| *made != epoch);
    }

    /// Drops the value.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_epoch_is_not_given_out() {
        let mut value = PerEpoch::default();
        assert_eq!(value.get(0), None);
        value.put(1, "one");
        assert_eq!((value.get(1), value.get(2), value.get(0)), (Some(&"one"), None, None));
        assert_eq!(value.take(2), None);
        assert_eq!(value.take(1), None, "it is gone with the first that was of another epoch");
        value.put(2, "two");
        value.keep(2);
        assert_eq!(value.take(2), Some("two"));
        value.put(2, "two");
        value.keep(3);
        assert_eq!(value.get(2), None);
        assert_eq!(value.take(2), None);
    }
}
