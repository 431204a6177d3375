//! The reference of every tensor kernel, in plain safe code.

use super::{Attend, Block, Function, KEYS, Left, Operations, Product, STEP};
use crate::llm::math::{self, fma};
use crate::llm::operations::View;
use crate::llm::simd::scalar as narrow;

/// Virtual lanes of sums over rows.
pub(super) const GROUP: usize = 4 * STEP;

/// Rows of a tile.
const ROWS: usize = 4;

pub(super) static TABLE: Operations = Operations {
    name: "scalar",
    queries: STEP,
    product: Product { rows: ROWS, columns: STEP, pack_left, pack_right, block },
    map,
    map_biased,
    silu_mul,
    matvec,
    rms_norm,
    layer_norm,
    softmax,
    attend,
};

fn pack_left(x: View<'_>, out: &mut [f32]) {
    pack(x, out, ROWS);
}

fn pack_right(x: View<'_>, out: &mut [f32]) {
    pack(x.transposed(), out, STEP);
}

/// Panels of `height` rows, each `[column][height]`, the last one padded with zeros.
fn pack(x: View<'_>, out: &mut [f32], height: usize) {
    for (panel, out) in out.chunks_exact_mut(height * x.columns().max(1)).enumerate() {
        for (column, out) in out.chunks_exact_mut(height).enumerate() {
            for (row, out) in out.iter_mut().enumerate() {
                let row = panel * height + row;
                *out = if row < x.rows() { x.at(row, column) } else { 0.0 };
            }
        }
    }
}

/// Each element is one sum by fma, in the order of k.
fn block(x: &Block<'_>, out: &mut [f32]) {
    for row in 0..x.rows {
        let left = |k: usize| match x.left {
            Left::Packed(left) => left[row / ROWS * ROWS * x.k + row % ROWS..][k * ROWS],
            Left::Lines(view) => view.at(row, k),
        };
        for column in 0..x.columns {
            let right = &x.right[column / STEP * STEP * x.k + column % STEP..];
            let out = &mut out[row * x.row_step + column];
            let start = if x.first { 0.0 } else { *out };
            *out = (0..x.k).fold(start, |sum, k| fma(left(k), right[k * STEP], sum));
        }
    }
}

fn map(function: Function, x: Option<&[f32]>, out: &mut [f32], _: bool) {
    let f = of(function);
    match x {
        Some(x) => out.iter_mut().zip(x).for_each(|(out, &x)| *out = f(x)),
        None => out.iter_mut().for_each(|x| *x = f(*x)),
    }
}

fn of(function: Function) -> fn(f32) -> f32 {
    match function {
        Function::Identity => |x| x,
        Function::Relu => math::relu,
        Function::Exp => math::exp,
        Function::Sigmoid => math::sigmoid,
        Function::Silu => math::silu,
        Function::Tanh => math::tanh,
        Function::Gelu => math::gelu,
        Function::GeluTanh => math::gelu_tanh,
    }
}

fn map_biased(function: Function, x: &[f32], bias: &[f32], out: &mut [f32], _: bool) {
    let f = of(function);
    for (i, (out, &x)) in out.iter_mut().zip(x).enumerate() {
        *out = f(x + bias[i % bias.len()]);
    }
}

fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32], _: bool) {
    narrow::silu_mul(gate, up, out);
}

/// Adds 64 lanes up: halves onto halves until one is left.
fn tree(mut lanes: [f32; GROUP]) -> f32 {
    let mut width = GROUP / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; GROUP];
    // What does not fill the lanes is padded with zeros, which at most makes a sum of -0 one of 0.
    for i in 0..a.len().next_multiple_of(GROUP) {
        let (a, b) = if i < a.len() { (a[i], b[i]) } else { (0.0, 0.0) };
        lanes[i % GROUP] = fma(a, b, lanes[i % GROUP]);
    }
    tree(lanes)
}

fn matvec(a: &[f32], row_step: usize, x: &[f32], out: &mut [f32]) {
    for (r, out) in out.iter_mut().enumerate() {
        *out = dot(&a[r * row_step..][..x.len()], x);
    }
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], _: bool) {
    let n = weight.len();
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let scale = narrow::rms_scale(dot(x, x), n, eps);
        for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
            *out = (x * scale) * w;
        }
    }
}

/// Mean and squared deviations of two lanes that have each seen twice `half` values.
#[inline(always)]
fn merge(half: f32, a: (f32, f32), b: (f32, f32)) -> (f32, f32) {
    let delta = b.0 - a.0;
    (0.5 * (a.0 + b.0), (a.1 + b.1) + (delta * delta) * half)
}

/// Mean and variance, from those of 64 lanes that have each seen `count` values, and from what no longer filled all lanes.
///
/// Lanes are merged halves onto halves: equal counts make Chan's formula short. Nothing is fused, so that a compiler may do
/// several at once.
#[inline(always)]
pub(super) fn moments_of_lanes(
    mean: [[f32; STEP]; GROUP / STEP],
    m2: [[f32; STEP]; GROUP / STEP],
    count: f32,
    rest: &[f32],
) -> (f32, f32) {
    let mut half = 0.5 * count;
    let ([mut mean, b, c, d], [mut m2, b2, c2, d2]) = (mean, m2);
    for i in 0..STEP {
        let low = merge(half, (mean[i], m2[i]), (c[i], c2[i]));
        let high = merge(half, (b[i], b2[i]), (d[i], d2[i]));
        (mean[i], m2[i]) = merge(2.0 * half, low, high);
    }
    half *= 4.0;
    macro_rules! halve {
        ($($width:literal)*) => {
            $(
                for i in 0..$width {
                    (mean[i], m2[i]) = merge(half, (mean[i], m2[i]), (mean[i + $width], m2[i + $width]));
                }
                half *= 2.0;
            )*
        };
    }
    halve! { 8 4 2 1 }
    // Half the number of values in each of two halves, which is a quarter of all, was doubled once more.
    let mut total = 2.0 * half;
    let (mut mean, mut m2) = (mean[0], m2[0]);
    for &x in rest {
        total += 1.0;
        let delta = x - mean;
        mean += delta / total;
        m2 += delta * (x - mean);
    }
    (mean, m2 / total)
}

fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32], _: bool) {
    let n = weight.len();
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let (groups, rest) = x.as_chunks::<GROUP>();
        let (mut mean, mut m2) = ([[0.0; STEP]; GROUP / STEP], [[0.0; STEP]; GROUP / STEP]);
        let mut count = 0.0;
        for group in groups {
            count += 1.0;
            let share = 1.0 / count;
            let lanes = mean.as_flattened_mut().iter_mut().zip(m2.as_flattened_mut());
            for (&x, (mean, m2)) in group.iter().zip(lanes) {
                let delta = x - *mean;
                *mean = fma(delta, share, *mean);
                *m2 = fma(delta, x - *mean, *m2);
            }
        }
        let (mean, variance) = moments_of_lanes(mean, m2, count, rest);
        let scale = 1.0 / math::sqrt(variance + eps);
        for (((out, &x), &w), &b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = fma((x - mean) * scale, w, b);
        }
    }
}

fn softmax(x: &mut [f32], scale: f32) {
    let mut max = f32::NEG_INFINITY;
    for x in &mut *x {
        *x *= scale;
        max = narrow::larger(*x, max);
    }
    let mut lanes = [0.0; GROUP];
    for (i, x) in x.iter_mut().enumerate() {
        *x = math::exp(*x - max);
        lanes[i % GROUP] += *x;
    }
    let share = 1.0 / tree(lanes);
    for x in x {
        *x *= share;
    }
}

/// Queries one by one: blocks of [`KEYS`] keys, whose scores are sums by fma in the order of dimensions, times the scale;
/// weights are `exp(score - max)` with the largest score so far, and what was there before is multiplied with
/// `exp(old max - max)`; sums of weights and of weighted values go in the order of keys.
fn attend(x: &Attend<'_>, _: &mut [f32], out: &mut [f32]) {
    let d = x.head_dim;
    for (i, out) in out.chunks_exact_mut(d).enumerate().take(x.queries) {
        let (q, seen) = (&x.q[i * d..][..d], x.seen(i));
        let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0);
        out.fill(0.0);
        for from in (0..seen).step_by(KEYS) {
            let mut weights = [0.0; KEYS];
            let weights = &mut weights[..KEYS.min(seen - from)];
            let before = max;
            for (j, weight) in weights.iter_mut().enumerate() {
                let key = &x.k[(from + j) * d..][..d];
                let score = q.iter().zip(key).fold(0.0, |sum, (&q, &k)| fma(q, k, sum));
                *weight = score * x.scale;
                max = narrow::larger(*weight, max);
            }
            let keep = math::exp(before - max);
            sum *= keep;
            out.iter_mut().for_each(|out| *out *= keep);
            for (j, weight) in weights.iter().enumerate() {
                let weight = math::exp(*weight - max);
                sum += weight;
                for (out, &v) in out.iter_mut().zip(&x.v[(from + j) * d..][..d]) {
                    *out = fma(weight, v, *out);
                }
            }
        }
        let share = 1.0 / sum;
        out.iter_mut().for_each(|out| *out *= share);
    }
}
