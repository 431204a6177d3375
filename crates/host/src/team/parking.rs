//! How threads wait for each other: they spin for a while, then sleep until woken.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use barelm::llm::pool::Wait;

/// How long a thread spins before it sleeps: the shortest and the longest that it learns.
///
/// With the cores to ourselves a sleep costs more than what is waited for, and 50 microseconds of spinning meet nearly
/// every step's end. Beside other work the late member may not be running at all, and spinning keeps it from running.
const SPIN: [Duration; 2] = [Duration::from_micros(2), Duration::from_micros(50)];

/// A sleep shorter than this was for a thread that was running.
const QUICK: Duration = Duration::from_micros(200);

/// A place to wait. Never `sched_yield`: beside other work it hands over a whole time slice to each of the others.
pub(super) struct Parking {
    /// Wake-ups.
    woken: AtomicU32,
    sleepers: AtomicU32,
    /// Looks before a sleep; grows by small steps with quick sleeps, and starts anew with a long one.
    patience: AtomicU32,
    /// What `patience` may be.
    bounds: [u32; 2],
    /// Nanoseconds spent in long sleeps.
    stalled_ns: AtomicU64,
}

impl Parking {
    /// Where threads are `crowded`, more than there are cores, somebody is always not running.
    pub fn new(crowded: bool) -> Self {
        let bounds = [SPIN[0], SPIN[usize::from(!crowded)]].map(spins_in);
        let zero = || AtomicU32::new(0);
        Parking {
            woken: zero(),
            sleepers: zero(),
            patience: AtomicU32::new(bounds[0]),
            bounds,
            stalled_ns: AtomicU64::new(0),
        }
    }

    /// The time that threads have slept here for others that were not running, since this was last asked.
    pub fn take_stalled(&self) -> Duration {
        Duration::from_nanos(self.stalled_ns.swap(0, Ordering::Relaxed))
    }
}

impl Wait for Parking {
    fn relax(&self, looks: u32, ready: &dyn Fn() -> bool) {
        // A hint: threads may overwrite each other's.
        let patience = self.patience.load(Ordering::Relaxed);
        if looks < patience {
            std::hint::spin_loop();
            return;
        }
        let start = Instant::now();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // Either `ready` sees here what happened before a wake-up, or that wake-up sees this sleeper and changes
        // `woken`: the fences stand between the two halves of each.
        fence(Ordering::SeqCst);
        let woken = self.woken.load(Ordering::SeqCst);
        if !ready() {
            atomic_wait::wait(&self.woken, woken);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        let slept = start.elapsed();
        let [least, most] = self.bounds;
        let learned = if slept < QUICK { (patience + most / 16).min(most) } else { least };
        self.patience.store(learned, Ordering::Relaxed);
        if slept >= QUICK {
            self.stalled_ns.fetch_add(slept.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.woken.fetch_add(1, Ordering::SeqCst);
            atomic_wait::wake_all(&self.woken);
        }
    }
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
