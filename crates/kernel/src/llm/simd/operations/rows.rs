//! Sums over rows, in vector registers: norms, softmax, and the product with a vector.
//!
//! Sums take 64 virtual lanes, four steps of 16, so that as many chains are under way at once as hide an addition's time.

use super::elements::{AHEAD, Values, write};
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
    Dot::new(s, a, b).result(s)
}

/// A dot product under way.
struct Dot<'a, R, const N: usize> {
    a: &'a [f32],
    b: &'a [f32],
    sums: Wide<R, N>,
}

impl<'a, R: Copy, const N: usize> Dot<'a, R, N> {
    #[inline(always)]
    fn new<S: Registers<N, R = R>>(s: S, a: &'a [f32], b: &'a [f32]) -> Self {
        Dot { a, b, sums: [[s.splat(0.0); N]; GROUP / LANES] }
    }

    /// Takes the next 64 products; says whether there were so many.
    #[inline(always)]
    fn group<S: Registers<N, R = R>>(&mut self, s: S) -> bool {
        let (Some((a, a_rest)), Some((b, b_rest))) =
            (self.a.split_first_chunk::<GROUP>(), self.b.split_first_chunk::<GROUP>())
        else {
            return false;
        };
        products(s, a, b, &mut self.sums);
        (self.a, self.b) = (a_rest, b_rest);
        true
    }

    #[inline(always)]
    fn result<S: Registers<N, R = R>>(mut self, s: S) -> f32 {
        while self.group(s) {}
        if !self.a.is_empty() {
            let mut padded = [[0.0; GROUP]; 2];
            padded[0][..self.a.len()].copy_from_slice(self.a);
            padded[1][..self.b.len()].copy_from_slice(self.b);
            products(s, &padded[0], &padded[1], &mut self.sums);
        }
        total(s, self.sums)
    }
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

/// A row that is worked on while the one before is written, and one that is taken alone: rows and weights that do not stay in the
/// first cache together are read twice, which costs more than is hidden.
fn beside(next: &[f32]) -> (&[f32], &[f32]) {
    if next.len() <= 2048 { (next, &[]) } else { (&[], next) }
}

/// Every row of `x` normalized by the root of its mean square. While a row is written, the next one's sum is under way: what is between
/// a row's last sum and its first result is long, and memory would rest meanwhile.
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
    let mut rows = x.chunks_exact(n);
    let Some(mut x) = rows.next() else { return };
    let mut scale = narrow::rms_scale(dot(s, x, x), n, eps);
    for out in out.chunks_exact_mut(n) {
        // There is no row behind the last.
        let next = rows.next().unwrap_or_default();
        let (here, alone) = beside(next);
        let ahead = n + if here.is_empty() { 0 } else { AHEAD };
        let mut row = Scaled { x, weight, scale, ahead, next: Dot::new(s, here, here) };
        write(s, out, past, &mut row);
        let sum = if alone.is_empty() { row.next.result(s) } else { dot(s, alone, alone) };
        (x, scale) = (next, narrow::rms_scale(sum, n, eps));
    }
    if past {
        s.settle();
    }
}

struct Scaled<'a, R, const N: usize> {
    x: &'a [f32],
    weight: &'a [f32],
    scale: f32,
    /// How far ahead is what nobody reads yet.
    ahead: usize,
    next: Dot<'a, R, N>,
}

impl<S: Registers<N>, const N: usize> Values<S, N> for Scaled<'_, S::R, N> {
    #[inline(always)]
    fn values(&self, s: S, at: usize, count: usize) -> [S::R; N] {
        s.ask(self.x.as_ptr().wrapping_add(at + self.ahead));
        let (mut x, w) = (load::<S, N>(s, &self.x[at..at + count]), load(s, &self.weight[at..at + count]));
        for i in 0..N {
            x[i] = s.mul(s.mul(x[i], s.splat(self.scale)), w[i]);
        }
        x
    }

    #[inline(always)]
    fn beside(&mut self, s: S) {
        self.next.group(s);
    }
}

/// Every row of `x` normalized by its mean and variance, which Welford's algorithm finds in one pass, of the row after the next one while
/// a row is written, as in [`rms_norm`]. Its lanes are merged a row later, since that takes as long as a third of a row of 768 and, so
/// long before anyone waits for it, goes on beside what is written.
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
    let mut rows = x.chunks_exact(n);
    let Some(mut x) = rows.next() else { return };
    let (mut mean, mut scale) = Moments::new(s, x).result(s, eps);
    // There is no row behind the last.
    let mut next = rows.next().unwrap_or_default();
    let near = beside(x).1.is_empty();
    let mut moments = Moments::new(s, if near { next } else { &[] }).through(s);
    for out in out.chunks_exact_mut(n) {
        let after = rows.next().unwrap_or_default();
        if near {
            let (next_mean, next_scale) = moments.result(s, eps);
            let next_moments = Moments::new(s, after);
            let mut row = Centered { x, weight, bias, mean, scale, ahead: 2 * n + AHEAD, next: next_moments };
            write(s, out, past, &mut row);
            moments = row.next.through(s);
            (mean, scale) = (next_mean, next_scale);
        } else {
            let mut row = Centered { x, weight, bias, mean, scale, ahead: n, next: Moments::new(s, &[]) };
            write(s, out, past, &mut row);
            (mean, scale) = Moments::new(s, next).result(s, eps);
        }
        (x, next) = (next, after);
    }
    if past {
        s.settle();
    }
}

/// Mean and squared deviations of a row under way.
struct Moments<'a, R, const N: usize> {
    x: &'a [f32],
    mean: Wide<R, N>,
    m2: Wide<R, N>,
    count: f32,
}

impl<'a, R: Copy, const N: usize> Moments<'a, R, N> {
    #[inline(always)]
    fn new<S: Registers<N, R = R>>(s: S, x: &'a [f32]) -> Self {
        let zero = [[s.splat(0.0); N]; GROUP / LANES];
        Moments { x, mean: zero, m2: zero, count: 0.0 }
    }

    /// Takes the next 64 values; says whether there were so many.
    #[inline(always)]
    fn group<S: Registers<N, R = R>>(&mut self, s: S) -> bool {
        let Some((group, rest)) = self.x.split_first_chunk::<GROUP>() else { return false };
        self.x = rest;
        self.count += 1.0;
        let share = s.splat(1.0 / self.count);
        for (lane, x) in group.as_chunks().0.iter().enumerate() {
            let (x, mean, m2) = (s.load(x), &mut self.mean[lane], &mut self.m2[lane]);
            for i in 0..N {
                let delta = s.sub(x[i], mean[i]);
                mean[i] = s.fma(delta, share, mean[i]);
                m2[i] = s.fma(delta, s.sub(x[i], mean[i]), m2[i]);
            }
        }
        true
    }

    /// Takes all that are left but for less than 64.
    #[inline(always)]
    fn through<S: Registers<N, R = R>>(mut self, s: S) -> Self {
        while self.group(s) {}
        self
    }

    /// The mean, and what deviations from it are multiplied with.
    #[inline(always)]
    fn result<S: Registers<N, R = R>>(self, s: S, eps: f32) -> (f32, f32) {
        let row = self.through(s);
        let (mean, variance) =
            moments_of_lanes(all_lanes(s, row.mean), all_lanes(s, row.m2), row.count, row.x);
        (mean, 1.0 / math::sqrt(variance + eps))
    }
}

struct Centered<'a, R, const N: usize> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    mean: f32,
    scale: f32,
    /// How far ahead is what nobody reads yet.
    ahead: usize,
    next: Moments<'a, R, N>,
}

impl<S: Registers<N>, const N: usize> Values<S, N> for Centered<'_, S::R, N> {
    #[inline(always)]
    fn values(&self, s: S, at: usize, count: usize) -> [S::R; N] {
        s.ask(self.x.as_ptr().wrapping_add(at + self.ahead));
        let mut x = load::<S, N>(s, &self.x[at..at + count]);
        let (w, b) = (load(s, &self.weight[at..at + count]), load(s, &self.bias[at..at + count]));
        for i in 0..N {
            let centered = s.sub(x[i], s.splat(self.mean));
            x[i] = s.fma(s.mul(centered, s.splat(self.scale)), w[i], b[i]);
        }
        x
    }

    #[inline(always)]
    fn beside(&mut self, s: S) {
        self.next.group(s);
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
