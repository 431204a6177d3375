//! Rayon's threads as a [`Team`]: every job runs once on each of them, at the same time.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use barelm::llm::pool::{Barrier, Member, Solo, Team, Wait};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// How long a member spins at a barrier before it sleeps: the shortest and the longest that it learns.
///
/// With the cores to ourselves a sleep costs more than what is waited for, and 50 microseconds of spinning meet nearly
/// every barrier. Beside other work the late member may not be running at all, and spinning keeps it from running.
const SPIN: [Duration; 2] = [Duration::from_micros(2), Duration::from_micros(50)];

/// A sleep shorter than this was for a member that was running.
const QUICK: Duration = Duration::from_micros(200);

/// How threads wait: they spin for a while, then sleep until woken. Never `sched_yield`: beside other work it hands
/// over a whole time slice to each of the others.
struct Parking {
    /// Openings of the barrier.
    opened: AtomicU32,
    sleepers: AtomicU32,
    /// Looks before a sleep; grows by small steps with quick sleeps, and starts anew with a long one.
    patience: AtomicU32,
    /// What `patience` may be.
    bounds: [u32; 2],
}

impl Parking {
    fn new(threads: usize) -> Self {
        // With more threads than cores somebody is always not running.
        let longest = if threads > default_threads() { SPIN[0] } else { SPIN[1] };
        let bounds = [SPIN[0], longest].map(spins_in);
        let zero = || AtomicU32::new(0);
        Parking { opened: zero(), sleepers: zero(), patience: AtomicU32::new(bounds[0]), bounds }
    }
}

impl Wait for Parking {
    fn mark(&self) -> u32 {
        self.opened.load(Ordering::SeqCst)
    }

    fn relax(&self, looks: u32, mark: u32) {
        // A hint: members may overwrite each other's.
        let patience = self.patience.load(Ordering::Relaxed);
        if looks < patience {
            std::hint::spin_loop();
            return;
        }
        let start = Instant::now();
        // Whoever opens the barrier either sees this sleeper, or has changed `opened` before the sleep looks at it.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        atomic_wait::wait(&self.opened, mark);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        let [least, most] = self.bounds;
        let learned = if start.elapsed() < QUICK { (patience + most / 16).min(most) } else { least };
        self.patience.store(learned, Ordering::Relaxed);
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
        Ok(ThreadTeam { pool, barrier: Barrier::new(), parking: Parking::new(threads) })
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
    u32::try_from(u128::from(PROBE) * time.as_nanos() / probe_ns).unwrap_or(PROBE).clamp(1, 100 * PROBE)
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
