//! Where jobs are put up, and who is at them.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::steps::Steps;
use super::{Member, Wait, wait};

/// A job without its lifetime: [`Board::run`] returns only when nobody is at it any more.
type Job = *const (dyn Fn(Member<'_>) + Sync);

/// Bit of [`Board::state`]: the job may be joined.
const OPEN: u64 = 1 << 31;
/// Members that are there, besides the caller.
const PRESENT: u64 = 0xffff;
/// Members wanted, behind [`PRESENT`]'s bits.
const COUNT: u64 = 0x7fff;

/// How those at a board wait.
pub struct Waits<'a> {
    /// For a job.
    pub jobs: &'a dyn Wait,
    /// For the others, in one.
    pub steps: &'a dyn Wait,
}

/// Makes a team of whoever serves it: one caller puts up jobs, others come to help.
///
/// A caller does not wait for those who have not come by the time the job is done. It does wait until those who came
/// have left, since the job is only lent.
pub struct Board {
    /// `jobs put up << 32 | OPEN | members wanted << 16 | members there besides the caller`.
    state: AtomicU64,
    /// A job is being run.
    busy: AtomicBool,
    job: UnsafeCell<Option<Job>>,
    steps: Steps,
}

// SAFETY: `job` is written only by `run`, one at a time by `busy`, while nobody can join and nobody is there; those who
// join read it.
unsafe impl Sync for Board {}
// SAFETY: the pointer in `job` is that of a job that is being run, which keeps the board borrowed; else there is none.
unsafe impl Send for Board {}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// A board without a job.
    pub const fn new() -> Self {
        Board {
            state: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            steps: Steps::new(),
        }
    }

    /// Runs `job` on the caller as member 0 and on members `1..count` that come while it lasts.
    ///
    /// While another job runs here, as when a job runs one itself, the caller does this one alone.
    ///
    /// # Panics
    /// If the job does, on any member.
    pub fn run(&self, count: usize, waits: &Waits<'_>, job: &(dyn Fn(Member<'_>) + Sync)) {
        let count = count.clamp(1, COUNT as usize);
        if count == 1 || self.busy.swap(true, Ordering::Acquire) {
            return job(Member::alone(waits.steps));
        }
        self.steps.reset();
        // SAFETY: only the lifetime goes, and `closing` outlives every use, also when `job` panics. Nobody reads or
        // writes `job` now: `busy` keeps out other callers, and no job is open.
        unsafe {
            *self.job.get() = Some(core::mem::transmute::<*const (dyn Fn(Member<'_>) + Sync + '_), Job>(job));
        }
        let jobs = (self.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        self.state.store(jobs << 32 | OPEN | (count as u64) << 16, Ordering::Release);
        waits.jobs.wake();
        let closing = Closing { board: self, way: waits.steps };
        self.steps.guard(waits.steps, || job(Member::new(0, count, &self.steps, waits.steps)));
        // The last look at a job's steps, before another may begin.
        let broken = closing.end();
        assert!(!broken, "another member of the team panicked");
    }

    /// Lets nobody else into the job, and waits until all have left.
    fn close(&self, way: &dyn Wait) {
        self.state.fetch_and(!OPEN, Ordering::Relaxed);
        // Acquire: what they wrote is visible to the caller.
        wait(way, &|| self.state.load(Ordering::Acquire) & PRESENT == 0);
        // SAFETY: nobody is there any more, and nobody can join.
        unsafe { *self.job.get() = None };
    }

    /// Whether a job is being run that others may be at.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Takes part as member `index` in every job put up that wants so many, until `stop`, whose change
    /// [`Wait::wake`] of `waits.jobs` must follow.
    ///
    /// # Panics
    /// If a job does; may be called again then.
    pub fn serve(&self, index: usize, waits: &Waits<'_>, stop: &AtomicBool) {
        // The number of the last job looked at; at first one that is not there.
        let mut seen = (self.state.load(Ordering::Relaxed) >> 32).wrapping_sub(1) & 0xffff_ffff;
        let is_new = |state: u64, seen: u64| state & OPEN != 0 && state >> 32 != seen;
        while !stop.load(Ordering::Acquire) {
            wait(waits.jobs, &|| {
                is_new(self.state.load(Ordering::Acquire), seen) || stop.load(Ordering::Acquire)
            });
            let mut count = 0;
            let joined = self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                count = (state >> 16 & COUNT) as usize;
                (is_new(state, seen) && index < count).then_some(state + 1)
            });
            let (Ok(state) | Err(state)) = joined;
            seen = state >> 32;
            if joined.is_ok() {
                let _leaving = Leaving { board: self, way: waits.steps };
                // SAFETY: the job is there, and stays until this member has left: `run` waits for that.
                let job = unsafe { (*self.job.get()).map(|job| &*job) }.expect("an open job");
                self.steps.guard(waits.steps, || job(Member::new(index, count, &self.steps, waits.steps)));
            }
        }
    }
}

/// Ends a job, also when it panics: lets nobody else in, and waits until all have left.
struct Closing<'a> {
    board: &'a Board,
    way: &'a dyn Wait,
}

impl Closing<'_> {
    /// Ends it, and says whether a member has panicked.
    fn end(self) -> bool {
        let board = self.board;
        board.close(self.way);
        core::mem::forget(self);
        let broken = board.steps.is_broken();
        board.busy.store(false, Ordering::Release);
        broken
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.board.close(self.way);
        self.board.busy.store(false, Ordering::Release);
    }
}

/// A member's presence.
struct Leaving<'a> {
    board: &'a Board,
    way: &'a dyn Wait,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.board.state.fetch_sub(1, Ordering::Release);
        self.way.wake();
    }
}
