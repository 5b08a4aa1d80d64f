//! Memory that was freed, given back to the system.
//!
//! The C library keeps what a large job has used for the next one: a config of ten thousand rules would leave more behind than
//! they take. It gives back only what lies at the end of its heap, unless it is asked.

#![cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "mallopt(3) and malloc_trim(3) are the C library's"))]

use std::{
    fs,
    time::{Duration, Instant},
};

/// KiB that memory may grow by before it is looked through.
const SLACK: usize = 1 << 10;
/// How long after a large job it is looked through: when its answer is on its way.
const SOON: Duration = Duration::from_millis(100);

/// But not again before so long, however many come.
const SELDOM: Duration = Duration::from_secs(1);

/// How much memory there was when all that was free had been given back.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    least: usize,
    due: Option<Instant>,
    /// When it was looked through last.
    last: Option<Instant>,
}

impl Heap {
    /// A job was done that may have left much behind.
    pub(crate) fn note_garbage(&mut self) {
        let soon = Instant::now() + SOON;
        self.due.get_or_insert(self.last.map_or(soon, |last| soon.max(last + SELDOM)));
    }

    /// When to look.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Gives free memory back, if much was taken since that was done last. It takes a few milliseconds where the heap is
    /// large.
    pub(crate) fn collect(&mut self) {
        (self.due, self.last) = (None, Some(Instant::now()));
        let Some(mut now) = resident() else { return };
        if now > self.least + SLACK {
            trim();
            now = resident().unwrap_or(now);
        }
        self.least = now;
    }
}

/// KiB of this process's own memory that are resident.
fn resident() -> Option<usize> {
    own(&fs::read_to_string("/proc/self/status").ok()?)
}

fn own(status: &str) -> Option<usize> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Heaps of all threads together. Two threads that share one wait for each other more than they work; of those that few use,
/// the end is seldom given back.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Bytes from which on memory is the system's own, and is given back at once, whatever was taken before.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 18;

/// Lets threads take memory from few heaps, and what is large from the system; to be called before there is a second thread.
#[cfg(target_env = "gnu")]
pub(crate) fn gather() {
    // SAFETY: it sets a number, under the lock of the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, HEAPS) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

/// Others have nothing like it.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn gather() {}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it touches nothing but what is free, under the locks of the allocator.
    unsafe { libc::malloc_trim(0) };
}

/// Others have nothing like it.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::own;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(own("VmRSS:\t   31900 kB\nRssAnon:\t   14600 kB\nRssFile:\t   17300 kB\n"), Some(14_600));
        assert_eq!(own("VmRSS:\t   31900 kB\n"), None);
    }
}
