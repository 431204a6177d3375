//! One block of memory, handed out from the front.
//!
//! All that a session writes to comes from an arena: no heap, no fragmentation, and the sum of the requests is
//! known before the first ([`crate::llm::plan`]). A [`Mark`] remembers a fill level to return to.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// Why an arena could not serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArenaError {
    /// The request needs `missing` more bytes than are left.
    Full {
        /// Bytes asked for, with alignment.
        requested: usize,
        /// Bytes by which the arena is too small.
        missing: usize,
    },
    /// The size in bytes does not fit in an address.
    Overflow,
    /// An alignment must be a power of two.
    Alignment(usize),
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { requested, missing } => write!(
                f,
                "the arena is full: a request of {requested} bytes is {missing} bytes too large; \
                 give the session more memory, or a shorter context or batch"
            ),
            Self::Overflow => {
                f.write_str("the requested size overflows the address space; use a smaller context")
            }
            Self::Alignment(align) => write!(f, "alignment {align} is not a power of two"),
        }
    }
}

impl core::error::Error for ArenaError {}

/// A fill level to [`rewind`](Arena::rewind) to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(usize);

/// Bump allocator over borrowed memory.
///
/// Rewinding needs `&mut self` and slices borrow `&self`, so no slice outlives the bytes behind it.
pub struct Arena<'m> {
    base: NonNull<u8>,
    size: usize,
    used: core::cell::Cell<usize>,
    high_water: core::cell::Cell<usize>,
    memory: PhantomData<&'m mut [u8]>,
}

/// Element types for which every bit pattern, zero included, is a value.
///
/// # Safety
/// Implement only for plain numbers without padding or invalid bit patterns.
pub unsafe trait Plain: Copy {}
// SAFETY: integers and floats: every bit pattern is a value.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for i16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

impl<'m> Arena<'m> {
    /// An empty arena over `memory`.
    pub fn new(memory: &'m mut [u8]) -> Self {
        Arena {
            size: memory.len(),
            base: NonNull::from(memory).cast(),
            used: core::cell::Cell::new(0),
            high_water: core::cell::Cell::new(0),
            memory: PhantomData,
        }
    }

    /// Bytes in all.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes handed out now, alignment gaps included.
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// The most bytes ever handed out at a time.
    pub fn high_water(&self) -> usize {
        self.high_water.get()
    }

    /// The present fill level.
    pub fn mark(&self) -> Mark {
        Mark(self.used.get())
    }

    /// Takes back everything handed out since `mark`. A mark above the present level changes nothing.
    pub fn rewind(&mut self, mark: Mark) {
        self.used.set(mark.0.min(self.used.get()));
    }

    /// `size` bytes of unspecified content, aligned to `align`.
    #[allow(clippy::mut_from_ref)] // each call returns bytes that no other slice covers
    pub fn alloc(&self, size: usize, align: usize) -> Result<&mut [u8], ArenaError> {
        let start = self.reserve(size, align)?;
        // SAFETY: `reserve` returns offsets of disjoint ranges inside the memory that `'m` lends us, which is
        // initialised (it was a `&mut [u8]`); `rewind` needs `&mut self`, so the slice is gone before its reuse.
        Ok(unsafe { core::slice::from_raw_parts_mut(self.base.add(start).as_ptr(), size) })
    }

    /// `len` zeroed elements on a 64-byte boundary, for as long as the memory is lent: not undone by a rewind,
    /// which is why it consumes nothing but is meant for construction.
    pub fn take<T: Plain>(&mut self, len: usize) -> Result<&'m mut [T], ArenaError> {
        let size = len.checked_mul(size_of::<T>()).ok_or(ArenaError::Overflow)?;
        let start = self.reserve(size, 64)?;
        // What is taken leaves the arena: its first byte moves behind it.
        let end = self.used.get();
        // SAFETY: the range is inside the lent memory, aligned for `T` (64), unused by any other slice, and stays
        // so: the arena's base moves behind it below. Zeroed first, and `Plain` says zero is a value.
        let slice = unsafe {
            let first = self.base.add(start);
            first.write_bytes(0, size);
            core::slice::from_raw_parts_mut(first.cast::<T>().as_ptr(), len)
        };
        // SAFETY: `end <= size`, so the new base is inside the memory or one past its end.
        self.base = unsafe { self.base.add(end) };
        self.size -= end;
        self.used.set(0);
        self.high_water.set(0);
        Ok(slice)
    }

    /// Finds `size` aligned bytes and marks them used; returns their offset from `base`.
    fn reserve(&self, size: usize, align: usize) -> Result<usize, ArenaError> {
        if !align.is_power_of_two() {
            return Err(ArenaError::Alignment(align));
        }
        let address = self.base.as_ptr() as usize + self.used.get();
        let gap = address.wrapping_neg() & (align - 1);
        let requested = size.checked_add(gap).ok_or(ArenaError::Overflow)?;
        let left = self.size - self.used.get();
        if requested > left {
            return Err(ArenaError::Full { requested, missing: requested - left });
        }
        let start = self.used.get() + gap;
        self.used.set(start + size);
        self.high_water.set(self.high_water.get().max(start + size));
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_aligned_and_do_not_overlap() {
        let mut memory = [0u8; 1024];
        let arena = Arena::new(&mut memory);
        let a = arena.alloc(3, 1).unwrap();
        let b = arena.alloc(16, 64).unwrap();
        a.fill(1);
        b.fill(2);
        assert_eq!(b.as_ptr() as usize % 64, 0);
        assert!(a.iter().all(|&x| x == 1) && b.iter().all(|&x| x == 2));
    }

    #[test]
    fn rewinding_gives_the_same_bytes_again_and_keeps_the_high_water_mark() {
        let mut memory = [0u8; 256];
        let mut arena = Arena::new(&mut memory);
        let mark = arena.mark();
        let first = arena.alloc(100, 16).unwrap().as_ptr();
        let high = arena.high_water();
        arena.rewind(mark);
        assert_eq!(arena.used(), 0);
        assert_eq!(arena.alloc(10, 16).unwrap().as_ptr(), first);
        assert_eq!(arena.high_water(), high);
    }

    #[test]
    fn a_full_arena_says_how_much_is_missing() {
        let mut memory = [0u8; 64];
        let arena = Arena::new(&mut memory);
        assert_eq!(arena.alloc(65, 1).unwrap_err(), ArenaError::Full { requested: 65, missing: 1 });
        assert_eq!(arena.alloc(1, 3).unwrap_err(), ArenaError::Alignment(3));
        assert!(arena.alloc(usize::MAX, 1).is_err());
        assert_eq!(arena.alloc(64, 1).unwrap().len(), 64);
        assert!(arena.alloc(1, 1).is_err());
        assert_eq!(arena.alloc(0, 1).unwrap().len(), 0);
    }

    #[test]
    fn taken_slices_are_zeroed_and_outlive_the_arena() {
        let mut memory = [0xffu8; 512];
        let (a, b) = {
            let mut arena = Arena::new(&mut memory);
            (arena.take::<f32>(8).unwrap(), arena.take::<u16>(3).unwrap())
        };
        a[7] = 1.0;
        assert!(b.iter().all(|&x| x == 0) && a[..7].iter().all(|&x| x == 0.0));
        assert_eq!(b.as_ptr() as usize % 64, 0);
    }
}
