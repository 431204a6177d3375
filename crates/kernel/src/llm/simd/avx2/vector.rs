//! Vector functions, eight lanes at a time; reductions keep the scalar table's 16 virtual lanes in two registers.

use super::super::scalar::{self, LANES, Moments};
use super::{load, load_halves, store};
use crate::llm::math::{self, EXP_COEFFICIENTS, EXP_MAX, EXP_MIN, LN2_HIGH, LN2_LOW, ROUND_MAGIC, fma};
use core::arch::x86_64::*;

/// The two halves of 16 lanes.
fn halves(x: &[f32; LANES]) -> (&[f32; 8], &[f32; 8]) {
    let (low, high) = x.split_at(8);
    (low.try_into().expect("eight"), high.try_into().expect("eight"))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn lanes(low: __m256, high: __m256) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    let (chunks, _) = lanes.as_chunks_mut::<8>();
    store(&mut chunks[0], low);
    store(&mut chunks[1], high);
    lanes
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let (mut low, mut high) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
        low = _mm256_fmadd_ps(load(a0), load(b0), low);
        high = _mm256_fmadd_ps(load(a1), load(b1), high);
    }
    let mut lanes = lanes(low, high);
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = fma(a, b, *lane);
    }
    scalar::tree(lanes)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let s = scalar::rms_scale(dot(x, x), x.len(), eps);
    let wide = _mm256_set1_ps(s);
    let (x, x_rest) = x.as_chunks::<8>();
    let (weight, weight_rest) = weight.as_chunks::<8>();
    let (out, out_rest) = out.as_chunks_mut::<8>();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        store(out, _mm256_mul_ps(_mm256_mul_ps(load(x), wide), load(w)));
    }
    for ((out, &x), &w) in out_rest.iter_mut().zip(x_rest).zip(weight_rest) {
        *out = (x * s) * w;
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let (chunks, rest) = x.as_chunks::<8>();
    // Whole steps of 16 lanes; both registers have seen the same number of values.
    let (pairs, odd) = chunks.as_chunks::<2>();
    let mut mean = [_mm256_setzero_ps(); 2];
    let mut m2 = [_mm256_setzero_ps(); 2];
    let mut count = 0.0;
    for pair in pairs {
        count += 1.0;
        for half in 0..2 {
            let x = load(&pair[half]);
            let delta = _mm256_sub_ps(x, mean[half]);
            mean[half] = _mm256_add_ps(mean[half], _mm256_div_ps(delta, _mm256_set1_ps(count)));
            m2[half] = _mm256_fmadd_ps(delta, _mm256_sub_ps(x, mean[half]), m2[half]);
        }
    }
    let mut moments =
        Moments { count: [count; LANES], mean: lanes(mean[0], mean[1]), m2: lanes(m2[0], m2[1]) };
    for (i, &x) in odd.iter().flatten().chain(rest).enumerate() {
        moments.push(i, x);
    }
    let (mean, variance) = moments.merge();
    let s = 1.0 / math::sqrt(variance + eps);
    let (wide_mean, wide_s) = (_mm256_set1_ps(mean), _mm256_set1_ps(s));
    let (weight, weight_rest) = weight.as_chunks::<8>();
    let (bias, bias_rest) = bias.as_chunks::<8>();
    let (out, out_rest) = out.as_chunks_mut::<8>();
    for (((out, x), w), b) in out.iter_mut().zip(chunks).zip(weight).zip(bias) {
        let x = _mm256_mul_ps(_mm256_sub_ps(load(x), wide_mean), wide_s);
        store(out, _mm256_fmadd_ps(x, load(w), load(b)));
    }
    for (((out, &x), &w), &b) in out_rest.iter_mut().zip(rest).zip(weight_rest).zip(bias_rest) {
        *out = fma((x - mean) * s, w, b);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add(acc: &mut [f32], x: &[f32]) {
    let (acc, acc_rest) = acc.as_chunks_mut::<8>();
    let (x, x_rest) = x.as_chunks::<8>();
    for (acc, x) in acc.iter_mut().zip(x) {
        store(acc, _mm256_add_ps(load(acc), load(x)));
    }
    scalar::add(acc_rest, x_rest);
}

/// [`math::exp`] in eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn exp(x: __m256) -> __m256 {
    // Both return the second operand where one is NaN.
    let x = _mm256_min_ps(_mm256_set1_ps(EXP_MAX), x);
    let x = _mm256_max_ps(_mm256_set1_ps(EXP_MIN), x);
    let magic = _mm256_set1_ps(ROUND_MAGIC);
    let shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(core::f32::consts::LOG2_E), magic);
    let n = _mm256_sub_ps(shifted, magic);
    let r = _mm256_fmadd_ps(n, _mm256_set1_ps(-LN2_HIGH), x);
    let r = _mm256_fmadd_ps(n, _mm256_set1_ps(-LN2_LOW), r);
    let [c0, c1, c2, c3, c4] = EXP_COEFFICIENTS;
    let q = _mm256_fmadd_ps(_mm256_set1_ps(c4), r, _mm256_set1_ps(c3));
    let q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(c2));
    let q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(c1));
    let q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(c0));
    let p = _mm256_fmadd_ps(q, r, _mm256_set1_ps(1.0));
    let p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0));
    let n = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_castps_si256(magic));
    let half = _mm256_srai_epi32::<1>(n);
    let rest = _mm256_sub_epi32(n, half);
    let y = _mm256_mul_ps(_mm256_mul_ps(p, power_of_two(half)), power_of_two(rest));
    let small = _mm256_cmp_ps::<_CMP_LT_OQ>(y, _mm256_set1_ps(f32::MIN_POSITIVE));
    _mm256_andnot_ps(small, y)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn power_of_two(n: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let (gate, gate_rest) = gate.as_chunks::<8>();
    let (up, up_rest) = up.as_chunks::<8>();
    let (out, out_rest) = out.as_chunks_mut::<8>();
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        let x = load(gate);
        let e = exp(_mm256_xor_ps(x, _mm256_set1_ps(-0.0)));
        let silu = _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0), e));
        store(out, _mm256_mul_ps(silu, load(up)));
    }
    scalar::silu_mul(gate_rest, up_rest, out_rest);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let whole = cos.len() / 4 * 4;
    let (x, x_rest) = x.split_at_mut(2 * whole);
    let (cos, cos_rest) = cos.split_at(whole);
    let (sin, sin_rest) = sin.split_at(whole);
    let spread = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    let sign = _mm256_setr_ps(-0.0, 0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0);
    let (x, cos, sin) = (x.as_chunks_mut::<8>().0, cos.as_chunks::<4>().0, sin.as_chunks::<4>().0);
    for ((x, cos), sin) in x.iter_mut().zip(cos).zip(sin) {
        // SAFETY: four floats are readable behind each reference; the loads need no alignment.
        let (c, s) = unsafe { (_mm_loadu_ps(cos.as_ptr()), _mm_loadu_ps(sin.as_ptr())) };
        let c = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(c), spread);
        let s = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(s), spread);
        let v = load(x);
        // Even lanes: x0 c - (x1 s); odd lanes: x0 s + (x1 c). Only the first product is fused.
        let x0 = _mm256_moveldup_ps(v);
        let x1 = _mm256_movehdup_ps(v);
        let first = _mm256_blend_ps::<0b1010_1010>(c, s);
        let second = _mm256_blend_ps::<0b1010_1010>(s, c);
        let product = _mm256_xor_ps(_mm256_mul_ps(x1, second), sign);
        store(x, _mm256_fmadd_ps(x0, first, product));
    }
    scalar::rope(x_rest, cos_rest, sin_rest);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn to_f16(src: &[f32], dst: &mut [u16]) {
    let (src, src_rest) = src.as_chunks::<8>();
    let (dst, dst_rest) = dst.as_chunks_mut::<8>();
    for (dst, src) in dst.iter_mut().zip(src) {
        let v = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load(src));
        // SAFETY: sixteen bytes are writable behind the reference; the store needs no alignment.
        unsafe { _mm_storeu_si128(dst.as_mut_ptr().cast(), v) }
    }
    scalar::to_f16(src_rest, dst_rest);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scores16(q: &[f32], keys: &[u16], scale: f32, out: &mut [f32; 16]) {
    let (mut low, mut high) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    let (keys, _) = keys.as_chunks::<8>();
    let (keys, _) = keys.as_chunks::<2>();
    for (&q, [k0, k1]) in q.iter().zip(keys) {
        let q = _mm256_set1_ps(q);
        low = _mm256_fmadd_ps(q, load_halves(k0), low);
        high = _mm256_fmadd_ps(q, load_halves(k1), high);
    }
    let scale = _mm256_set1_ps(scale);
    *out = lanes(_mm256_mul_ps(scale, low), _mm256_mul_ps(scale, high));
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn max(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let start = _mm256_set1_ps(f32::NEG_INFINITY);
    let (mut low, mut high) = (start, start);
    for chunk in chunks {
        // The second operand stays where both are equal or one is NaN, as in `scalar::larger`.
        let (a, b) = halves(chunk);
        low = _mm256_max_ps(load(a), low);
        high = _mm256_max_ps(load(b), high);
    }
    let mut lanes = lanes(low, high);
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = scalar::larger(x, *lane);
    }
    scalar::max_tree(lanes)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exp_sub(x: &mut [f32], max: f32) -> f32 {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    let wide = _mm256_set1_ps(max);
    let (mut low, mut high) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for chunk in chunks {
        let (a, b) = halves(chunk);
        let a = exp(_mm256_sub_ps(load(a), wide));
        let b = exp(_mm256_sub_ps(load(b), wide));
        low = _mm256_add_ps(low, a);
        high = _mm256_add_ps(high, b);
        *chunk = lanes(a, b);
    }
    let mut lanes = lanes(low, high);
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = math::exp(*x - max);
        *lane += *x;
    }
    scalar::tree(lanes)
}

// Up to 32 dimensions stay in registers while all positions pass by.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn accumulate(p: &[f32], values: &[u16], out: &mut [f32]) {
    let dim = out.len();
    let whole = dim / 8 * 8;
    let (chunks, _) = out.as_chunks_mut::<8>();
    for (group, chunks) in chunks.chunks_mut(4).enumerate() {
        let mut acc = [_mm256_setzero_ps(); 4];
        for (acc, chunk) in acc.iter_mut().zip(&*chunks) {
            *acc = load(chunk);
        }
        for (j, &p) in p.iter().enumerate() {
            let (row, _) = values[j * dim + group * 32..][..chunks.len() * 8].as_chunks::<8>();
            let p = _mm256_set1_ps(p);
            for (acc, v) in acc.iter_mut().zip(row) {
                *acc = _mm256_fmadd_ps(p, load_halves(v), *acc);
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

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn merge(o: &mut [f32], a: f32, o2: &[f32], b: f32) {
    let (wide_a, wide_b) = (_mm256_set1_ps(a), _mm256_set1_ps(b));
    let (o, o_rest) = o.as_chunks_mut::<8>();
    let (o2, o2_rest) = o2.as_chunks::<8>();
    for (o, o2) in o.iter_mut().zip(o2) {
        store(o, _mm256_fmadd_ps(load(o2), wide_b, _mm256_mul_ps(load(o), wide_a)));
    }
    scalar::merge(o_rest, a, o2_rest, b);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantize_activations(x: &[f32], q: &mut [i8], scale: &mut [f32], sum16: &mut [i16]) {
    let (blocks, _) = x.as_chunks::<32>();
    let (q, _) = q.as_chunks_mut::<32>();
    let (sums, _) = sum16.as_chunks_mut::<2>();
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let magic = _mm256_set1_ps(ROUND_MAGIC);
    for (((block, q), scale), sums) in blocks.iter().zip(q).zip(scale).zip(sums) {
        let (chunks, _) = block.as_chunks::<8>();
        let v = [load(&chunks[0]), load(&chunks[1]), load(&chunks[2]), load(&chunks[3])];
        let bits = v.map(|v| _mm256_and_si256(_mm256_castps_si256(v), magnitude));
        let m = _mm256_max_epi32(_mm256_max_epi32(bits[0], bits[1]), _mm256_max_epi32(bits[2], bits[3]));
        let m = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
        let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
        let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m));
        let d = f32::from_bits(_mm_cvtsi128_si32(m) as u32) / 127.0;
        let id = 1.0 / d;
        if d == 0.0 || !id.is_finite() || !d.is_finite() {
            scalar::quantize_block(block, q, scale, sums);
            continue;
        }
        *scale = d;
        let wide = _mm256_set1_ps(id);
        // Below the magic number's bits lies the rounded value, small enough for the packs not to saturate.
        let n = v.map(|v| {
            let shifted = _mm256_castps_si256(_mm256_add_ps(_mm256_mul_ps(v, wide), magic));
            _mm256_sub_epi32(shifted, _mm256_castps_si256(magic))
        });
        // Packing works in 128-bit halves; the permutations put the order right again.
        let low = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(n[0], n[1]));
        let high = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(n[2], n[3]));
        let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low, high));
        // SAFETY: 32 bytes are writable behind the reference; the store needs no alignment.
        unsafe { _mm256_storeu_si256(q.as_mut_ptr().cast(), bytes) };
        let ones = _mm256_set1_epi16(1);
        let pairs = _mm256_hadd_epi32(_mm256_madd_epi16(low, ones), _mm256_madd_epi16(high, ones));
        // Each half of the register: two sums of `low`, two of `high`.
        let four = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        let two = _mm_hadd_epi32(four, four);
        sums[0] = _mm_extract_epi32::<0>(two) as i16;
        sums[1] = _mm_extract_epi32::<1>(two) as i16;
    }
}
