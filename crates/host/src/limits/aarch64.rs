//! Loops for AArch64: `smmla`, `sdot` or widening products, and `fmla`.
//!
//! Sixteen sums are in flight: up to four instructions start in a cycle, and a result takes three or four.

use core::arch::aarch64::*;
use core::arch::asm;
use std::arch::is_aarch64_feature_detected as has;
use std::array::from_fn;
use std::hint::black_box;

use super::RegisterLoop;

/// Sums in flight.
const SUMS: usize = 16;

/// The sum of all u64 in a slice whose length is a multiple of [`super::GRAIN`].
pub(super) fn sum() -> fn(&[u8]) -> u64 {
    // Compiled to pairs of full registers, which is the widest load there is.
    |bytes| {
        let (blocks, rest) = bytes.as_chunks::<128>();
        assert!(rest.is_empty());
        let mut sums = [0u64; 16];
        for block in blocks {
            for (sum, word) in sums.iter_mut().zip(block.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
            }
        }
        sums.into_iter().fold(0, u64::wrapping_add)
    }
}

/// The best loop of 8-bit products.
pub(super) fn int8() -> RegisterLoop {
    let of = |instruction, products: u64, run| RegisterLoop {
        instruction,
        operations: 2 * products * SUMS as u64,
        run,
    };
    if has!("i8mm") {
        // SAFETY: the processor has i8mm.
        of("smmla", 32, |rounds| unsafe { smmla(rounds) })
    } else if has!("dotprod") {
        // SAFETY: the processor has dotprod.
        of("sdot", 16, |rounds| unsafe { sdot(rounds) })
    } else {
        of("smull, sadalp", 8, widening)
    }
}

/// The best loop of f32 products.
pub(super) fn f32() -> RegisterLoop {
    RegisterLoop { instruction: "fmla", operations: 2 * 4 * SUMS as u64, run: fmla }
}

#[target_feature(enable = "neon,i8mm")]
fn smmla(rounds: u64) -> u64 {
    let ones = black_box(vdupq_n_s8(1));
    let mut sums = [vdupq_n_s32(0); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: `smmla` reads and writes these registers only, and this function has i8mm.
            unsafe {
                asm!("smmla {0:v}.4s, {1:v}.16b, {1:v}.16b", inout(vreg) *sum, in(vreg) ones, options(pure, nomem, nostack));
            }
        }
    }
    sums.into_iter().map(|sum| vaddvq_s32(sum) as u64).sum()
}

#[target_feature(enable = "neon,dotprod")]
fn sdot(rounds: u64) -> u64 {
    let ones = black_box(vdupq_n_s8(1));
    let mut sums = [vdupq_n_s32(0); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: `sdot` reads and writes these registers only, and this function has dotprod.
            unsafe {
                asm!("sdot {0:v}.4s, {1:v}.16b, {1:v}.16b", inout(vreg) *sum, in(vreg) ones, options(pure, nomem, nostack));
            }
        }
    }
    sums.into_iter().map(|sum| vaddvq_s32(sum) as u64).sum()
}

/// What every AArch64 processor with NEON has: eight products of 16 bits, added in pairs.
fn widening(rounds: u64) -> u64 {
    // SAFETY: NEON is part of the targets this is compiled for.
    unsafe {
        let ones = vdup_n_s8(1);
        let mut sums = [vdupq_n_s32(0); SUMS];
        for _ in 0..rounds {
            // Hidden in each round, or the products would be made once, before the loop.
            let x = black_box(ones);
            sums = from_fn(|i| vpadalq_s16(sums[i], vmull_s8(x, ones)));
        }
        sums.into_iter().map(|sum| vaddvq_s32(sum) as u64).sum()
    }
}

fn fmla(rounds: u64) -> u64 {
    // SAFETY: NEON is part of the targets this is compiled for.
    unsafe {
        let one = black_box(vdupq_n_f32(1.0));
        let mut sums = [vdupq_n_f32(0.0); SUMS];
        for _ in 0..rounds {
            sums = from_fn(|i| vfmaq_f32(sums[i], one, one));
        }
        let total = |sum: float32x4_t| {
            let mut lanes = [0f32; 4];
            vst1q_f32(lanes.as_mut_ptr(), sum);
            lanes.into_iter().map(|lane| lane as u64).sum::<u64>()
        };
        sums.into_iter().map(total).sum()
    }
}
