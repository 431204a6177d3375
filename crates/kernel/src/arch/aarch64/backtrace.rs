//! The calls that led somewhere, by frame pointers.
//!
//! Every function of the image keeps x29 on its stack beside the return address (Arm AAPCS64, 6.4.6: a frame record
//! is two words, the older record's address first), because `.cargo/config.toml` says `force-frame-pointers`.

use core::ops::Range;

use super::cores;
use crate::boot;

/// Different frames shown at most.
pub const MOST: usize = 24;

/// Bytes that two frames lie apart at most. Larger steps are no frames of ours.
const FARTHEST: usize = 1 << 20;

/// Return addresses, youngest first.
#[derive(Clone, Debug)]
pub struct Frames {
    record: usize,
    stacks: Range<usize>,
}

impl Frames {
    /// The calls above the frame record at `record`, which is what x29 holds.
    ///
    /// Any value will do: records are read only inside the image, where all stacks are, and outside guard pages.
    pub fn of(record: usize) -> Self {
        Frames { record, stacks: boot::image() }
    }

    /// The calls that led here.
    #[inline(always)]
    pub fn here() -> Self {
        let record: usize;
        // SAFETY: reads a register.
        unsafe { core::arch::asm!("mov {}, x29", out(reg) record, options(nomem, nostack)) };
        Self::of(record)
    }
}

impl Iterator for Frames {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let record = self.record;
        let whole = record.is_multiple_of(16)
            && self.stacks.contains(&record)
            && self.stacks.contains(&(record + 15))
            && !cores::is_guard(record);
        if !whole {
            return None;
        }
        let words = core::ptr::with_exposed_provenance::<[usize; 2]>(record);
        // SAFETY: aligned, inside the image and not in a guard page, so it is mapped; any bits are numbers.
        let [older, back] = unsafe { words.read_volatile() };
        // Stacks grow down: an older record lies higher. Anything else is no record.
        self.record = if older > record && older - record <= FARTHEST { older } else { 0 };
        (back != 0).then_some(back)
    }
}
