//! Products with weights as they lie in the file, four rows at a time.
//!
//! Weights of six bits or less become 16-bit integers by masks and shifts alone: a 16-bit lane holds two neighboring
//! bytes, so even and odd weights come apart, and activations are taken apart the same way. Four rows' sums are then
//! folded onto each other until a lane is a row.

use super::super::product::{self, F16, F32, Products, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
use super::super::scalar;
use super::super::table::proven;
use super::memory::{load_f32, load_i8, load_i32, load_u8, load_u16, store_f32};
use super::{Neon, widen};
use core::arch::aarch64::*;

/// The same part of four rows.
type Rows<'a> = [&'a [u8]; 4];

impl Products<4> for Neon {
    type F = float32x4_t;
    type Rows<'a> = Rows<'a>;
    type Unpacked = Unpacked;

    proven! { "neon":
        fn zero(self) -> float32x4_t { vdupq_n_f32(0.0) }
        fn scaled(self, a: float32x4_t, x: f32) -> float32x4_t { vmulq_n_f32(a, x) }
        fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t { vfmaq_f32(c, a, b) }
        fn fma_scalar(self, a: float32x4_t, x: f32, c: float32x4_t) -> float32x4_t { vfmaq_n_f32(c, a, x) }
        fn store(self, out: &mut [f32; 4], v: float32x4_t) { store_f32(out, v) }

        fn scales<const TY: u32>(self, block: Rows<'_>) -> (float32x4_t, float32x4_t) {
            scales::<TY>(&block)
        }
        fn unpack<const TY: u32>(self, block: Rows<'_>, sub: usize) -> Unpacked { unpack::<TY>(&block, sub) }
        fn integer_sum<const TY: u32>(self, w: &Unpacked, x: &[i8; 32], sums: [i16; 2]) -> float32x4_t {
            vcvtq_f32_s32(integer_sum::<TY>(w, x, i32::from(sums[0]) + i32::from(sums[1])))
        }
        fn minimum_sum<const TY: u32>(self, w: &Unpacked, sums: [i16; 2]) -> float32x4_t {
            let xsum = i32::from(sums[0]) + i32::from(sums[1]);
            if TY == Q4_1 || TY == Q5_1 {
                vdupq_n_f32(xsum as f32)
            } else {
                vcvtq_f32_s32(vmulq_s32(vdupq_n_s32(xsum), w.sub_minimum))
            }
        }

        fn columns<const TY: u32>(self, weights: Rows<'_>) -> [float32x4_t; 4] {
            transpose([
                four::<TY>(weights[0]),
                four::<TY>(weights[1]),
                four::<TY>(weights[2]),
                four::<TY>(weights[3]),
            ])
        }
        fn column<const TY: u32>(self, weight: Rows<'_>) -> float32x4_t {
            load_f32(&product::gather::<4, TY>(weight))
        }
    }
}

/// Four rows' sub-block of 32 weights.
pub(super) struct Unpacked {
    /// Each row's weights: even and odd ones of the first 16, then of the second. Of Q8_0 the first two registers are
    /// the 32 bytes as they lie.
    q: [[int16x8_t; 4]; 4],
    /// The integer sub-scale of each half of the sub-block; a lane is a row.
    sub_scale: [int32x4_t; 2],
    /// The integer that the sum of activations is taken times, for a type with a minimum; a lane is a row.
    sub_minimum: int32x4_t,
}

/// The four integer sums of one sub-block with 32 activations, sub-scales included.
#[inline]
#[target_feature(enable = "neon")]
fn integer_sum<const TY: u32>(w: &Unpacked, x: &[i8; 32], xsum: i32) -> int32x4_t {
    let (x, _) = x.as_chunks();
    let (first, second) = (load_i8(&x[0]), load_i8(&x[1]));
    if TY == Q8_0 {
        // Two products fit 16 bits (2 * 128 * 127 = 32512), then they are widened.
        let [a, b, c, d] = w.q.map(|row| {
            let (w0, w1) = (vreinterpretq_s8_s16(row[0]), vreinterpretq_s8_s16(row[1]));
            let low = vmlal_high_s8(vmull_s8(vget_low_s8(w0), vget_low_s8(first)), w0, first);
            let high = vmlal_high_s8(vmull_s8(vget_low_s8(w1), vget_low_s8(second)), w1, second);
            vpadalq_s16(vpaddlq_s16(low), high)
        });
        return vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
    }
    let even = |v: int8x16_t| vshrq_n_s16::<8>(vshlq_n_s16::<8>(vreinterpretq_s16_s8(v)));
    let odd = |v: int8x16_t| vshrq_n_s16::<8>(vreinterpretq_s16_s8(v));
    let x = [even(first), odd(first), even(second), odd(second)];
    if TY == Q6_K {
        let half = |h: usize| {
            fold(w.q.map(|row| vmlaq_s16(vmulq_s16(row[2 * h], x[2 * h]), row[2 * h + 1], x[2 * h + 1])))
        };
        return vmlaq_s32(vmulq_s32(half(0), w.sub_scale[0]), half(1), w.sub_scale[1]);
    }
    let isum = fold(w.q.map(|row| {
        let sum = vmulq_s16(row[0], x[0]);
        let sum = vmlaq_s16(sum, row[1], x[1]);
        let sum = vmlaq_s16(sum, row[2], x[2]);
        vmlaq_s16(sum, row[3], x[3])
    }));
    // What the offset of the unpacked form adds too much or too little.
    match TY {
        Q4_0 => vsubq_s32(isum, vdupq_n_s32(8 * xsum)),
        Q5_1 => vaddq_s32(isum, vdupq_n_s32(16 * xsum)),
        Q4_K => vmulq_s32(isum, w.sub_scale[0]),
        Q5_K => vmulq_s32(vaddq_s32(isum, vdupq_n_s32(16 * xsum)), w.sub_scale[0]),
        _ => isum,
    }
}

/// Sums of each of four registers; a lane of the result is a register.
///
/// Two registers are folded into one whose lanes take turns, by shifts that insert: first neighbors, then pairs. Four
/// lanes are added up in 16 bits before widening, so sixteen products must fit: 15 * 127 and 16 * 127 do.
#[inline]
#[target_feature(enable = "neon")]
fn fold([a, b, c, d]: [int16x8_t; 4]) -> int32x4_t {
    let neighbors = |a: int16x8_t, b: int16x8_t| {
        let (a, b) = (vreinterpretq_s32_s16(a), vreinterpretq_s32_s16(b));
        let even = vsliq_n_s32::<16>(a, b);
        let odd = vsriq_n_s32::<16>(b, a);
        vaddq_s16(vreinterpretq_s16_s32(even), vreinterpretq_s16_s32(odd))
    };
    let (ab, cd) = (vreinterpretq_s64_s16(neighbors(a, b)), vreinterpretq_s64_s16(neighbors(c, d)));
    let even = vsliq_n_s64::<32>(ab, cd);
    let odd = vsriq_n_s64::<32>(cd, ab);
    let abcd = vaddq_s16(vreinterpretq_s16_s64(even), vreinterpretq_s16_s64(odd));
    vaddl_s16(vget_low_s16(abcd), vget_high_s16(abcd))
}

/// The f16 at byte `at` of each row, widened.
#[inline]
#[target_feature(enable = "neon")]
fn halves(block: &Rows<'_>, at: usize) -> float32x4_t {
    let lanes = block.map(|row| u64::from(u16::from_le_bytes([row[at], row[at + 1]])));
    widen(vcreate_u16(lanes[0] | lanes[1] << 16 | lanes[2] << 32 | lanes[3] << 48))
}

/// Scale and minimum of the block, widened; the minimum of K types has its sign turned.
#[inline]
#[target_feature(enable = "neon")]
fn scales<const TY: u32>(block: &Rows<'_>) -> (float32x4_t, float32x4_t) {
    match TY {
        Q4_K | Q5_K => (halves(block, 0), vnegq_f32(halves(block, 2))),
        Q4_1 | Q5_1 => (halves(block, 0), halves(block, 2)),
        Q6_K => (halves(block, 208), vdupq_n_f32(0.0)),
        _ => (halves(block, 0), vdupq_n_f32(0.0)),
    }
}

/// Sixteen bytes from `at` in eight lanes.
#[inline]
#[target_feature(enable = "neon")]
fn bytes(row: &[u8], at: usize) -> uint16x8_t {
    vreinterpretq_u16_u8(load_u8(row[at..].first_chunk().expect("inside the block")))
}

#[inline]
#[target_feature(enable = "neon")]
fn unpack<const TY: u32>(block: &Rows<'_>, sub: usize) -> Unpacked {
    let mut sub_scale = [vdupq_n_s32(1); 2];
    let mut sub_minimum = vdupq_n_s32(1);
    if TY == Q4_K || TY == Q5_K {
        let pairs = block.map(|row| scalar::k_scale(&row[4..16], sub));
        sub_scale = [vector(pairs.map(|pair| pair.0)); 2];
        sub_minimum = vector(pairs.map(|pair| pair.1));
    }
    if TY == Q6_K {
        let scale = |which: usize| vector(block.map(|row| i32::from(row[192 + 2 * sub + which] as i8)));
        sub_scale = [scale(0), scale(1)];
    }
    let row = |row: &[u8]| match TY {
        Q4_0 => nibbles(bytes(row, 2)),
        Q4_1 => nibbles(bytes(row, 4)),
        Q5_0 => fifth_bits(nibbles(bytes(row, 6)), word(row, 2)),
        Q5_1 => fifth_bits(nibbles(bytes(row, 8)), word(row, 4)),
        Q8_0 => {
            let zero = vdupq_n_s16(0);
            [vreinterpretq_s16_u16(bytes(row, 2)), vreinterpretq_s16_u16(bytes(row, 18)), zero, zero]
        }
        Q4_K => even_and_odd::<15>(row, 16 + 32 * (sub / 2), 4 * (sub % 2)),
        Q5_K => {
            // Less 16 where the fifth bit is clear: from -16 to 15.
            let low = even_and_odd::<15>(row, 48 + 32 * (sub / 2), 4 * (sub % 2));
            let high = even_and_odd::<1>(row, 16, sub);
            let sixteen = vdupq_n_s16(16);
            core::array::from_fn(|i| vsubq_s16(vaddq_s16(low[i], vshlq_n_s16::<4>(high[i])), sixteen))
        }
        _ => {
            let (half, quarter) = (sub / 4, sub % 4);
            let low = even_and_odd::<15>(row, 64 * half + 32 * (quarter % 2), 4 * (quarter / 2));
            let high = even_and_odd::<3>(row, 128 + 32 * half, 2 * quarter);
            let offset = vdupq_n_s16(32);
            core::array::from_fn(|i| vsubq_s16(vaddq_s16(low[i], vshlq_n_s16::<4>(high[i])), offset))
        }
    };
    Unpacked { q: [row(block[0]), row(block[1]), row(block[2]), row(block[3])], sub_scale, sub_minimum }
}

#[inline]
#[target_feature(enable = "neon")]
fn vector(lanes: [i32; 4]) -> int32x4_t {
    load_i32(&lanes)
}

fn word(row: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
}

// Byte `j` holds weight `j` in its low nibble and weight `j + 16` in its high one; a lane holds two bytes.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles(v: uint16x8_t) -> [int16x8_t; 4] {
    let mask = vdupq_n_u16(15);
    [
        vandq_u16(v, mask),
        vandq_u16(vshrq_n_u16::<8>(v), mask),
        vandq_u16(vshrq_n_u16::<4>(v), mask),
        vshrq_n_u16::<12>(v),
    ]
    .map(|v| vreinterpretq_s16_u16(v))
}

// Bit `i` of `word` is the fifth bit of weight `i`: less 16 where it is clear, so weights go from -16 to 15. Lane `i`
// of the first register is weight `2i`, of the second `2i + 1`, and so on 16 further.
#[inline]
#[target_feature(enable = "neon")]
fn fifth_bits(q: [int16x8_t; 4], word: u32) -> [int16x8_t; 4] {
    const EVEN: [u16; 8] = [1, 1 << 2, 1 << 4, 1 << 6, 1 << 8, 1 << 10, 1 << 12, 1 << 14];
    let even = load_u16(&EVEN);
    let odd = vshlq_n_u16::<1>(even);
    let (low, high) = (vdupq_n_u16(word as u16), vdupq_n_u16((word >> 16) as u16));
    let sixteen = vdupq_n_u16(16);
    let clear = |bits: uint16x8_t, which: uint16x8_t| {
        let zero = vceqq_u16(vandq_u16(bits, which), vdupq_n_u16(0));
        vreinterpretq_s16_u16(vandq_u16(zero, sixteen))
    };
    [
        vsubq_s16(q[0], clear(low, even)),
        vsubq_s16(q[1], clear(low, odd)),
        vsubq_s16(q[2], clear(high, even)),
        vsubq_s16(q[3], clear(high, odd)),
    ]
}

/// `(byte >> shift) & MASK` of 32 bytes from `at`: even and odd ones of the first 16, then of the second.
#[inline]
#[target_feature(enable = "neon")]
fn even_and_odd<const MASK: u16>(row: &[u8], at: usize, shift: usize) -> [int16x8_t; 4] {
    let (first, second) = (bytes(row, at), bytes(row, at + 16));
    let mask = vdupq_n_u16(MASK);
    let even = vdupq_n_s16(-(shift as i16));
    let odd = vdupq_n_s16(-(shift as i16) - 8);
    [(first, even), (first, odd), (second, even), (second, odd)]
        .map(|(v, shift)| vreinterpretq_s16_u16(vandq_u16(vshlq_u16(v, shift), mask)))
}

/// Four weights of one row as f32.
#[inline]
#[target_feature(enable = "neon")]
fn four<const TY: u32>(bytes: &[u8]) -> float32x4_t {
    if TY == F32 {
        return vreinterpretq_f32_u8(load_u8(bytes.try_into().expect("four f32")));
    }
    let bytes: &[u8; 8] = bytes.try_into().expect("four 16-bit floats");
    // SAFETY: eight bytes are readable behind the reference.
    let v = vreinterpret_u16_u8(unsafe { vld1_u8(bytes.as_ptr()) });
    if TY == F16 { widen(v) } else { vreinterpretq_f32_u32(vshll_n_u16::<16>(v)) }
}

/// Rows to columns: lane `i` of result `j` is lane `j` of row `i`.
#[inline]
#[target_feature(enable = "neon")]
fn transpose([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let pair = |v: float32x4_t| vreinterpretq_f64_f32(v);
    let (ab0, ab1) = (pair(vtrn1q_f32(a, b)), pair(vtrn2q_f32(a, b)));
    let (cd0, cd1) = (pair(vtrn1q_f32(c, d)), pair(vtrn2q_f32(c, d)));
    [vtrn1q_f64(ab0, cd0), vtrn1q_f64(ab1, cd1), vtrn2q_f64(ab0, cd0), vtrn2q_f64(ab1, cd1)]
        .map(|v| vreinterpretq_f32_f64(v))
}
