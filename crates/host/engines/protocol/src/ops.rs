//! Single operations: the same inputs, the same timing and the same checksum for every engine.
//!
//! An engine that can express an operation makes its [`inputs`], lays them out as its own layers would have them, and
//! gives the call to [`time`]. `docs/llm/PROTOCOL.md` lists names, sizes and meaning.

use barelm::llm::random::SplitMix64;

use crate::now_ns;

/// Numbers in [-1, 1), the same everywhere for the same seed, each exact in f32.
///
/// SplitMix64: the state starts as `seed` and grows by 0x9E3779B97F4A7C15; a number is the upper 24 bits of the mixed
/// state, divided by 2^23, less 1. An operation's inputs have the seeds 1, 2, 3 in the order that it lists them in.
pub fn inputs(seed: u64, count: usize) -> Vec<f32> {
    let mut random = SplitMix64(seed);
    let next = |_| (random.next() >> 40) as f32 / 8_388_608.0 - 1.0;
    (0..count).map(next).collect()
}

/// Seed of the weights of a [`checksum`].
const CHECK_SEED: u64 = 99;

/// One number for a result: the sum of its elements, each times its number among the [`inputs`] of seed 99.
///
/// Elements in another order, left out or left at zero change it, rounding hardly does.
pub fn checksum(result: &[f32]) -> f64 {
    weighed(result).sum()
}

/// The sum of the same terms without their signs: what a deviation of [`checksum`] is to be held against.
pub fn magnitude(result: &[f32]) -> f64 {
    weighed(result).map(f64::abs).sum()
}

fn weighed(result: &[f32]) -> impl Iterator<Item = f64> {
    let weights = inputs(CHECK_SEED, result.len());
    result.iter().zip(weights).map(|(&x, weight)| f64::from(x) * f64::from(weight))
}

/// Samples that are taken however long they take.
const LEAST_SAMPLES: usize = 3;
/// A sample lasts at least this, so that reading the clock is far below 1 % of it.
const LEAST_SAMPLE_NS: u64 = 20_000;
/// And this part of the time to measure.
const SAMPLE_SHARE: u64 = 200;

/// Times `call` for at least `min_ns` behind a warm-up of a tenth of that: nanoseconds of one call in each sample,
/// and calls in a sample.
///
/// The call must end when its result is there: on a device it waits for it.
///
/// # Errors
/// The call's own.
pub fn time(min_ns: u64, mut call: impl FnMut() -> Result<(), String>) -> Result<(Vec<f64>, u64), String> {
    let begun = now_ns();
    let mut warm = 0;
    while warm < 1 || now_ns() - begun < min_ns / 10 {
        call()?;
        warm += 1;
    }
    let call_ns = ((now_ns() - begun) / warm).max(1);
    let iterations = LEAST_SAMPLE_NS.max(min_ns / SAMPLE_SHARE).div_ceil(call_ns).max(1);
    let mut samples = Vec::new();
    let begun = now_ns();
    while samples.len() < LEAST_SAMPLES || now_ns() - begun < min_ns {
        let start = now_ns();
        for _ in 0..iterations {
            call()?;
        }
        samples.push((now_ns() - start) as f64 / iterations as f64);
    }
    Ok((samples, iterations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_those_of_splitmix64() {
        // The first outputs of the published generator for seed 1234567.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
        let numbers = inputs(1, 10_000);
        assert_eq!(numbers[..3], inputs(1, 3));
        assert!(numbers.iter().all(|x| (-1.0..1.0).contains(x)));
        let mean = numbers.iter().sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
    }

    #[test]
    fn a_checksum_sees_order_and_holes() {
        let result = inputs(7, 64);
        let sum = checksum(&result);
        let mut other = result.clone();
        other.swap(3, 40);
        assert!((checksum(&other) - sum).abs() > 1e-3 * magnitude(&result));
        other.clone_from(&result);
        other[63] = 0.0;
        assert!((checksum(&other) - sum).abs() > 1e-4 * magnitude(&result));
    }

    #[test]
    fn samples_are_the_time_of_one_call() {
        let sleep = std::time::Duration::from_millis(2);
        let (samples, iterations) = time(20_000_000, || {
            std::thread::sleep(sleep);
            Ok(())
        })
        .unwrap();
        assert!(samples.len() >= 3 && iterations == 1, "{} {iterations}", samples.len());
        assert!(samples.iter().all(|&ns| ns >= 2e6), "{samples:?}");
        let mut calls = 0u64;
        let (samples, iterations) = time(5_000_000, || {
            calls += 1;
            Ok(())
        })
        .unwrap();
        assert!(iterations > 100 && calls >= samples.len() as u64 * iterations);
        assert_eq!(time(1, || Err("x".into())), Err("x".into()));
    }
}
