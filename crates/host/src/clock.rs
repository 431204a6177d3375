//! The operating system's clock and event counters for the benchmark suite.

use std::time::Instant;

use barelm::llm::benchmarks::{Clock, ClockKind, CounterSample};

/// Monotonic time in nanoseconds since the clock was made, and the processor's counters where the system lends them.
pub struct SystemClock {
    start: Instant,
    counters: counters::Counters,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemClock {
    /// Starts the clock. Counters cover the calling thread and all threads it starts afterwards, so make the clock
    /// before the team.
    pub fn new() -> Self {
        SystemClock { start: Instant::now(), counters: counters::Counters::open() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        // Nanoseconds since the start fit in 64 bits for 584 years.
        self.start.elapsed().as_nanos() as u64
    }

    fn ticks_per_second(&self) -> f64 {
        1e9
    }

    fn kind(&self) -> ClockKind {
        ClockKind::Wall
    }

    fn counters(&self) -> CounterSample {
        self.counters.sample()
    }

    fn calibrates(&self) -> bool {
        true
    }
}

#[cfg(target_os = "linux")]
mod counters {
    use std::cell::RefCell;
    use std::io::{Error, ErrorKind};

    use barelm::llm::benchmarks::{Counter, CounterSample};
    use perf_event::events::{Cache, CacheOp, CacheResult, Event, Hardware, WhichCache};
    use perf_event::{Builder, Counter as PerfCounter};

    /// One counter for each event, or why there is none.
    pub(super) struct Counters {
        events: [Result<RefCell<PerfCounter>, &'static str>; 4],
    }

    impl Counters {
        pub(super) fn open() -> Self {
            let misses =
                Cache { which: WhichCache::L1D, operation: CacheOp::READ, result: CacheResult::MISS };
            Counters {
                events: [
                    open(Hardware::INSTRUCTIONS.into()),
                    open(Hardware::CPU_CYCLES.into()),
                    open(misses.into()),
                    open(Hardware::BRANCH_MISSES.into()),
                ],
            }
        }

        pub(super) fn sample(&self) -> CounterSample {
            let [instructions, cycles, cache_refills, branch_misses] = self.events.each_ref().map(read);
            CounterSample { instructions, cycles, cache_refills, branch_misses }
        }
    }

    fn open(event: Event) -> Result<RefCell<PerfCounter>, &'static str> {
        let mut builder = Builder::new().kind(event);
        builder.inherit(true);
        let mut counter = builder.build().map_err(reason)?;
        counter.enable().map_err(reason)?;
        Ok(RefCell::new(counter))
    }

    fn read(counter: &Result<RefCell<PerfCounter>, &'static str>) -> Counter {
        let counter = counter.as_ref().map_err(|&reason| reason)?;
        let count = counter.borrow_mut().read_count_and_time().map_err(reason)?;
        // With more events than counters the kernel lets them take turns; what it then reports is no exact count.
        if count.time_running < count.time_enabled {
            return Err("the processor has too few counters for all events");
        }
        Ok(count.count)
    }

    fn reason(error: Error) -> &'static str {
        match error.kind() {
            ErrorKind::PermissionDenied => "the system forbids it (kernel.perf_event_paranoid)",
            ErrorKind::NotFound => "this machine has no such counter",
            ErrorKind::Unsupported => "the system has no perf events",
            _ => "the system refuses perf events",
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod counters {
    use barelm::llm::benchmarks::CounterSample;

    /// No counters.
    pub(super) struct Counters;

    impl Counters {
        pub(super) fn open() -> Self {
            Counters
        }

        pub(super) fn sample(&self) -> CounterSample {
            CounterSample::none("counters are read on Linux only")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_in_nanoseconds() {
        let clock = SystemClock::new();
        let start = clock.now();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let elapsed_s = (clock.now() - start) as f64 / clock.ticks_per_second();
        assert!((0.005..5.0).contains(&elapsed_s), "{elapsed_s}");
    }

    #[test]
    fn counters_count_this_thread_or_say_why_not() {
        let clock = SystemClock::new();
        let start = clock.counters();
        let work: u64 = std::hint::black_box((0..100_000u64).fold(0, |sum, x| sum ^ std::hint::black_box(x)));
        std::hint::black_box(work);
        let end = clock.counters();
        for ((name, start), (_, end)) in start.named().into_iter().zip(end.named()) {
            match (start, end) {
                (Ok(start), Ok(end)) if name == "instructions" => {
                    assert!(end - start > 100_000, "{name}: {start} to {end}");
                }
                (Ok(start), Ok(end)) => assert!(end >= start, "{name}: {start} to {end}"),
                (Err(reason), _) | (_, Err(reason)) => assert!(!reason.is_empty(), "{name}"),
            }
        }
    }
}
