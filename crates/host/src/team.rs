//! Threads as a [`Team`]: the caller works, and rayon's threads come to help.
//!
//! `parking` is how they wait, `crew` finds out how many of them are best beside whatever else runs.

mod crew;
mod parking;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use barelm::llm::pool::{Board, Member, Solo, Team, Wait, Waits};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crew::Crew;
use parking::Parking;

/// What all threads see.
struct Meeting {
    board: Board,
    /// Helpers wait here for a job.
    jobs: Parking,
    /// Members wait here for each other.
    steps: Parking,
    stop: AtomicBool,
}

impl Meeting {
    fn waits(&self) -> Waits<'_> {
        Waits { jobs: &self.jobs, steps: &self.steps }
    }
}

/// A fixed number of threads that run jobs together, the caller among them. Of jobs that [`Team::run_measured`] runs,
/// fewer take part while that is faster.
pub struct ThreadTeam {
    size: usize,
    meeting: Arc<Meeting>,
    crew: Mutex<Crew>,
    /// Absent for a team of one. Its threads serve the board until the team is dropped.
    _helpers: Option<ThreadPool>,
}

/// Why no team could be made.
#[derive(Debug)]
pub enum TeamError {
    /// A team has at least one thread.
    NoThreads,
    /// The system refused the threads.
    Spawn(rayon::ThreadPoolBuildError),
}

impl fmt::Display for TeamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoThreads => f.write_str("a team needs at least one thread"),
            Self::Spawn(error) => write!(f, "cannot start the threads ({error}); ask for fewer"),
        }
    }
}

impl std::error::Error for TeamError {}

impl ThreadTeam {
    /// A team of `threads`: the caller of its jobs, and as many others as that takes.
    pub fn try_new(threads: usize) -> Result<Self, TeamError> {
        if threads == 0 {
            return Err(TeamError::NoThreads);
        }
        let crowded = threads > default_threads();
        let meeting = Arc::new(Meeting {
            board: Board::new(),
            jobs: Parking::new(crowded),
            steps: Parking::new(crowded),
            stop: AtomicBool::new(false),
        });
        let helpers = (threads > 1)
            .then(|| {
                let name = |index| format!("barelm-{}", index + 1);
                ThreadPoolBuilder::new().num_threads(threads - 1).thread_name(name).build()
            })
            .transpose()
            .map_err(TeamError::Spawn)?;
        if let Some(helpers) = &helpers {
            let meeting = meeting.clone();
            helpers.spawn_broadcast(move |helper| {
                let serve = || meeting.board.serve(helper.index() + 1, &meeting.waits(), &meeting.stop);
                // A job that panics does so on its caller too; the helper is there for the next one.
                while catch_unwind(AssertUnwindSafe(serve)).is_err() {}
            });
        }
        Ok(ThreadTeam {
            size: threads,
            meeting,
            crew: Mutex::new(Crew::new(threads.min(default_threads()))),
            _helpers: helpers,
        })
    }

    /// A team as large as the cores this process may use.
    pub fn all_cores() -> Result<Self, TeamError> {
        Self::try_new(default_threads())
    }
}

impl Drop for ThreadTeam {
    fn drop(&mut self) {
        self.meeting.stop.store(true, Ordering::Release);
        self.meeting.jobs.wake();
    }
}

/// The number of cores this process may use.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

impl Team for ThreadTeam {
    fn size(&self) -> usize {
        self.size
    }

    fn run(&self, job: &(dyn Fn(Member<'_>) + Sync)) {
        self.meeting.board.run(self.size, &self.meeting.waits(), job);
    }

    fn run_measured(&self, work: u64, job: &(dyn Fn(Member<'_>) + Sync)) {
        // Held while the job runs; another caller's job, which would find the board busy, runs alone.
        let Some(mut crew) = (self.size > 1).then(|| self.crew.try_lock().ok()).flatten() else {
            return Solo.run(job);
        };
        let members = crew.members(work, Instant::now());
        self.meeting.steps.take_stalled();
        let start = Instant::now();
        self.meeting.board.run(members, &self.meeting.waits(), job);
        crew.ran(work, start, start.elapsed(), self.meeting.steps.take_stalled());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn all_work_of_a_job_is_done_however_it_is_run() {
        for threads in [1, 2, 3, 5] {
            let team = ThreadTeam::try_new(threads).unwrap();
            assert_eq!(team.size(), threads);
            for round in 0..50 {
                let done = AtomicUsize::new(0);
                let job = |member: Member<'_>| {
                    assert!(member.index < member.count && member.count <= threads);
                    for step in 1..=10 {
                        member.step(
                            7,
                            || {
                                // All of the steps before; of this one, others may have done some, but not all:
                                // what this member has claimed is still to be done.
                                let done = done.load(Ordering::Relaxed);
                                assert!(
                                    (7 * (step - 1)..7 * step).contains(&done),
                                    "{done} done at step {step}"
                                );
                            },
                            |(), units| {
                                done.fetch_add(units.len(), Ordering::Relaxed);
                            },
                        );
                    }
                };
                if round % 2 == 0 {
                    team.run(&job)
                } else {
                    team.run_measured(1000, &job)
                }
                assert_eq!(done.into_inner(), 70);
            }
        }
    }

    #[test]
    fn helpers_come() {
        let team = ThreadTeam::try_new(2).unwrap();
        // Each waits until the other is there: alone nobody could end this.
        let there = AtomicUsize::new(0);
        team.run(&|_| {
            there.fetch_add(1, Ordering::Relaxed);
            while there.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_job_that_panics_does_so_on_its_caller_and_spoils_nothing() {
        let team = ThreadTeam::try_new(2).unwrap();
        for _ in 0..20 {
            let panics = AssertUnwindSafe(|| {
                team.run(&|member| {
                    member.step(4, || (), |(), _| std::panic::resume_unwind(Box::new("on purpose")));
                });
            });
            assert!(catch_unwind(panics).is_err());
            let done = AtomicUsize::new(0);
            team.run(&|member| {
                member.step(
                    9,
                    || (),
                    |(), units| {
                        done.fetch_add(units.len(), Ordering::Relaxed);
                    },
                );
            });
            assert_eq!(done.into_inner(), 9);
        }
    }

    #[test]
    fn a_team_of_nobody_is_refused() {
        assert!(matches!(ThreadTeam::try_new(0), Err(TeamError::NoThreads)));
    }
}
