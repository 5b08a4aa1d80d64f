//! Moments in the time zone of the user.
#![expect(unsafe_code, reason = "the C library knows the time zone")]

use std::{fmt, mem::MaybeUninit};

/// A moment as clocks on the wall show it; as UTC where the time zone is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalTime {
    year: i32,
    month: i32,
    day: i32,
    hour: i32,
    minute: i32,
    second: i32,
}

impl LocalTime {
    /// Of so many seconds since 1970 UTC.
    pub(super) fn of(since: u64) -> Self {
        let since = libc::time_t::try_from(since).unwrap_or(libc::time_t::MAX);
        let mut parts = MaybeUninit::<libc::tm>::zeroed();
        // SAFETY: both pointers are those of variables of ours; no thread of the command line changes the environment.
        let done = unsafe { libc::localtime_r(&raw const since, parts.as_mut_ptr()) };
        // SAFETY: all bytes are set, and zero is a value of each field.
        let parts = unsafe { parts.assume_init() };
        if done.is_null() {
            return Self { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
        }
        Self {
            year: parts.tm_year + 1900,
            month: parts.tm_mon + 1,
            day: parts.tm_mday,
            hour: parts.tm_hour,
            minute: parts.tm_min,
            second: parts.tm_sec,
        }
    }

    /// Hours, minutes and seconds.
    pub(super) fn time(&self) -> String {
        format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second)
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02} {}", self.year, self.month, self.day, self.time())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        // The zone of the machine is some minutes from UTC, and a day has 86,400 seconds everywhere.
        let (first, next) = (LocalTime::of(1_763_900_000), LocalTime::of(1_763_986_400));
        assert_eq!((first.year, first.month, first.second), (2025, 11, 20));
        assert_eq!((first.time(), first.day + 1), (next.time(), next.day));
    }
}
