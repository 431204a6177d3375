//! The generic timer's counter, for the suite and for speeds.

use crate::llm::benchmarks::{Clock, ClockKind, CounterSample};
use cortex_a::asm::barrier::{SY, isb};
use cortex_a::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};

/// The timer of this machine; iteration counts are constants if `exact`.
pub struct TimerClock {
    /// Whether instructions are counted, so that nothing may depend on time.
    pub exact: bool,
}

impl Clock for TimerClock {
    fn now(&self) -> u64 {
        isb(SY);
        CNTPCT_EL0.get()
    }

    fn ticks_per_second(&self) -> f64 {
        CNTFRQ_EL0.get() as f64
    }

    fn kind(&self) -> ClockKind {
        ClockKind::Emulated
    }

    fn counters(&self) -> CounterSample {
        CounterSample::none("not read by this image")
    }

    fn calibrates(&self) -> bool {
        !self.exact
    }
}

/// Seconds from `start` to now.
pub fn seconds_since(clock: &dyn Clock, start: u64) -> f64 {
    clock.now().wrapping_sub(start) as f64 / clock.ticks_per_second()
}
