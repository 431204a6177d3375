//! One register holds a step of 16.

use super::super::lanes::{Line, Registers};
use super::super::table::proven;
use super::Avx512;
use crate::llm::math::ROUND_MAGIC;
use core::arch::x86_64::*;

impl Registers<1> for Avx512 {
    type R = __m512;
    const SUMS: usize = 24;

    proven! { "avx512f,avx512bw,avx512vnni,avx2,fma,f16c":
        fn splat(self, x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn hold(self, a: __m512) -> __m512 {
            let mut a = a;
            // SAFETY: no instruction.
            unsafe { core::arch::asm!("/* {0} */", inout(zmm_reg) a, options(pure, nomem, nostack, preserves_flags)) };
            a
        }
        fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn neg(self, a: __m512) -> __m512 {
            let sign = _mm512_set1_epi32(i32::MIN);
            _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), sign))
        }

        // Both give the second operand where the two are equal or one is NaN.
        fn larger(self, v: __m512, m: __m512) -> __m512 { _mm512_max_ps(v, m) }
        fn smaller(self, v: __m512, m: __m512) -> __m512 { _mm512_min_ps(v, m) }

        fn where_less(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x)
        }

        // One instruction rounds once, as the two steps do: the first of them is exact.
        fn times_power_of_two(self, p: __m512, shifted: __m512) -> __m512 {
            let y = _mm512_scalef_ps(p, _mm512_sub_ps(shifted, _mm512_set1_ps(ROUND_MAGIC)));
            // Not less than: a NaN stays.
            let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(y, _mm512_set1_ps(f32::MIN_POSITIVE));
            _mm512_maskz_mov_ps(normal, y)
        }

        fn load(self, x: &[f32; 16]) -> [__m512; 1] {
            // SAFETY: 64 bytes are readable behind the reference; the load needs no alignment.
            [unsafe { _mm512_loadu_ps(x.as_ptr()) }]
        }

        fn store(self, x: &mut [f32; 16], v: [__m512; 1]) {
            // SAFETY: 64 bytes are writable behind the reference; the store needs no alignment.
            unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v[0]) }
        }

        fn stream(self, x: &mut Line, v: [__m512; 1]) {
            // SAFETY: 64 bytes are writable behind the reference, at a multiple of 64.
            unsafe { _mm512_stream_ps(x.0.as_mut_ptr(), v[0]) }
        }

        fn settle(self) { _mm_sfence() }

        fn ask(self, at: *const f32) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }

        fn widen(self, x: &[u16; 16]) -> [__m512; 1] {
            // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
            [_mm512_cvtph_ps(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })]
        }

        fn narrow(self, x: &mut [u16; 16], v: [__m512; 1]) {
            let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]);
            // SAFETY: 32 bytes are writable behind the reference; the store needs no alignment.
            unsafe { _mm256_storeu_si256(x.as_mut_ptr().cast(), halves) }
        }

        fn rotate(self, x: [__m512; 1], cos: &[f32; 8], sin: &[f32; 8]) -> [__m512; 1] {
            let twice = |v: &[f32; 8]| {
                // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
                let v = _mm512_castps256_ps512(unsafe { _mm256_loadu_ps(v.as_ptr()) });
                let spread = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
                _mm512_permutexvar_ps(spread, v)
            };
            let (c, s) = (twice(cos), twice(sin));
            // Even lanes: x0 c - (x1 s); odd lanes: x0 s + (x1 c). Only the first product is fused.
            const ODD: u16 = 0b1010_1010_1010_1010;
            let first = _mm512_mask_blend_ps(ODD, c, s);
            let second = _mm512_mask_blend_ps(ODD, s, c);
            let product = _mm512_mul_ps(_mm512_movehdup_ps(x[0]), second);
            let sign = _mm512_set1_epi32(i32::MIN);
            let bits = _mm512_castps_si512(product);
            let product = _mm512_castsi512_ps(_mm512_mask_xor_epi32(bits, !ODD, bits, sign));
            [_mm512_fmadd_ps(_mm512_moveldup_ps(x[0]), first, product)]
        }

        fn largest_magnitude(self, v: [[__m512; 1]; 2]) -> u32 {
            let bits = |v: __m512| _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fff_ffff));
            let m = _mm512_max_epi32(bits(v[0][0]), bits(v[1][0]));
            let m = _mm256_max_epi32(_mm512_castsi512_si256(m), _mm512_extracti64x4_epi64::<1>(m));
            let m = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
            let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
            let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m));
            _mm_cvtsi128_si32(m) as u32
        }

        fn quantize(self, v: [__m512; 1], id: f32, q: &mut [i8; 16]) -> i16 {
            let magic = _mm512_set1_ps(ROUND_MAGIC);
            // Below the magic number's bits lies the rounded value.
            let shifted = _mm512_add_ps(_mm512_mul_ps(v[0], _mm512_set1_ps(id)), magic);
            let n = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_castps_si512(magic));
            // SAFETY: 16 bytes are writable behind the reference; the store needs no alignment.
            unsafe { _mm_storeu_si128(q.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(n)) };
            let sums = _mm256_add_epi32(_mm512_castsi512_si256(n), _mm512_extracti64x4_epi64::<1>(n));
            let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b01_00_11_10>(sums));
            let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b10_11_00_01>(sums));
            _mm_cvtsi128_si32(sums) as i16
        }
    }
}
