//! Vector functions, four lanes at a time; reductions keep the scalar table's 16 virtual lanes in four registers.

use super::super::scalar::{self, LANES, Moments};
use super::{load, load_halves, store};
use crate::llm::math::{self, EXP_COEFFICIENTS, EXP_MAX, EXP_MIN, LN2_HIGH, LN2_LOW, ROUND_MAGIC, fma};
use core::arch::aarch64::*;

/// Four registers of 16 lanes.
#[inline]
#[target_feature(enable = "neon")]
fn load16(x: &[f32; LANES]) -> [float32x4_t; 4] {
    let (chunks, _) = x.as_chunks::<4>();
    [load(&chunks[0]), load(&chunks[1]), load(&chunks[2]), load(&chunks[3])]
}

#[inline]
#[target_feature(enable = "neon")]
fn lanes(v: [float32x4_t; 4]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    for (lanes, v) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(v) {
        store(lanes, v);
    }
    lanes
}

#[target_feature(enable = "neon")]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut acc = [vdupq_n_f32(0.0); 4];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        let (a, b) = (load16(a), load16(b));
        for i in 0..4 {
            acc[i] = vfmaq_f32(acc[i], a[i], b[i]);
        }
    }
    let mut lanes = lanes(acc);
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = fma(a, b, *lane);
    }
    scalar::tree(lanes)
}

#[target_feature(enable = "neon")]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let s = scalar::rms_scale(dot(x, x), x.len(), eps);
    let wide = vdupq_n_f32(s);
    let (x, x_rest) = x.as_chunks::<4>();
    let (weight, weight_rest) = weight.as_chunks::<4>();
    let (out, out_rest) = out.as_chunks_mut::<4>();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        store(out, vmulq_f32(vmulq_f32(load(x), wide), load(w)));
    }
    for ((out, &x), &w) in out_rest.iter_mut().zip(x_rest).zip(weight_rest) {
        *out = (x * s) * w;
    }
}

#[target_feature(enable = "neon")]
pub(super) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    // Whole steps of 16 lanes: all have seen the same number of values.
    let (steps, step_rest) = x.as_chunks::<LANES>();
    let mut mean = [vdupq_n_f32(0.0); 4];
    let mut m2 = [vdupq_n_f32(0.0); 4];
    let mut count = 0.0;
    for step in steps {
        count += 1.0;
        for (i, x) in load16(step).into_iter().enumerate() {
            let delta = vsubq_f32(x, mean[i]);
            mean[i] = vaddq_f32(mean[i], vdivq_f32(delta, vdupq_n_f32(count)));
            m2[i] = vfmaq_f32(m2[i], delta, vsubq_f32(x, mean[i]));
        }
    }
    let mut moments = Moments { count: [count; LANES], mean: lanes(mean), m2: lanes(m2) };
    for (i, &x) in step_rest.iter().enumerate() {
        moments.push(i, x);
    }
    let (mean, variance) = moments.merge();
    let s = 1.0 / math::sqrt(variance + eps);
    let (wide_mean, wide_s) = (vdupq_n_f32(mean), vdupq_n_f32(s));
    let (x, x_rest) = x.as_chunks::<4>();
    let (weight, weight_rest) = weight.as_chunks::<4>();
    let (bias, bias_rest) = bias.as_chunks::<4>();
    let (out, out_rest) = out.as_chunks_mut::<4>();
    for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        let x = vmulq_f32(vsubq_f32(load(x), wide_mean), wide_s);
        store(out, vfmaq_f32(load(b), x, load(w)));
    }
    for (((out, &x), &w), &b) in out_rest.iter_mut().zip(x_rest).zip(weight_rest).zip(bias_rest) {
        *out = fma((x - mean) * s, w, b);
    }
}

#[target_feature(enable = "neon")]
pub(super) fn add(acc: &mut [f32], x: &[f32]) {
    let (acc, acc_rest) = acc.as_chunks_mut::<4>();
    let (x, x_rest) = x.as_chunks::<4>();
    for (acc, x) in acc.iter_mut().zip(x) {
        store(acc, vaddq_f32(load(acc), load(x)));
    }
    scalar::add(acc_rest, x_rest);
}

/// [`math::exp`] in four lanes.
#[inline]
#[target_feature(enable = "neon")]
fn exp(x: float32x4_t) -> float32x4_t {
    // Both keep a NaN.
    let x = vminq_f32(x, vdupq_n_f32(EXP_MAX));
    let x = vmaxq_f32(x, vdupq_n_f32(EXP_MIN));
    let magic = vdupq_n_f32(ROUND_MAGIC);
    let shifted = vfmaq_f32(magic, x, vdupq_n_f32(core::f32::consts::LOG2_E));
    let n = vsubq_f32(shifted, magic);
    let r = vfmaq_f32(x, n, vdupq_n_f32(-LN2_HIGH));
    let r = vfmaq_f32(r, n, vdupq_n_f32(-LN2_LOW));
    let [c0, c1, c2, c3, c4] = EXP_COEFFICIENTS;
    let q = vfmaq_f32(vdupq_n_f32(c3), vdupq_n_f32(c4), r);
    let q = vfmaq_f32(vdupq_n_f32(c2), q, r);
    let q = vfmaq_f32(vdupq_n_f32(c1), q, r);
    let q = vfmaq_f32(vdupq_n_f32(c0), q, r);
    let p = vfmaq_f32(vdupq_n_f32(1.0), q, r);
    let p = vfmaq_f32(vdupq_n_f32(1.0), p, r);
    let n = vsubq_s32(vreinterpretq_s32_f32(shifted), vreinterpretq_s32_f32(magic));
    let half = vshrq_n_s32::<1>(n);
    let rest = vsubq_s32(n, half);
    let y = vmulq_f32(vmulq_f32(p, power_of_two(half)), power_of_two(rest));
    let small = vcltq_f32(y, vdupq_n_f32(f32::MIN_POSITIVE));
    vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), small))
}

#[inline]
#[target_feature(enable = "neon")]
fn power_of_two(n: int32x4_t) -> float32x4_t {
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))))
}

#[target_feature(enable = "neon")]
pub(super) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let (gate, gate_rest) = gate.as_chunks::<4>();
    let (up, up_rest) = up.as_chunks::<4>();
    let (out, out_rest) = out.as_chunks_mut::<4>();
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        let x = load(gate);
        let silu = vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0), exp(vnegq_f32(x))));
        store(out, vmulq_f32(silu, load(up)));
    }
    scalar::silu_mul(gate_rest, up_rest, out_rest);
}

#[target_feature(enable = "neon")]
pub(super) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let whole = cos.len() / 4 * 4;
    let (x, x_rest) = x.split_at_mut(2 * whole);
    let (cos, cos_rest) = cos.split_at(whole);
    let (sin, sin_rest) = sin.split_at(whole);
    let (x, cos, sin) = (x.as_chunks_mut::<4>().0, cos.as_chunks::<4>().0, sin.as_chunks::<4>().0);
    let (x, _) = x.as_chunks_mut::<2>();
    for (([first, second], cos), sin) in x.iter_mut().zip(cos).zip(sin) {
        let (c, s) = (load(cos), load(sin));
        let (a, b) = (load(first), load(second));
        let (x0, x1) = (vuzp1q_f32(a, b), vuzp2q_f32(a, b));
        let y0 = vfmaq_f32(vnegq_f32(vmulq_f32(x1, s)), x0, c);
        let y1 = vfmaq_f32(vmulq_f32(x1, c), x0, s);
        store(first, vzip1q_f32(y0, y1));
        store(second, vzip2q_f32(y0, y1));
    }
    scalar::rope(x_rest, cos_rest, sin_rest);
}

#[target_feature(enable = "neon")]
pub(super) fn to_f16(src: &[f32], dst: &mut [u16]) {
    let (src, src_rest) = src.as_chunks::<4>();
    let (dst, dst_rest) = dst.as_chunks_mut::<4>();
    for (dst, src) in dst.iter_mut().zip(src) {
        let v = vreinterpret_u16_f16(vcvt_f16_f32(load(src)));
        // SAFETY: eight bytes are writable behind the reference.
        unsafe { vst1_u16(dst.as_mut_ptr(), v) }
    }
    scalar::to_f16(src_rest, dst_rest);
}

#[target_feature(enable = "neon")]
pub(super) fn scores16(q: &[f32], keys: &[u16], scale: f32, out: &mut [f32; 16]) {
    let mut acc = [vdupq_n_f32(0.0); 4];
    let (keys, _) = keys.as_chunks::<4>();
    let (keys, _) = keys.as_chunks::<4>();
    for (&q, keys) in q.iter().zip(keys) {
        let q = vdupq_n_f32(q);
        for (acc, keys) in acc.iter_mut().zip(keys) {
            *acc = vfmaq_f32(*acc, q, load_halves(keys));
        }
    }
    let scale = vdupq_n_f32(scale);
    for acc in &mut acc {
        *acc = vmulq_f32(scale, *acc);
    }
    *out = lanes(acc);
}

#[target_feature(enable = "neon")]
pub(super) fn max(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut m = [vdupq_n_f32(f32::NEG_INFINITY); 4];
    for chunk in chunks {
        for (m, v) in m.iter_mut().zip(load16(chunk)) {
            // As `scalar::larger`; `fmax` would take +0 over -0 and keep a NaN.
            *m = vbslq_f32(vcgtq_f32(v, *m), v, *m);
        }
    }
    let mut lanes = lanes(m);
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = scalar::larger(x, *lane);
    }
    scalar::max_tree(lanes)
}

#[target_feature(enable = "neon")]
pub(super) fn exp_sub(x: &mut [f32], max: f32) -> f32 {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    let wide = vdupq_n_f32(max);
    let mut sum = [vdupq_n_f32(0.0); 4];
    for chunk in chunks {
        let mut v = load16(chunk);
        for i in 0..4 {
            v[i] = exp(vsubq_f32(v[i], wide));
            sum[i] = vaddq_f32(sum[i], v[i]);
        }
        *chunk = lanes(v);
    }
    let mut lanes = lanes(sum);
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = math::exp(*x - max);
        *lane += *x;
    }
    scalar::tree(lanes)
}

// Up to 32 dimensions stay in registers while all positions pass by.
#[target_feature(enable = "neon")]
pub(super) fn accumulate(p: &[f32], values: &[u16], out: &mut [f32]) {
    let dim = out.len();
    let whole = dim / 4 * 4;
    let (chunks, _) = out.as_chunks_mut::<4>();
    for (group, chunks) in chunks.chunks_mut(8).enumerate() {
        let mut acc = [vdupq_n_f32(0.0); 8];
        for (acc, chunk) in acc.iter_mut().zip(&*chunks) {
            *acc = load(chunk);
        }
        for (j, &p) in p.iter().enumerate() {
            let (row, _) = values[j * dim + group * 32..][..chunks.len() * 4].as_chunks::<4>();
            let p = vdupq_n_f32(p);
            for (acc, v) in acc.iter_mut().zip(row) {
                *acc = vfmaq_f32(*acc, p, load_halves(v));
            }
        }
        for (acc, chunk) in acc.iter().zip(chunks) {
            store(chunk, *acc);
        }
    }
    if whole < dim {
        for (j, &p) in p.iter().enumerate() {
            scalar::accumulate_one(p, &values[j * dim + whole..][..dim - whole], &mut out[whole..]);
        }
    }
}

#[target_feature(enable = "neon")]
pub(super) fn merge(o: &mut [f32], a: f32, o2: &[f32], b: f32) {
    let (wide_a, wide_b) = (vdupq_n_f32(a), vdupq_n_f32(b));
    let (o, o_rest) = o.as_chunks_mut::<4>();
    let (o2, o2_rest) = o2.as_chunks::<4>();
    for (o, o2) in o.iter_mut().zip(o2) {
        store(o, vfmaq_f32(vmulq_f32(load(o), wide_a), load(o2), wide_b));
    }
    scalar::merge(o_rest, a, o2_rest, b);
}

#[target_feature(enable = "neon")]
pub(super) fn quantize_activations(x: &[f32], q: &mut [i8], scale: &mut [f32], sum16: &mut [i16]) {
    let (blocks, _) = x.as_chunks::<32>();
    let (q, _) = q.as_chunks_mut::<32>();
    let (sums, _) = sum16.as_chunks_mut::<2>();
    let magic = vdupq_n_f32(ROUND_MAGIC);
    for (((block, q), scale), sums) in blocks.iter().zip(q).zip(scale).zip(sums) {
        let (halves, _) = block.as_chunks::<LANES>();
        let v = [load16(&halves[0]), load16(&halves[1])];
        let mut m = vdupq_n_u32(0);
        for v in v.iter().flatten() {
            m = vmaxq_u32(m, vandq_u32(vreinterpretq_u32_f32(*v), vdupq_n_u32(0x7fff_ffff)));
        }
        let d = f32::from_bits(vmaxvq_u32(m)) / 127.0;
        let id = 1.0 / d;
        if d == 0.0 || !id.is_finite() || !d.is_finite() {
            scalar::quantize_block(block, q, scale, sums);
            continue;
        }
        *scale = d;
        let wide = vdupq_n_f32(id);
        let (q, _) = q.as_chunks_mut::<16>();
        for ((q, v), sum) in q.iter_mut().zip(v).zip(sums) {
            // Below the magic number's bits lies the rounded value.
            let n = |v: float32x4_t| {
                let shifted = vreinterpretq_s32_f32(vaddq_f32(vmulq_f32(v, wide), magic));
                vmovn_s32(vsubq_s32(shifted, vreinterpretq_s32_f32(magic)))
            };
            let low = vcombine_s16(n(v[0]), n(v[1]));
            let high = vcombine_s16(n(v[2]), n(v[3]));
            let bytes = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
            // SAFETY: sixteen bytes are writable behind the reference.
            unsafe { vst1q_s8(q.as_mut_ptr(), bytes) };
            *sum = vaddvq_s16(vaddq_s16(low, high));
        }
    }
}
