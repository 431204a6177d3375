//! Sums over rows, in vector registers: norms, softmax, and the product with a vector.
//!
//! Sums take 64 virtual lanes, four steps of 16, so that as many chains are under way at once as hide an addition's time.

use super::elements::{Values, write};
use super::scalar::{GROUP, moments_of_lanes};
use crate::llm::math;
use crate::llm::simd::lanes::{Registers, exp, lanes, load, store};
use crate::llm::simd::scalar::{self as narrow, LANES};

/// Registers of all virtual lanes.
type Wide<R, const N: usize> = [[R; N]; GROUP / LANES];

/// All virtual lanes.
#[inline(always)]
fn all_lanes<S: Registers<N>, const N: usize>(s: S, wide: Wide<S::R, N>) -> [[f32; LANES]; GROUP / LANES] {
    let [a, b, c, d] = wide;
    [lanes(s, a), lanes(s, b), lanes(s, c), lanes(s, d)]
}

/// The sum of all lanes.
#[inline(always)]
fn total<S: Registers<N>, const N: usize>(s: S, wide: Wide<S::R, N>) -> f32 {
    let [a, b, c, d] = wide;
    let mut sum = a;
    for i in 0..N {
        sum[i] = s.add(s.add(a[i], c[i]), s.add(b[i], d[i]));
    }
    narrow::tree(lanes(s, sum))
}

/// The dot product of two slices of the same length.
#[inline(always)]
fn dot<S: Registers<N>, const N: usize>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut wide = [[s.splat(0.0); N]; GROUP / LANES];
    let (a, a_rest) = a.as_chunks::<GROUP>();
    let (b, b_rest) = b.as_chunks::<GROUP>();
    for (a, b) in a.iter().zip(b) {
        products(s, a, b, &mut wide);
    }
    if !a_rest.is_empty() {
        let mut padded = [[0.0; GROUP]; 2];
        padded[0][..a_rest.len()].copy_from_slice(a_rest);
        padded[1][..b_rest.len()].copy_from_slice(b_rest);
        products(s, &padded[0], &padded[1], &mut wide);
    }
    total(s, wide)
}

/// Adds 64 products to their lanes' sums.
#[inline(always)]
fn products<S: Registers<N>, const N: usize>(
    s: S,
    a: &[f32; GROUP],
    b: &[f32; GROUP],
    sums: &mut Wide<S::R, N>,
) {
    for (sums, (a, b)) in sums.iter_mut().zip(a.as_chunks().0.iter().zip(b.as_chunks().0)) {
        let (a, b) = (s.load(a), s.load(b));
        for i in 0..N {
            sums[i] = s.fma(a[i], b[i], sums[i]);
        }
    }
}

/// `out[r]` = row `r` of `a` times `x`.
#[inline(always)]
pub(in crate::llm::simd) fn matvec<S: Registers<N>, const N: usize>(
    s: S,
    a: &[f32],
    row_step: usize,
    x: &[f32],
    out: &mut [f32],
) {
    for (r, out) in out.iter_mut().enumerate() {
        *out = dot(s, &a[r * row_step..][..x.len()], x);
    }
}

/// Rows whose sums are under way together: what is between a row's last sum and its first result is long, and a row of its own
/// would wait for it. Of rows that do not stay in the first cache together, one.
fn together(n: usize) -> usize {
    if n <= 1024 { MOST } else { 1 }
}

/// Most of them.
const MOST: usize = 4;

/// Every row of `x` normalized by the root of its mean square.
#[inline(always)]
pub(in crate::llm::simd) fn rms_norm<S: Registers<N>, const N: usize>(
    s: S,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
    past: bool,
) {
    let n = weight.len();
    let some = together(n) * n;
    for (x, out) in x.chunks(some).zip(out.chunks_mut(some)) {
        let mut scales = [0.0; MOST];
        for (scale, x) in scales.iter_mut().zip(x.chunks_exact(n)) {
            *scale = narrow::rms_scale(dot(s, x, x), n, eps);
        }
        for ((&scale, x), out) in scales.iter().zip(x.chunks_exact(n)).zip(out.chunks_exact_mut(n)) {
            write(s, out, past, Scaled { x, weight, scale, next: some });
        }
    }
    if past {
        s.settle();
    }
}

struct Scaled<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    scale: f32,
    /// How far ahead lie the rows that come next.
    next: usize,
}

impl<S: Registers<N>, const N: usize> Values<S, N> for Scaled<'_> {
    #[inline(always)]
    fn values(&self, s: S, at: usize, count: usize) -> [S::R; N] {
        s.ask(self.x.as_ptr().wrapping_add(at + self.next));
        let (mut x, w) = (load::<S, N>(s, &self.x[at..at + count]), load(s, &self.weight[at..at + count]));
        for i in 0..N {
            x[i] = s.mul(s.mul(x[i], s.splat(self.scale)), w[i]);
        }
        x
    }
}

/// Every row of `x` normalized by its mean and variance, which Welford's algorithm finds in one pass.
#[inline(always)]
pub(in crate::llm::simd) fn layer_norm<S: Registers<N>, const N: usize>(
    s: S,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    out: &mut [f32],
    past: bool,
) {
    let n = weight.len();
    let some = together(n) * n;
    for (x, out) in x.chunks(some).zip(out.chunks_mut(some)) {
        let mut moments = [(0.0, 0.0); MOST];
        for (moments, x) in moments.iter_mut().zip(x.chunks_exact(n)) {
            let (mean, variance) = moments_of(s, x);
            *moments = (mean, 1.0 / math::sqrt(variance + eps));
        }
        for ((&(mean, scale), x), out) in moments.iter().zip(x.chunks_exact(n)).zip(out.chunks_exact_mut(n)) {
            write(s, out, past, Centered { x, weight, bias, mean, scale, next: some });
        }
    }
    if past {
        s.settle();
    }
}

/// Mean and variance.
#[inline(always)]
fn moments_of<S: Registers<N>, const N: usize>(s: S, x: &[f32]) -> (f32, f32) {
    let (groups, rest) = x.as_chunks::<GROUP>();
    let mut mean = [[s.splat(0.0); N]; GROUP / LANES];
    let mut m2 = mean;
    let mut count = 0.0;
    for group in groups {
        count += 1.0;
        let share = s.splat(1.0 / count);
        for (lane, x) in group.as_chunks().0.iter().enumerate() {
            let x = s.load(x);
            for i in 0..N {
                let delta = s.sub(x[i], mean[lane][i]);
                mean[lane][i] = s.fma(delta, share, mean[lane][i]);
                m2[lane][i] = s.fma(delta, s.sub(x[i], mean[lane][i]), m2[lane][i]);
            }
        }
    }
    moments_of_lanes(all_lanes(s, mean), all_lanes(s, m2), count, rest)
}

struct Centered<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    mean: f32,
    scale: f32,
    /// How far ahead lie the rows that come next.
    next: usize,
}

impl<S: Registers<N>, const N: usize> Values<S, N> for Centered<'_> {
    #[inline(always)]
    fn values(&self, s: S, at: usize, count: usize) -> [S::R; N] {
        s.ask(self.x.as_ptr().wrapping_add(at + self.next));
        let mut x = load::<S, N>(s, &self.x[at..at + count]);
        let (w, b) = (load(s, &self.weight[at..at + count]), load(s, &self.bias[at..at + count]));
        for i in 0..N {
            let centered = s.sub(x[i], s.splat(self.mean));
            x[i] = s.fma(s.mul(centered, s.splat(self.scale)), w[i], b[i]);
        }
        x
    }
}

/// `x = exp(scale x - max) / sum`, in place.
#[inline(always)]
pub(in crate::llm::simd) fn softmax<S: Registers<N>, const N: usize>(s: S, x: &mut [f32], scale: f32) {
    let factor = s.splat(scale);
    let mut largest = [[s.splat(f32::NEG_INFINITY); N]; GROUP / LANES];
    let (groups, rest) = x.as_chunks_mut::<GROUP>();
    for group in &mut *groups {
        for (lane, step) in group.as_chunks_mut().0.iter_mut().enumerate() {
            let mut x = s.load(step);
            for i in 0..N {
                x[i] = s.mul(x[i], factor);
                largest[lane][i] = s.larger(x[i], largest[lane][i]);
            }
            s.store(step, x);
        }
    }
    let mut max = largest[0];
    for other in &largest[1..] {
        for i in 0..N {
            max[i] = s.larger(other[i], max[i]);
        }
    }
    let mut max = narrow::max_tree(lanes(s, max));
    for x in &mut *rest {
        *x *= scale;
        max = narrow::larger(*x, max);
    }
    let all = s.splat(max);
    let mut sums = [[s.splat(0.0); N]; GROUP / LANES];
    for group in &mut *groups {
        for (lane, step) in group.as_chunks_mut().0.iter_mut().enumerate() {
            let mut x = s.load(step);
            for i in 0..N {
                x[i] = exp(s, s.sub(x[i], all));
                sums[lane][i] = s.add(sums[lane][i], x[i]);
            }
            s.store(step, x);
        }
    }
    if !rest.is_empty() {
        let mut padded = [0.0; GROUP];
        padded[..rest.len()].copy_from_slice(rest);
        for step in padded.as_chunks_mut().0 {
            let mut x: [S::R; N] = s.load(step);
            for x in &mut x {
                *x = exp(s, s.sub(*x, all));
            }
            s.store(step, x);
        }
        rest.copy_from_slice(&padded[..rest.len()]);
        padded[rest.len()..].fill(0.0);
        for (sums, step) in sums.iter_mut().zip(padded.as_chunks().0) {
            let x = s.load(step);
            for i in 0..N {
                sums[i] = s.add(sums[i], x[i]);
            }
        }
    }
    let share = s.splat(1.0 / total(s, sums));
    for step in x.chunks_mut(LANES) {
        let mut x = load(s, step);
        for x in &mut x {
            *x = s.mul(*x, share);
        }
        store(s, step, x);
    }
}
