//! The sampler against a plain one in f64, written from the definitions, draw for draw.
#![cfg(feature = "llm-transformer")]
#![allow(clippy::disallowed_methods, reason = "the reference is std in f64, on purpose")]

use barelm::llm::sampler::{Sampler, SamplerConfig};

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1) in steps of 2^-24, as the sampler draws.
    fn unit(&mut self) -> f64 {
        (self.next() >> 40) as f64 / f64::from(1u32 << 24)
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.next() % choices.len() as u64) as usize]
    }
}

/// Decisions closer than this to their limit may fall either way: a sum of 200 weights in f32 is off by up to
/// 200 * 2^-24 = 1.2e-5 of itself, exp by 2^-22 at a temperature of 0.3 more than thrice that.
const CLOSE: f64 = 2e-5;

/// What the definitions give for one draw, or `None` where a decision is too close to call.
fn plain(logits: &[f32], recent: &[u32], config: &SamplerConfig, draw: f64) -> Option<u32> {
    let mut tokens: Vec<(f64, u32)> = logits.iter().map(|&l| f64::from(l)).zip(0..).collect();
    for (logit, id) in &mut tokens {
        if recent.contains(id) {
            let penalty = f64::from(config.repetition_penalty);
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
    tokens.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let close = |a: f64, b: f64| (a - b).abs() < CLOSE;
    // Order and the cut at k are decided by logits; equal ones are ordered by id and no closer call than others.
    if tokens.windows(2).any(|pair| pair[0].0 != pair[1].0 && (pair[0].0 - pair[1].0).abs() < 1e-6) {
        return None;
    }
    if config.temperature == 0.0 {
        return Some(tokens[0].1);
    }
    if config.top_k > 0 {
        tokens.truncate(config.top_k);
    }
    let best = tokens[0].0;
    let weights: Vec<f64> =
        tokens.iter().map(|(logit, _)| ((logit - best) / f64::from(config.temperature)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut reached = 0.0;
    let mut kept = 0;
    for &weight in &weights {
        let (before, floor) = (reached / sum, f64::from(config.min_p));
        // Limits that are off are never close, and exp(0) is exact.
        let (p_on, floor_on) = (config.top_p < 1.0, floor > 0.0 && weight < 1.0);
        if p_on && close(before, f64::from(config.top_p)) || floor_on && close(weight, floor) {
            return None;
        }
        if p_on && before >= f64::from(config.top_p) || weight < floor {
            break;
        }
        reached += weight;
        kept += 1;
    }
    let mut edge = 0.0;
    for (&weight, &(_, id)) in weights[..kept].iter().zip(&tokens) {
        edge += weight / reached;
        if close(draw, edge) && !close(edge, 1.0) {
            return None;
        }
        if draw < edge {
            return Some(id);
        }
    }
    None
}

#[test]
fn every_draw_is_the_plain_sampler_s() {
    let mut random = Random(2024);
    let (mut compared, mut unlikely) = (0, 0);
    for round in 0..400 {
        let config = SamplerConfig {
            temperature: random.one_of(&[0.0, 0.3, 0.8, 1.0, 1.7]),
            top_k: random.one_of(&[0, 1, 5, 40, 500]),
            top_p: random.one_of(&[0.1, 0.5, 0.9, 0.95, 1.0]),
            min_p: random.one_of(&[0.0, 0.02, 0.05, 0.3, 1.0]),
            repetition_penalty: random.one_of(&[1.0, 1.1, 1.5, 0.8]),
            repeat_last: random.one_of(&[0, 1, 3, 64]),
            seed: random.next(),
        };
        let vocab_size = random.one_of(&[1, 2, 30, 200]);
        let spread = random.one_of(&[0.5, 3.0, 12.0]);
        let mut sampler = Sampler::try_new(config, vocab_size).unwrap();
        let mut draws = Random(config.seed);
        let mut history = Vec::new();
        for step in 0..50 {
            // Some are equal, so that ties happen.
            let logits: Vec<f32> = (0..vocab_size)
                .map(|_| ((random.unit() - 0.5) * 256.0).round() as f32 / 256.0 * 2.0 * spread)
                .collect();
            let from = history.len() - config.repeat_last.min(history.len());
            // A greedy sampler draws nothing.
            let draw = if config.temperature == 0.0 { 0.0 } else { draws.unit() };
            let expected = plain(&logits, &history[from..], &config, draw);
            let ours = sampler.sample(&logits);
            if let Some(expected) = expected {
                assert_eq!(ours, expected, "round {round}, step {step}: {config:?}, {vocab_size} tokens");
                compared += 1;
                unlikely += usize::from(logits.iter().any(|&logit| logit > logits[ours as usize]));
            }
            sampler.accept(ours);
            history.push(ours);
        }
    }
    assert!(compared > 18_000, "{compared} of 20000 draws were clear enough to compare");
    assert!(unlikely > 3_000, "only {unlikely} draws were not the likeliest token");
}

#[test]
fn a_seed_gives_the_same_tokens_for_ever() {
    // Eight equal weights: every sum is exact, so the token is the upper three bits of the generator's number.
    let logits = [0.0; 8];
    let config =
        SamplerConfig { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerConfig::default() };
    let tokens = |seed| {
        let mut sampler = Sampler::try_new(SamplerConfig { seed, ..config }, 8).unwrap();
        (0..8).map(|_| sampler.sample(&logits)).collect::<Vec<_>>()
    };
    // SplitMix64 from 0: e220a8397b1dcdaf, 6e789e6aa1b965f4, 06c45d188009454f, f88bb8a8724c81ec, …
    assert_eq!(tokens(0), [7, 3, 0, 7, 0, 2, 1, 6]);
    assert_ne!(tokens(0), tokens(1));
}
