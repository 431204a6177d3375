//! Products with weights as they lie in the file, eight rows at a time.
//!
//! Rows are turned into columns in registers: of a quantized sub-block, register `j` holds weights `4j..4j + 4` of
//! each of the eight rows, to be multiplied with the same four activations in every lane.

use super::super::product::{self, F16, F32, Products, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
use super::super::table::proven;
use super::{Avx2, load, store};
use core::arch::x86_64::*;

/// The same part of eight rows.
type Rows<'a> = [&'a [u8]; 8];

impl Products<8> for Avx2 {
    type F = __m256;
    type Rows<'a> = Rows<'a>;
    type Unpacked = Unpacked;

    proven! { "avx2,fma,f16c":
        fn zero(self) -> __m256 { _mm256_setzero_ps() }
        fn scaled(self, a: __m256, x: f32) -> __m256 { _mm256_mul_ps(a, _mm256_set1_ps(x)) }
        fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn fma_scalar(self, a: __m256, x: f32, c: __m256) -> __m256 {
            _mm256_fmadd_ps(a, _mm256_set1_ps(x), c)
        }
        fn store(self, out: &mut [f32; 8], v: __m256) { store(out, v) }

        fn scales<const TY: u32>(self, block: Rows<'_>) -> (__m256, __m256) { scales::<TY>(&block) }
        fn unpack<const TY: u32>(self, block: Rows<'_>, sub: usize) -> Unpacked { unpack::<TY>(&block, sub) }
        fn integer_sum<const TY: u32>(self, w: &Unpacked, x: &[i8; 32], sums: [i16; 2]) -> __m256 {
            _mm256_cvtepi32_ps(integer_sum::<TY>(w, x, sums))
        }
        fn minimum_sum<const TY: u32>(self, w: &Unpacked, sums: [i16; 2]) -> __m256 {
            let xsum = _mm256_set1_epi32(i32::from(sums[0]) + i32::from(sums[1]));
            _mm256_cvtepi32_ps(_mm256_mullo_epi32(xsum, w.sub_minimum))
        }

        fn columns<const TY: u32>(self, weights: Rows<'_>) -> [__m256; 8] {
            transpose([
                widen::<TY>(weights[0]),
                widen::<TY>(weights[1]),
                widen::<TY>(weights[2]),
                widen::<TY>(weights[3]),
                widen::<TY>(weights[4]),
                widen::<TY>(weights[5]),
                widen::<TY>(weights[6]),
                widen::<TY>(weights[7]),
            ])
        }
        fn column<const TY: u32>(self, weight: Rows<'_>) -> __m256 {
            load(&product::gather::<8, TY>(weight))
        }
    }
}

/// Eight rows' sub-block of 32 weights; a lane is a row.
pub(in super::super) struct Unpacked {
    /// Register `j`: weights `4j..4j + 4`. Unsigned, except Q8_0.
    q: [__m256i; 8],
    /// The integer sub-scale of each half of the sub-block, twice in each lane for `vpmaddwd`.
    sub_scale: [__m256i; 2],
    /// The integer that the sum of activations is taken times, for a type with a minimum.
    sub_minimum: __m256i,
}

/// The eight integer sums of one sub-block with 32 activations, sub-scales included.
///
/// `vpmaddubsw` adds two products in 16 bits. Of 4-bit weights eight such pairs still fit (16 * 15 * 127 = 30480), of
/// 5-bit ones four (31496), of 6-bit ones two (32004), and of 8-bit ones, with the sign moved to the activation, one
/// (32512). Where the value is `q - offset`, the offset is taken off by the activations' own sum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn integer_sum<const TY: u32>(w: &Unpacked, x: &[i8; 32], sums: [i16; 2]) -> __m256i {
    let (x, _) = x.as_chunks::<4>();
    let pairs = |j: usize| {
        let x = _mm256_set1_epi32(i32::from_le_bytes(x[j].map(|v| v as u8)));
        if TY == Q8_0 {
            _mm256_maddubs_epi16(_mm256_abs_epi8(w.q[j]), _mm256_sign_epi8(x, w.q[j]))
        } else {
            _mm256_maddubs_epi16(w.q[j], x)
        }
    };
    let two = |j: usize| _mm256_add_epi16(pairs(j), pairs(j + 1));
    let four = |j: usize| _mm256_add_epi16(two(j), two(j + 2));
    let xsum = i32::from(sums[0]) + i32::from(sums[1]);
    match TY {
        Q4_0 | Q4_1 | Q4_K => {
            let isum = _mm256_madd_epi16(_mm256_add_epi16(four(0), four(4)), w.sub_scale[0]);
            if TY == Q4_0 { _mm256_sub_epi32(isum, _mm256_set1_epi32(8 * xsum)) } else { isum }
        }
        Q5_0 | Q5_1 | Q5_K => {
            let isum = _mm256_add_epi32(
                _mm256_madd_epi16(four(0), w.sub_scale[0]),
                _mm256_madd_epi16(four(4), w.sub_scale[0]),
            );
            if TY == Q5_0 { _mm256_sub_epi32(isum, _mm256_set1_epi32(16 * xsum)) } else { isum }
        }
        Q6_K => {
            let low = _mm256_add_epi32(
                _mm256_madd_epi16(two(0), w.sub_scale[0]),
                _mm256_madd_epi16(two(2), w.sub_scale[0]),
            );
            let high = _mm256_add_epi32(
                _mm256_madd_epi16(two(4), w.sub_scale[1]),
                _mm256_madd_epi16(two(6), w.sub_scale[1]),
            );
            // Both sub-scales in a lane against both sums of activations: what the offset of 32 adds too much.
            let scales = _mm256_blend_epi16::<0b1010_1010>(w.sub_scale[0], w.sub_scale[1]);
            let sums = _mm256_set1_epi32(i32::from(sums[0]) & 0xffff | i32::from(sums[1]) << 16);
            let offset = _mm256_slli_epi32::<5>(_mm256_madd_epi16(scales, sums));
            _mm256_sub_epi32(_mm256_add_epi32(low, high), offset)
        }
        _ => {
            let ones = w.sub_scale[0];
            let mut isum = _mm256_madd_epi16(pairs(0), ones);
            for j in 1..8 {
                isum = _mm256_add_epi32(isum, _mm256_madd_epi16(pairs(j), ones));
            }
            isum
        }
    }
}

/// Scale and minimum of the block, widened; the minimum of K types has its sign turned.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales<const TY: u32>(block: &Rows<'_>) -> (__m256, __m256) {
    let words = words(block, if TY == Q6_K { 206 } else { 0 });
    let high = halves(_mm256_srli_epi32::<16>(words));
    if TY == Q6_K {
        return (high, _mm256_setzero_ps());
    }
    let low = halves(_mm256_and_si256(words, _mm256_set1_epi32(0xffff)));
    match TY {
        Q4_K | Q5_K => (low, _mm256_xor_ps(high, _mm256_set1_ps(-0.0))),
        _ => (low, high),
    }
}

/// Four bytes of each row from `at`, before which or after which the block has twelve more.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn words(block: &Rows<'_>, at: usize) -> __m256i {
    // Whole registers, of which one column is used: building a register from eight words is slower.
    if at + 16 <= block[0].len() { columns(block, at)[0] } else { columns(block, at - 12)[3] }
}

/// Eight f16 in the low halves of the lanes, widened to f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves(lanes: __m256i) -> __m256 {
    let packed = _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
    _mm256_cvtph_ps(packed)
}

/// Sixteen bytes of each row from `at`, turned: register `j` holds bytes `4j..4j + 4` of every row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn columns(block: &Rows<'_>, at: usize) -> [__m256i; 4] {
    let row = |i: usize| {
        let bytes: &[u8; 16] = block[i][at..].first_chunk().expect("inside the block");
        // SAFETY: 16 bytes are readable behind the reference; the load needs no alignment.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    };
    let a: [__m256i; 4] = core::array::from_fn(|i| _mm256_set_m128i(row(i + 4), row(i)));
    let (t0, t1) = (_mm256_unpacklo_epi32(a[0], a[1]), _mm256_unpacklo_epi32(a[2], a[3]));
    let (t2, t3) = (_mm256_unpackhi_epi32(a[0], a[1]), _mm256_unpackhi_epi32(a[2], a[3]));
    [
        _mm256_unpacklo_epi64(t0, t1),
        _mm256_unpackhi_epi64(t0, t1),
        _mm256_unpacklo_epi64(t2, t3),
        _mm256_unpackhi_epi64(t2, t3),
    ]
}

/// 32 bytes of each row from `at`, turned like [`columns`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn columns32(block: &Rows<'_>, at: usize) -> [__m256i; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (columns(block, at), columns(block, at + 16));
    [a, b, c, d, e, f, g, h]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack<const TY: u32>(block: &Rows<'_>, sub: usize) -> Unpacked {
    let ones = _mm256_set1_epi16(1);
    let one = _mm256_set1_epi32(1);
    let simple = |q| Unpacked { q, sub_scale: [ones; 2], sub_minimum: one };
    match TY {
        Q4_0 => simple(nibbles(block, 2)),
        Q4_1 => simple(nibbles(block, 4)),
        Q5_0 => simple(fifth_bits(nibbles(block, 6), words(block, 2))),
        Q5_1 => simple(fifth_bits(nibbles(block, 8), words(block, 4))),
        Q8_0 => simple(columns32(block, 2)),
        Q4_K | Q5_K => {
            let low = columns32(block, if TY == Q5_K { 48 } else { 16 } + 32 * (sub / 2));
            let mask = _mm256_set1_epi8(15);
            let shift = _mm_cvtsi32_si128(4 * (sub as i32 % 2));
            let mut q = low.map(|v| _mm256_and_si256(_mm256_srl_epi32(v, shift), mask));
            if TY == Q5_K {
                let shift = _mm_cvtsi32_si128(sub as i32);
                for (q, high) in q.iter_mut().zip(columns32(block, 16)) {
                    let bit = _mm256_and_si256(_mm256_srl_epi32(high, shift), _mm256_set1_epi8(1));
                    *q = _mm256_or_si256(*q, _mm256_slli_epi32::<4>(bit));
                }
            }
            let (scale, sub_minimum) = k_scales(block, sub);
            let pair = _mm256_or_si256(scale, _mm256_slli_epi32::<16>(scale));
            Unpacked { q, sub_scale: [pair; 2], sub_minimum }
        }
        _ => {
            let (half, quarter) = (sub / 4, sub % 4);
            let low = columns32(block, 64 * half + 32 * (quarter % 2));
            let high = columns32(block, 128 + 32 * half);
            let low_shift = _mm_cvtsi32_si128(4 * (quarter as i32 / 2));
            let high_shift = _mm_cvtsi32_si128(2 * quarter as i32);
            let q = core::array::from_fn(|j| {
                let nibble = _mm256_and_si256(_mm256_srl_epi32(low[j], low_shift), _mm256_set1_epi8(15));
                let bits = _mm256_and_si256(_mm256_srl_epi32(high[j], high_shift), _mm256_set1_epi8(3));
                _mm256_or_si256(nibble, _mm256_slli_epi32::<4>(bits))
            });
            let at = 192 + 2 * sub;
            let scale = |which: usize| {
                let scales = block.map(|row| i32::from(row[at + which] as i8) & 0xffff);
                // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
                let v = unsafe { _mm256_loadu_si256(scales.as_ptr().cast()) };
                _mm256_or_si256(v, _mm256_slli_epi32::<16>(v))
            };
            Unpacked { q, sub_scale: [scale(0), scale(1)], sub_minimum: one }
        }
    }
}

// 16 bytes hold 32 nibbles: low ones are weights 0..16, high ones 16..32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(block: &Rows<'_>, at: usize) -> [__m256i; 8] {
    let bytes = columns(block, at);
    let mask = _mm256_set1_epi8(15);
    core::array::from_fn(|j| {
        let v = bytes[j % 4];
        _mm256_and_si256(if j < 4 { v } else { _mm256_srli_epi32::<4>(v) }, mask)
    })
}

// Bit `i` of each row's word is the fifth bit of weight `i`: copy its byte to the lane's four bytes, pick one bit in
// each, and turn a set bit into 16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fifth_bits(q: [__m256i; 8], words: __m256i) -> [__m256i; 8] {
    let lane =
        _mm256_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c, 0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c);
    core::array::from_fn(|j| {
        let bytes = _mm256_shuffle_epi8(words, _mm256_add_epi8(lane, _mm256_set1_epi8(j as i8 / 2)));
        let bit = _mm256_set1_epi32(if j % 2 == 0 { 0x0804_0201 } else { 0x8040_2010_u32 as i32 });
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
        _mm256_or_si256(q[j], _mm256_and_si256(set, _mm256_set1_epi8(16)))
    })
}

/// Sub-scale and sub-minimum `sub` of eight Q4_K or Q5_K blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn k_scales(block: &Rows<'_>, sub: usize) -> (__m256i, __m256i) {
    // The first 16 bytes: both f16, four scales, four minima, and four bytes of nibbles for the other four.
    let [_, a, b, c] = columns(block, 0);
    let shift = _mm_cvtsi32_si128(8 * (sub as i32 % 4));
    let byte = |v: __m256i| _mm256_and_si256(_mm256_srl_epi32(v, shift), _mm256_set1_epi32(0xff));
    let (a, b, c) = (byte(a), byte(b), byte(c));
    if sub < 4 {
        let six = _mm256_set1_epi32(63);
        (_mm256_and_si256(a, six), _mm256_and_si256(b, six))
    } else {
        let top = |v: __m256i| _mm256_slli_epi32::<4>(_mm256_srli_epi32::<6>(v));
        (
            _mm256_or_si256(_mm256_and_si256(c, _mm256_set1_epi32(15)), top(a)),
            _mm256_or_si256(_mm256_srli_epi32::<4>(c), top(b)),
        )
    }
}

/// Eight weights of one row as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen<const TY: u32>(bytes: &[u8]) -> __m256 {
    if TY == F32 {
        let bytes: &[u8; 32] = bytes.try_into().expect("eight f32");
        // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
        return unsafe { _mm256_loadu_ps(bytes.as_ptr().cast()) };
    }
    let bytes: &[u8; 16] = bytes.try_into().expect("eight 16-bit floats");
    // SAFETY: 16 bytes are readable behind the reference; the load needs no alignment.
    let v = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    if TY == F16 {
        _mm256_cvtph_ps(v)
    } else {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)))
    }
}

/// Rows to columns: lane `i` of result `j` is lane `j` of row `i`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose(row: [__m256; 8]) -> [__m256; 8] {
    // Put rows `i` and `i + 4` in the halves of one register; then each half is a 4 by 4 transposition.
    let low: [__m256; 4] = core::array::from_fn(|i| _mm256_permute2f128_ps::<0x20>(row[i], row[i + 4]));
    let high: [__m256; 4] = core::array::from_fn(|i| _mm256_permute2f128_ps::<0x31>(row[i], row[i + 4]));
    let ([a, b, c, d], [e, f, g, h]) = (transpose4(low), transpose4(high));
    [a, b, c, d, e, f, g, h]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose4(a: [__m256; 4]) -> [__m256; 4] {
    let (t0, t1) = (_mm256_unpacklo_ps(a[0], a[1]), _mm256_unpacklo_ps(a[2], a[3]));
    let (t2, t3) = (_mm256_unpackhi_ps(a[0], a[1]), _mm256_unpackhi_ps(a[2], a[3]));
    [
        _mm256_shuffle_ps::<0b01_00_01_00>(t0, t1),
        _mm256_shuffle_ps::<0b11_10_11_10>(t0, t1),
        _mm256_shuffle_ps::<0b01_00_01_00>(t2, t3),
        _mm256_shuffle_ps::<0b11_10_11_10>(t2, t3),
    ]
}
