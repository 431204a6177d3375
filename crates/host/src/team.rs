//! Rayon's threads as a [`Team`]: every job runs once on each of them, at the same time.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use barelm::llm::pool::{Barrier, Member, Solo, Team, Wait};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// How long a member spins at a barrier before it sleeps. Spinning longer with more threads than free cores keeps
/// the late members from running at all.
const SPIN: Duration = Duration::from_micros(2);

/// How threads wait: they spin for a moment, then sleep until woken. Never `sched_yield`: beside other work it
/// hands over a whole time slice to each of the others.
struct Parking {
    /// Openings of the barrier.
    opened: AtomicU32,
    sleepers: AtomicU32,
    spins: u32,
}

impl Wait for Parking {
    fn mark(&self) -> u32 {
        self.opened.load(Ordering::SeqCst)
    }

    fn relax(&self, looks: u32, mark: u32) {
        if looks < self.spins {
            std::hint::spin_loop();
            return;
        }
        // Whoever opens the barrier either sees this sleeper, or has changed `opened` before the sleep looks at it.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        atomic_wait::wait(&self.opened, mark);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        self.opened.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            atomic_wait::wake_all(&self.opened);
        }
    }
}

/// A fixed number of threads that run one job together.
pub struct ThreadTeam {
    /// Absent for a team of one, whose job runs on the caller.
    pool: Option<ThreadPool>,
    barrier: Barrier,
    parking: Parking,
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
    /// Starts `threads` threads; one needs none besides the caller's.
    pub fn try_new(threads: usize) -> Result<Self, TeamError> {
        let pool = match threads {
            0 => return Err(TeamError::NoThreads),
            1 => None,
            _ => Some(
                ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|index| format!("barelm-{index}"))
                    .build()
                    .map_err(TeamError::Spawn)?,
            ),
        };
        let parking =
            Parking { opened: AtomicU32::new(0), sleepers: AtomicU32::new(0), spins: spins_in(SPIN) };
        Ok(ThreadTeam { pool, barrier: Barrier::new(), parking })
    }

    /// A team as large as the cores this process may use.
    pub fn all_cores() -> Result<Self, TeamError> {
        Self::try_new(default_threads())
    }
}

/// The number of cores this process may use.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// How many spin hints take about `time` on this machine (a hint is 5 to 150 cycles, by the processor's age).
fn spins_in(time: Duration) -> u32 {
    const PROBE: u32 = 1000;
    let start = Instant::now();
    for _ in 0..PROBE {
        std::hint::spin_loop();
    }
    let probe_ns = start.elapsed().as_nanos().max(1);
    u32::try_from(u128::from(PROBE) * time.as_nanos() / probe_ns).unwrap_or(PROBE).clamp(1, 10 * PROBE)
}

impl Team for ThreadTeam {
    fn size(&self) -> usize {
        self.pool.as_ref().map_or(1, ThreadPool::current_num_threads)
    }

    fn run(&self, job: &(dyn Fn(Member<'_>) + Sync)) {
        let Some(pool) = &self.pool else { return Solo.run(job) };
        pool.broadcast(|context| {
            job(Member::new(context.index(), context.num_threads(), &self.barrier, &self.parking));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_job_runs_once_on_every_member_and_barriers_hold() {
        for threads in [1, 2, 3, 5] {
            let team = ThreadTeam::try_new(threads).unwrap();
            assert_eq!(team.size(), threads);
            let arrived = AtomicUsize::new(0);
            for round in 1..=50 {
                team.run(&|member| {
                    assert_eq!(member.count, threads);
                    arrived.fetch_add(1, Ordering::Relaxed);
                    member.barrier();
                    assert_eq!(arrived.load(Ordering::Relaxed), threads * round);
                    member.barrier();
                });
            }
            assert_eq!(arrived.into_inner(), threads * 50);
        }
    }

    #[test]
    fn a_team_of_nobody_is_refused() {
        assert!(matches!(ThreadTeam::try_new(0), Err(TeamError::NoThreads)));
    }
}
