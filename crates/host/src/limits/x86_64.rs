//! Loops for x86-64: the widest loads and products that this processor has.
//!
//! Twelve sums are in flight, since two instructions start in a cycle and a result takes up to five.

use core::arch::x86_64::*;
use std::array::from_fn;
use std::hint::black_box;
use std::is_x86_feature_detected as has;

use super::RegisterLoop;

/// Sums in flight.
const SUMS: usize = 12;

/// The sum of all u64 in a slice whose length is a multiple of [`super::GRAIN`].
pub(super) fn sum() -> fn(&[u8]) -> u64 {
    if has!("avx512f") {
        // SAFETY: the processor has AVX-512F.
        |bytes| unsafe { sum_512(bytes) }
    } else if has!("avx2") {
        // SAFETY: the processor has AVX2.
        |bytes| unsafe { sum_256(bytes) }
    } else {
        sum_64
    }
}

/// The best loop of 8-bit products.
pub(super) fn int8() -> RegisterLoop {
    let of =
        |instruction, bytes: u64, run| RegisterLoop { instruction, operations: 2 * bytes * SUMS as u64, run };
    if has!("avx512f") && has!("avx512vnni") {
        // SAFETY: the processor has both features.
        of("vpdpbusd zmm", 64, |rounds| unsafe { vnni_512(rounds) })
    } else if has!("avxvnni") && has!("avx2") {
        // SAFETY: the processor has both features.
        of("vpdpbusd ymm", 32, |rounds| unsafe { vnni_256(rounds) })
    } else if has!("avx2") {
        // SAFETY: the processor has AVX2.
        of("vpmaddubsw, vpmaddwd, vpaddd ymm", 32, |rounds| unsafe { maddubs(rounds) })
    } else {
        of("pmaddwd, paddd xmm", 8, maddwd)
    }
}

/// The best loop of f32 products.
pub(super) fn f32() -> RegisterLoop {
    let of =
        |instruction, lanes: u64, run| RegisterLoop { instruction, operations: 2 * lanes * SUMS as u64, run };
    if has!("avx512f") {
        // SAFETY: the processor has AVX-512F.
        of("vfmadd231ps zmm", 16, |rounds| unsafe { fma_512(rounds) })
    } else if has!("fma") {
        // SAFETY: the processor has FMA, and so AVX.
        of("vfmadd231ps ymm", 8, |rounds| unsafe { fma_256(rounds) })
    } else {
        of("mulps, addps xmm", 4, mul_add)
    }
}

#[target_feature(enable = "avx512f")]
fn sum_512(bytes: &[u8]) -> u64 {
    let mut sums = [_mm512_setzero_si512(); 8];
    let (blocks, rest) = bytes.as_chunks::<512>();
    assert!(rest.is_empty());
    for block in blocks {
        for (sum, line) in sums.iter_mut().zip(block.as_chunks::<64>().0) {
            // SAFETY: 64 bytes lie behind the pointer, and the load needs no alignment.
            let line = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
            *sum = _mm512_add_epi64(*sum, line);
        }
    }
    let mut lanes = [0u64; 64];
    for (sum, lanes) in sums.into_iter().zip(lanes.as_chunks_mut::<8>().0) {
        // SAFETY: eight u64 are 64 bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), sum) };
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}

#[target_feature(enable = "avx2")]
fn sum_256(bytes: &[u8]) -> u64 {
    let mut sums = [_mm256_setzero_si256(); 8];
    let (blocks, rest) = bytes.as_chunks::<256>();
    assert!(rest.is_empty());
    for block in blocks {
        for (sum, half) in sums.iter_mut().zip(block.as_chunks::<32>().0) {
            // SAFETY: 32 bytes lie behind the pointer, and the load needs no alignment.
            let half = unsafe { _mm256_loadu_si256(half.as_ptr().cast()) };
            *sum = _mm256_add_epi64(*sum, half);
        }
    }
    let mut lanes = [0u64; 32];
    for (sum, lanes) in sums.into_iter().zip(lanes.as_chunks_mut::<4>().0) {
        // SAFETY: four u64 are 32 bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}

fn sum_64(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty());
    words.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)))
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn vnni_512(rounds: u64) -> u64 {
    let ones = black_box(_mm512_set1_epi8(1));
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for _ in 0..rounds {
        sums = from_fn(|i| _mm512_dpbusd_epi32(sums[i], ones, ones));
    }
    sums.into_iter()
        .map(|sum| integers(_mm512_castsi512_si256(sum)) + integers(_mm512_extracti64x4_epi64::<1>(sum)))
        .sum()
}

#[target_feature(enable = "avx2,avxvnni")]
fn vnni_256(rounds: u64) -> u64 {
    let ones = black_box(_mm256_set1_epi8(1));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..rounds {
        sums = from_fn(|i| _mm256_dpbusd_avx_epi32(sums[i], ones, ones));
    }
    sums.into_iter().map(|sum| integers(sum)).sum()
}

#[target_feature(enable = "avx2")]
fn maddubs(rounds: u64) -> u64 {
    let (ones, words) = (_mm256_set1_epi8(1), _mm256_set1_epi16(1));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..rounds {
        // Hidden in each round, or the products would be made once, before the loop.
        let x = black_box(ones);
        sums =
            from_fn(|i| _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, ones), words)));
    }
    sums.into_iter().map(|sum| integers(sum)).sum()
}

/// The sum of eight i32 that are not negative.
#[target_feature(enable = "avx2")]
fn integers(x: __m256i) -> u64 {
    let mut lanes = [0u32; 8];
    // SAFETY: eight u32 are 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), x) };
    lanes.into_iter().map(u64::from).sum()
}

fn maddwd(rounds: u64) -> u64 {
    let mut sums = [[0u32; 4]; SUMS];
    for _ in 0..rounds {
        let x = black_box([1i16; 8]);
        for sum in &mut sums {
            for (sum, pair) in sum.iter_mut().zip(x.as_chunks::<2>().0) {
                *sum += (i32::from(pair[0]) + i32::from(pair[1])) as u32;
            }
        }
    }
    sums.as_flattened().iter().map(|&sum| u64::from(sum)).sum()
}

#[target_feature(enable = "avx512f")]
fn fma_512(rounds: u64) -> u64 {
    let one = black_box(_mm512_set1_ps(1.0));
    let mut sums = [_mm512_setzero_ps(); SUMS];
    for _ in 0..rounds {
        sums = from_fn(|i| _mm512_fmadd_ps(one, one, sums[i]));
    }
    let mut lanes = [0f32; 16];
    let mut total = 0;
    for sum in sums {
        // SAFETY: sixteen f32 are 64 bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sum) };
        total += lanes.iter().map(|&lane| lane as u64).sum::<u64>();
    }
    total
}

#[target_feature(enable = "avx,fma")]
fn fma_256(rounds: u64) -> u64 {
    let one = black_box(_mm256_set1_ps(1.0));
    let mut sums = [_mm256_setzero_ps(); SUMS];
    for _ in 0..rounds {
        sums = from_fn(|i| _mm256_fmadd_ps(one, one, sums[i]));
    }
    let mut lanes = [0f32; 8];
    let mut total = 0;
    for sum in sums {
        // SAFETY: eight f32 are 32 bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        total += lanes.iter().map(|&lane| lane as u64).sum::<u64>();
    }
    total
}

fn mul_add(rounds: u64) -> u64 {
    let mut sums = [[0f32; 4]; SUMS];
    for _ in 0..rounds {
        let x = black_box([1f32; 4]);
        for sum in &mut sums {
            *sum = from_fn(|lane| sum[lane] + x[lane] * x[lane]);
        }
    }
    sums.as_flattened().iter().map(|&sum| sum as u64).sum()
}
