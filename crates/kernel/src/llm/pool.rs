//! Workers that run one job together and meet at barriers.
//!
//! The platform supplies a [`Team`]: rayon's threads on a host, the secondary cores in a kernel, [`Solo`] anywhere.
//! A forward pass is *one* job: every member runs the same function over its own share of each step's work and
//! waits for the others at [`Member::barrier`]. How work is shared never changes a result, only who computes it.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// A fixed number of workers.
pub trait Team: Sync {
    /// How many members there are, at least 1.
    fn size(&self) -> usize;

    /// Runs `job` once on every member and returns when all have finished.
    ///
    /// Implementations must run all members at the same time: the job contains barriers.
    fn run(&self, job: &(dyn Fn(Member<'_>) + Sync));
}

/// How a platform waits for others. A closure that gives way, taking the number of fruitless looks, is the simplest.
pub trait Wait: Sync {
    /// What [`Self::relax`] is to be handed; taken before the look that decides to wait.
    fn mark(&self) -> u32 {
        0
    }

    /// Gives way after `looks` fruitless looks. May sleep until [`Self::wake`] is called, and must return if that has
    /// happened since `mark` was taken.
    fn relax(&self, looks: u32, mark: u32);

    /// What was waited for has happened.
    fn wake(&self) {}
}

impl<F: Fn(u32) + Sync> Wait for F {
    fn relax(&self, looks: u32, _: u32) {
        self(looks);
    }
}

/// One worker's view of the team during a job.
#[derive(Clone, Copy)]
pub struct Member<'a> {
    /// This member's number, `0..count`.
    pub index: usize,
    /// Members in the job.
    pub count: usize,
    barrier: Option<(&'a Barrier, &'a dyn Wait)>,
}

impl<'a> Member<'a> {
    /// The only member of a job that nobody shares.
    pub const fn solo() -> Self {
        Member { index: 0, count: 1, barrier: None }
    }

    /// Member `index` of `count`, meeting the others at `barrier`, where all wait in the same `way`.
    pub fn new(index: usize, count: usize, barrier: &'a Barrier, way: &'a dyn Wait) -> Self {
        assert!(index < count, "member {index} of {count}");
        Member { index, count, barrier: Some((barrier, way)) }
    }

    /// Waits until every member has come here. What each wrote before is visible to all after.
    pub fn barrier(&self) {
        if let Some((barrier, way)) = self.barrier {
            barrier.wait(self.count, way);
        }
    }

    /// This member's contiguous share of `items`, in units of `grain` (the last unit may be short).
    ///
    /// Shares of all members cover `0..items` without overlap and differ by one unit at most.
    pub fn share(&self, items: usize, grain: usize) -> Range<usize> {
        let units = items.div_ceil(grain);
        let bound = |member: usize| (units * member / self.count * grain).min(items);
        bound(self.index)..bound(self.index + 1)
    }
}

/// A team of one: runs the job on the caller.
pub struct Solo;

impl Team for Solo {
    fn size(&self) -> usize {
        1
    }

    fn run(&self, job: &(dyn Fn(Member<'_>) + Sync)) {
        job(Member::solo());
    }
}

/// A reusable meeting point: the last to arrive opens it for all.
pub struct Barrier {
    arrived: AtomicUsize,
    generation: AtomicUsize,
}

impl Default for Barrier {
    fn default() -> Self {
        Self::new()
    }
}

impl Barrier {
    /// A barrier nobody waits at.
    pub const fn new() -> Self {
        Barrier { arrived: AtomicUsize::new(0), generation: AtomicUsize::new(0) }
    }

    /// Waits until `count` members have called this, all in the same `way`.
    pub fn wait(&self, count: usize, way: &dyn Wait) {
        let generation = self.generation.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == count {
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.store(generation.wrapping_add(1), Ordering::Release);
            way.wake();
            return;
        }
        let mut looks = 0u32;
        loop {
            let mark = way.mark();
            if self.generation.load(Ordering::Acquire) != generation {
                return;
            }
            way.relax(looks, mark);
            looks = looks.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use alloc::vec;

    #[test]
    fn shares_cover_all_items_once() {
        let barrier = Barrier::new();
        for (items, grain) in [(0, 1), (1, 16), (9, 1), (576, 32), (577, 32), (49152, 32), (5, 16)] {
            for count in 1..6 {
                let mut next = 0;
                for index in 0..count {
                    let share = Member::new(index, count, &barrier, &|_: u32| {}).share(items, grain);
                    assert_eq!(share.start, next);
                    next = share.end;
                }
                assert_eq!(next, items, "{items} items by {grain} over {count}");
            }
        }
    }

    #[test]
    fn nobody_passes_a_barrier_early() {
        let rounds = if cfg!(miri) { 5 } else { 1000 };
        let (barrier, here) = (Barrier::new(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for index in 0..3 {
                let (barrier, here) = (&barrier, &here);
                scope.spawn(move || {
                    let relax = |_: u32| std::thread::yield_now();
                    let member = Member::new(index, 3, barrier, &relax);
                    for round in 0..rounds {
                        here.fetch_add(1, Ordering::Relaxed);
                        member.barrier();
                        assert_eq!(here.load(Ordering::Relaxed), 3 * (round + 1));
                        member.barrier();
                    }
                });
            }
        });
    }

    #[test]
    fn solo_runs_the_job_once() {
        let calls = AtomicUsize::new(0);
        Solo.run(&|member| {
            member.barrier();
            assert_eq!(vec![member.index, member.count], [0, 1]);
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.into_inner(), 1);
    }
}
