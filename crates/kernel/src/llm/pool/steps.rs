//! How the work of a step is claimed, and how a step ends.
//!
//! Units of a step are cut into as many consecutive shares as there are members. Of its own share a member claims the
//! first half of what is left, again and again; when nothing is left it goes round the others and claims the last half
//! of theirs. So on even cores everybody works through its own, in a few long pieces, and on uneven ones what is left
//! over at the end is a single unit.
//!
//! Every word carries the number of its step, which only grows during a job. A claim is an exchange of the whole word,
//! so a member that is late by any number of steps can claim nothing: its step is finished, thus all of that step's
//! units were claimed, thus the words it expects are gone.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::Wait;

/// Shares a step is cut into at most; further members begin by helping others.
const SHARES: usize = 64;
/// Steps that are finished once a member has panicked: all of the job.
const BROKEN: u32 = u32::MAX;

/// In cache lines of its own (two: processors fetch pairs).
#[repr(align(128))]
struct Apart(AtomicU64);

/// The state of a job's steps.
pub(super) struct Steps {
    /// `steps finished << 32 | units done of the step that is open`.
    open: Apart,
    /// `step + 1 << 32 | first << 16 | end`: units of a share that nobody has claimed in that step. Of an older step's
    /// word, that nobody has claimed any.
    shares: [Apart; SHARES],
}

impl Steps {
    pub const fn new() -> Self {
        Steps { open: Apart(AtomicU64::new(0)), shares: [const { Apart(AtomicU64::new(0)) }; SHARES] }
    }

    /// Back to the first step. Nobody is at a job.
    pub fn reset(&self) {
        for word in core::iter::once(&self.open).chain(&self.shares) {
            word.0.store(0, Ordering::Relaxed);
        }
    }

    /// Steps that are finished. What was written in them is visible.
    pub fn finished(&self) -> u32 {
        (self.open.0.load(Ordering::Acquire) >> 32) as u32
    }

    /// Runs a member's part of the job. If it panics, all steps are over, since the others would wait for ever for
    /// units that it has claimed.
    pub fn guard(&self, way: &dyn Wait, part: impl FnOnce()) {
        let on_panic = OnPanic(self, way);
        part();
        core::mem::forget(on_panic);
    }

    /// Whether a member has panicked.
    pub fn is_broken(&self) -> bool {
        self.finished() == BROKEN
    }

    /// Member `index` of `count` takes part in a step, whose predecessors it knows to be finished.
    #[allow(clippy::too_many_arguments, reason = "one caller, which has them apart")]
    pub fn share<S>(
        &self,
        step: u32,
        units: usize,
        index: usize,
        count: usize,
        way: &dyn Wait,
        begin: impl FnOnce() -> S,
        mut work: impl FnMut(&mut S, Range<usize>),
    ) {
        let shares = count.min(SHARES);
        // Words have 16 bits for a unit; of more than that, several are claimed as one.
        let coarse = units.div_ceil(usize::from(u16::MAX));
        let claims = units.div_ceil(coarse);
        let mut begin = Some(begin);
        let mut state = None;
        for nth in 0..shares {
            let at = (index + nth) % shares;
            let whole = claims * at / shares..claims * (at + 1) / shares;
            let own = nth == 0 && index < SHARES;
            let mut done = 0;
            while let Some(claimed) = self.claim(step, at, &whole, own) {
                let state = state.get_or_insert_with(|| begin.take().expect("only once")());
                done += claimed.len() as u64;
                work(state, claimed.start * coarse..(claimed.end * coarse).min(units));
            }
            if done > 0 {
                self.finish(step, done, claims as u64, way);
            }
            // Where nothing can be left, nobody need look for it.
            if self.finished() != step {
                return;
            }
        }
    }

    /// Claims some of what is left of a share that had the units `whole`.
    fn claim(&self, step: u32, at: usize, whole: &Range<usize>, own: bool) -> Option<Range<usize>> {
        let word = &self.shares[at].0;
        // Relaxed: what earlier steps wrote is visible by `finished`, and what this step writes only to the next.
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let left = match (seen >> 32).cmp(&(u64::from(step) + 1)) {
                core::cmp::Ordering::Less => whole.clone(),
                core::cmp::Ordering::Equal => (seen >> 16 & 0xffff) as usize..(seen & 0xffff) as usize,
                core::cmp::Ordering::Greater => return None,
            };
            if left.is_empty() {
                return None;
            }
            let half = left.len().div_ceil(2);
            let (claimed, rest) = if own {
                (left.start..left.start + half, left.start + half..left.end)
            } else {
                (left.end - half..left.end, left.start..left.end - half)
            };
            let rest = (u64::from(step) + 1) << 32 | (rest.start << 16 | rest.end) as u64;
            match word.compare_exchange_weak(seen, rest, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(claimed),
                Err(now) => seen = now,
            }
        }
    }

    /// Books units of the open step as done; with the last of them, the step is finished.
    fn finish(&self, step: u32, done: u64, all: u64, way: &dyn Wait) {
        // Release: whoever sees the step finished sees what was done; acquire: so does whoever finishes it.
        let before = self.open.0.fetch_add(done, Ordering::AcqRel);
        if before >> 32 == u64::from(step) && (before & 0xffff_ffff) + done == all {
            // Units are booked before their step ends, so only a panic can come between.
            let after = (u64::from(step) + 1) << 32;
            let _ = self.open.0.compare_exchange(before + done, after, Ordering::Release, Ordering::Relaxed);
            way.wake();
        }
    }
}

/// Ends all steps when dropped.
struct OnPanic<'a>(&'a Steps, &'a dyn Wait);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        self.0.open.0.store(u64::from(BROKEN) << 32, Ordering::Release);
        self.1.wake();
    }
}
