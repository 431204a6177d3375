//! Vector functions, written once for all instruction sets: the scalar table's operations on 16 lanes at a time.
//!
//! An instruction set gives its registers and their operations as [`Registers`]; the functions below are made of
//! them and are always inlined into an entry of that set's table, the only place where the compiler may use its
//! instructions. A step takes 16 values, the scalar table's virtual lanes, in `N` registers. Of what does
//! not fill a step, values that stand alone are computed in a padded one, and sums go on in the lanes they belong to.

use super::scalar::{self, LANES, Moments};
use crate::llm::math::{self, EXP_COEFFICIENTS, EXP_MAX, EXP_MIN, LN2_HIGH, LN2_LOW, ROUND_MAGIC, fma};

/// Registers of one instruction set, of which `N` hold 16 lanes.
///
/// A value of an implementing type is a proof that this CPU has the instructions: it can be had only in a function
/// that is compiled with them.
pub(super) trait Registers<const N: usize>: Copy {
    /// One register of f32.
    type R: Copy;
    /// Registers that sums can stay in while factors pass by.
    const SUMS: usize;

    /// The same value in every lane.
    fn splat(self, x: f32) -> Self::R;
    /// The same register, which the compiler takes for unknown: it then stays in one, rather than being loaded where it is used.
    #[inline(always)]
    fn hold(self, a: Self::R) -> Self::R {
        a
    }
    /// `a + b`.
    fn add(self, a: Self::R, b: Self::R) -> Self::R;
    /// `a - b`.
    fn sub(self, a: Self::R, b: Self::R) -> Self::R;
    /// `a * b`.
    fn mul(self, a: Self::R, b: Self::R) -> Self::R;
    /// `a / b`.
    fn div(self, a: Self::R, b: Self::R) -> Self::R;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::R, b: Self::R, c: Self::R) -> Self::R;
    /// `-a`.
    fn neg(self, a: Self::R) -> Self::R;
    /// [`scalar::larger`]: `v > m ? v : m`.
    fn larger(self, v: Self::R, m: Self::R) -> Self::R;
    /// `v < m ? v : m`.
    fn smaller(self, v: Self::R, m: Self::R) -> Self::R;
    /// `a < b ? x : y`; `y` where one is NaN.
    fn where_less(self, a: Self::R, b: Self::R, x: Self::R, y: Self::R) -> Self::R;
    /// `x`, but `high` where it is larger and `low` where it is smaller; neither is zero. A NaN stays.
    #[inline(always)]
    fn between(self, low: Self::R, x: Self::R, high: Self::R) -> Self::R {
        self.larger(low, self.smaller(high, x))
    }
    /// `p * 2^n` in [`math::exp`]'s two steps, then zero below 2^-126; `shifted` is `n + ROUND_MAGIC`.
    fn times_power_of_two(self, p: Self::R, shifted: Self::R) -> Self::R;

    /// 16 values.
    fn load(self, x: &[f32; LANES]) -> [Self::R; N];
    /// The other way.
    fn store(self, x: &mut [f32; LANES], v: [Self::R; N]);
    /// Stores past the caches where the instruction set can: for results that are larger than they are. After the last
    /// one comes [`Self::settle`].
    #[inline(always)]
    fn stream(self, x: &mut Line, v: [Self::R; N]) {
        self.store(&mut x.0, v);
    }
    /// Orders what was streamed before all that is stored after.
    #[inline(always)]
    fn settle(self) {}
    /// Asks for the line at an address that will be read or written; any address does, and nothing happens where it is none.
    #[inline(always)]
    fn ask(self, _at: *const f32) {}
    /// 16 f16 values.
    fn widen(self, x: &[u16; LANES]) -> [Self::R; N];
    /// The nearest f16, ties to even.
    fn narrow(self, x: &mut [u16; LANES], v: [Self::R; N]);
    /// Eight pairs turned, as [`scalar::rope`] does.
    fn rotate(self, x: [Self::R; N], cos: &[f32; 8], sin: &[f32; 8]) -> [Self::R; N];
    /// [`scalar::tree`].
    #[inline(always)]
    fn sum(self, v: [Self::R; N]) -> f32 {
        scalar::tree(lanes(self, v))
    }
    /// [`scalar::max_tree`].
    #[inline(always)]
    fn largest(self, v: [Self::R; N]) -> f32 {
        scalar::max_tree(lanes(self, v))
    }
    /// The largest magnitude of 32 values, by its bits.
    fn largest_magnitude(self, v: [[Self::R; N]; 2]) -> u32;
    /// `round-ties-even(v * id)`, of magnitude 127 at most, and the sum of all 16.
    fn quantize(self, v: [Self::R; N], id: f32, q: &mut [i8; LANES]) -> i16;
}

/// A step of floats on a line of the caches.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(in crate::llm) struct Line(pub(in crate::llm) [f32; LANES]);

/// Up to 16 values, padded with zeros.
#[inline(always)]
pub(super) fn load<S: Registers<N>, const N: usize>(s: S, x: &[f32]) -> [S::R; N] {
    if let Some(x) = x.first_chunk() {
        return s.load(x);
    }
    let mut padded = [0.0; LANES];
    padded[..x.len()].copy_from_slice(x);
    s.load(&padded)
}

/// As many of 16 lanes as fit.
#[inline(always)]
pub(super) fn store<S: Registers<N>, const N: usize>(s: S, x: &mut [f32], v: [S::R; N]) {
    if let Some(x) = x.first_chunk_mut() {
        return s.store(x, v);
    }
    let all = lanes(s, v);
    x.copy_from_slice(&all[..x.len()]);
}

/// All 16 lanes.
#[inline(always)]
pub(super) fn lanes<S: Registers<N>, const N: usize>(s: S, v: [S::R; N]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    s.store(&mut lanes, v);
    lanes
}

#[inline(always)]
pub(super) fn dot<S: Registers<N>, const N: usize>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks();
    let (b, b_rest) = b.as_chunks();
    let mut acc = [s.splat(0.0); N];
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (s.load(a), s.load(b));
        for i in 0..N {
            acc[i] = s.fma(a[i], b[i], acc[i]);
        }
    }
    let mut lanes = lanes(s, acc);
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = fma(a, b, *lane);
    }
    scalar::tree(lanes)
}

#[inline(always)]
pub(super) fn rms_norm<S: Registers<N>, const N: usize>(
    s: S,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let scale = s.splat(scalar::rms_scale(dot(s, x, x), x.len(), eps));
    for ((out, x), w) in out.chunks_mut(LANES).zip(x.chunks(LANES)).zip(weight.chunks(LANES)) {
        let (mut x, w) = (load(s, x), load(s, w));
        for i in 0..N {
            x[i] = s.mul(s.mul(x[i], scale), w[i]);
        }
        store(s, out, x);
    }
}

#[inline(always)]
pub(super) fn layer_norm<S: Registers<N>, const N: usize>(
    s: S,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    // In whole steps all lanes have seen the same number of values.
    let (steps, rest) = x.as_chunks();
    let mut mean = [s.splat(0.0); N];
    let mut m2 = mean;
    let mut count = 0.0;
    for step in steps {
        count += 1.0;
        let x = s.load(step);
        for i in 0..N {
            let delta = s.sub(x[i], mean[i]);
            mean[i] = s.add(mean[i], s.div(delta, s.splat(count)));
            m2[i] = s.fma(delta, s.sub(x[i], mean[i]), m2[i]);
        }
    }
    let mut moments = Moments { count: [count; LANES], mean: lanes(s, mean), m2: lanes(s, m2) };
    for (i, &x) in rest.iter().enumerate() {
        moments.push(i, x);
    }
    let (mean, variance) = moments.merge();
    let (mean, scale) = (s.splat(mean), s.splat(1.0 / math::sqrt(variance + eps)));
    let scaled = weight.chunks(LANES).zip(bias.chunks(LANES));
    for ((out, x), (w, b)) in out.chunks_mut(LANES).zip(x.chunks(LANES)).zip(scaled) {
        let (mut x, w, b) = (load(s, x), load(s, w), load(s, b));
        for i in 0..N {
            x[i] = s.fma(s.mul(s.sub(x[i], mean), scale), w[i], b[i]);
        }
        store(s, out, x);
    }
}

#[inline(always)]
pub(super) fn add<S: Registers<N>, const N: usize>(s: S, acc: &mut [f32], x: &[f32]) {
    for (acc, x) in acc.chunks_mut(LANES).zip(x.chunks(LANES)) {
        let (mut sum, x) = (load(s, acc), load(s, x));
        for i in 0..N {
            sum[i] = s.add(sum[i], x[i]);
        }
        store(s, acc, sum);
    }
}

/// [`math::exp`] in every lane.
#[inline(always)]
pub(super) fn exp<S: Registers<N>, const N: usize>(s: S, x: S::R) -> S::R {
    let x = s.between(s.splat(EXP_MIN), x, s.splat(EXP_MAX));
    let magic = s.splat(ROUND_MAGIC);
    let shifted = s.fma(x, s.splat(core::f32::consts::LOG2_E), magic);
    let n = s.sub(shifted, magic);
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let [c0, c1, c2, c3, c4] = EXP_COEFFICIENTS;
    let q = s.fma(s.splat(c4), r, s.splat(c3));
    let q = s.fma(q, r, s.splat(c2));
    let q = s.fma(q, r, s.splat(c1));
    let q = s.fma(q, r, s.splat(c0));
    let p = s.fma(q, r, s.splat(1.0));
    let p = s.fma(p, r, s.splat(1.0));
    s.times_power_of_two(p, shifted)
}

#[inline(always)]
pub(super) fn silu_mul<S: Registers<N>, const N: usize>(s: S, gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.chunks_mut(LANES).zip(gate.chunks(LANES)).zip(up.chunks(LANES)) {
        let (mut x, up) = (load(s, gate), load(s, up));
        for i in 0..N {
            let silu = s.div(x[i], s.add(s.splat(1.0), exp(s, s.neg(x[i]))));
            x[i] = s.mul(silu, up[i]);
        }
        store(s, out, x);
    }
}

#[inline(always)]
pub(super) fn rope<S: Registers<N>, const N: usize>(s: S, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (x, x_rest) = x.as_chunks_mut();
    let (cos, cos_rest) = cos.as_chunks();
    let (sin, sin_rest) = sin.as_chunks();
    for ((x, cos), sin) in x.iter_mut().zip(cos).zip(sin) {
        let turned = s.rotate(s.load(x), cos, sin);
        s.store(x, turned);
    }
    scalar::rope(x_rest, cos_rest, sin_rest);
}

#[inline(always)]
pub(super) fn to_f16<S: Registers<N>, const N: usize>(s: S, src: &[f32], dst: &mut [u16]) {
    let (src, src_rest) = src.as_chunks();
    let (dst, dst_rest) = dst.as_chunks_mut();
    for (dst, src) in dst.iter_mut().zip(src) {
        s.narrow(dst, s.load(src));
    }
    scalar::to_f16(src_rest, dst_rest);
}

#[inline(always)]
pub(super) fn quantize_activations<S: Registers<N>, const N: usize>(
    s: S,
    x: &[f32],
    q: &mut [i8],
    scale: &mut [f32],
    sum16: &mut [i16],
) {
    let (x, _) = x.as_chunks::<32>();
    let (q, _) = q.as_chunks_mut::<32>();
    let (sum16, _) = sum16.as_chunks_mut::<2>();
    for (((x, q), scale), sums) in x.iter().zip(q).zip(scale).zip(sum16) {
        let (halves, _) = x.as_chunks();
        let v = [s.load(&halves[0]), s.load(&halves[1])];
        let d = f32::from_bits(s.largest_magnitude(v)) / 127.0;
        let id = 1.0 / d;
        if d == 0.0 || !id.is_finite() || !d.is_finite() {
            scalar::quantize_block(x, q, scale, sums);
            continue;
        }
        *scale = d;
        let (q, _) = q.as_chunks_mut();
        for ((v, q), sum) in v.into_iter().zip(q).zip(sums) {
            *sum = s.quantize(v, id, q);
        }
    }
}
