//! What the walk over packed weights is made of: single instructions, so that functions that must be inlined whole can
//! be written in safe code that needs no features of its own.

use super::super::table::proven;
use super::{Avx2, load, store};
use core::arch::asm;
use core::arch::x86_64::*;

/// The same register, of which the compiler does not know that it is.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn in_order(mut v: __m256i) -> __m256i {
    // SAFETY: no instruction, and no effect but that the register's value is taken as new.
    unsafe { asm!("/* {0} */", inout(ymm_reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}

impl Avx2 {
    proven! { "avx2,fma,f16c":
        // Floats.
        pub(in super::super) fn zeros(self) -> __m256 { _mm256_setzero_ps() }
        pub(in super::super) fn load(self, x: &[f32; 8]) -> __m256 { load(x) }
        pub(in super::super) fn store_to(self, out: &mut [f32; 8], v: __m256) { store(out, v) }
        pub(in super::super) fn spread(self, x: f32) -> __m256 { _mm256_set1_ps(x) }
        pub(in super::super) fn times(self, a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        pub(in super::super) fn plus(self, a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        pub(in super::super) fn turned(self, v: __m256) -> __m256 { _mm256_xor_ps(v, _mm256_set1_ps(-0.0)) }
        pub(in super::super) fn to_f32(self, v: __m256i) -> __m256 { _mm256_cvtepi32_ps(v) }
        pub(in super::super) fn as_f32(self, v: __m256i) -> __m256 { _mm256_castsi256_ps(v) }
        pub(in super::super) fn as_bits(self, v: __m256) -> __m256i { _mm256_castps_si256(v) }

        // Packed weights: four bytes of each row, and two widened from f16 or bf16.
        pub(in super::super) fn word(self, bytes: &[u8; 32]) -> __m256i {
            // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
        }
        pub(in super::super) fn half(self, bytes: &[u8; 16]) -> __m256 {
            // SAFETY: 16 bytes are readable behind the reference; the load needs no alignment.
            _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
        }
        pub(in super::super) fn brain_half(self, bytes: &[u8; 16]) -> __m256 {
            // SAFETY: 16 bytes are readable behind the reference; the load needs no alignment.
            let wide = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }

        // Activations: four in every lane, and the sums of sixteen.
        pub(in super::super) fn four(self, x: &[i8; 4]) -> __m256i {
            _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)))
        }
        pub(in super::super) fn sums(self, x: &[i16; 16]) -> __m256i {
            // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
            unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
        }
        pub(in super::super) fn store_sums(self, out: &mut [i32; 8], v: __m256i) {
            // SAFETY: 32 bytes are writable behind the reference; the store needs no alignment.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
        }

        // Integers.
        pub(in super::super) fn zero(self) -> __m256i { _mm256_setzero_si256() }
        pub(in super::super) fn bytes(self, x: i8) -> __m256i { _mm256_set1_epi8(x) }
        pub(in super::super) fn shorts(self, x: i16) -> __m256i { _mm256_set1_epi16(x) }
        pub(in super::super) fn longs(self, x: i32) -> __m256i { _mm256_set1_epi32(x) }
        pub(in super::super) fn and(self, a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
        pub(in super::super) fn or(self, a: __m256i, b: __m256i) -> __m256i { _mm256_or_si256(a, b) }
        pub(in super::super) fn xor(self, a: __m256i, b: __m256i) -> __m256i { _mm256_xor_si256(a, b) }
        pub(in super::super) fn add_i32(self, a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        // `a + b` that the compiler does not move among other additions: as a tree of sums it takes more registers than
        // there are, and spills them.
        pub(in super::super) fn then_i16(self, a: __m256i, b: __m256i) -> __m256i {
            in_order(_mm256_add_epi16(a, b))
        }
        pub(in super::super) fn then_i32(self, a: __m256i, b: __m256i) -> __m256i {
            in_order(_mm256_add_epi32(a, b))
        }
        pub(in super::super) fn sub_i32(self, a: __m256i, b: __m256i) -> __m256i { _mm256_sub_epi32(a, b) }
        pub(in super::super) fn right(self, a: __m256i, by: usize) -> __m256i {
            _mm256_srl_epi32(a, _mm_cvtsi32_si128(by as i32))
        }
        pub(in super::super) fn right_signed(self, a: __m256i, by: usize) -> __m256i {
            _mm256_sra_epi32(a, _mm_cvtsi32_si128(by as i32))
        }
        pub(in super::super) fn left(self, a: __m256i, by: usize) -> __m256i {
            _mm256_sll_epi32(a, _mm_cvtsi32_si128(by as i32))
        }
        pub(in super::super) fn equal_bytes(self, a: __m256i, b: __m256i) -> __m256i { _mm256_cmpeq_epi8(a, b) }
        // Byte `i` of every lane to all its bytes.
        pub(in super::super) fn spread_byte(self, v: __m256i, i: usize) -> __m256i {
            let lanes = _mm256_setr_epi32(
                0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c, 0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c,
            );
            _mm256_shuffle_epi8(v, _mm256_add_epi8(lanes, _mm256_set1_epi8(i as i8)))
        }
        // Byte `i` of every lane as its number.
        pub(in super::super) fn only_byte(self, v: __m256i, i: usize) -> __m256i {
            let lanes = _mm256_setr_epi32(
                -0x100, -0xfc, -0xf8, -0xf4, -0x100, -0xfc, -0xf8, -0xf4,
            );
            _mm256_shuffle_epi8(v, _mm256_add_epi32(lanes, _mm256_set1_epi32(i as i32)))
        }

        // Products: of unsigned with signed bytes, of signed bytes, and of the sums of two with a factor each.
        pub(in super::super) fn pairs(self, w: __m256i, x: __m256i) -> __m256i { _mm256_maddubs_epi16(w, x) }
        pub(in super::super) fn signed_pairs(self, w: __m256i, x: __m256i) -> __m256i {
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
        }
        pub(in super::super) fn widen(self, pairs: __m256i, factors: __m256i) -> __m256i {
            _mm256_madd_epi16(pairs, factors)
        }
        // The even halves of the lanes of `a`, and the odd ones of `b`.
        pub(in super::super) fn alternate(self, a: __m256i, b: __m256i) -> __m256i {
            _mm256_blend_epi16::<0b1010_1010>(a, b)
        }
    }
}
