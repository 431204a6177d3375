//! Slices that all members of a team see during one job.

use core::marker::PhantomData;
use core::ops::Range;

/// A mutable slice lent to a whole [`Team`](super::pool::Team).
///
/// Safe Rust cannot express "each member writes what it has claimed, and all read in later steps", so the two accessors
/// are `unsafe` and the rule is one for the whole runtime: **in a step an element is either written by exactly one
/// member, or only read, and outside of steps nobody touches it.** Claims come from
/// [`Member::step`](super::pool::Member::step), which hands out everything once.
pub struct Shared<'m, T> {
    first: *mut T,
    len: usize,
    memory: PhantomData<&'m mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

// SAFETY: the slice is plain memory that `'m` lends us alone; who touches which element is the callers' duty.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'m, T> Shared<'m, T> {
    /// Shares `slice` for as long as it is lent.
    pub fn new(slice: &'m mut [T]) -> Self {
        Shared { first: slice.as_mut_ptr(), len: slice.len(), memory: PhantomData }
    }

    /// Elements in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements of `range`, to read.
    ///
    /// # Safety
    /// - No member writes any of them until the step has ended, and the caller uses them only that long.
    pub unsafe fn read(&self, range: Range<usize>) -> &'m [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds (asserted), initialised (it was a slice), and not written meanwhile (caller).
        unsafe { core::slice::from_raw_parts(self.first.add(range.start), range.len()) }
    }

    /// Elements of `range`, to write.
    ///
    /// # Safety
    /// - No other member reads or writes any of them until the step has ended, and the caller uses them only that long.
    /// - The caller holds no other slice of them.
    pub unsafe fn write(&self, range: Range<usize>) -> &'m mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds (asserted), and ours alone until the step ends (caller).
        unsafe { core::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }
}
