//! Statistics of samples that come in rounds.
//!
//! Samples of one round resemble each other more than those of two: the machine drifts. A figure is therefore taken once in
//! each round, and the rounds are what an interval (95 %) counts: it is Student's t for their mean. Few rounds can
//! agree by chance, so that an interval is never narrower than what the samples within the rounds leave open: a bootstrap of
//! their medians.

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

/// The 97.5 % quantiles of Student's t with 1, 2, … degrees of freedom, as every table of it has them.
const STUDENT: [f64; 30] = [
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
    2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555,
    2.0518, 2.0484, 2.0452, 2.0423,
];

/// The 97.5 % quantile of Student's t. Beyond the table by Cornish and Fisher's expansion (Abramowitz and Stegun, 26.7.5).
fn student(degrees: usize) -> f64 {
    assert!(degrees > 0, "one round has no spread");
    STUDENT.get(degrees - 1).copied().unwrap_or_else(|| {
        let (z, n) = (1.959_964_f64, degrees as f64);
        let z3 = z * z * z;
        let z5 = z3 * z * z;
        z + (z3 + z) / (4.0 * n) + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n * n)
    })
}

/// The interval of the mean of what each round gave: mean ± t √(variance / rounds), t with a degree of freedom less than
/// there are rounds, and on each side at least as far as `within`. Of one round it is `within` alone.
fn over_rounds(rounds: &[f64], within: (f64, f64)) -> (f64, f64) {
    let n = rounds.len() as f64;
    if rounds.len() < 2 {
        return within;
    }
    let mean = rounds.iter().sum::<f64>() / n;
    let variance = rounds.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0);
    let half = student(rounds.len() - 1) * (variance / n).sqrt();
    ((mean - half).min(within.0), (mean + half).max(within.1))
}

/// An interval of something that cannot be below zero, as none of `rounds` is.
fn not_negative(rounds: &[f64], interval: (f64, f64)) -> (f64, f64) {
    match rounds.iter().all(|x| *x >= 0.0) {
        true => (interval.0.max(0.0), interval.1),
        false => interval,
    }
}

/// The middle 95 % of so many results of a bootstrap.
fn interval(count: usize, mut draw: impl FnMut(&mut Draws) -> f64) -> (f64, f64) {
    let mut draws = Draws::new(SEED);
    let results = sorted((0..count).map(|_| draw(&mut draws)).collect());
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
    let medians: Vec<f64> = rounds.iter().map(|round| quantile(round, 0.5)).collect();
    let within = interval(DRAWS, |draws| {
        rounds.iter().map(|round| resampled_median(round, draws)).sum::<f64>() / rounds.len() as f64
    });
    let ci95 = not_negative(&medians, over_rounds(&medians, within));
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
    let value = rounds.iter().sum::<f64>() / rounds.len() as f64;
    Some(Interval { value, ci95: not_negative(&rounds, over_rounds(&rounds, (value, value))) })
}

/// How many times as large `above` is as `below`: rounds in pairs, each with its samples. The geometric mean of the rounds'
/// ratios of medians, its interval that of the mean of their logarithms. `None` where no round has both.
pub fn ratio(above: &[Vec<f64>], below: &[Vec<f64>]) -> Option<Interval> {
    ratio_by(DRAWS, above, below)
}

/// [`ratio`] with so many resamplings.
fn ratio_by(draws: usize, above: &[Vec<f64>], below: &[Vec<f64>]) -> Option<Interval> {
    let pairs: Vec<(Vec<f64>, Vec<f64>)> = above
        .iter()
        .zip(below)
        .map(|(above, below)| (sorted(above.clone()), sorted(below.clone())))
        .filter(|pair| {
            [&pair.0, &pair.1].iter().all(|samples| samples.first().is_some_and(|least| *least > 0.0))
        })
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let log = |above: f64, below: f64| libm::log(above / below);
    let logs: Vec<f64> =
        pairs.iter().map(|(above, below)| log(quantile(above, 0.5), quantile(below, 0.5))).collect();
    let mean = |logs: f64| logs / pairs.len() as f64;
    let within = interval(draws, |draws| {
        let each = pairs
            .iter()
            .map(|(above, below)| log(resampled_median(above, draws), resampled_median(below, draws)));
        mean(each.sum())
    });
    let (low, high) = over_rounds(&logs, within);
    Some(Interval { value: libm::exp(mean(logs.iter().sum())), ci95: (libm::exp(low), libm::exp(high)) })
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
    fn quantiles_of_student_are_where_the_area_below_is_97_5_percent() {
        for degrees in 1..=60 {
            let n = degrees as f64;
            let density = |t: f64| libm::pow(1.0 + t * t / n, -(n + 1.0) / 2.0);
            let scale = libm::exp(libm::lgamma((n + 1.0) / 2.0) - libm::lgamma(n / 2.0))
                / (n * std::f64::consts::PI).sqrt();
            // Simpson's rule from 0, where half of the area is.
            let (top, steps) = (student(degrees), 4000);
            let step = top / f64::from(steps);
            let inner: f64 =
                (1..steps).map(|at| f64::from(2 + 2 * (at % 2)) * density(step * f64::from(at))).sum();
            let area = 0.5 + scale * step / 3.0 * (density(0.0) + inner + density(top));
            assert!((area - 0.975).abs() < 1e-5, "{degrees}: {area}");
        }
    }

    /// Rounds of two contenders on a machine whose speed wanders from round to round and drifts within each, so that who comes
    /// second is slower; they begin in turns. The first takes `times` as long. `noise` is that of a request.
    fn two_contenders(draws: &mut Draws, rounds: usize, times: f64, noise: f64) -> [Vec<Vec<f64>>; 2] {
        let mut both = [Vec::new(), Vec::new()];
        let mut machine = 0.0;
        for round in 0..rounds {
            machine += 0.1 * draws.normal();
            let drift = 0.02 + 0.01 * draws.normal();
            for (contender, rounds) in both.iter_mut().enumerate() {
                let place = (contender + round) % 2;
                let visit = machine + drift * place as f64 + 0.02 * draws.normal();
                let level = libm::exp(visit) * if contender == 0 { times } else { 1.0 };
                rounds.push((0..12).map(|_| level * (1.0 + noise * draws.normal())).collect());
            }
        }
        both
    }

    #[test]
    fn an_interval_of_a_ratio_covers_the_truth_on_a_machine_that_drifts() {
        for (rounds, noise) in [3, 4, 5, 10].into_iter().flat_map(|rounds| [(rounds, 0.05), (rounds, 0.002)])
        {
            let mut covered = 0;
            for trial in 0..2000 {
                let mut draws = Draws::new(7_000_000 + trial);
                let [above, below] = two_contenders(&mut draws, rounds, 1.25, noise);
                let ci = ratio_by(100, &above, &below).unwrap().ci95;
                covered += usize::from(ci.0 <= 1.25 && 1.25 <= ci.1);
            }
            // Not much above what it says either: an interval that covers everything would tell nothing.
            assert!((1860..=1980).contains(&covered), "{rounds} rounds, {noise}: {covered} of 2000");
        }
    }

    #[test]
    fn rounds_that_agree_by_chance_do_not_hide_what_their_samples_leave_open() {
        let round: Vec<f64> = (0..9).map(|at| 0.9 + 0.025 * f64::from(at)).collect();
        let same = vec![round.clone(); 3];
        let within = ratio(&same, &same).unwrap();
        assert!(within.value == 1.0 && within.ci95.0 < 0.98 && within.ci95.1 > 1.02, "{within:?}");
        // Of figures without samples, and of a single round.
        assert_eq!(figure(&[5.0]).unwrap().ci95, (5.0, 5.0));
        let two = figure(&[9.0, 11.0]).unwrap().ci95;
        assert!(two.0 == 0.0 && (two.1 - 22.7062).abs() < 1e-9, "{two:?}");
        assert!(figure(&[-1.0, 1.0]).unwrap().ci95.0 < -12.0);
        assert_eq!(ratio(&[vec![0.0]], &[vec![1.0]]), None);
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
