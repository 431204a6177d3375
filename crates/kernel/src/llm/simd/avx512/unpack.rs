//! From packed weights to registers, sixteen rows at a time; a lane is a row.
//!
//! Word `j` of a packed sub-block is a register of weights `4j..4j + 4` of each row, which `vpdpbusd` multiplies with
//! the same four activations in every lane. Weights are unsigned; see [`offset`].

use super::super::packed::Packed;
use super::super::product::{F16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, has_minimum};
use core::arch::x86_64::*;

pub(super) type Rows<'a> = Packed<'a, 16>;

/// Sixteen rows' sub-block of 32 weights. What a type does not have is zero.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    /// Register `j`: weights `4j..4j + 4`, unsigned.
    pub q: [__m512i; 8],
    pub scale: __m512,
    /// With its sign turned in K types.
    pub minimum: __m512,
    /// The integer sub-scale of each half of the sub-block, for K types.
    pub sub_scale: [__m512; 2],
    /// The integer that the sum of activations is taken times, for K types with a minimum.
    pub sub_minimum: __m512,
}

/// What is taken from a stored weight to have its value.
pub(super) const fn offset(ty: u32) -> i16 {
    match ty {
        Q4_0 => 8,
        Q5_0 => 16,
        Q8_0 => 128,
        Q6_K => 32,
        _ => 0,
    }
}

/// Sub-block `sub` of sixteen blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) fn unpack<const TY: u32>(block: Rows<'_>, sub: usize) -> Weights {
    let zero = _mm512_setzero_ps();
    let mut w = Weights {
        q: [_mm512_setzero_si512(); 8],
        scale: halves(block, 0),
        minimum: if has_minimum(TY) { halves(block, 2) } else { zero },
        sub_scale: [zero; 2],
        sub_minimum: zero,
    };
    match TY {
        Q4_0 => w.q = nibbles(block, 2),
        Q4_1 => w.q = nibbles(block, 4),
        Q5_0 => w.q = fifth_bits(nibbles(block, 6), word(block, 2)),
        Q5_1 => w.q = fifth_bits(nibbles(block, 8), word(block, 4)),
        Q8_0 => w.q = words(block, 2),
        Q4_K | Q5_K => {
            let q = words(block, if TY == Q5_K { 48 } else { 16 } + 32 * (sub / 2));
            for (q, bytes) in w.q.iter_mut().zip(q) {
                *q = _mm512_and_si512(right(bytes, 4 * (sub % 2)), _mm512_set1_epi8(15));
            }
            if TY == Q5_K {
                for (q, high) in w.q.iter_mut().zip(words(block, 16)) {
                    *q = or_bits(*q, left(high, 36 - sub), 16);
                }
            }
            w.minimum = _mm512_sub_ps(_mm512_set1_ps(-0.0), w.minimum);
            let (scale, minimum) = k_scales(block, sub);
            (w.sub_scale[0], w.sub_minimum) = (scale, minimum);
        }
        _ => {
            // The words come behind the scale, which is the last in the file's block.
            let (half, quarter) = (sub / 4, sub % 4);
            let q = words(block, 2 + 64 * half + 32 * (quarter % 2));
            let high = words(block, 2 + 128 + 32 * half);
            for (q, (bytes, high)) in w.q.iter_mut().zip(q.into_iter().zip(high)) {
                let low = _mm512_and_si512(right(bytes, 4 * (quarter / 2)), _mm512_set1_epi8(15));
                *q = or_bits(low, left(high, 36 - 2 * quarter), 0x30);
            }
            // Sixteen sub-scales of a byte, four a word; this sub-block's two are neighbors.
            let scales = word(block, 2 + 192 + 4 * (sub / 2));
            for (half, scale) in w.sub_scale.iter_mut().enumerate() {
                let top = left(scales, 24 - 8 * (2 * (sub % 2) + half));
                *scale = _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(top));
            }
        }
    }
    w
}

/// An f16 of each row, widened.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn halves(block: Rows<'_>, at: usize) -> __m512 {
    let bytes = block.column::<32>(at);
    // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

/// Four bytes of each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn word(block: Rows<'_>, at: usize) -> __m512i {
    let bytes = block.column::<64>(at);
    // SAFETY: 64 bytes are readable behind the reference; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// A float weight of each row, widened.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) fn float<const TY: u32>(weights: Rows<'_>, at: usize) -> __m512 {
    match TY {
        F32 => _mm512_castsi512_ps(word(weights, at)),
        F16 => halves(weights, at),
        _ => {
            let bytes = weights.column::<32>(at);
            // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
            let v = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v)))
        }
    }
}

/// 32 bytes of each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn words(block: Rows<'_>, at: usize) -> [__m512i; 8] {
    let mut words = [_mm512_setzero_si512(); 8];
    for (j, w) in words.iter_mut().enumerate() {
        *w = word(block, at + 4 * j);
    }
    words
}

/// Every word turned left; where a whole number of bytes' bits is masked out behind it, a shift of bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn left(v: __m512i, by: usize) -> __m512i {
    _mm512_rolv_epi32(v, _mm512_set1_epi32(by as i32))
}

/// Every word shifted right.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn right(v: __m512i, by: usize) -> __m512i {
    _mm512_srlv_epi32(v, _mm512_set1_epi32(by as i32))
}

/// `low | (bits & mask)` in every byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn or_bits(low: __m512i, bits: __m512i, mask: i8) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(low, bits, _mm512_set1_epi8(mask))
}

// 16 bytes hold 32 nibbles: low ones are weights 0..16, high ones 16..32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn nibbles(block: Rows<'_>, at: usize) -> [__m512i; 8] {
    let mask = _mm512_set1_epi8(15);
    let mut q = [mask; 8];
    for j in 0..4 {
        let bytes = word(block, at + 4 * j);
        q[j] = _mm512_and_si512(bytes, mask);
        q[j + 4] = _mm512_and_si512(_mm512_srli_epi32::<4>(bytes), mask);
    }
    q
}

// Bit `i` of each row's word is the fifth bit of weight `i`: copy its byte to the lane's four bytes, pick one bit in
// each, and add 16 where it is set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn fifth_bits(mut q: [__m512i; 8], word: __m512i) -> [__m512i; 8] {
    // Lanes are counted in each 128 bits.
    let lane = _mm512_set4_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
    for (j, q) in q.iter_mut().enumerate() {
        let bytes = _mm512_shuffle_epi8(word, _mm512_add_epi8(lane, _mm512_set1_epi8(j as i8 / 2)));
        let bit = _mm512_set1_epi32(if j % 2 == 0 { 0x0804_0201 } else { 0x8040_2010_u32 as i32 });
        let set = _mm512_test_epi8_mask(bytes, bit);
        *q = _mm512_mask_add_epi8(*q, set, *q, _mm512_set1_epi8(16));
    }
    q
}

/// Sub-scale and sub-minimum `sub` of sixteen Q4_K or Q5_K blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn k_scales(block: Rows<'_>, sub: usize) -> (__m512, __m512) {
    // Behind both f16: four scales, four minima, and four bytes of nibbles for the other four.
    let (a, b, c) = (word(block, 4), word(block, 8), word(block, 12));
    let (scales, minima) = if sub < 4 {
        let six = _mm512_set1_epi8(63);
        (_mm512_and_si512(a, six), _mm512_and_si512(b, six))
    } else {
        let (four, top) = (_mm512_set1_epi8(15), 0x30);
        (
            or_bits(_mm512_and_si512(c, four), _mm512_srli_epi32::<2>(a), top),
            or_bits(_mm512_and_si512(_mm512_srli_epi32::<4>(c), four), _mm512_srli_epi32::<2>(b), top),
        )
    };
    let byte = |v| {
        let v = _mm512_and_si512(right(v, 8 * (sub % 4)), _mm512_set1_epi32(0xff));
        _mm512_cvtepi32_ps(v)
    };
    (byte(scales), byte(minima))
}
