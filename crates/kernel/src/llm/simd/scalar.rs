//! The reference: what every kernel computes, in plain safe code. Vector files repeat it bit for bit.
//!
//! Quantized products go sub-block by sub-block of 32 weights. [`unpack`] turns any type's sub-block into the same
//! form: 32 small integers, one exact integer sum, one float scale, and perhaps a minimum.

use super::attention::attend;
use super::{Activations, Kernels};
use crate::llm::math::{self, ROUND_MAGIC, fma};
use crate::llm::quant::{self, GgmlType};
use half::f16;

/// Virtual lanes of every float reduction.
pub(super) const LANES: usize = 16;

pub(super) static TABLE: Kernels = Kernels {
    name: "scalar",
    matmul,
    packing: None,
    quantize_activations,
    dequantize: quant::dequantize,
    dot,
    rms_norm,
    layer_norm,
    add,
    silu_mul,
    rope,
    to_f16,
    attend,
};

/// 32 weights of any quantized type: `weight[i] = scale * (sub_scale[i / 16] * q[i]) + minimum * sub_minimum`.
pub(super) struct SubBlock {
    pub q: [i8; 32],
    pub scale: f32,
    pub sub_scale: [i32; 2],
    /// The float minimum and the integer it is taken times, for types that have one.
    pub minimum: Option<(f32, i32)>,
}

#[inline]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_bits(u16::from_le_bytes([block[at], block[at + 1]])).to_f32()
}

/// Sub-scale and sub-minimum `j` (0..8) of a Q4_K or Q5_K block: 6 bits each, packed in 12 bytes.
#[inline]
pub(super) fn k_scale(packed: &[u8], j: usize) -> (i32, i32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
    };
    (i32::from(scale), i32::from(minimum))
}

/// Low nibbles are elements 0..16, high nibbles 16..32; bit `i` of `high` is the fifth bit of element `i`.
#[inline]
fn nibbles(bytes: &[u8], high: u32, offset: i8) -> [i8; 32] {
    core::array::from_fn(|i| {
        let nibble = if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 };
        (nibble | (((high >> i) & 1) as u8) << 4) as i8 - offset
    })
}

#[inline]
fn word_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Sub-block `sub` of one block: there is one in types of 32 weights a block, and eight in those of 256.
pub(super) fn unpack(ty: GgmlType, block: &[u8], sub: usize) -> SubBlock {
    let simple = |q, minimum: Option<f32>| SubBlock {
        q,
        scale: half_at(block, 0),
        sub_scale: [1, 1],
        minimum: minimum.map(|m| (m, 1)),
    };
    match ty {
        GgmlType::Q4_0 => simple(nibbles(&block[2..], 0, 8), None),
        GgmlType::Q4_1 => simple(nibbles(&block[4..], 0, 0), Some(half_at(block, 2))),
        GgmlType::Q5_0 => simple(nibbles(&block[6..], word_at(block, 2), 16), None),
        GgmlType::Q5_1 => simple(nibbles(&block[8..], word_at(block, 4), 0), Some(half_at(block, 2))),
        GgmlType::Q8_0 => simple(core::array::from_fn(|i| block[2 + i] as i8), None),
        GgmlType::Q4_K | GgmlType::Q5_K => {
            let (scale, minimum) = k_scale(&block[4..16], sub);
            let (high, low) = block[16..].split_at(if ty == GgmlType::Q5_K { 32 } else { 0 });
            // 32 bytes hold two sub-blocks: the even one in the low nibbles, the odd one in the high nibbles.
            let bytes = &low[32 * (sub / 2)..][..32];
            let q = core::array::from_fn(|i| {
                let fifth = high.get(i).map_or(0, |bits| ((bits >> sub) & 1) << 4);
                (((bytes[i] >> (4 * (sub % 2))) & 15) | fifth) as i8
            });
            SubBlock {
                q,
                scale: half_at(block, 0),
                sub_scale: [scale, scale],
                minimum: Some((-half_at(block, 2), minimum)),
            }
        }
        GgmlType::Q6_K => {
            // Each half of 128 weights: 64 bytes of nibbles, 32 bytes of upper bit pairs. Quarters 0 and 1 are the
            // low nibbles of the first and second 32 bytes, quarters 2 and 3 the high nibbles.
            let (half, quarter) = (sub / 4, sub % 4);
            let low = &block[64 * half + 32 * (quarter % 2)..][..32];
            let high = &block[128 + 32 * half..][..32];
            let q = core::array::from_fn(|i| {
                let nibble = (low[i] >> (4 * (quarter / 2))) & 15;
                (nibble | ((high[i] >> (2 * quarter)) & 3) << 4) as i8 - 32
            });
            let scales = &block[192 + 2 * sub..][..2];
            SubBlock {
                q,
                scale: half_at(block, 208),
                sub_scale: [i32::from(scales[0] as i8), i32::from(scales[1] as i8)],
                minimum: None,
            }
        }
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => unreachable!("{} has no blocks", ty.name()),
    }
}

pub(super) fn matmul(ty: GgmlType, weights: &[u8], rows: usize, x: &Activations<'_>, out: &mut [f32]) {
    matmul_rows(ty, weights, rows, 0..rows, x, out);
}

/// The rows `range` of a product with `rows` rows: vector tables use it for what does not fill a register.
pub(super) fn matmul_rows(
    ty: GgmlType,
    weights: &[u8],
    rows: usize,
    range: core::ops::Range<usize>,
    x: &Activations<'_>,
    out: &mut [f32],
) {
    let row_bytes = ty.row_bytes(x.k).expect("checked by the caller");
    for r in range {
        let row = &weights[r * row_bytes..][..row_bytes];
        for p in 0..x.positions {
            out[p * rows + r] = match ty {
                GgmlType::F32 => float_row::<4>(row, x, p, f32::from_le_bytes),
                GgmlType::F16 => float_row::<2>(row, x, p, |b| f16::from_le_bytes(b).to_f32()),
                GgmlType::BF16 => {
                    float_row::<2>(row, x, p, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
                }
                _ => 0.0,
            };
        }
        if !ty.is_quantized() {
            continue;
        }
        let subs = ty.block_len() / 32;
        for (b, block) in row.chunks_exact(ty.block_bytes()).enumerate() {
            for sub in 0..subs {
                let unpacked = unpack(ty, block, sub);
                for p in 0..x.positions {
                    let at = p * (x.k / 32) + b * subs + sub;
                    let acc = &mut out[p * rows + r];
                    *acc = sub_block_product(&unpacked, x, at, *acc);
                }
            }
        }
    }
}

fn float_row<const N: usize>(
    row: &[u8],
    x: &Activations<'_>,
    p: usize,
    widen: impl Fn([u8; N]) -> f32,
) -> f32 {
    let (weights, _) = row.as_chunks::<N>();
    let values = &x.values[p * x.k..][..x.k];
    weights.iter().zip(values).fold(0.0, |acc, (&w, &v)| fma(widen(w), v, acc))
}

/// `acc` plus the product of one sub-block with activation block `at`.
#[inline]
fn sub_block_product(w: &SubBlock, x: &Activations<'_>, at: usize, acc: f32) -> f32 {
    let q = &x.blocks.q[at * 32..][..32];
    let x_scale = x.blocks.scale[at];
    let group =
        |g: usize| -> i32 { (16 * g..16 * g + 16).map(|i| i32::from(w.q[i]) * i32::from(q[i])).sum::<i32>() };
    let isum = w.sub_scale[0] * group(0) + w.sub_scale[1] * group(1);
    let acc = fma(w.scale * x_scale, isum as f32, acc);
    match w.minimum {
        Some((minimum, sub_minimum)) => {
            let xsum = i32::from(x.blocks.sum16[2 * at]) + i32::from(x.blocks.sum16[2 * at + 1]);
            fma(minimum * x_scale, (xsum * sub_minimum) as f32, acc)
        }
        None => acc,
    }
}

fn quantize_activations(x: &[f32], q: &mut [i8], scale: &mut [f32], sum16: &mut [i16]) {
    let (x, _) = x.as_chunks::<32>();
    let (q, _) = q.as_chunks_mut::<32>();
    let (sum16, _) = sum16.as_chunks_mut::<2>();
    for (((x, q), scale), sum16) in x.iter().zip(q).zip(scale).zip(sum16) {
        quantize_block(x, q, scale, sum16);
    }
}

/// One block of [`quantize_activations`].
pub(super) fn quantize_block(x: &[f32; 32], q: &mut [i8; 32], scale: &mut f32, sum16: &mut [i16; 2]) {
    // The largest magnitude by its bits: there a NaN is larger than anything and is not lost.
    let amax = f32::from_bits(x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)));
    let d = amax / 127.0;
    let id = 1.0 / d;
    if d == 0.0 || !id.is_finite() {
        q.fill(0);
        sum16.fill(0);
        *scale = if id.is_nan() { f32::NAN } else { 0.0 };
        return;
    }
    *scale = d;
    // The sum's low 8 bits are the rounded value in two's complement.
    *q = x.map(|v| (v * id + ROUND_MAGIC).to_bits() as i8);
    for (half, sum) in sum16.iter_mut().enumerate() {
        *sum = q[16 * half..16 * half + 16].iter().map(|&v| i16::from(v)).sum();
    }
}

/// Adds 16 lanes up: halves onto halves until one is left.
#[inline]
pub(super) fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
        lanes[i % LANES] = fma(a, b, lanes[i % LANES]);
    }
    tree(lanes)
}

/// What RMS normalization multiplies with, from the sum of squares of `n` values.
pub(super) fn rms_scale(sum_of_squares: f32, n: usize, eps: f32) -> f32 {
    1.0 / math::sqrt(sum_of_squares / n as f32 + eps)
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let s = rms_scale(dot(x, x), x.len(), eps);
    for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *out = (x * s) * w;
    }
}

/// Welford's running count, mean and sum of squared deviations, in 16 virtual lanes.
pub(super) struct Moments {
    pub count: [f32; LANES],
    pub mean: [f32; LANES],
    pub m2: [f32; LANES],
}

impl Moments {
    /// Lanes that have seen nothing.
    pub(super) const NONE: Self = Self { count: [0.0; LANES], mean: [0.0; LANES], m2: [0.0; LANES] };

    /// Lets lane `i` see one more value.
    pub(super) fn push(&mut self, i: usize, x: f32) {
        self.count[i] += 1.0;
        let delta = x - self.mean[i];
        self.mean[i] += delta / self.count[i];
        self.m2[i] = fma(delta, x - self.mean[i], self.m2[i]);
    }

    /// Mean and variance of all lanes: Chan's merge, halves onto halves.
    pub(super) fn merge(mut self) -> (f32, f32) {
        let mut width = LANES / 2;
        while width > 0 {
            for a in 0..width {
                let b = a + width;
                if self.count[b] == 0.0 {
                    continue;
                }
                let n = self.count[a] + self.count[b];
                let delta = self.mean[b] - self.mean[a];
                let share = self.count[b] / n;
                self.m2[a] += fma(delta * delta, self.count[a] * share, self.m2[b]);
                self.mean[a] = fma(delta, share, self.mean[a]);
                self.count[a] = n;
            }
            width /= 2;
        }
        (self.mean[0], self.m2[0] / self.count[0])
    }
}

fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let mut moments = Moments::NONE;
    for (i, &x) in x.iter().enumerate() {
        moments.push(i % LANES, x);
    }
    let (mean, variance) = moments.merge();
    let s = 1.0 / math::sqrt(variance + eps);
    for (((out, &x), &w), &b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = fma((x - mean) * s, w, b);
    }
}

pub(super) fn add(acc: &mut [f32], x: &[f32]) {
    for (acc, &x) in acc.iter_mut().zip(x) {
        *acc += x;
    }
}

pub(super) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = math::silu(gate) * up;
    }
}

pub(super) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (pairs, _) = x.as_chunks_mut::<2>();
    for ((pair, &c), &s) in pairs.iter_mut().zip(cos).zip(sin) {
        let [x0, x1] = *pair;
        *pair = [fma(x0, c, -(x1 * s)), fma(x0, s, x1 * c)];
    }
}

pub(super) fn to_f16(src: &[f32], dst: &mut [u16]) {
    for (dst, &src) in dst.iter_mut().zip(src) {
        *dst = f16::from_f32(src).to_bits();
    }
}

/// The larger of two; `m` where they are equal or `v` is NaN.
pub(super) fn larger(v: f32, m: f32) -> f32 {
    if v > m { v } else { m }
}

/// The largest of 16 lanes: halves onto halves.
#[inline]
pub(super) fn max_tree(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = larger(lanes[i + width], lanes[i]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest value; minus infinity of nothing; NaN is passed over.
pub(super) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for (i, &x) in x.iter().enumerate() {
        lanes[i % LANES] = larger(x, lanes[i % LANES]);
    }
    max_tree(lanes)
}

/// `x = exp(x - max)`; returns the sum over 16 virtual lanes and a fixed tree.
pub(super) fn exp_sub(x: &mut [f32], max: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    for (i, x) in x.iter_mut().enumerate() {
        *x = math::exp(*x - max);
        lanes[i % LANES] += *x;
    }
    tree(lanes)
}
