//! Array maps as memory.

#![expect(unsafe_code, reason = "mmap(2) gives a pointer")]

use std::{
    io,
    ops::Deref,
    os::fd::{AsFd, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU16, AtomicU64},
};

/// Integers that the kernel half reads while they are written.
pub trait Word: sealed::Sealed {}

impl Word for AtomicU16 {}
impl Word for AtomicU64 {}

mod sealed {
    /// Any bytes are a value, and shared writes are sound.
    pub trait Sealed {}

    impl Sealed for std::sync::atomic::AtomicU16 {}
    impl Sealed for std::sync::atomic::AtomicU64 {}
}

/// All elements of an array map that was made with `BPF_F_MMAPABLE`.
#[derive(Debug)]
pub struct Mapping<T> {
    start: NonNull<T>,
    words: usize,
}

// SAFETY: the memory belongs to the mapping, and is only read and written through atomics.
unsafe impl<T: Word> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Word> Sync for Mapping<T> {}

impl<T: Word> Mapping<T> {
    /// Maps the first `words` words of a map.
    pub fn new(map: impl AsFd, words: usize) -> io::Result<Self> {
        let (read_write, map) = (libc::PROT_READ | libc::PROT_WRITE, map.as_fd().as_raw_fd());
        // SAFETY: a new mapping, where the kernel likes.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), words * size_of::<T>(), read_write, libc::MAP_SHARED, map, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { start, words })
    }
}

impl<T> Deref for Mapping<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the pages are there until the mapping is dropped, page-aligned, and any bytes in them are a value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: this is what was mapped, and nobody has it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * size_of::<T>()) };
    }
}
