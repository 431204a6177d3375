//! Is the current result worse than the baseline?
//!
//! Instructions counted exactly admit no noise: any difference is reported. Times are compared by the 95 % intervals
//! of their medians, and by a margin below which a change is not worth a person's time.

use super::CaseResult;

/// A slowdown below this share is never reported, however sure it is: runs differ from each other by more than the
/// samples of one run say (placement in memory, clock frequency, neighbors). Finer changes are for instruction counts.
pub const MARGIN: f64 = 0.10;

/// What two results of a case say about each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// No difference beyond noise.
    Same,
    /// Slower: `ratio` is current over baseline.
    Slower {
        /// Current median over the baseline's.
        ratio: f64,
    },
    /// Faster, by the same measure.
    Faster {
        /// Current median over the baseline's.
        ratio: f64,
    },
    /// Exactly counted instructions differ.
    Instructions {
        /// Instructions of the baseline.
        baseline: u64,
        /// Instructions now.
        current: u64,
    },
    /// The two cannot be compared.
    Incomparable(&'static str),
}

impl Verdict {
    /// Whether the gate must fail. Fewer instructions fail too: the baseline is then out of date.
    pub fn fails(self) -> bool {
        matches!(self, Self::Slower { .. } | Self::Instructions { .. } | Self::Incomparable(_))
    }
}

/// Compares `current` with `baseline`: instruction counts where both are emulated, times where both are real.
pub fn check_regression(baseline: &CaseResult, current: &CaseResult) -> Verdict {
    let (b, c) = (&baseline.measurement, &current.measurement);
    if baseline.name != current.name || baseline.unit != current.unit {
        return Verdict::Incomparable("not the same case");
    }
    if baseline.kernels != current.kernels {
        return Verdict::Incomparable("not the same kernel table");
    }
    if b.work != c.work || baseline.detail != current.detail {
        return Verdict::Incomparable("the case's work has changed; record a new baseline");
    }
    if b.emulated != c.emulated {
        return Verdict::Incomparable("one is emulated, the other is not");
    }
    if c.emulated {
        return match (b.counters.instructions, c.counters.instructions) {
            (Ok(_), Ok(_)) if (b.calls, b.stats.samples) != (c.calls, c.stats.samples) => {
                Verdict::Incomparable("not the same number of calls; count instructions under --icount")
            }
            (Ok(x), Ok(y)) if x == y => Verdict::Same,
            (Ok(baseline), Ok(current)) => Verdict::Instructions { baseline, current },
            _ => Verdict::Incomparable("emulated, and no instruction counts; boot with --icount"),
        };
    }
    let ratio = c.stats.median / b.stats.median;
    if c.stats.median_low > b.stats.median_high && ratio > 1.0 + MARGIN {
        Verdict::Slower { ratio }
    } else if c.stats.median_high < b.stats.median_low && ratio < 1.0 - MARGIN {
        Verdict::Faster { ratio }
    } else {
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use super::super::case::{Measurement, Work};
    use super::super::clock::CounterSample;
    use super::super::stats::Stats;
    use super::*;

    fn result(times: &mut [f64], instructions: Option<u64>, emulated: bool) -> CaseResult {
        let mut counters = CounterSample::none("none");
        if let Some(n) = instructions {
            counters.instructions = Ok(n);
        }
        CaseResult {
            name: "dot_product".into(),
            unit: "384 dot".into(),
            kernels: "scalar".into(),
            detail: "".into(),
            measurement: Measurement {
                stats: Stats::from_samples(times).unwrap(),
                calls: 100,
                exact_calls: 100,
                work: Work { units: 1.0, ..Work::default() },
                counters,
                emulated,
                boxed: false,
            },
        }
    }

    #[test]
    fn a_clear_slowdown_fails_and_a_speed_up_passes() {
        let base = result(&mut [99.0, 100.0, 101.0], None, false);
        let slow = result(&mut [119.0, 120.0, 121.0], None, false);
        assert_eq!(check_regression(&base, &slow), Verdict::Slower { ratio: 1.2 });
        assert!(check_regression(&base, &slow).fails());
        assert!(matches!(check_regression(&slow, &base), Verdict::Faster { .. }));
        assert!(!check_regression(&slow, &base).fails());
    }

    #[test]
    fn overlapping_intervals_and_small_steps_are_noise() {
        let base = result(&mut [90.0, 100.0, 130.0], None, false);
        let wide = result(&mut [95.0, 120.0, 150.0], None, false);
        assert_eq!(check_regression(&base, &wide), Verdict::Same);
        let sharp = result(&mut [100.0, 100.0, 100.0], None, false);
        let a_bit_more = result(&mut [109.0, 109.0, 109.0], None, false);
        assert_eq!(check_regression(&sharp, &a_bit_more), Verdict::Same);
    }

    #[test]
    fn one_instruction_more_fails() {
        let base = result(&mut [1.0], Some(1_000_000), true);
        let more = result(&mut [1.0], Some(1_000_001), true);
        assert_eq!(check_regression(&base, &base), Verdict::Same);
        assert!(check_regression(&base, &more).fails());
        assert!(check_regression(&more, &base).fails());
        assert!(check_regression(&base, &result(&mut [1.0], None, true)).fails());
        assert!(check_regression(&base, &result(&mut [1.0], None, false)).fails());
    }
}
