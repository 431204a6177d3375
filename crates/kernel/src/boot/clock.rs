//! The generic timer and the performance monitors as the suite's [`Clock`].

use core::sync::atomic::{AtomicU64, Ordering};

use cortex_a::asm::barrier;
use cortex_a::registers::{CNTFRQ_EL0, CNTVCT_EL0, Readable};

use crate::arch::aarch64::pmu::{self, Pmu};
use crate::arch::aarch64::watchdog;
use crate::llm::benchmarks::{Clock, ClockKind, CounterSample};

/// The boot core's time.
#[derive(Clone, Copy, Debug)]
pub struct KernelClock {
    pmu: Pmu,
    kind: ClockKind,
    exact: bool,
}

impl KernelClock {
    /// Starts the counters. `exact` makes all iteration counts constants, for instruction counts that repeat.
    pub fn new(kind: ClockKind, exact: bool) -> Self {
        BEFORE.store(pmu::since_entry(), Ordering::Relaxed);
        KernelClock { pmu: Pmu::start(), kind, exact }
    }

    /// Whether retired instructions are counted.
    pub fn counts_instructions(&self) -> bool {
        self.pmu.counts_instructions()
    }
}

impl Clock for KernelClock {
    fn now(&self) -> u64 {
        watchdog::works();
        barrier::isb(barrier::SY);
        CNTVCT_EL0.get()
    }

    fn ticks_per_second(&self) -> f64 {
        CNTFRQ_EL0.get() as f64
    }

    fn kind(&self) -> ClockKind {
        self.kind
    }

    fn counters(&self) -> CounterSample {
        self.pmu.sample()
    }

    fn calibrates(&self) -> bool {
        !self.exact
    }

    fn undisturbed(&self, body: &mut dyn FnMut()) {
        watchdog::undisturbed(body);
    }
}

/// Seconds from `start` to now.
pub fn seconds_since(clock: &dyn Clock, start: u64) -> f64 {
    clock.now().wrapping_sub(start) as f64 / clock.ticks_per_second()
}

/// Instructions from the image's first one to its first line on the console, and to the start of [`KernelClock`], which
/// counts anew.
static BANNER: AtomicU64 = AtomicU64::new(0);
static BEFORE: AtomicU64 = AtomicU64::new(0);

/// Remembers that the first line is being written.
pub fn banner() {
    BANNER.store(pmu::since_entry(), Ordering::Relaxed);
}

/// Instructions from the image's first one to the first line, and to now, where instructions are counted.
pub fn since_entry(clock: &dyn Clock) -> Option<[u64; 2]> {
    let now = clock.counters().instructions.ok()?;
    Some([BANNER.load(Ordering::Relaxed), BEFORE.load(Ordering::Relaxed) + now])
}
