//! Loops in plain Rust, for processors without any of their own here.

use std::array::from_fn;
use std::hint::black_box;

use super::RegisterLoop;

/// Numbers in flight.
const LANES: usize = 32;

/// The sum of all u64 in a slice whose length is a multiple of [`super::GRAIN`].
pub(super) fn sum() -> fn(&[u8]) -> u64 {
    |bytes| bytes.as_chunks::<8>().0.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)))
}

/// Sums of products as the compiler makes them.
pub(super) fn int8() -> RegisterLoop {
    let run = |rounds| {
        let mut sums = [0u32; LANES];
        for _ in 0..rounds {
            let x = black_box([1i8; LANES]);
            sums = from_fn(|i| sums[i] + (i32::from(x[i]) * i32::from(x[i])) as u32);
        }
        sums.into_iter().map(u64::from).sum()
    };
    RegisterLoop { instruction: "i8 * i8 + i32", operations: 2 * LANES as u64, run }
}

/// Sums of products as the compiler makes them.
pub(super) fn f32() -> RegisterLoop {
    let run = |rounds| {
        let mut sums = [0f32; LANES];
        for _ in 0..rounds {
            let x = black_box([1f32; LANES]);
            sums = from_fn(|i| sums[i] + x[i] * x[i]);
        }
        sums.into_iter().map(|sum| sum as u64).sum()
    };
    RegisterLoop { instruction: "f32 * f32 + f32", operations: 2 * LANES as u64, run }
}
