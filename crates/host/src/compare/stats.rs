//! Statistics of samples that come in rounds.
//!
//! Samples of one round resemble each other more than those of two: the machine drifts. Intervals are therefore drawn in two
//! steps: rounds with replacement, and within each a bootstrap of its median. Of few rounds they are coarse, and wide.

use barelm::llm::random::SplitMix64;

use super::record::{Distribution, Interval};

/// Seed of the resamplings.
const SEED: u64 = 0x5EED;
/// Resamplings of a bootstrap.
const DRAWS: usize = 2000;

/// Draws with a fixed seed: the same samples give the same interval.
struct Draws(SplitMix64);

impl Draws {
    fn new(seed: u64) -> Self {
        Draws(SplitMix64(seed))
    }

    fn below(&mut self, count: usize) -> usize {
        (self.0.next() % count as u64) as usize
    }

    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.0.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal: the sum of twelve uniform numbers has variance 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// Times between random arrivals, in seconds: `per_s` of them on average.
    fn exponential(&mut self, per_s: f64) -> f64 {
        -libm::log(1.0 - self.uniform()) / per_s
    }
}

/// Arrivals of a Poisson process within `seconds`, in seconds from its start; the same for the same seed.
pub fn poisson(seed: u64, per_s: f64, seconds: f64) -> Vec<f64> {
    let mut draws = Draws::new(seed);
    let mut at = 0.0;
    let mut arrivals = Vec::new();
    loop {
        at += draws.exponential(per_s);
        if at >= seconds {
            return arrivals;
        }
        arrivals.push(at);
    }
}

/// The numbers from 0 to below `count` in an order that the seed gives.
pub fn shuffled(seed: u64, count: usize) -> Vec<usize> {
    let mut draws = Draws::new(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, draws.below(last + 1));
    }
    order
}

/// Below this share of sorted samples; between two of them on the line that connects them.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    assert!(!sorted.is_empty(), "no samples");
    let at = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * (at - at.floor())
}

/// The median of one round in a resampling of it.
///
/// The median of n draws from n samples lies at a share of them that is nearly normal around a half with standard deviation
/// 1 / (2 √n): that share is drawn, not the samples.
fn resampled_median(sorted: &[f64], draws: &mut Draws) -> f64 {
    let spread = 0.5 / (sorted.len() as f64).sqrt();
    quantile(sorted, 0.5 + spread * draws.normal())
}

fn sorted(mut samples: Vec<f64>) -> Vec<f64> {
    samples.retain(|sample| sample.is_finite());
    samples.sort_unstable_by(f64::total_cmp);
    samples
}

/// The middle 95 % of `draws` results.
fn interval(mut draw: impl FnMut(&mut Draws) -> f64) -> (f64, f64) {
    let mut draws = Draws::new(SEED);
    let results = sorted((0..DRAWS).map(|_| draw(&mut draws)).collect());
    match results.is_empty() {
        true => (f64::NAN, f64::NAN),
        false => (quantile(&results, 0.025), quantile(&results, 0.975)),
    }
}

/// What the samples of all rounds say; `None` of none.
pub fn distribution(rounds: &[Vec<f64>]) -> Option<Distribution> {
    let rounds: Vec<Vec<f64>> =
        rounds.iter().map(|round| sorted(round.clone())).filter(|round| !round.is_empty()).collect();
    let all = sorted(rounds.concat());
    if all.is_empty() {
        return None;
    }
    let n = all.len() as f64;
    let mean = all.iter().sum::<f64>() / n;
    let squares: f64 = all.iter().map(|x| (x - mean) * (x - mean)).sum();
    let sd = (squares / (n - 1.0).max(1.0)).sqrt();
    let ci95 = interval(|draws| {
        let picked = (0..rounds.len()).map(|_| {
            let round = draws.below(rounds.len());
            resampled_median(&rounds[round], draws)
        });
        picked.sum::<f64>() / rounds.len() as f64
    });
    Some(Distribution {
        samples: all.len(),
        mean,
        median: quantile(&all, 0.5),
        p90: quantile(&all, 0.9),
        p95: quantile(&all, 0.95),
        p99: quantile(&all, 0.99),
        min: all[0],
        max: all[all.len() - 1],
        sd,
        cv: if mean == 0.0 { 0.0 } else { sd / mean.abs() },
        ci95,
    })
}

/// A figure that every round gives once: its mean over rounds. `None` of no round.
pub fn figure(rounds: &[f64]) -> Option<Interval> {
    let rounds: Vec<f64> = rounds.iter().copied().filter(|x| x.is_finite()).collect();
    if rounds.is_empty() {
        return None;
    }
    let mean = |pick: &mut dyn FnMut() -> usize| {
        (0..rounds.len()).map(|_| rounds[pick()]).sum::<f64>() / rounds.len() as f64
    };
    let mut at = 0;
    let value = mean(&mut || {
        at += 1;
        at - 1
    });
    Some(Interval { value, ci95: interval(|draws| mean(&mut || draws.below(rounds.len()))) })
}

/// How many times as large `above` is as `below`: rounds in pairs, each with its samples. The geometric mean of the rounds'
/// ratios of medians. `None` where no round has both.
pub fn ratio(above: &[Vec<f64>], below: &[Vec<f64>]) -> Option<Interval> {
    let pairs: Vec<(Vec<f64>, Vec<f64>)> = above
        .iter()
        .zip(below)
        .map(|(above, below)| (sorted(above.clone()), sorted(below.clone())))
        .filter(|(above, below)| !above.is_empty() && !below.is_empty())
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let mean = |logs: f64| libm::exp(logs / pairs.len() as f64);
    let log = |above: f64, below: f64| libm::log(above / below);
    let value =
        mean(pairs.iter().map(|(above, below)| log(quantile(above, 0.5), quantile(below, 0.5))).sum());
    let ci95 = interval(|draws| {
        let logs = (0..pairs.len()).map(|_| {
            let (above, below) = &pairs[draws.below(pairs.len())];
            log(resampled_median(above, draws), resampled_median(below, draws))
        });
        mean(logs.sum())
    });
    Some(Interval { value, ci95 })
}

/// The slope of the line through points with the least squares; `None` of fewer than three.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < 3 {
        return None;
    }
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let variance: f64 = points.iter().map(|point| (point.0 - x) * (point.0 - x)).sum();
    (variance > 0.0).then(|| covariance / variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_has_the_textbook_figures() {
        let d = distribution(&[vec![4.0, 2.0], vec![1.0, 3.0]]).unwrap();
        assert_eq!((d.samples, d.mean, d.median, d.min, d.max), (4, 2.5, 2.5, 1.0, 4.0));
        assert!((d.sd - 1.290_994_448_7).abs() < 1e-9 && (d.cv - d.sd / 2.5).abs() < 1e-12);
        assert!((d.p90 - 3.7).abs() < 1e-12 && (d.p95 - 3.85).abs() < 1e-12);
        assert!(d.ci95.0 < 2.5 && d.ci95.1 > 2.5, "{:?}", d.ci95);
        assert_eq!(distribution(&[]), None);
        assert_eq!(distribution(&[vec![f64::NAN]]), None);
        let one = distribution(&[vec![7.0]]).unwrap();
        assert_eq!((one.sd, one.ci95), (0.0, (7.0, 7.0)));
    }

    #[test]
    fn an_interval_covers_the_truth_as_often_as_it_says() {
        // Rounds of uniform samples around 1; the true median is 1.
        let mut covered = 0;
        for seed in 0..200 {
            let mut draws = Draws::new(1000 + seed);
            let rounds: Vec<Vec<f64>> =
                (0..6).map(|_| (0..50).map(|_| 0.5 + draws.uniform()).collect()).collect();
            let ci = distribution(&rounds).unwrap().ci95;
            covered += usize::from(ci.0 <= 1.0 && 1.0 <= ci.1);
        }
        assert!((178..=200).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn rounds_that_drift_widen_the_interval() {
        let width = |rounds: &[Vec<f64>]| {
            let ci = distribution(rounds).unwrap().ci95;
            ci.1 - ci.0
        };
        let around =
            |middle: f64| (0..101).map(|at| middle + f64::from(at - 50) / 1000.0).collect::<Vec<_>>();
        let (still, drifting) =
            ([around(1.0), around(1.0), around(1.0)], [around(0.8), around(1.0), around(1.2)]);
        assert!(width(&drifting) > 5.0 * width(&still), "{} {}", width(&drifting), width(&still));
        // Of pairs that drift together the ratio is sharp.
        let double = drifting.clone().map(|round| round.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
        let ratio = ratio(&double, &drifting).unwrap();
        assert!((ratio.value - 2.0).abs() < 1e-9 && ratio.ci95.0 > 1.9 && ratio.ci95.1 < 2.1, "{ratio:?}");
        assert_eq!(super::ratio(&[vec![]], &[vec![1.0]]), None);
    }

    #[test]
    fn arrivals_are_random_and_of_the_right_number() {
        let arrivals = poisson(3, 10.0, 200.0);
        assert_eq!(arrivals, poisson(3, 10.0, 200.0));
        assert!(arrivals.is_sorted() && arrivals[arrivals.len() - 1] < 200.0);
        assert!((1850..2150).contains(&arrivals.len()), "{}", arrivals.len());
        // Gaps of a Poisson process have a coefficient of variation of 1.
        let gaps: Vec<f64> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let cv = distribution(&[gaps]).unwrap().cv;
        assert!((0.92..1.08).contains(&cv), "{cv}");
    }

    #[test]
    fn orders_are_permutations_that_differ() {
        let orders: Vec<_> = (0..20).map(|seed| shuffled(seed, 6)).collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
        }
        let firsts: std::collections::BTreeSet<_> = orders.iter().map(|order| order[0]).collect();
        assert!(firsts.len() >= 4, "{orders:?}");
    }

    #[test]
    fn a_leak_has_a_slope() {
        let points: Vec<(f64, f64)> = (0..10).map(|t| (f64::from(t), 5.0 + 3.0 * f64::from(t))).collect();
        assert!((slope(&points).unwrap() - 3.0).abs() < 1e-12);
        assert_eq!(slope(&points[..2]), None);
        assert_eq!(slope(&[(1.0, 1.0); 4]), None);
        assert_eq!(figure(&[1.0, 3.0]).unwrap().value, 2.0);
        assert_eq!(figure(&[]), None);
    }
}
