//! Statistics of one case's samples. All in `f64`; times are nanoseconds per unit of work.

use alloc::vec;
use alloc::vec::Vec;

use crate::llm::random::SplitMix64;

/// Resamples behind the interval of the median.
const RESAMPLES: usize = 1000;
/// Seed of the bootstrap: the same samples always give the same interval.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a set of samples says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    /// How many samples.
    pub samples: usize,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Middle value; of an even count, the mean of the middle two. Also the 50th percentile.
    pub median: f64,
    /// Standard deviation of the sample (divides by n - 1; 0 for one sample).
    pub stddev: f64,
    /// Median absolute deviation from the median (not scaled).
    pub mad: f64,
    /// 90th percentile. Percentiles interpolate linearly between the two nearest ranks.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Coefficient of variation, `stddev / mean` (0 when the mean is 0).
    pub cv: f64,
    /// Lower end of the bootstrap 95 % interval of the median.
    pub median_low: f64,
    /// Upper end of that interval.
    pub median_high: f64,
    /// Samples beyond 1.5 inter-quartile ranges from the quartiles, severe ones included.
    pub mild_outliers: usize,
    /// Samples beyond 3 inter-quartile ranges from the quartiles.
    pub severe_outliers: usize,
}

impl Stats {
    /// Sorts `samples` and describes them. `None` without samples or with one that is not finite.
    pub fn from_samples(samples: &mut [f64]) -> Option<Self> {
        if samples.is_empty() || samples.iter().any(|x| !x.is_finite()) {
            return None;
        }
        samples.sort_unstable_by(f64::total_cmp);
        let n = samples.len();
        let mean = samples.iter().sum::<f64>() / n as f64;
        let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
        let stddev = if n > 1 { libm::sqrt(squares / (n - 1) as f64) } else { 0.0 };
        let median = percentile(samples, 50.0);
        let mut deviations: Vec<f64> = samples.iter().map(|x| (x - median).abs()).collect();
        deviations.sort_unstable_by(f64::total_cmp);
        let (q1, q3) = (percentile(samples, 25.0), percentile(samples, 75.0));
        let outside = |fence: f64| {
            let (low, high) = (q1 - fence * (q3 - q1), q3 + fence * (q3 - q1));
            samples.iter().filter(|&&x| x < low || x > high).count()
        };
        let (median_low, median_high) = bootstrap(samples);
        Some(Self {
            samples: n,
            min: samples[0],
            max: samples[n - 1],
            mean,
            median,
            stddev,
            mad: percentile(&deviations, 50.0),
            p90: percentile(samples, 90.0),
            p99: percentile(samples, 99.0),
            p999: percentile(samples, 99.9),
            cv: if mean == 0.0 { 0.0 } else { stddev / mean },
            median_low,
            median_high,
            mild_outliers: outside(1.5),
            severe_outliers: outside(3.0),
        })
    }

    /// The statistics of the samples times `factor`.
    pub fn scaled(mut self, factor: f64) -> Self {
        for value in [
            &mut self.min,
            &mut self.max,
            &mut self.mean,
            &mut self.median,
            &mut self.stddev,
            &mut self.mad,
            &mut self.p90,
            &mut self.p99,
            &mut self.p999,
            &mut self.median_low,
            &mut self.median_high,
        ] {
            *value *= factor;
        }
        self
    }

    /// Units of work in a second at the median time, when samples are nanoseconds per unit.
    pub fn throughput(&self) -> f64 {
        if self.median > 0.0 { 1e9 / self.median } else { 0.0 }
    }
}

/// The `p`-th percentile of sorted samples, of which there is one at least, by linear interpolation at rank
/// `p / 100 * (n - 1)`.
pub fn percentile(sorted: &[f64], p: f64) -> f64 {
    let rank = p / 100.0 * (sorted.len() - 1) as f64;
    let below = rank as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (rank - below as f64)
}

/// 2.5th and 97.5th percentile of the medians of resamples with replacement.
///
/// A resample is a count per rank, so its median is found by walking the counts: no sorting.
fn bootstrap(sorted: &[f64]) -> (f64, f64) {
    let n = sorted.len();
    let mut counts = vec![0u32; n];
    let mut medians = Vec::with_capacity(RESAMPLES);
    let mut random = SplitMix64(SEED);
    for _ in 0..RESAMPLES {
        counts.fill(0);
        for _ in 0..n {
            // The high half of the product picks a rank without division.
            let z = random.next();
            counts[(((z >> 32) * n as u64) >> 32) as usize] += 1;
        }
        let nth = |wanted: usize| {
            let mut seen = 0;
            let rank = counts.iter().position(|&c| {
                seen += c as usize;
                seen > wanted
            });
            sorted[rank.expect("the counts add up to n, and wanted is below n")]
        };
        medians.push((nth((n - 1) / 2) + nth(n / 2)) / 2.0);
    }
    medians.sort_unstable_by(f64::total_cmp);
    (percentile(&medians, 2.5), percentile(&medians, 97.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    #[test]
    fn an_even_count_matches_hand_computed_values() {
        // Sorted: 1 2 4 9. Mean 4; squares 9 + 4 + 0 + 25 = 38; deviations from 3: 2 1 1 6 -> 1 1 2 6.
        let s = Stats::from_samples(&mut [9.0, 1.0, 4.0, 2.0]).unwrap();
        assert_eq!((s.samples, s.min, s.max, s.mean, s.median), (4, 1.0, 9.0, 4.0, 3.0));
        close(s.stddev, libm::sqrt(38.0 / 3.0));
        close(s.mad, 1.5);
        close(s.p90, 4.0 + 5.0 * 0.7); // rank 2.7
        close(s.p99, 4.0 + 5.0 * 0.97);
        close(s.p999, 4.0 + 5.0 * 0.997);
        close(s.cv, libm::sqrt(38.0 / 3.0) / 4.0);
        close(s.throughput(), 1e9 / 3.0);
    }

    #[test]
    fn tukey_fences_count_mild_and_severe_outliers() {
        // 1..=11 with ends moved out: quartiles 3.5 and 8.5, range 5; fences -4 and 16, -11.5 and 23.5.
        let mut samples = [-5.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 24.0];
        let s = Stats::from_samples(&mut samples).unwrap();
        assert_eq!((s.median, s.mild_outliers, s.severe_outliers), (6.0, 2, 1));
    }

    #[test]
    fn one_sample_has_no_spread() {
        let s = Stats::from_samples(&mut [5.0]).unwrap();
        assert_eq!((s.stddev, s.mad, s.cv, s.median_low, s.median_high), (0.0, 0.0, 0.0, 5.0, 5.0));
        assert_eq!(s.mild_outliers, 0);
    }

    #[test]
    fn scaling_equals_scaled_samples() {
        let halved = Stats::from_samples(&mut [9.0, 1.0, 4.0, 2.0]).unwrap().scaled(0.5);
        assert_eq!(Some(halved), Stats::from_samples(&mut [4.5, 0.5, 2.0, 1.0]));
    }

    #[test]
    fn nothing_and_nan_are_refused() {
        assert_eq!(Stats::from_samples(&mut []), None);
        assert_eq!(Stats::from_samples(&mut [1.0, f64::NAN]), None);
        assert_eq!(Stats::from_samples(&mut [f64::INFINITY]), None);
    }

    #[test]
    fn the_interval_of_the_median_is_repeatable_and_about_right() {
        // Ranks of a 95 % interval of the median of 101 are 50 -+ 1.96 * sqrt(101) / 2, about 40 and 60.
        let mut samples: Vec<f64> = (0..101).map(f64::from).collect();
        let a = Stats::from_samples(&mut samples).unwrap();
        assert!((38.0..=42.0).contains(&a.median_low), "{}", a.median_low);
        assert!((58.0..=62.0).contains(&a.median_high), "{}", a.median_high);
        assert_eq!(Some(a), Stats::from_samples(&mut samples));
    }
}
