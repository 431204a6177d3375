//! Products of packed F32, F16 and BF16 weights: a tile of sums stays in registers while `k` passes by.

use super::super::Activations;
use super::super::packed::Packed;
use super::super::product::type_of;
use super::blocks::{AHEAD, store};
use super::unpack::{Rows, float};
use core::arch::x86_64::*;

/// All whole groups of rows of type `TY`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) fn groups<const TY: u32>(weights: &[u8], rows: usize, x: &Activations<'_>, out: &mut [f32]) {
    let bytes = 16 * const { type_of(TY) }.row_bytes(x.k).expect("checked by the caller");
    let groups = &weights[..rows / 16 * bytes];
    let mut first = 0;
    let mut pairs = groups.chunks_exact(2 * bytes);
    for pair in pairs.by_ref() {
        let (a, b) = pair.split_at(bytes);
        panel::<TY, 2>([Packed(a), Packed(b)], first, rows, x, out);
        first += 32;
    }
    if !pairs.remainder().is_empty() {
        panel::<TY, 1>([Packed(pairs.remainder())], first, rows, x, out);
    }
}

/// `G` groups of rows from row `first` on, times all positions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn panel<const TY: u32, const G: usize>(
    groups: [Rows<'_>; G],
    first: usize,
    rows: usize,
    x: &Activations<'_>,
    out: &mut [f32],
) {
    let mut p = 0;
    while p < x.positions {
        let out = &mut out[p * rows + first..];
        let values = &x.values[p * x.k..];
        macro_rules! tiles {
            ($n:expr; $($count:literal)*) => {
                match $n {
                    $($count => tile::<TY, G, $count>(groups, x.k, values, rows, out),)*
                    _ => tile::<TY, G, 12>(groups, x.k, values, rows, out),
                }
            };
        }
        // What is left behind tiles of twelve is cut in two alike: few sums wait for each other.
        let left = x.positions - p;
        let next = if (13..24).contains(&left) { left.div_ceil(2) } else { left };
        p += tiles!(next; 1 2 3 4 5 6 7 8 9 10 11);
    }
}

/// `G` groups of rows times `N` positions; answers `N`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn tile<const TY: u32, const G: usize, const N: usize>(
    groups: [Rows<'_>; G],
    k: usize,
    values: &[f32],
    rows: usize,
    out: &mut [f32],
) -> usize {
    let mut x = [values; N];
    for (n, x) in x.iter_mut().enumerate() {
        *x = &x[n * k..][..k];
    }
    let size = const { type_of(TY) }.block_bytes();
    let mut w = groups;
    for w in &mut w {
        *w = Packed(&w.0[..16 * size * k]);
    }
    // Memory is what one position waits for, and the CPU's own prefetching does not follow two streams well.
    let bytes = 16 * size * k;
    let mut acc = [[_mm512_setzero_ps(); G]; N];
    for i in 0..k {
        if N == 1 {
            let ahead = 16 * size * i + AHEAD;
            // Behind the group's end comes the same group of the next pair.
            let ahead = if ahead < bytes { ahead } else { ahead + (G - 1) * bytes };
            for w in &w {
                // Only an address: whether anything lies there does not matter.
                _mm_prefetch::<_MM_HINT_T0>(w.0.as_ptr().wrapping_add(ahead).cast());
            }
        }
        let mut column = [_mm512_setzero_ps(); G];
        for (column, w) in column.iter_mut().zip(&w) {
            *column = float::<TY>(*w, i * size);
        }
        for (acc, x) in acc.iter_mut().zip(&x) {
            let x = _mm512_set1_ps(x[i]);
            for g in 0..G {
                acc[g] = _mm512_fmadd_ps(column[g], x, acc[g]);
            }
        }
    }
    for (n, acc) in acc.into_iter().enumerate() {
        store(&mut out[n * rows..][..16 * G], acc);
    }
    N
}
