//! Array maps as memory.

#![expect(unsafe_code, reason = "mmap(2) gives a pointer")]

use std::{
    io,
    ops::Range,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU16, AtomicU64},
};

use crate::fib::Memory;

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

/// Bytes that are mapped together: a multiple of any page.
const PIECE: usize = 1 << 16;
/// Pieces of a map that stay mapped while nothing is done.
const FEW: usize = 16;
/// Flags of addresses where nothing is yet.
const NOTHING: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// An array map that was made with `BPF_F_MMAPABLE`.
///
/// To the kernel all pages of such a mapping are resident from its beginning, used or not (`remap_vmalloc_range`): a table of
/// routes would be 66 MB. So there is room for all in the address space, and in it the pieces that were worked on since
/// [`Self::rest`].
#[derive(Debug)]
pub struct Mapping<T> {
    map: OwnedFd,
    start: NonNull<T>,
    words: usize,
    /// Of each piece, whether it is mapped.
    here: Vec<bool>,
    /// How many are.
    count: usize,
}

// SAFETY: the memory belongs to the mapping, and is only read and written through atomics.
unsafe impl<T: Word> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Word> Sync for Mapping<T> {}

impl<T: Word> Mapping<T> {
    const WORDS: usize = PIECE / size_of::<T>();

    /// The first `words` words of a map.
    ///
    /// # Errors
    /// There is no room in the address space, or the map is no memory.
    pub fn new(map: impl AsFd, words: usize) -> io::Result<Self> {
        let map = map.as_fd().try_clone_to_owned()?;
        // SAFETY: a new mapping, where the kernel likes.
        let start = unsafe { libc::mmap(ptr::null_mut(), words * size_of::<T>(), libc::PROT_NONE, NOTHING, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        let here = vec![false; words.div_ceil(Self::WORDS)];
        let mut mapping = Self { map, start, words, here, count: 0 };
        // What the kernel has against it, it shall say now.
        mapping.bring(0)?;
        Ok(mapping)
    }

    /// Lets all pieces go where they are many; those still in use come again.
    ///
    /// # Errors
    /// The kernel has no memory left to say that they are gone.
    pub fn rest(&mut self) -> io::Result<()> {
        if self.count > FEW {
            self.place(0..self.words, libc::PROT_NONE, NOTHING, -1)?;
            self.here.fill(false);
            self.count = 0;
        }
        Ok(())
    }

    /// Maps a piece.
    fn bring(&mut self, piece: usize) -> io::Result<()> {
        let words = piece * Self::WORDS..self.words.min((piece + 1) * Self::WORDS);
        let map = self.map.as_raw_fd();
        self.place(words, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, map)?;
        self.here[piece] = true;
        self.count += 1;
        Ok(())
    }

    /// Puts something else where these words are.
    fn place(&mut self, words: Range<usize>, protection: i32, flags: i32, map: i32) -> io::Result<()> {
        // Without a map it means nothing.
        let offset = libc::off_t::try_from(words.start * size_of::<T>()).map_err(io::Error::other)?;
        // SAFETY: not beyond `words`, which is what the range of addresses has room for.
        let at = unsafe { self.start.add(words.start) };
        let (at, length) = (at.as_ptr().cast(), words.len() * size_of::<T>());
        // SAFETY: these addresses are this mapping's own, and there is no reference into them: that would borrow it.
        let done = unsafe { libc::mmap(at, length, protection, flags | libc::MAP_FIXED, map, offset) };
        if done == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl<T: Word> Memory for Mapping<T> {
    type Word = T;

    fn size(&self) -> usize {
        self.words
    }

    /// # Panics
    /// The kernel has no memory left to say where a piece is: as for any other memory, that is the end.
    fn some(&mut self, range: Range<usize>) -> &[T] {
        assert!(range.start < range.end && range.end <= self.words, "{range:?} is not within {} words", self.words);
        let piece = range.start / Self::WORDS;
        if !self.here[piece]
            && let Err(error) = self.bring(piece)
        {
            panic!("a piece of a map cannot be mapped: {error}");
        }
        let count = range.end.min((piece + 1) * Self::WORDS) - range.start;
        // SAFETY: within the range of addresses, as asserted.
        let first = unsafe { self.start.add(range.start) };
        // SAFETY: the piece is mapped while this is borrowed, aligned, and any bytes in it are a value.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), count) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: this is what was mapped, and it is not in use any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * size_of::<T>()) };
    }
}
