//! Products of bytes with AVX2 alone: `vpmaddubsw` adds two of them in 16 bits, where they must fit.
//!
//! Of 4-bit weights eight such pairs still fit (16 * 15 * 127 = 30480), of 5-bit ones four (31496), of 6-bit ones two
//! (32004), and of 8-bit ones, with the sign moved to the activation, one (32512). `vpmaddwd` widens them and multiplies
//! with the sub-scale.

use super::super::product::{Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, has_minimum};
use super::super::table::proven;
use super::Avx2;
use super::packed::{Bytes, Inputs, offset};
use super::unpack::{self, Rows, Unpacked};
use core::arch::x86_64::*;

/// Registers of weights whose products are added in 16 bits.
const fn together(ty: u32) -> usize {
    match ty {
        Q4_0 | Q4_1 | Q4_K => 8,
        Q5_0 | Q5_1 | Q5_K => 4,
        Q6_K => 2,
        _ => 1,
    }
}

impl Avx2 {
    proven! { "avx2,fma,f16c":
        pub(in super::super) fn unpacked<const TY: u32>(self, block: Rows<'_>, sub: usize) -> Unpacked { unpack::<TY>(block, sub) }
        pub(in super::super) fn prepared<const TY: u32>(self, sum16: &[i16; 16]) -> [i32; 16] { prepare::<TY>(sum16) }
        pub(in super::super) fn four(self, x: &[i8; 32], j: usize) -> __m256i {
            let (x, _) = x.as_chunks::<4>();
            _mm256_set1_epi32(i32::from_le_bytes(x[j].map(|v| v as u8)))
        }
        pub(in super::super) fn pairs<const TY: u32>(self, w: __m256i, x: __m256i) -> __m256i {
            if TY == Q8_0 {
                _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
            } else {
                _mm256_maddubs_epi16(w, x)
            }
        }
        pub(in super::super) fn zero_i32(self) -> __m256i { _mm256_setzero_si256() }
        pub(in super::super) fn ones(self) -> __m256i { _mm256_set1_epi16(1) }
        pub(in super::super) fn spread_i32(self, x: i32) -> __m256i { _mm256_set1_epi32(x) }
        pub(in super::super) fn add_i16(self, a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi16(a, b) }
        pub(in super::super) fn add_i32(self, a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        pub(in super::super) fn widen(self, pairs: __m256i, factor: __m256i) -> __m256i { _mm256_madd_epi16(pairs, factor) }
        pub(in super::super) fn to_f32(self, a: __m256i) -> __m256 { _mm256_cvtepi32_ps(a) }
        // The offset of 32, in both halves' sub-scales.
        pub(in super::super) fn offset_32(self, sub_scale: [__m256i; 2], sums: i32) -> __m256i {
            let both = _mm256_blend_epi16::<0b1010_1010>(sub_scale[0], sub_scale[1]);
            let off = _mm256_slli_epi32::<5>(_mm256_madd_epi16(both, _mm256_set1_epi32(sums)));
            _mm256_sub_epi32(_mm256_setzero_si256(), off)
        }
    }
}

impl Bytes for Avx2 {
    #[inline(always)]
    fn avx2(self) -> Avx2 {
        self
    }

    #[inline(always)]
    fn unpack<const TY: u32>(self, block: Rows<'_>, sub: usize) -> Unpacked {
        self.unpacked::<TY>(block, sub)
    }

    #[inline(always)]
    fn prepare<const TY: u32>(self, sum16: &[i16; 16]) -> [i32; 16] {
        self.prepared::<TY>(sum16)
    }

    #[inline(always)]
    fn integer_sums<const TY: u32, const R: usize, const P: usize>(
        self,
        w: &[Unpacked; R],
        x: &[Inputs<'_>; P],
        sub: usize,
    ) -> [[__m256; P]; R] {
        let together = const { together(TY) };
        let mut sums = [[self.zero_i32(); P]; R];
        for first in (0..8).step_by(together) {
            let mut pairs = [[self.zero_i32(); P]; R];
            for j in first..first + together {
                for p in 0..P {
                    let x = self.four(&x[p].q[sub], j);
                    for r in 0..R {
                        let products = self.pairs::<TY>(w[r].q[j], x);
                        pairs[r][p] = if j == first { products } else { self.add_i16(pairs[r][p], products) };
                    }
                }
            }
            for r in 0..R {
                let factor = match TY {
                    Q4_K | Q5_K | Q6_K => w[r].sub_scale[first / 4],
                    _ => self.ones(),
                };
                for p in 0..P {
                    let products = self.widen(pairs[r][p], factor);
                    sums[r][p] = if first == 0 { products } else { self.add_i32(sums[r][p], products) };
                }
            }
        }
        let mut floats = [[self.to_f32(self.zero_i32()); P]; R];
        for p in 0..P {
            for r in 0..R {
                let sum = sums[r][p];
                floats[r][p] = self.to_f32(match TY {
                    Q4_0 | Q5_0 => self.add_i32(sum, self.spread_i32(x[p].sums[sub])),
                    Q6_K => self.add_i32(sum, self.offset_32(w[r].sub_scale, x[p].sums[sub])),
                    _ => sum,
                });
            }
        }
        floats
    }
}

/// Sub-scales twice in each lane, for `vpmaddwd`; weights of Q8_0 signed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack<const TY: u32>(block: Rows<'_>, sub: usize) -> Unpacked {
    let mut out = unpack::unpack::<TY>(block, sub);
    if TY == Q8_0 {
        for q in &mut out.q {
            *q = _mm256_xor_si256(*q, _mm256_set1_epi8(i8::MIN));
        }
    }
    for scale in &mut out.sub_scale {
        let low = _mm256_and_si256(*scale, _mm256_set1_epi32(0xffff));
        *scale = _mm256_or_si256(low, _mm256_slli_epi32::<16>(*scale));
    }
    out
}

/// Each sub-block's sum times the offset with its sign turned, or as a float for a type with a minimum; for Q6_K both
/// its sums in one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn prepare<const TY: u32>(sum16: &[i16; 16]) -> [i32; 16] {
    // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
    let sums = unsafe { _mm256_loadu_si256(sum16.as_ptr().cast()) };
    let sums = match TY {
        Q6_K => sums,
        _ if has_minimum(TY) => {
            _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_madd_epi16(sums, _mm256_set1_epi16(1))))
        }
        _ => _mm256_madd_epi16(sums, _mm256_set1_epi16(-offset(TY))),
    };
    let mut out = [0; 16];
    // SAFETY: 32 bytes are writable behind the reference; the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sums) };
    out
}
