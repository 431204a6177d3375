//! Queries against one block of keys and values, with a softmax that goes on from block to block.
//!
//! The reference is here: one query at a time, one number after the other. `vector` takes several queries at once, so
//! that what was loaded and widened serves them all; a query's own sums keep their order, so no bit depends on the
//! others.

use super::scalar;
use crate::llm::math::{self, fma};
use half::f16;

#[cfg(any(all(feature = "neon", target_arch = "aarch64"), all(feature = "simd", target_arch = "x86_64")))]
pub(super) mod vector;

/// Positions whose softmax is computed in one piece; pieces start at multiples of it.
pub const BLOCK: usize = 64;
/// Keys that lie side by side, so that a vector lane is a position.
pub const GROUP: usize = 16;

/// Keys and values of one KV head at up to [`BLOCK`] positions.
#[derive(Clone, Copy, Debug)]
pub struct KvBlock<'a> {
    /// Elements of a head.
    pub head_dim: usize,
    /// f16, `[groups][head_dim][16]`, from the first position of the block.
    pub keys: &'a [u16],
    /// f16, `[positions][head_dim]`, from the first position of the block.
    pub values: &'a [u16],
    /// The first position that the queries see.
    pub from: usize,
    /// Whether this is the first block that they see: their state is then written without being read.
    pub first: bool,
    /// Keys and values that will be wanted next, laid out alike: asked for while these are worked on. May be empty, or
    /// shorter.
    pub ahead: [&'a [u16]; 2],
}

/// Queries that attend together, and the state of each one's softmax.
#[derive(Debug)]
pub struct Attending<'a> {
    /// Rotated queries, `[queries × head_dim]`.
    pub q: &'a [f32],
    /// Each query sees the block's positions from [`KvBlock::from`] to before this one; at least one.
    pub until: &'a [usize],
    /// The largest score so far, `[queries]`.
    pub max: &'a mut [f32],
    /// The sum of `exp(score - max)` so far, `[queries]`.
    pub sum: &'a mut [f32],
    /// Values so far, each times `exp(score - max)`, `[queries × head_dim]`.
    pub out: &'a mut [f32],
}

impl KvBlock<'_> {
    /// Asserts that the sizes agree.
    pub(super) fn check(&self, x: &Attending<'_>) {
        let queries = x.until.len();
        assert_eq!(x.q.len(), queries * self.head_dim, "queries");
        assert_eq!(x.out.len(), queries * self.head_dim, "outputs");
        assert!(x.max.len() == queries && x.sum.len() == queries, "{queries} queries' state");
        let last = x.until.iter().copied().max().unwrap_or(0);
        assert!(x.until.iter().all(|&until| until > self.from) && last <= BLOCK, "{} to {last}", self.from);
        assert!(self.keys.len() >= last.next_multiple_of(GROUP) * self.head_dim, "keys of whole groups");
        assert!(self.values.len() >= last * self.head_dim, "values");
    }
}

/// The reference of [`Kernels::attend`](super::Kernels::attend).
pub(super) fn attend(block: &KvBlock<'_>, scale: f32, x: &mut Attending<'_>) {
    let head_dim = block.head_dim;
    for (i, &until) in x.until.iter().enumerate() {
        let mut weights = [0.0; BLOCK];
        let weights = &mut weights[..until - block.from];
        for (j, weight) in weights.iter_mut().enumerate() {
            let (group, lane) = ((block.from + j) / GROUP, (block.from + j) % GROUP);
            let mut score = 0.0;
            for (d, &q) in x.q[i * head_dim..][..head_dim].iter().enumerate() {
                let key = block.keys[(group * head_dim + d) * GROUP + lane];
                score = fma(q, f16::from_bits(key).to_f32(), score);
            }
            *weight = scale * score;
        }
        let max = scalar::max(weights);
        let sum = scalar::exp_sub(weights, max);
        let merged = if block.first { max } else { scalar::larger(max, x.max[i]) };
        let (keep, add) = (math::exp(x.max[i] - merged), math::exp(max - merged));
        for d in 0..head_dim {
            let mut value = 0.0;
            for (j, &weight) in weights.iter().enumerate() {
                let v = block.values[(block.from + j) * head_dim + d];
                value = fma(weight, f16::from_bits(v).to_f32(), value);
            }
            let out = &mut x.out[i * head_dim + d];
            *out = if block.first { value } else { fma(value, add, *out * keep) };
        }
        x.sum[i] = if block.first { sum } else { fma(sum, add, x.sum[i] * keep) };
        x.max[i] = merged;
    }
}
