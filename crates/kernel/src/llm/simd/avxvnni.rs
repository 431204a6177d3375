//! AVX2 with AVX-VNNI: four products of bytes added in one instruction of 256 bits.
//!
//! The table is AVX2's but for products with packed weights, whose walk it shares. Weights stay unsigned, so nothing
//! can overflow: where the value is `q - offset`, a sum starts at the offset times the activations' own sum.

#![expect(clippy::needless_range_loop, reason = "rows and positions count through several arrays at once")]

use super::Kernels;
use super::avx2::packed::{Bytes, Inputs, Sums, Unpacked, offset, packed_products};
use super::avx2::unpack::{self, Rows};
use super::avx2::{self, Avx2};
use super::product::{Q4_K, Q5_K, Q6_K, has_minimum};
use super::table::proven;
use core::arch::x86_64::*;

/// Proof that this CPU has AVX-VNNI besides what AVX2's table needs.
#[derive(Clone, Copy)]
struct AvxVnni(Avx2);

impl AvxVnni {
    /// The proof, for functions that are compiled with these features.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn here() -> Self {
        AvxVnni(Avx2::here())
    }

    proven! { "avx2,fma,f16c,avxvnni":
        fn dot(self, sum: __m256i, w: __m256i, x: __m256i) -> __m256i { _mm256_dpbusd_avx_epi32(sum, w, x) }
    }

    /// The sums of the registers `from..to` of a sub-block, from `start` of each position.
    #[inline(always)]
    fn sums<const R: usize, const P: usize>(
        self,
        w: &[Unpacked; R],
        x: &[Inputs<'_>; P],
        sub: usize,
        (from, to): (usize, usize),
        start: [i32; P],
    ) -> [[__m256i; P]; R] {
        let mut sums = [[self.0.zero(); P]; R];
        for p in 0..P {
            for r in 0..R {
                sums[r][p] = self.0.longs(start[p]);
            }
        }
        for j in from..to {
            for p in 0..P {
                let x = self.0.four(x[p].four(sub, j));
                for r in 0..R {
                    sums[r][p] = self.dot(sums[r][p], w[r].q[j], x);
                }
            }
        }
        sums
    }
}

impl Bytes for AvxVnni {
    #[inline(always)]
    fn avx2(self) -> Avx2 {
        self.0
    }

    // Sub-scales as floats.
    #[inline(always)]
    fn unpack<const TY: u32>(self, block: Rows<'_>, sub: usize) -> Unpacked {
        let mut out = unpack::unpack::<TY>(self.0, block, sub);
        if matches!(TY, Q4_K | Q5_K | Q6_K) {
            for scale in &mut out.sub_scale {
                *scale = self.0.as_bits(self.0.to_f32(*scale));
            }
        }
        out
    }

    // For Q6_K the sums of each half.
    #[inline(always)]
    fn prepare<const TY: u32>(self, sum16: &[i16; 16], first: usize, out: &mut Sums) {
        if TY == Q6_K {
            for (out, &sum) in out[2 * first..].iter_mut().zip(sum16) {
                *out = -i32::from(offset(TY)) * i32::from(sum);
            }
            return;
        }
        let factor = if has_minimum(TY) { 1 } else { -offset(TY) };
        let mut sums = self.0.widen(self.0.sums(sum16), self.0.shorts(factor));
        if has_minimum(TY) {
            sums = self.0.as_bits(self.0.to_f32(sums));
        }
        self.0.store_sums(out[first..].first_chunk_mut().expect("eight sub-blocks"), sums);
    }

    #[inline(always)]
    fn integer_sums<const TY: u32, const R: usize, const P: usize>(
        self,
        w: &[Unpacked; R],
        x: &[Inputs<'_>; P],
        sub: usize,
    ) -> [[__m256; P]; R] {
        let mut floats = [[self.0.zeros(); P]; R];
        // Sub-scales are multiplied in floats, exactly: all sums stay below 2^24.
        if TY == Q6_K {
            let (mut low, mut high) = ([0; P], [0; P]);
            for p in 0..P {
                low[p] = x[p].sums[2 * sub];
                high[p] = x[p].sums[2 * sub + 1];
            }
            let low = self.sums(w, x, sub, (0, 4), low);
            let high = self.sums(w, x, sub, (4, 8), high);
            for r in 0..R {
                for p in 0..P {
                    let [low_scale, high_scale] = w[r].sub_scale.map(|scale| self.0.as_f32(scale));
                    let low = self.0.times(self.0.to_f32(low[r][p]), low_scale);
                    floats[r][p] = self.0.plus(self.0.to_f32(high[r][p]), high_scale, low);
                }
            }
            return floats;
        }
        let mut start = [0; P];
        if !has_minimum(TY) {
            for p in 0..P {
                start[p] = x[p].sums[sub];
            }
        }
        let sums = self.sums(w, x, sub, (0, 8), start);
        for r in 0..R {
            for p in 0..P {
                floats[r][p] = if TY == Q4_K || TY == Q5_K {
                    self.0.times(self.0.to_f32(sums[r][p]), self.0.as_f32(w[r].sub_scale[0]))
                } else {
                    self.0.to_f32(sums[r][p])
                };
            }
        }
        floats
    }
}

packed_products! { "avx2,fma,f16c,avxvnni", AvxVnni }

pub(super) static TABLE: Kernels = Kernels { name: "avxvnni", packing: Some(PACKING), ..avx2::TABLE };

/// Whether this CPU, and the operating system's saving of registers, have what the table needs.
#[cfg(feature = "std")]
pub(super) fn detected() -> bool {
    avx2::detected() && std::arch::is_x86_feature_detected!("avxvnni")
}

/// Whether this CPU, and the operating system's saving of registers, have what the table needs.
#[cfg(not(feature = "std"))]
pub(super) fn detected() -> bool {
    // Of leaf 7: the largest sub-leaf in eax; AVX-VNNI is bit 4 of sub-leaf 1's eax.
    avx2::detected() && __cpuid_count(7, 0).eax >= 1 && __cpuid_count(7, 1).eax & (1 << 4) != 0
}
