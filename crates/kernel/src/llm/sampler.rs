//! Picks the next token from logits.
//!
//! The order is fixed: repetition penalty, then greedy if the temperature is 0; else top-k, softmax at the
//! temperature, top-p, min-p, and one draw from a seeded generator. The same seed and logits give the same tokens on
//! every machine: all functions come from `math`, and ties are broken by the lower id.

use alloc::vec::Vec;
use core::fmt;

use super::math;
use super::random::SplitMix64;
use super::sort;

/// How to pick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerConfig {
    /// Divides the logits; 0 picks the likeliest token (greedy).
    pub temperature: f32,
    /// Keep the so many likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest tokens until their probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this times the likeliest; 0 drops none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens (Keskar et al., arXiv 1909.05858); 1 is off.
    pub repetition_penalty: f32,
    /// How many recent tokens the penalty looks at.
    pub repeat_last: usize,
    /// Start of the random sequence.
    pub seed: u64,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        SamplerConfig {
            temperature: 0.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            repeat_last: 64,
            seed: 0,
        }
    }
}

/// A value outside its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerError {
    /// Which setting.
    pub setting: &'static str,
    /// Its value.
    pub value: f32,
    /// What it may be.
    pub range: &'static str,
}

impl fmt::Display for SamplerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}; it must be {}", self.setting, self.value, self.range)
    }
}

impl core::error::Error for SamplerError {}

/// Picks tokens; remembers the recent ones and where its random sequence stands.
pub struct Sampler {
    picker: Picker,
    scratch: Scratch,
}

impl Sampler {
    /// A sampler for vocabularies of up to `vocab_size`; allocates its scratch here and never again.
    pub fn try_new(config: SamplerConfig, vocab_size: usize) -> Result<Self, SamplerError> {
        let picker = Picker::try_new(config, usize::MAX)?;
        let scratch = Scratch::new(vocab_size, picker.recent.capacity());
        Ok(Sampler { picker, scratch })
    }

    /// Remembers a token for the repetition penalty: the prompt's and each one picked.
    pub fn accept(&mut self, id: u32) {
        self.picker.accept(id);
    }

    /// Picks a token from finite logits, one per vocabulary entry.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        self.picker.pick(logits, &mut self.scratch)
    }
}

/// What a pick needs besides; those who pick one after the other can share it.
pub(crate) struct Scratch {
    candidates: Vec<(f32, u32)>,
    penalised: Vec<u32>,
}

impl Scratch {
    /// For vocabularies of up to `vocab_size` and penalties on the last `repeat_last` tokens; allocates here only.
    pub fn new(vocab_size: usize, repeat_last: usize) -> Self {
        Scratch { candidates: Vec::with_capacity(vocab_size), penalised: Vec::with_capacity(repeat_last) }
    }

    /// Bytes that [`Self::new`] allocates.
    pub const fn bytes(vocab_size: usize, repeat_last: usize) -> u64 {
        (vocab_size * size_of::<(f32, u32)>() + repeat_last * size_of::<u32>()) as u64
    }
}

/// The part of a sampler that belongs to one text: its settings, recent tokens and random state.
pub(crate) struct Picker {
    config: SamplerConfig,
    random: SplitMix64,
    recent: Vec<u32>,
    next: usize,
}

impl Picker {
    /// Starts a text of at most `length` tokens; allocates here and never again.
    pub fn try_new(config: SamplerConfig, length: usize) -> Result<Self, SamplerError> {
        let check = |setting, value: f32, good: bool, range| {
            if good && value.is_finite() { Ok(()) } else { Err(SamplerError { setting, value, range }) }
        };
        check("temperature", config.temperature, config.temperature >= 0.0, "0 or more")?;
        check("top-p", config.top_p, config.top_p > 0.0 && config.top_p <= 1.0, "above 0 and at most 1")?;
        check("min-p", config.min_p, (0.0..=1.0).contains(&config.min_p), "0 to 1")?;
        check("repetition penalty", config.repetition_penalty, config.repetition_penalty > 0.0, "above 0")?;
        let repeat_last = if config.repetition_penalty == 1.0 { 0 } else { config.repeat_last.min(length) };
        Ok(Picker {
            config,
            random: SplitMix64(config.seed),
            recent: Vec::with_capacity(repeat_last),
            next: 0,
        })
    }

    /// As [`Sampler::accept`].
    pub fn accept(&mut self, id: u32) {
        if self.recent.len() < self.recent.capacity() {
            self.recent.push(id);
        } else if let Some(oldest) = self.recent.get_mut(self.next) {
            *oldest = id;
            self.next = (self.next + 1) % self.recent.len();
        }
    }

    /// As [`Sampler::sample`].
    pub fn pick(&mut self, logits: &[f32], scratch: &mut Scratch) -> u32 {
        assert!(!logits.is_empty(), "a vocabulary has at least one token");
        let Scratch { candidates, penalised: recent } = scratch;
        recent.clear();
        recent.extend_from_slice(&self.recent);
        sort::by(recent, &|a, b| a < b);
        let penalty = self.config.repetition_penalty;
        let adjusted = |id: usize| {
            let logit = logits[id];
            if penalty == 1.0 || recent.binary_search(&(id as u32)).is_err() {
                logit
            } else if logit > 0.0 {
                logit / penalty
            } else {
                logit * penalty
            }
        };
        if self.config.temperature == 0.0 {
            return if penalty == 1.0 { argmax(logits) } else { likeliest((0..logits.len()).map(adjusted)) };
        }
        candidates.clear();
        candidates.extend((0..logits.len()).map(|id| (adjusted(id), id as u32)));
        self.draw(candidates)
    }

    /// Sorts, cuts and draws from `candidates` (logit, id).
    fn draw(&mut self, candidates: &mut Vec<(f32, u32)>) -> u32 {
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let keep = match self.config.top_k {
            0 => candidates.len(),
            k => k.min(candidates.len()),
        };
        if keep < candidates.len() {
            candidates.select_nth_unstable_by(keep, order);
            candidates.truncate(keep);
        }
        candidates.sort_unstable_by(order);
        let max = candidates[0].0;
        let mut sum = 0.0f32;
        for (value, _) in candidates.iter_mut() {
            *value = math::exp((*value - max) / self.config.temperature);
            sum += *value;
        }
        let mut reached = 0.0;
        let mut kept = 0;
        for &(weight, _) in candidates.iter() {
            // The first has weight 1, so it is always kept.
            if weight < self.config.min_p || reached >= self.config.top_p * sum {
                break;
            }
            reached += weight;
            kept += 1;
        }
        let mut point = unit(&mut self.random) * reached;
        for &(weight, id) in &candidates[..kept] {
            if point < weight {
                return id;
            }
            point -= weight;
        }
        candidates[kept - 1].1
    }
}

/// Index of the largest value, the first of equals.
fn likeliest(values: impl Iterator<Item = f32>) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (id, value) in values.enumerate() {
        if value > best.0 {
            best = (value, id as u32);
        }
    }
    best.1
}

/// Index of the largest logit, the lowest id of equals: greedy decoding.
pub fn argmax(logits: &[f32]) -> u32 {
    // The maximum first, in lanes that do not wait for each other, and then its place.
    let mut most = [f32::NEG_INFINITY; 32];
    let (lanes, rest) = logits.as_chunks::<32>();
    for lanes in lanes {
        for (most, &logit) in most.iter_mut().zip(lanes) {
            *most = if logit > *most { logit } else { *most };
        }
    }
    let most = most.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &v| if v > most { v } else { most });
    logits.iter().position(|&logit| logit == most).unwrap_or(0) as u32
}

/// Uniform in [0, 1), 24 bits.
fn unit(random: &mut SplitMix64) -> f32 {
    (random.next() >> 40) as f32 / (1u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SamplerConfig {
        SamplerConfig { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerConfig::default() }
    }

    fn counts(config: SamplerConfig, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::try_new(config, logits.len()).unwrap();
        let mut counts = alloc::vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.sample(logits) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_largest_and_the_first_of_equals() {
        let mut sampler = Sampler::try_new(SamplerConfig::default(), 4).unwrap();
        assert_eq!(sampler.sample(&[1.0, 3.0, 3.0, -1.0]), 1);
        assert_eq!(argmax(&[-2.0, -1.0, -1.0]), 1);
        for len in [1, 31, 32, 33, 100] {
            for at in 0..len {
                let mut logits: Vec<f32> = (0..len).map(|i| (i % 5) as f32 - 9.0).collect();
                logits[at] = 0.0;
                logits[len - 1] = 0.0;
                assert_eq!(argmax(&logits), at as u32, "{len}");
            }
        }
    }

    #[test]
    fn draws_follow_the_softmax() {
        // Probabilities 1/7, 2/7, 4/7; 7000 draws: standard deviation at most 42, so 5 of them are 210.
        let logits = [0.0, core::f32::consts::LN_2, 2.0 * core::f32::consts::LN_2];
        for (count, expected) in counts(config(), &logits, 7000).into_iter().zip([1000i64, 2000, 4000]) {
            assert!((count as i64 - expected).abs() < 210, "{count} where {expected} are expected");
        }
    }

    #[test]
    fn cuts_keep_what_they_promise() {
        let logits = [3.0, 2.0, 1.0, 0.0, -9.0];
        let seen = |config| counts(config, &logits, 2000).iter().map(|&c| c > 0).collect::<Vec<_>>();
        assert_eq!(seen(SamplerConfig { top_k: 2, ..config() }), [true, true, false, false, false]);
        // exp(-1) = 0.37 passes, exp(-2) = 0.135 does not.
        assert_eq!(seen(SamplerConfig { min_p: 0.2, ..config() }), [true, true, false, false, false]);
        // Probabilities 0.644, 0.237, 0.087, 0.032: two reach 0.7.
        assert_eq!(seen(SamplerConfig { top_p: 0.7, ..config() }), [true, true, false, false, false]);
        assert_eq!(
            seen(SamplerConfig { top_k: 1, temperature: 9.0, ..config() }),
            [true, false, false, false, false]
        );
    }

    #[test]
    fn the_seed_decides() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
        let run = |seed| {
            let mut sampler = Sampler::try_new(SamplerConfig { seed, ..config() }, 50).unwrap();
            (0..40).map(|_| sampler.sample(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn repeated_tokens_are_penalised_until_they_are_old() {
        let config = SamplerConfig { repetition_penalty: 2.0, repeat_last: 2, ..SamplerConfig::default() };
        let mut sampler = Sampler::try_new(config, 3).unwrap();
        let logits = [3.0, 2.0, -1.0];
        assert_eq!(sampler.sample(&logits), 0);
        sampler.accept(0);
        assert_eq!(sampler.sample(&logits), 1);
        sampler.accept(2);
        sampler.accept(2);
        assert_eq!(sampler.sample(&logits), 0);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for bad in [
            SamplerConfig { temperature: -1.0, ..config() },
            SamplerConfig { temperature: f32::NAN, ..config() },
            SamplerConfig { top_p: 0.0, ..config() },
            SamplerConfig { min_p: 1.5, ..config() },
            SamplerConfig { repetition_penalty: 0.0, ..config() },
        ] {
            assert!(Sampler::try_new(bad, 10).is_err(), "{bad:?}");
        }
    }
}
