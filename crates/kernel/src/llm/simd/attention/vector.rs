//! [`super::attend`] in vector registers, for up to six queries at once.
//!
//! Scores: a lane is a position; each dimension's keys are widened once for all queries. Values: a lane is a dimension;
//! each position's values are widened once. Sums of several queries stay in registers meanwhile.

use super::{Attending, BLOCK, GROUP, KvBlock};
use crate::llm::simd::lanes::{self, Registers};
use crate::llm::simd::scalar;

/// Elements in a cache line.
const LINE: usize = 32;
/// Most queries of a tile.
pub(in crate::llm::simd) const MOST: usize = 6;

/// Queries `first..first + Q`. `weights` is scratch.
#[inline(always)]
pub(in crate::llm::simd) fn tile<S: Registers<N>, const N: usize, const Q: usize>(
    s: S,
    block: &KvBlock<'_>,
    scale: f32,
    x: &mut Attending<'_>,
    first: usize,
    weights: &mut [[f32; BLOCK]; Q],
) {
    let head_dim = block.head_dim;
    let until: [usize; Q] = *x.until[first..].first_chunk().expect("as many queries");
    let q: [&[f32]; Q] = core::array::from_fn(|i| &x.q[(first + i) * head_dim..][..head_dim]);
    let last = until.iter().fold(0, |a, &b| a.max(b));
    let (mut group, groups) = (block.from / GROUP, last.div_ceil(GROUP));
    while group < groups {
        let left = groups - group;
        let keys = &block.keys[group * head_dim * GROUP..];
        let (keys, _) = keys.as_chunks();
        let keys = (keys, block.ahead[0].get(group * head_dim * GROUP..).unwrap_or_default());
        let at = group * GROUP;
        group += if 4 * Q * N <= S::SUMS && left >= 4 {
            scores::<S, N, Q, 4>(s, q, keys, scale, weights, at)
        } else if 2 * Q * N <= S::SUMS && left >= 2 {
            scores::<S, N, Q, 2>(s, q, keys, scale, weights, at)
        } else {
            scores::<S, N, Q, 1>(s, q, keys, scale, weights, at)
        };
    }
    let counts = until.map(|until| until - block.from);
    // One row's exponentials are too few to hide how long each takes, so all rows are taken together where registers
    // have room for their sums; a shorter row is filled up to the longest.
    let together = Q * N <= MOST;
    let longest = (last - block.from).div_ceil(GROUP);
    let steps = counts.map(|count| if together { longest } else { count.div_ceil(GROUP) });
    let mut max = [0.0; GROUP];
    for i in 0..Q {
        max[i] = largest(s, &mut weights[i], block.from, counts[i], steps[i]);
    }
    let own = max;
    // What the state so far and what the block is multiplied with: long chains, so they come before the many
    // exponentials that hide them.
    let (mut keep, mut add) = ([0.0; GROUP], [0.0; GROUP]);
    if !block.first {
        for i in 0..Q {
            let old = x.max[first + i];
            let merged = scalar::larger(max[i], old);
            (keep[i], add[i]) = (old - merged, max[i] - merged);
            max[i] = merged;
        }
        let (mut k, mut a) = (s.load(&keep), s.load(&add));
        for n in 0..Q.div_ceil(GROUP / N) {
            (k[n], a[n]) = (lanes::exp(s, k[n]), lanes::exp(s, a[n]));
        }
        s.store(&mut keep, k);
        s.store(&mut add, a);
    }
    x.max[first..first + Q].copy_from_slice(&max[..Q]);
    let mut sums = [[s.splat(0.0); N]; Q];
    if together {
        for step in 0..longest {
            for i in 0..Q {
                exponential(s, &mut weights[i], step, own[i], &mut sums[i]);
            }
        }
    } else {
        for i in 0..Q {
            for step in 0..steps[i] {
                exponential(s, &mut weights[i], step, own[i], &mut sums[i]);
            }
        }
    }
    let merge: [Option<(f32, f32)>; Q] =
        core::array::from_fn(|i| (!block.first).then_some((keep[i], add[i])));
    let out = &mut x.out[first * head_dim..(first + Q) * head_dim];
    let values = &block.values[block.from * head_dim..];
    let values = (values, block.ahead[1]);
    let mut at = 0;
    while at < head_dim {
        let left = head_dim - at;
        at += if 4 * Q * N <= S::SUMS && left >= 4 * GROUP {
            accumulate::<S, N, Q, 4>(s, weights, counts, (values, head_dim), &merge, out, at)
        } else if 2 * Q * N <= S::SUMS && left >= 2 * GROUP {
            accumulate::<S, N, Q, 2>(s, weights, counts, (values, head_dim), &merge, out, at)
        } else if left >= GROUP {
            accumulate::<S, N, Q, 1>(s, weights, counts, (values, head_dim), &merge, out, at)
        } else {
            for i in 0..Q {
                let out = &mut out[i * head_dim + at..][..left];
                rest(s, &weights[i][..counts[i]], (values.0, head_dim), merge[i], out, at);
            }
            left
        };
    }
    let mut sum = [0.0; GROUP];
    for i in 0..Q {
        sum[i] = s.sum(sums[i]);
    }
    if !block.first {
        let mut old = [0.0; GROUP];
        old[..Q].copy_from_slice(&x.sum[first..first + Q]);
        let (k, a, old, mut merged) = (s.load(&keep), s.load(&add), s.load(&old), s.load(&sum));
        for n in 0..Q.div_ceil(GROUP / N) {
            merged[n] = s.fma(merged[n], a[n], s.mul(old[n], k[n]));
        }
        s.store(&mut sum, merged);
    }
    x.sum[first..first + Q].copy_from_slice(&sum[..Q]);
}

/// Scores against the first `G` groups of `keys`, written from `at` on. Returns `G`.
#[inline(always)]
fn scores<S: Registers<N>, const N: usize, const Q: usize, const G: usize>(
    s: S,
    q: [&[f32]; Q],
    (keys, ahead): (&[[u16; GROUP]], &[u16]),
    scale: f32,
    out: &mut [[f32; BLOCK]; Q],
    at: usize,
) -> usize {
    let head_dim = q[0].len();
    let groups: [&[[u16; GROUP]]; G] = core::array::from_fn(|g| &keys[g * head_dim..][..head_dim]);
    let q = q.map(|q| &q[..head_dim]);
    let mut acc = [[[s.splat(0.0); N]; G]; Q];
    for d in 0..head_dim {
        // As many lines as this step loads.
        for line in 0..G.div_ceil(2) {
            ask(s, ahead, d * G * GROUP + line * LINE);
        }
        let mut keys = [[s.splat(0.0); N]; G];
        for g in 0..G {
            keys[g] = s.widen(&groups[g][d]);
        }
        for i in 0..Q {
            let q = s.splat(q[i][d]);
            for g in 0..G {
                for n in 0..N {
                    acc[i][g][n] = s.fma(q, keys[g][n], acc[i][g][n]);
                }
            }
        }
    }
    let scale = s.splat(scale);
    for (out, acc) in out.iter_mut().zip(acc) {
        for (g, mut acc) in acc.into_iter().enumerate() {
            for acc in &mut acc {
                *acc = s.mul(scale, *acc);
            }
            s.store(out[at + g * GROUP..].first_chunk_mut().expect("a group of the block"), acc);
        }
    }
    G
}

/// Asks for the cache line of an element, if there is one.
#[inline(always)]
fn ask<S: Registers<N>, const N: usize>(s: S, elements: &[u16], at: usize) {
    if let Some(element) = elements.get(at) {
        s.ask(core::ptr::from_ref(element).cast());
    }
}

/// Moves the scores `from..from + count` to the front of `row`, fills `steps` steps up, and finds the maximum.
#[inline(always)]
fn largest<S: Registers<N>, const N: usize>(
    s: S,
    row: &mut [f32; BLOCK],
    from: usize,
    count: usize,
    steps: usize,
) -> f32 {
    if from > 0 {
        row.copy_within(from..from + count, 0);
    }
    // No maximum, and their exponential is zero, which changes no sum.
    row[..steps * GROUP][count..].fill(f32::NEG_INFINITY);
    let (steps, _) = row[..steps * GROUP].as_chunks();
    let mut max = [s.splat(f32::NEG_INFINITY); N];
    for step in steps {
        let x = s.load(step);
        for n in 0..N {
            max[n] = s.larger(x[n], max[n]);
        }
    }
    s.largest(max)
}

/// Turns a step of a row's scores into weights, and adds them up lane by lane.
#[inline(always)]
fn exponential<S: Registers<N>, const N: usize>(
    s: S,
    row: &mut [f32; BLOCK],
    step: usize,
    max: f32,
    sum: &mut [S::R; N],
) {
    let (steps, _) = row.as_chunks_mut();
    let (mut x, max) = (s.load(&steps[step]), s.splat(max));
    for n in 0..N {
        x[n] = lanes::exp(s, s.sub(x[n], max));
        sum[n] = s.add(sum[n], x[n]);
    }
    s.store(&mut steps[step], x);
}

/// Dimensions `at..at + 16 C` of the queries' values. Returns their number.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "one position of all queries' weights at a time")]
fn accumulate<S: Registers<N>, const N: usize, const Q: usize, const C: usize>(
    s: S,
    weights: &[[f32; BLOCK]; Q],
    counts: [usize; Q],
    ((values, ahead), head_dim): ((&[u16], &[u16]), usize),
    merge: &[Option<(f32, f32)>; Q],
    out: &mut [f32],
    at: usize,
) -> usize {
    let mut acc = [[[s.splat(0.0); N]; C]; Q];
    let columns = |j: usize| {
        let (row, _) = values[j * head_dim + at..][..C * GROUP].as_chunks();
        let mut v = [[s.splat(0.0); N]; C];
        for (v, row) in v.iter_mut().zip(row) {
            *v = s.widen(row);
        }
        v
    };
    let common = counts.iter().fold(BLOCK, |a, &b| a.min(b));
    for j in 0..common {
        for line in 0..C.div_ceil(2) {
            ask(s, ahead, j * head_dim + at + line * LINE);
        }
        let v = columns(j);
        for i in 0..Q {
            let weight = s.splat(weights[i][j]);
            for c in 0..C {
                for n in 0..N {
                    acc[i][c][n] = s.fma(weight, v[c][n], acc[i][c][n]);
                }
            }
        }
    }
    for i in 0..Q {
        for j in common..counts[i].min(BLOCK) {
            let (weight, v) = (s.splat(weights[i][j]), columns(j));
            for c in 0..C {
                for n in 0..N {
                    acc[i][c][n] = s.fma(weight, v[c][n], acc[i][c][n]);
                }
            }
        }
    }
    for i in 0..Q {
        let (out, _) = out[i * head_dim + at..][..C * GROUP].as_chunks_mut();
        for (out, acc) in out.iter_mut().zip(acc[i]) {
            store(s, out, acc, merge[i]);
        }
    }
    C * GROUP
}

/// Writes a query's values, after what it has so far.
#[inline(always)]
fn store<S: Registers<N>, const N: usize>(
    s: S,
    out: &mut [f32; GROUP],
    mut acc: [S::R; N],
    merge: Option<(f32, f32)>,
) {
    if let Some((keep, add)) = merge {
        let (keep, add) = (s.splat(keep), s.splat(add));
        let old = s.load(out);
        for n in 0..N {
            acc[n] = s.fma(acc[n], add, s.mul(old[n], keep));
        }
    }
    s.store(out, acc);
}

/// The last dimensions of a head that is no multiple of sixteen wide.
#[inline(always)]
fn rest<S: Registers<N>, const N: usize>(
    s: S,
    weights: &[f32],
    (values, head_dim): (&[u16], usize),
    merge: Option<(f32, f32)>,
    out: &mut [f32],
    at: usize,
) {
    let mut acc = [s.splat(0.0); N];
    for (j, &weight) in weights.iter().enumerate() {
        let mut padded = [0; GROUP];
        padded[..out.len()].copy_from_slice(&values[j * head_dim + at..][..out.len()]);
        let (weight, v) = (s.splat(weight), s.widen(&padded));
        for n in 0..N {
            acc[n] = s.fma(weight, v[n], acc[n]);
        }
    }
    let mut padded = [0.0; GROUP];
    padded[..out.len()].copy_from_slice(out);
    store(s, &mut padded, acc, merge);
    out.copy_from_slice(&padded[..out.len()]);
}
