//! Products of bytes with AVX2 alone: `vpmaddubsw` adds two of them in 16 bits, where they must fit.
//!
//! Of 4-bit weights eight such pairs still fit (16 * 15 * 127 = 30480), of 5-bit ones four (31496), of 6-bit ones two
//! (32004), and of 8-bit ones, with the sign moved to the activation, one (32512). `vpmaddwd` widens them and multiplies
//! with the sub-scale.

use super::super::product::{Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, has_minimum};
use super::Avx2;
use super::packed::{Bytes, Inputs, Sums, offset};
use super::unpack::{self, Rows, Unpacked};
use core::arch::x86_64::__m256;

/// Registers of weights whose products are added in 16 bits.
const fn together(ty: u32) -> usize {
    match ty {
        Q4_0 | Q4_1 | Q4_K => 8,
        Q5_0 | Q5_1 | Q5_K => 4,
        Q6_K => 2,
        _ => 1,
    }
}

impl Bytes for Avx2 {
    #[inline(always)]
    fn avx2(self) -> Avx2 {
        self
    }

    // Sub-scales twice in each lane, for `vpmaddwd`; weights of Q8_0 signed.
    #[inline(always)]
    fn unpack<const TY: u32>(self, block: Rows<'_>, sub: usize) -> Unpacked {
        let mut out = unpack::unpack::<TY>(self, block, sub);
        if TY == Q8_0 {
            for q in &mut out.q {
                *q = self.xor(*q, self.bytes(i8::MIN));
            }
        }
        if matches!(TY, Q4_K | Q5_K | Q6_K) {
            for scale in &mut out.sub_scale {
                *scale = self.or(self.and(*scale, self.longs(0xffff)), self.left(*scale, 16));
            }
        }
        out
    }

    // For Q6_K both sums of a sub-block in one.
    #[inline(always)]
    fn prepare<const TY: u32>(self, sum16: &[i16; 16], first: usize, out: &mut Sums) {
        let sums = self.sums(sum16);
        let sums = match TY {
            Q6_K => sums,
            _ if has_minimum(TY) => self.as_bits(self.to_f32(self.widen(sums, self.shorts(1)))),
            _ => self.widen(sums, self.shorts(-offset(TY))),
        };
        self.store_sums(out[first..].first_chunk_mut().expect("eight sub-blocks"), sums);
    }

    #[inline(always)]
    fn integer_sums<const TY: u32, const R: usize, const P: usize>(
        self,
        w: &[Unpacked; R],
        x: &[Inputs<'_>; P],
        sub: usize,
    ) -> [[__m256; P]; R] {
        let together = const { together(TY) };
        let mut sums = [[self.zero(); P]; R];
        for first in (0..8).step_by(together) {
            let mut pairs = [[self.zero(); P]; R];
            for j in first..first + together {
                for p in 0..P {
                    let x = self.four(x[p].four(sub, j));
                    for r in 0..R {
                        let products = if TY == Q8_0 {
                            self.signed_pairs(w[r].q[j], x)
                        } else {
                            self.pairs(w[r].q[j], x)
                        };
                        pairs[r][p] =
                            if j == first { products } else { self.then_i16(pairs[r][p], products) };
                    }
                }
            }
            for r in 0..R {
                let factor = match TY {
                    Q4_K | Q5_K | Q6_K => w[r].sub_scale[first / 4],
                    _ => self.shorts(1),
                };
                for p in 0..P {
                    let products = self.widen(pairs[r][p], factor);
                    sums[r][p] = if first == 0 { products } else { self.then_i32(sums[r][p], products) };
                }
            }
        }
        let mut floats = [[self.to_f32(self.zero()); P]; R];
        for p in 0..P {
            for r in 0..R {
                let sum = sums[r][p];
                floats[r][p] = self.to_f32(match TY {
                    Q4_0 | Q5_0 => self.add_i32(sum, self.longs(x[p].sums[sub])),
                    // The offset of 32 times both halves' sums, with a sub-scale each.
                    Q6_K => {
                        let scales = self.alternate(w[r].sub_scale[0], w[r].sub_scale[1]);
                        let offset = self.widen(scales, self.longs(x[p].sums[sub]));
                        self.sub_i32(sum, self.left(offset, 5))
                    }
                    _ => sum,
                });
            }
        }
        floats
    }
}
