//! Products with packed weights, sixteen rows at a time.
//!
//! Word `j` of a packed sub-block is a register of weights `4j..4j + 4` of each row, which `vpdpbusd` multiplies with the
//! same four activations in every lane. Weights are unsigned; where the value is `q - offset`, the sum starts at the
//! offset times the activations' own sum.

use super::super::packed::Packed;
use super::super::product::{
    F16, F32, Products, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, has_minimum,
};
use super::super::table::proven;
use super::Avx512;
use core::arch::x86_64::*;

type Rows<'a> = Packed<'a, 16>;

/// How far ahead weights are asked for, in bytes: a page, where the CPU's own prefetching stops.
const AHEAD: usize = 4096;

/// Sixteen rows' sub-block of 32 weights; a lane is a row.
pub(super) struct Unpacked {
    /// Register `j`: weights `4j..4j + 4`, unsigned.
    q: [__m512i; 8],
    /// The integer sub-scale of each half of the sub-block, for K types.
    sub_scale: [__m512i; 2],
    /// The integer that the sum of activations is taken times, for K types with a minimum.
    sub_minimum: __m512i,
}

impl Products<16> for Avx512 {
    type F = __m512;
    type Rows<'a> = Rows<'a>;
    type Unpacked = Unpacked;

    proven! { "avx512f,avx512bw,avx512vnni,avx2,fma,f16c":
        fn zero(self) -> __m512 { _mm512_setzero_ps() }
        fn scaled(self, a: __m512, x: f32) -> __m512 { _mm512_mul_ps(a, _mm512_set1_ps(x)) }
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn fma_scalar(self, a: __m512, x: f32, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, _mm512_set1_ps(x), c)
        }
        fn store(self, out: &mut [f32; 16], v: __m512) {
            // SAFETY: 64 bytes are writable behind the reference; the store needs no alignment.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
        }

        fn prefetch(self, block: Rows<'_>) {
            let bytes = block.bytes();
            for at in (0..bytes.len()).step_by(64) {
                // Only an address: whether anything lies there does not matter.
                _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at + AHEAD).cast());
            }
        }

        fn scales<const TY: u32>(self, block: Rows<'_>) -> (__m512, __m512) {
            let scale = halves(block, 0);
            if !has_minimum(TY) {
                return (scale, _mm512_setzero_ps());
            }
            let minimum = halves(block, 2);
            if TY == Q4_K || TY == Q5_K {
                (scale, _mm512_sub_ps(_mm512_set1_ps(-0.0), minimum))
            } else {
                (scale, minimum)
            }
        }

        fn unpack<const TY: u32>(self, block: Rows<'_>, sub: usize) -> Unpacked { unpack::<TY>(block, sub) }

        fn integer_sum<const TY: u32>(self, w: &Unpacked, x: &[i8; 32], sums: [i16; 2]) -> __m512 {
            let (x, _) = x.as_chunks::<4>();
            let products = |start: __m512i, from: usize, to: usize| {
                let mut sum = start;
                for j in from..to {
                    let x = _mm512_set1_epi32(i32::from_le_bytes(x[j].map(|v| v as u8)));
                    sum = _mm512_dpbusd_epi32(sum, w.q[j], x);
                }
                sum
            };
            let isum = match TY {
                Q4_0 => products(times_sums(sums, -8), 0, 8),
                Q5_0 => products(times_sums(sums, -16), 0, 8),
                Q8_0 => products(times_sums(sums, -128), 0, 8),
                Q4_K | Q5_K => _mm512_mullo_epi32(products(_mm512_setzero_si512(), 0, 8), w.sub_scale[0]),
                Q6_K => {
                    let start = |sum: i16| _mm512_set1_epi32(-32 * i32::from(sum));
                    _mm512_add_epi32(
                        _mm512_mullo_epi32(products(start(sums[0]), 0, 4), w.sub_scale[0]),
                        _mm512_mullo_epi32(products(start(sums[1]), 4, 8), w.sub_scale[1]),
                    )
                }
                _ => products(_mm512_setzero_si512(), 0, 8),
            };
            _mm512_cvtepi32_ps(isum)
        }

        fn minimum_sum<const TY: u32>(self, w: &Unpacked, sums: [i16; 2]) -> __m512 {
            let xsum = times_sums(sums, 1);
            if TY == Q4_K || TY == Q5_K {
                return _mm512_cvtepi32_ps(_mm512_mullo_epi32(xsum, w.sub_minimum));
            }
            _mm512_cvtepi32_ps(xsum)
        }

        fn columns<const TY: u32>(self, weights: Rows<'_>) -> [__m512; 16] {
            let size = if TY == F32 { 4 } else { 2 };
            let mut columns = [_mm512_setzero_ps(); 16];
            for (k, column) in columns.iter_mut().enumerate() {
                *column = float::<TY>(weights, k * size);
            }
            columns
        }
        fn column<const TY: u32>(self, weight: Rows<'_>) -> __m512 { float::<TY>(weight, 0) }
    }
}

/// Both sums of activations together, times `factor`, in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn times_sums(sums: [i16; 2], factor: i16) -> __m512i {
    let pair = _mm512_set1_epi32(i32::from(sums[0]) & 0xffff | i32::from(sums[1]) << 16);
    _mm512_dpwssd_epi32(_mm512_setzero_si512(), pair, _mm512_set1_epi16(factor))
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
fn float<const TY: u32>(weights: Rows<'_>, at: usize) -> __m512 {
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

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn unpack<const TY: u32>(block: Rows<'_>, sub: usize) -> Unpacked {
    let simple = |q| {
        let zero = _mm512_setzero_si512();
        Unpacked { q, sub_scale: [zero; 2], sub_minimum: zero }
    };
    match TY {
        Q4_0 => simple(nibbles(block, 2)),
        Q4_1 => simple(nibbles(block, 4)),
        Q5_0 => simple(fifth_bits(nibbles(block, 6), word(block, 2))),
        Q5_1 => simple(fifth_bits(nibbles(block, 8), word(block, 4))),
        Q8_0 => simple(words(block, 2)),
        Q4_K | Q5_K => {
            let mut q = words(block, if TY == Q5_K { 48 } else { 16 } + 32 * (sub / 2));
            for q in &mut q {
                *q = bits(*q, 4 * (sub % 2), 15);
            }
            if TY == Q5_K {
                for (q, high) in q.iter_mut().zip(words(block, 16)) {
                    *q = _mm512_or_si512(*q, _mm512_slli_epi32::<4>(bits(high, sub, 1)));
                }
            }
            let (scale, sub_minimum) = k_scales(block, sub);
            Unpacked { q, sub_scale: [scale; 2], sub_minimum }
        }
        _ => {
            // The words come behind the scale, which is the last in the file's block.
            let (half, quarter) = (sub / 4, sub % 4);
            let mut q = words(block, 2 + 64 * half + 32 * (quarter % 2));
            let high = words(block, 2 + 128 + 32 * half);
            for (q, high) in q.iter_mut().zip(high) {
                let high = _mm512_slli_epi32::<4>(bits(high, 2 * quarter, 3));
                *q = _mm512_or_si512(bits(*q, 4 * (quarter / 2), 15), high);
            }
            // Sixteen sub-scales of a byte, four a word; this sub-block's two are neighbors.
            let scales = word(block, 2 + 192 + 4 * (sub / 2));
            let byte = |at: usize| {
                let up = _mm_cvtsi32_si128(24 - 8 * at as i32);
                _mm512_srai_epi32::<24>(_mm512_sll_epi32(scales, up))
            };
            let first = 2 * (sub % 2);
            let zero = _mm512_setzero_si512();
            Unpacked { q, sub_scale: [byte(first), byte(first + 1)], sub_minimum: zero }
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

/// `(byte >> shift) & mask` of every byte, where `mask << shift` stays in the byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn bits(v: __m512i, shift: usize, mask: i8) -> __m512i {
    _mm512_and_si512(_mm512_srl_epi32(v, _mm_cvtsi32_si128(shift as i32)), _mm512_set1_epi8(mask))
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
fn k_scales(block: Rows<'_>, sub: usize) -> (__m512i, __m512i) {
    // Behind both f16: four scales, four minima, and four bytes of nibbles for the other four.
    let byte = |at: usize| {
        let shift = _mm_cvtsi32_si128(8 * (sub as i32 % 4));
        _mm512_and_si512(_mm512_srl_epi32(word(block, at), shift), _mm512_set1_epi32(0xff))
    };
    let (a, b, c) = (byte(4), byte(8), byte(12));
    if sub < 4 {
        let six = _mm512_set1_epi32(63);
        return (_mm512_and_si512(a, six), _mm512_and_si512(b, six));
    }
    let top = |v: __m512i| _mm512_slli_epi32::<4>(_mm512_srli_epi32::<6>(v));
    let scale = _mm512_or_si512(_mm512_and_si512(c, _mm512_set1_epi32(15)), top(a));
    (scale, _mm512_or_si512(_mm512_srli_epi32::<4>(c), top(b)))
}
