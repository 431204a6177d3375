//! A case, and how it is measured.

use alloc::vec::Vec;

use super::clock::{Clock, ClockKind, CounterSample};
use super::stats::Stats;

/// A sample spans at least this many clock ticks, so that a tick more or less is 0.1 %.
pub const MIN_SAMPLE_TICKS: u64 = 1000;
/// A sample spans at least this many readings of the clock, so that the one inside it is 0.5 % at most.
pub const MIN_SAMPLE_READINGS: u64 = 200;
/// Calls per sample where the clock does not calibrate.
pub const FIXED_CALLS: u64 = 100;
/// Samples where the clock does not calibrate.
pub const FIXED_SAMPLES: usize = 3;

/// What one call of a case does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Units that results are stated in (blocks, dot products, hundreds of characters, tokens).
    pub units: f64,
    /// Tokens produced or processed.
    pub tokens: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Floating-point operations; an fma counts as two.
    pub flops: u64,
}

/// A wrong answer: the case has failed, however fast it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WrongAnswer {
    /// What was compared.
    pub what: &'static str,
    /// What it should have been.
    pub expected: f64,
    /// What it was.
    pub found: f64,
}

impl WrongAnswer {
    /// `Ok` if `found` is within `bound` of `expected` (a NaN never is).
    pub fn check(what: &'static str, expected: f64, found: f64, bound: f64) -> Result<(), Self> {
        if (expected - found).abs() <= bound {
            return Ok(());
        }
        Err(Self { what, expected, found })
    }
}

impl core::fmt::Display for WrongAnswer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "wrong answer: {}: expected {}, found {}", self.what, self.expected, self.found)
    }
}

/// Something to measure, set up and ready: construction is not timed.
pub trait Case {
    /// Its name, as filters, targets and records use it.
    fn name(&self) -> &'static str;
    /// The work of one call.
    fn work(&self) -> Work;
    /// Calls the body `calls` times on inputs the compiler cannot see through.
    fn run(&mut self, calls: u64);
    /// Compares the answer of the last call with one found another way.
    fn check(&mut self) -> Result<(), WrongAnswer>;
}

/// How long and how often to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Calls before the first sample.
    pub warmup: usize,
    /// Samples wanted.
    pub samples: usize,
    /// Samples taken even when time is up.
    pub min_samples: usize,
    /// Seconds for warm-up and samples together.
    pub limit_s: f64,
    /// Calls per sample; `None` calibrates.
    pub calls: Option<u64>,
}

/// What measuring a case gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Nanoseconds per unit of work.
    pub stats: Stats,
    /// Calls in one sample.
    pub calls: u64,
    /// Calls in one sample where nothing is calibrated: what instruction counts of another run stand for.
    pub exact_calls: u64,
    /// The work of one call.
    pub work: Work,
    /// Sums over all samples.
    pub counters: CounterSample,
    /// Whether the time is an emulator's.
    pub emulated: bool,
    /// Whether the time box cut the samples short.
    pub boxed: bool,
}

impl Measurement {
    /// Units of work inside all samples together.
    pub fn total_units(&self) -> f64 {
        self.work.units * self.calls as f64 * self.stats.samples as f64
    }

    /// The same measurement with `units` units of work a call.
    pub fn restated(&self, units: f64) -> Self {
        let mut new = self.clone();
        new.stats = new.stats.scaled(self.work.units / units);
        new.work.units = units;
        new
    }

    /// Retired instructions per unit of work, where they were counted.
    pub fn instructions_per_unit(&self) -> Option<f64> {
        Some(self.counters.instructions.ok()? as f64 / self.total_units())
    }

    /// Billions of floating-point operations in a second, at the median.
    pub fn gflops(&self) -> f64 {
        self.work.flops as f64 / self.work.units * self.stats.throughput() / 1e9
    }

    /// Billions of bytes in a second, at the median.
    pub fn gbytes(&self) -> f64 {
        self.work.bytes as f64 / self.work.units * self.stats.throughput() / 1e9
    }
}

/// Calls on top of the `calls` of a sample before which `done` calls were counted: none, or with the feature
/// `extra-work` one for each hundred begun, for showing that the gate sees 1 %.
///
/// A call is the least that can be added, so cases with few and long calls (whole models) grow by more.
fn extra(done: u64, calls: u64) -> u64 {
    if cfg!(feature = "extra-work") { (done + calls).div_ceil(100) - done.div_ceil(100) } else { 0 }
}

/// Measures `case`: calibration, warm-up, samples, and its answer at the end.
pub fn measure<C: Clock + ?Sized>(
    clock: &C,
    effort: Effort,
    case: &mut dyn Case,
) -> Result<Measurement, WrongAnswer> {
    let rate = clock.ticks_per_second();
    let work = case.work();
    assert!(work.units > 0.0, "{}: a case states its work", case.name());
    let began = clock.now();
    let spent_s = || clock.now().wrapping_sub(began) as f64 / rate;

    let exact_calls = effort.calls.unwrap_or(FIXED_CALLS);
    let (calls, samples_wanted) = match (effort.calls, clock.calibrates()) {
        (_, false) => (exact_calls, FIXED_SAMPLES),
        (Some(calls), true) => (calls, effort.samples),
        (None, true) => (calibrate(clock, case), effort.samples),
    };
    // A fifth of the time at most goes to warming up. Without calibration, one sample's worth of calls does.
    let mut warm = 0;
    while warm < effort.warmup as u64 {
        case.run(calls);
        warm += calls;
        if !clock.calibrates() || spent_s() > effort.limit_s / 5.0 {
            break;
        }
    }

    let mut times = Vec::with_capacity(samples_wanted);
    let mut counters = clock.counters().zeroed();
    let mut boxed = false;
    while times.len() < samples_wanted {
        let (mut start, mut end) = ((0, counters), (0, counters));
        let extra = extra(calls * times.len() as u64, calls);
        clock.undisturbed(&mut || {
            start.1 = clock.counters();
            start.0 = clock.now();
            case.run(calls + extra);
            end.0 = clock.now();
            end.1 = clock.counters();
        });
        counters.add_interval(&start.1, &end.1);
        let ticks = end.0.wrapping_sub(start.0) as f64;
        times.push(ticks / rate * 1e9 / (calls as f64 * work.units));
        if clock.calibrates() && times.len() >= effort.min_samples && spent_s() > effort.limit_s {
            boxed = times.len() < samples_wanted;
            break;
        }
    }
    case.check()?;
    let stats = Stats::from_samples(&mut times).expect("at least one finite sample was taken");
    let emulated = clock.kind() == ClockKind::Emulated;
    Ok(Measurement { stats, calls, exact_calls, work, counters, emulated, boxed })
}

/// The calls after which a sample is long enough.
fn calibrate<C: Clock + ?Sized>(clock: &C, case: &mut dyn Case) -> u64 {
    let reading = || {
        let start = clock.now();
        clock.now().wrapping_sub(start)
    };
    let reading = (0..16).map(|_| reading()).min().expect("sixteen readings");
    let wanted = MIN_SAMPLE_TICKS.max(MIN_SAMPLE_READINGS * reading);
    let mut calls = 1;
    loop {
        let start = clock.now();
        case.run(calls);
        let ticks = clock.now().wrapping_sub(start);
        if ticks >= wanted || calls >= 1 << 30 {
            return calls;
        }
        // Aim a fifth above the goal, but trust no single short reading by more than a factor of 16.
        let aim = (wanted + wanted / 5).div_ceil(ticks.max(1));
        calls *= aim.clamp(2, 16);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use core::cell::Cell;

    /// A clock that a case moves by hand. Instructions are four per tick.
    pub struct HandClock {
        pub ticks: Cell<u64>,
        pub calibrates: bool,
        pub kind: ClockKind,
    }

    impl HandClock {
        pub fn new(calibrates: bool, kind: ClockKind) -> Self {
            Self { ticks: Cell::new(0), calibrates, kind }
        }
    }

    impl Clock for HandClock {
        fn now(&self) -> u64 {
            self.ticks.get()
        }
        fn ticks_per_second(&self) -> f64 {
            1e9
        }
        fn kind(&self) -> ClockKind {
            self.kind
        }
        fn counters(&self) -> CounterSample {
            CounterSample { instructions: Ok(self.ticks.get() * 4), ..CounterSample::none("by hand") }
        }
        fn calibrates(&self) -> bool {
            self.calibrates
        }
    }

    #[test]
    fn extra_work_is_a_hundredth_rounded_up_to_one_call() {
        let sum = |calls: u64, samples: u64| (0..samples).map(|s| extra(s * calls, calls)).sum::<u64>();
        let added = [sum(100, 3), sum(1, 3), sum(1, 1000), sum(7, 200)];
        assert_eq!(added, if cfg!(feature = "extra-work") { [3, 1, 10, 14] } else { [0; 4] });
    }

    /// Takes `cost` ticks a call.
    struct Costs<'a>(&'a HandClock, u64, bool);

    impl Case for Costs<'_> {
        fn name(&self) -> &'static str {
            "costs"
        }
        fn work(&self) -> Work {
            Work { units: 2.0, tokens: 0, bytes: 64, flops: 8 }
        }
        fn run(&mut self, calls: u64) {
            self.0.ticks.set(self.0.ticks.get() + self.1 * calls);
        }
        fn check(&mut self) -> Result<(), WrongAnswer> {
            WrongAnswer::check("truth", 1.0, f64::from(u8::from(self.2)), 0.0)
        }
    }

    const EFFORT: Effort = Effort { warmup: 100, samples: 50, min_samples: 3, limit_s: 2.0, calls: None };

    #[test]
    fn samples_span_a_thousand_ticks_and_time_is_per_unit() {
        let clock = HandClock::new(true, ClockKind::Wall);
        let m = measure(&clock, EFFORT, &mut Costs(&clock, 7, true)).unwrap();
        assert!(m.calls * 7 >= MIN_SAMPLE_TICKS, "{} calls", m.calls);
        assert_eq!((m.stats.samples, m.boxed), (50, false));
        if !cfg!(feature = "extra-work") {
            assert!((m.stats.median - 3.5).abs() < 1e-9); // 7 ns a call, 2 units a call
            assert_eq!(m.instructions_per_unit(), Some(14.0));
            assert!((m.gflops() - 8.0 / 7.0).abs() < 1e-9);
        }
    }

    #[test]
    fn samples_of_a_slow_clock_are_longer() {
        /// Takes 30 ticks to read.
        struct Slow(HandClock);
        impl Clock for Slow {
            fn now(&self) -> u64 {
                self.0.ticks.set(self.0.ticks.get() + 30);
                self.0.now()
            }
            fn ticks_per_second(&self) -> f64 {
                1e9
            }
            fn kind(&self) -> ClockKind {
                ClockKind::Wall
            }
            fn counters(&self) -> CounterSample {
                CounterSample::none("by hand")
            }
            fn calibrates(&self) -> bool {
                true
            }
        }
        let clock = Slow(HandClock::new(true, ClockKind::Wall));
        let m = measure(&clock, EFFORT, &mut Costs(&clock.0, 7, true)).unwrap();
        assert!(m.calls * 7 + 30 >= 30 * MIN_SAMPLE_READINGS, "{} calls", m.calls);
    }

    #[test]
    fn another_unit_changes_the_time_and_not_the_rates() {
        let clock = HandClock::new(true, ClockKind::Wall);
        let m = measure(&clock, EFFORT, &mut Costs(&clock, 7, true)).unwrap();
        let whole = m.restated(1.0);
        assert_eq!(whole.stats.median, m.stats.median * 2.0);
        assert_eq!(whole.stats.cv, m.stats.cv);
        assert!((whole.gbytes() - m.gbytes()).abs() < 1e-9);
    }

    #[test]
    fn time_is_boxed_but_the_least_samples_are_taken() {
        let clock = HandClock::new(true, ClockKind::Wall);
        let m = measure(&clock, EFFORT, &mut Costs(&clock, 1_500_000_000, true)).unwrap();
        assert_eq!((m.stats.samples, m.boxed, m.calls), (3, true, 1));
    }

    #[test]
    fn without_calibration_every_count_is_a_constant() {
        for cost in [1, 1_500_000_000] {
            let clock = HandClock::new(false, ClockKind::Emulated);
            let m = measure(&clock, EFFORT, &mut Costs(&clock, cost, true)).unwrap();
            assert_eq!((m.calls, m.stats.samples, m.boxed), (FIXED_CALLS, FIXED_SAMPLES, false));
            let extra = if cfg!(feature = "extra-work") { 303 } else { 300 };
            assert_eq!(m.counters.instructions, Ok(4 * cost * extra));
            assert!(m.emulated);
        }
    }

    #[test]
    fn a_wrong_answer_is_a_failure() {
        let clock = HandClock::new(true, ClockKind::Wall);
        let wrong = measure(&clock, EFFORT, &mut Costs(&clock, 5, false)).unwrap_err();
        assert_eq!(wrong, WrongAnswer { what: "truth", expected: 1.0, found: 0.0 });
    }
}
