//! The small cases: one operation each, on the shapes the documents name.
//!
//! [`tokens`] encodes text, [`vectors`] works on 384 elements and 384 x 384 matrices, [`cache`] writes
//! and reads the KV cache, [`arena`] allocates.

pub mod arena;
pub mod cache;
pub mod tokens;
pub mod vectors;

use alloc::vec::Vec;

use super::case::{Case, Effort};
use super::clock::Clock;
use super::{Runner, Subject, targets};
use crate::llm::simd::Kernels;

/// Builds the cases without kernels that `wanted` lets through, one after the other, and shows them to `visit`.
pub fn plain_cases(wanted: &dyn Fn(&str) -> bool, visit: &mut dyn FnMut(&mut dyn Case)) {
    if wanted("tokenization") {
        let vocabulary = tokens::Vocabulary::train();
        let tokenizer = vocabulary.tokenizer();
        visit(&mut tokens::Tokenization::trained(&tokenizer, &vocabulary));
    }
    if wanted("arena_alloc") {
        visit(&mut arena::ArenaAlloc::default());
    }
}

/// Builds the cases that `kernels` compute and `wanted` lets through, and shows them to `visit`.
pub fn kernel_cases(
    kernels: &'static Kernels,
    wanted: &dyn Fn(&str) -> bool,
    visit: &mut dyn FnMut(&mut dyn Case),
) {
    if wanted("q4_0_dequant") {
        visit(&mut vectors::Dequant::new(kernels));
    }
    if wanted("dot_product") {
        visit(&mut vectors::Dot::new(kernels));
    }
    if wanted("matvec_f32") {
        visit(&mut vectors::MatVec::f32(kernels));
    }
    if wanted("matvec_q4_0") {
        visit(&mut vectors::MatVec::q4_0(kernels));
    }
    if wanted("rms_norm") {
        visit(&mut vectors::Norm::rms(kernels));
    }
    if wanted("layer_norm") {
        visit(&mut vectors::Norm::layer(kernels));
    }
    if wanted("kv_append") {
        visit(&mut cache::Append::new(kernels));
    }
    if wanted("kv_read") {
        visit(&mut cache::ReadAll::new(kernels));
    }
}

/// Runs the micro-cases that the filter lets through, on each of `tables`.
pub(super) fn run<C: Clock + ?Sized>(
    runner: &mut Runner<'_, C>,
    subject: &Subject<'_>,
    tables: &[&'static Kernels],
) {
    let config = runner.config;
    let effort = |share: usize| Effort {
        warmup: config.warmup_iterations,
        samples: config.measurement_iterations.max(1),
        min_samples: 3,
        limit_s: config.micro_limit_s / share as f64,
        calls: None,
    };
    let wanted = |name: &str| config.wants(name);
    let unit = |name| targets::target(name).expect("every micro-case has a line").per;
    plain_cases(&wanted, &mut |case| {
        runner.measure(case.name(), unit(case.name()), "none", effort(1), case);
    });
    if let Some((name, tokenizer)) = subject.tokenizer {
        let full = alloc::format!("tokenization/{name}");
        if wanted(&full) {
            let mut case = tokens::Tokenization::of(tokenizer);
            runner.measure(&full, unit("tokenization"), "none", effort(1), &mut case);
        }
    }
    for kernels in tables {
        kernel_cases(kernels, &wanted, &mut |case| {
            runner.measure(case.name(), unit(case.name()), kernels.name, effort(tables.len()), case);
        });
    }
}

/// `len` numbers in [-1, 1), the same for the same `seed`, each exact in f32.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 48) as i32 - 32_768) as f32 / 32_768.0
        })
        .collect()
}
