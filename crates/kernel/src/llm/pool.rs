//! Workers that run one job together, sharing the work of each of its steps.
//!
//! - [`Team`] is what the platform supplies: threads on a host, the secondary cores in a kernel, [`Solo`] anywhere.
//! - [`Member`] is one worker's view of a job; [`Member::step`] shares a step's work out.
//! - [`Board`] is what most teams are made of: jobs are put up there, and whoever comes takes part.
//! - `steps` is how work is claimed and how a step ends.
//!
//! A forward pass is *one* job: every member runs the same function, whose steps follow each other. Work is claimed,
//! a member's own share first and then what others have not come to, and a step ends when its **work** is done, not
//! when everybody has come. So a slow core does less, a member that never comes is not missed, and one that comes late
//! finds the steps behind it finished and goes on to the one that is open. Who computes what never changes a result.

mod board;
mod steps;

use core::cell::Cell;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

pub use board::{Board, Waits};
use steps::Steps;

/// Workers that can run one job together.
pub trait Team: Sync {
    /// How many members there are at most, at least 1.
    fn size(&self) -> usize;

    /// Runs `job` on the caller and on whichever other members come while it lasts, each once, and returns when the
    /// job is done and all have left it.
    ///
    /// A job must be right with any of its members missing: what it does, it does in [`Member::step`], or claims in
    /// a way of its own.
    fn run(&self, job: &(dyn Fn(Member<'_>) + Sync));

    /// The same for a job of about `work` operations, one of many alike; a team may find out by that how many members
    /// are best.
    fn run_measured(&self, work: u64, job: &(dyn Fn(Member<'_>) + Sync)) {
        let _ = work;
        self.run(job);
    }
}

/// Runs `job` once on every member of a team whose members all come sooner or later, as cores without an operating
/// system do; the caller waits for them in this `way`.
pub fn run_on_all(team: &dyn Team, way: &dyn Wait, job: &(dyn Fn(&Member<'_>) + Sync)) {
    let done = AtomicUsize::new(0);
    team.run(&|member| {
        job(&member);
        done.fetch_add(1, Ordering::Release);
        if member.index == 0 {
            wait(way, &|| done.load(Ordering::Acquire) >= member.count);
        }
    });
}

/// How a platform waits for others. A closure that gives way, taking the number of fruitless looks, is the simplest.
pub trait Wait: Sync {
    /// Gives way after `looks` fruitless looks. May sleep until [`Self::wake`] is called; then it looks itself, by
    /// `ready`, after it has made known that it is going to.
    fn relax(&self, looks: u32, ready: &dyn Fn() -> bool);

    /// What was waited for, if anybody did, has happened.
    fn wake(&self) {}
}

impl<F: Fn(u32) + Sync> Wait for F {
    fn relax(&self, looks: u32, _: &dyn Fn() -> bool) {
        self(looks);
    }
}

/// Waits in this `way` until it is `ready`.
fn wait(way: &dyn Wait, ready: &dyn Fn() -> bool) {
    let mut looks = 0u32;
    while !ready() {
        way.relax(looks, ready);
        looks = looks.saturating_add(1);
    }
}

/// One worker's view of a job.
pub struct Member<'a> {
    /// This member's number, `0..count`. The caller of [`Team::run`] is number 0.
    pub index: usize,
    /// Members that the job's work is laid out for. Any of them but number 0 may be missing.
    pub count: usize,
    /// Steps that this member has begun.
    begun: Cell<u32>,
    /// Absent where nobody shares the job.
    steps: Option<&'a Steps>,
    way: Option<&'a dyn Wait>,
}

impl<'a> Member<'a> {
    /// The only member of a job that nobody shares.
    pub const fn solo() -> Self {
        Member { index: 0, count: 1, begun: Cell::new(0), steps: None, way: None }
    }

    /// The same, whose steps' ends this `way` of waiting hears of, though nobody waits.
    fn alone(way: &'a dyn Wait) -> Self {
        Member { way: Some(way), ..Self::solo() }
    }

    fn new(index: usize, count: usize, steps: &'a Steps, way: &'a dyn Wait) -> Self {
        assert!(index < count, "member {index} of {count}");
        Member { index, count, begun: Cell::new(0), steps: Some(steps), way: Some(way) }
    }

    /// A step of the job: `units` pieces of work, each done by exactly one member.
    ///
    /// `work` gets pieces as they are claimed, some consecutive ones at a time; `begin` makes what it works with,
    /// before the first. Both run only while the step is open: all steps before it are finished, none behind it has
    /// begun. **Outside of them a member must not touch what steps write**, since it may be late. Every member gives
    /// the same `units`.
    ///
    /// Returns when there is nothing left to claim; [`Self::meet`], or the next step, waits until all is done.
    pub fn step<S>(
        &self,
        units: usize,
        begin: impl FnOnce() -> S,
        mut work: impl FnMut(&mut S, Range<usize>),
    ) {
        if units == 0 {
            return;
        }
        match (self.steps, self.way) {
            (Some(steps), Some(way)) => {
                self.meet();
                let step = self.begun.get();
                self.begun.set(step + 1);
                steps.share(step, units, self.index, self.count, way, begin, work);
            }
            (_, way) => {
                work(&mut begin(), 0..units);
                way.into_iter().for_each(Wait::wake);
            }
        }
    }

    /// Waits until all work of the steps so far is done.
    pub fn meet(&self) {
        if let (Some(steps), Some(way)) = (self.steps, self.way) {
            let begun = self.begun.get();
            wait(way, &|| steps.finished() >= begun);
        }
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

#[cfg(test)]
pub(super) mod tests;
