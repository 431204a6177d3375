//! Two registers of eight lanes hold a step of 16.

use super::super::lanes::{Line, Registers};
use super::super::table::proven;
use super::{Avx2, load, store};
use crate::llm::math::ROUND_MAGIC;
use core::arch::x86_64::*;

impl Registers<2> for Avx2 {
    type R = __m256;
    const SUMS: usize = 12;

    proven! { "avx2,fma,f16c":
        fn splat(self, x: f32) -> __m256 { _mm256_set1_ps(x) }
        fn add(self, a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(self, a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(self, a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(self, a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn neg(self, a: __m256) -> __m256 { _mm256_xor_ps(a, _mm256_set1_ps(-0.0)) }

        // Both give the second operand where the two are equal or one is NaN.
        fn larger(self, v: __m256, m: __m256) -> __m256 { _mm256_max_ps(v, m) }
        fn smaller(self, v: __m256, m: __m256) -> __m256 { _mm256_min_ps(v, m) }

        fn where_less(self, a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
            _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
        }

        fn times_power_of_two(self, p: __m256, shifted: __m256) -> __m256 {
            let magic = _mm256_castps_si256(_mm256_set1_ps(ROUND_MAGIC));
            let n = _mm256_sub_epi32(_mm256_castps_si256(shifted), magic);
            let half = _mm256_srai_epi32::<1>(n);
            let rest = _mm256_sub_epi32(n, half);
            let y = _mm256_mul_ps(_mm256_mul_ps(p, power_of_two(half)), power_of_two(rest));
            let small = _mm256_cmp_ps::<_CMP_LT_OQ>(y, _mm256_set1_ps(f32::MIN_POSITIVE));
            _mm256_andnot_ps(small, y)
        }

        fn load(self, x: &[f32; 16]) -> [__m256; 2] {
            let (halves, _) = x.as_chunks();
            [load(&halves[0]), load(&halves[1])]
        }

        fn store(self, x: &mut [f32; 16], v: [__m256; 2]) {
            let (halves, _) = x.as_chunks_mut();
            store(&mut halves[0], v[0]);
            store(&mut halves[1], v[1]);
        }

        fn stream(self, x: &mut Line, v: [__m256; 2]) {
            for (x, v) in x.0.as_chunks_mut::<8>().0.iter_mut().zip(v) {
                // SAFETY: 32 bytes are writable behind the reference, at a multiple of 32.
                unsafe { _mm256_stream_ps(x.as_mut_ptr(), v) }
            }
        }

        fn settle(self) { _mm_sfence() }

        fn ask(self, at: *const f32) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }

        fn widen(self, x: &[u16; 16]) -> [__m256; 2] {
            // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
            let v = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
            [_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(v))]
        }

        fn narrow(self, x: &mut [u16; 16], v: [__m256; 2]) {
            let [low, high] = v.map(|v| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
            // SAFETY: 32 bytes are writable behind the reference; the store needs no alignment.
            unsafe { _mm256_storeu_si256(x.as_mut_ptr().cast(), _mm256_set_m128i(high, low)) }
        }

        fn rotate(self, x: [__m256; 2], cos: &[f32; 8], sin: &[f32; 8]) -> [__m256; 2] {
            let (cos, sin) = (load(cos), load(sin));
            let low = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
            let high = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
            let turn = |x: __m256, spread: __m256i| {
                let c = _mm256_permutevar8x32_ps(cos, spread);
                let s = _mm256_permutevar8x32_ps(sin, spread);
                // Even lanes: x0 c - (x1 s); odd lanes: x0 s + (x1 c). Only the first product is fused.
                let first = _mm256_blend_ps::<0b1010_1010>(c, s);
                let second = _mm256_blend_ps::<0b1010_1010>(s, c);
                let sign = _mm256_setr_ps(-0.0, 0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0);
                let product = _mm256_xor_ps(_mm256_mul_ps(_mm256_movehdup_ps(x), second), sign);
                _mm256_fmadd_ps(_mm256_moveldup_ps(x), first, product)
            };
            [turn(x[0], low), turn(x[1], high)]
        }

        fn largest_magnitude(self, v: [[__m256; 2]; 2]) -> u32 {
            let bits = |v: __m256| _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fff_ffff));
            let two = |v: [__m256; 2]| _mm256_max_epi32(bits(v[0]), bits(v[1]));
            let m = _mm256_max_epi32(two(v[0]), two(v[1]));
            let m = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
            let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
            let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m));
            _mm_cvtsi128_si32(m) as u32
        }

        fn quantize(self, v: [__m256; 2], id: f32, q: &mut [i8; 16]) -> i16 {
            let (id, magic) = (_mm256_set1_ps(id), _mm256_set1_ps(ROUND_MAGIC));
            // Below the magic number's bits lies the rounded value, small enough for the packs not to saturate.
            let [low, high] = v.map(|v| {
                let shifted = _mm256_castps_si256(_mm256_add_ps(_mm256_mul_ps(v, id), magic));
                _mm256_sub_epi32(shifted, _mm256_castps_si256(magic))
            });
            // Packing works in 128-bit halves; the permutation puts the order right again.
            let n = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(n), _mm256_extracti128_si256::<1>(n));
            // SAFETY: 16 bytes are writable behind the reference; the store needs no alignment.
            unsafe { _mm_storeu_si128(q.as_mut_ptr().cast(), bytes) };
            let sums = _mm256_add_epi32(low, high);
            let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b01_00_11_10>(sums));
            let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b10_11_00_01>(sums));
            _mm_cvtsi128_si32(sums) as i16
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn power_of_two(n: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
}
