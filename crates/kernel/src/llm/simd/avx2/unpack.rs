//! Sub-blocks of packed weights, eight rows at a time, taken apart into bytes that can be multiplied.
//!
//! Word `j` of a packed sub-block is a register of weights `4j..4j + 4` of each of the eight rows.

use super::super::packed::Packed;
use super::super::product::{BF16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, has_minimum};
use core::arch::x86_64::*;

/// Eight packed rows, or the same part of each.
pub(in super::super) type Rows<'a> = Packed<'a, 8>;

/// Eight rows' sub-block of 32 weights; a lane is a row. A type leaves zero what it does not use.
#[derive(Clone, Copy)]
pub(in super::super) struct Unpacked {
    /// Register `j`: weights `4j..4j + 4`, unsigned.
    pub(in super::super) q: [__m256i; 8],
    /// What a step of the integer sum is worth.
    pub(in super::super) scale: __m256,
    /// What the sum of activations is taken times, for types with a minimum.
    pub(in super::super) minimum: __m256,
    /// The integer sub-scale of each half of the sub-block, for K types.
    pub(in super::super) sub_scale: [__m256i; 2],
    /// The integer sub-minimum as a float, for K types with a minimum.
    pub(in super::super) sub_minimum: __m256,
}

impl Unpacked {
    /// All zero.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in super::super) fn zero() -> Self {
        let (zero, none) = (_mm256_setzero_si256(), _mm256_setzero_ps());
        Unpacked { q: [zero; 8], scale: none, minimum: none, sub_scale: [zero; 2], sub_minimum: none }
    }
}

/// Four bytes of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn word(block: Rows<'_>, at: usize) -> __m256i {
    let bytes = block.column::<32>(at);
    // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Sixteen bits of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn half_word(block: Rows<'_>, at: usize) -> __m128i {
    let bytes = block.column::<16>(at);
    // SAFETY: 16 bytes are readable behind the reference; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// The float weight of each row at element `k`, widened.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn float<const TY: u32>(weights: Rows<'_>, k: usize) -> __m256 {
    match TY {
        F32 => _mm256_castsi256_ps(word(weights, 4 * k)),
        BF16 => {
            let wide = _mm256_cvtepu16_epi32(half_word(weights, 2 * k));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
        _ => _mm256_cvtph_ps(half_word(weights, 2 * k)),
    }
}

/// Sub-block `sub` of one block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn unpack<const TY: u32>(block: Rows<'_>, sub: usize) -> Unpacked {
    let mut out = Unpacked::zero();
    out.scale = _mm256_cvtph_ps(half_word(block, 0));
    if has_minimum(TY) {
        let minimum = _mm256_cvtph_ps(half_word(block, 2));
        let turned = TY == Q4_K || TY == Q5_K;
        out.minimum = if turned { _mm256_xor_ps(minimum, _mm256_set1_ps(-0.0)) } else { minimum };
    }
    match TY {
        Q4_0 => out.q = nibbles(block, 2),
        Q4_1 => out.q = nibbles(block, 4),
        Q5_0 => out.q = fifth_bits(nibbles(block, 6), word(block, 2)),
        Q5_1 => out.q = fifth_bits(nibbles(block, 8), word(block, 4)),
        Q8_0 => out.q = words(block, 2),
        Q4_K | Q5_K => {
            out.q = words(block, if TY == Q5_K { 48 } else { 16 } + 32 * (sub / 2));
            for q in &mut out.q {
                *q = bits(*q, 4 * (sub % 2), 15);
            }
            if TY == Q5_K {
                for (q, high) in out.q.iter_mut().zip(words(block, 16)) {
                    *q = _mm256_or_si256(*q, _mm256_slli_epi32::<4>(bits(high, sub, 1)));
                }
            }
            let (scale, minimum) = k_scales(block, sub);
            out.sub_scale = [scale; 2];
            out.sub_minimum = _mm256_cvtepi32_ps(minimum);
        }
        Q6_K => {
            // The words come behind the scale, which is the last in the file's block.
            let (half, quarter) = (sub / 4, sub % 4);
            out.q = words(block, 2 + 64 * half + 32 * (quarter % 2));
            let high = words(block, 2 + 128 + 32 * half);
            for (q, high) in out.q.iter_mut().zip(high) {
                let high = _mm256_slli_epi32::<4>(bits(high, 2 * quarter, 3));
                *q = _mm256_or_si256(bits(*q, 4 * (quarter / 2), 15), high);
            }
            // Sixteen sub-scales of a byte, four a word; this sub-block's two are neighbors.
            let scales = word(block, 2 + 192 + 4 * (sub / 2));
            for (half, scale) in out.sub_scale.iter_mut().enumerate() {
                let up = _mm_cvtsi32_si128(24 - 8 * (2 * (sub % 2) + half) as i32);
                *scale = _mm256_srai_epi32::<24>(_mm256_sll_epi32(scales, up));
            }
        }
        _ => {}
    }
    out
}

/// 32 bytes of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn words(block: Rows<'_>, at: usize) -> [__m256i; 8] {
    let mut words = [_mm256_setzero_si256(); 8];
    for (j, w) in words.iter_mut().enumerate() {
        *w = word(block, at + 4 * j);
    }
    words
}

/// `(byte >> shift) & mask` of every byte, where `mask << shift` stays in the byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bits(v: __m256i, shift: usize, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_srl_epi32(v, _mm_cvtsi32_si128(shift as i32)), _mm256_set1_epi8(mask))
}

// 16 bytes hold 32 nibbles: low ones are weights 0..16, high ones 16..32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(block: Rows<'_>, at: usize) -> [__m256i; 8] {
    let mask = _mm256_set1_epi8(15);
    let mut q = [mask; 8];
    for j in 0..4 {
        let bytes = word(block, at + 4 * j);
        q[j] = _mm256_and_si256(bytes, mask);
        q[j + 4] = _mm256_and_si256(_mm256_srli_epi32::<4>(bytes), mask);
    }
    q
}

// Bit `i` of each row's word is the fifth bit of weight `i`: copy its byte to the lane's four bytes, pick one bit in
// each, and turn a set bit into 16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fifth_bits(mut q: [__m256i; 8], word: __m256i) -> [__m256i; 8] {
    let lane =
        _mm256_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c, 0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c);
    for (j, q) in q.iter_mut().enumerate() {
        let bytes = _mm256_shuffle_epi8(word, _mm256_add_epi8(lane, _mm256_set1_epi8(j as i8 / 2)));
        let bit = _mm256_set1_epi32(if j % 2 == 0 { 0x0804_0201 } else { 0x8040_2010_u32 as i32 });
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
        *q = _mm256_or_si256(*q, _mm256_and_si256(set, _mm256_set1_epi8(16)));
    }
    q
}

/// Sub-scale and sub-minimum `sub` of eight Q4_K or Q5_K blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn k_scales(block: Rows<'_>, sub: usize) -> (__m256i, __m256i) {
    // Behind both f16: four scales, four minima, and four bytes of nibbles for the other four.
    let shift = _mm_cvtsi32_si128(8 * (sub as i32 % 4));
    let mut bytes = [_mm256_set1_epi32(0xff); 3];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = _mm256_and_si256(_mm256_srl_epi32(word(block, 4 + 4 * i), shift), *byte);
    }
    let [a, b, c] = bytes;
    if sub < 4 {
        let six = _mm256_set1_epi32(63);
        return (_mm256_and_si256(a, six), _mm256_and_si256(b, six));
    }
    let top = |v: __m256i| _mm256_slli_epi32::<4>(_mm256_srli_epi32::<6>(v));
    let scale = _mm256_or_si256(_mm256_and_si256(c, _mm256_set1_epi32(15)), top(a));
    (scale, _mm256_or_si256(_mm256_srli_epi32::<4>(c), top(b)))
}
