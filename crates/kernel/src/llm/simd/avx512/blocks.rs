//! Products of packed quantized weights: two groups of sixteen rows at a time, so that a broadcast of four
//! activations serves both.

use super::super::Activations;
use super::super::packed::Packed;
use super::super::product::{Q4_K, Q5_K, Q6_K, has_minimum, type_of};
use super::unpack::{Rows, Weights, offset, unpack};
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

/// Positions that one unpacking of weights serves; their sums stay in the first cache.
const TILE: usize = 64;
/// Up to so many positions are multiplied with sums in registers. With more, two groups of rows share broadcasts and
/// one unpacking, and the next weights come into the second cache meanwhile: sums that pass through memory are hidden.
const FEW: usize = 4;
/// What is kept of activation sums at a time: `TILE` positions of 32 sub-blocks (16 where a sub-block has two sums).
const SUMS: usize = TILE * 32;
/// How far ahead weights are asked for, in bytes: a page, where the CPU's own prefetching stops.
pub(super) const AHEAD: usize = 4096;

/// All whole groups of rows of type `TY`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) fn groups<const TY: u32>(weights: &[u8], rows: usize, x: &Activations<'_>, out: &mut [f32]) {
    let bytes = 16 * const { type_of(TY) }.row_bytes(x.k).expect("checked by the caller");
    let groups = &weights[..rows / 16 * bytes];
    if x.positions <= FEW {
        for (g, group) in groups.chunks_exact(bytes).enumerate() {
            few::<TY>(Packed(group), 16 * g, rows, x, out);
        }
        return;
    }
    let mut sums = [MaybeUninit::uninit(); SUMS];
    let mut first = 0;
    let mut pairs = groups.chunks_exact(2 * bytes);
    for pair in pairs.by_ref() {
        let (a, b) = pair.split_at(bytes);
        panel::<TY, 2>([Packed(a), Packed(b)], first, rows, x, out, &mut sums);
        first += 32;
    }
    if !pairs.remainder().is_empty() {
        panel::<TY, 1>([Packed(pairs.remainder())], first, rows, x, out, &mut sums);
    }
}

/// A group of rows from row `row` on, times [`FEW`] positions or fewer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn few<const TY: u32>(group: Rows<'_>, row: usize, rows: usize, x: &Activations<'_>, out: &mut [f32]) {
    let mut first = 0;
    while first < x.positions {
        let out = &mut out[first * rows + row..];
        first += match x.positions - first {
            1 => store_columns(out, rows, columns::<TY, 1>(group, first, x)),
            2 => store_columns(out, rows, columns::<TY, 2>(group, first, x)),
            3 => store_columns(out, rows, columns::<TY, 3>(group, first, x)),
            _ => store_columns(out, rows, columns::<TY, 4>(group, first, x)),
        };
    }
}

/// Stores the sums of `N` positions and says how many they are.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn store_columns<const N: usize>(out: &mut [f32], rows: usize, acc: [[__m512; 1]; N]) -> usize {
    for (n, acc) in acc.into_iter().enumerate() {
        store(&mut out[n * rows..], acc);
    }
    N
}

/// `G` groups of rows, one or two, from row `first` on, times all positions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn panel<const TY: u32, const G: usize>(
    groups: [Rows<'_>; G],
    first: usize,
    rows: usize,
    x: &Activations<'_>,
    out: &mut [f32],
    sums: &mut [MaybeUninit<i32>; SUMS],
) {
    let ty = const { type_of(TY) };
    let (block_bytes, subs, per_sub) = (ty.block_bytes(), ty.block_len() / 32, sums_per_sub(TY));
    let of_row = x.k / 32;
    let step = SUMS / TILE / per_sub;
    let (q, _) = x.blocks.q.as_chunks::<32>();
    for position in (0..x.positions).step_by(TILE) {
        let positions = position..x.positions.min(position + TILE);
        for p in positions.clone() {
            out[p * rows + first..][..16 * G].fill(0.0);
        }
        for from in (0..of_row).step_by(step) {
            let to = of_row.min(from + step);
            for (p, sums) in positions.clone().zip(sums.chunks_exact_mut(SUMS / TILE)) {
                let sum16 = &x.blocks.sum16[2 * (p * of_row + from)..2 * (p * of_row + to)];
                prepare_sums::<TY>(sum16, sums);
            }
            for at in from..to {
                for group in groups {
                    // The next groups come in while these are multiplied.
                    let share = group.0.len() / of_row;
                    prefetch::<_MM_HINT_T1>(&group.0[share * at..share * (at + 1)], G * group.0.len());
                }
                let block = |group: Rows<'_>| {
                    unpack::<TY>(
                        Packed(&group.0[16 * (at / subs) * block_bytes..][..16 * block_bytes]),
                        at % subs,
                    )
                };
                let w = [block(groups[0]), block(groups[G - 1])];
                for (p, sums) in positions.clone().zip(sums.chunks_exact(SUMS / TILE)) {
                    let out = &mut out[p * rows + first..][..16 * G];
                    let (q, scale) = (&q[p * of_row + at], &x.blocks.scale[p * of_row + at]);
                    // Behind all checks: what is read in front of one is not broadcast by the load.
                    let sums = &sums[per_sub * (at - from)..][..per_sub];
                    let acc = load(out);
                    // SAFETY: `prepare_sums` has written this position's sums of all sub-blocks in `from..to`.
                    let sums = unsafe { [sums[0].assume_init(), sums[per_sub - 1].assume_init()] };
                    let sums = [_mm512_set1_epi32(sums[0]), _mm512_set1_epi32(sums[1])];
                    store(out, multiply::<TY, G>(&w, q, scale, sums, acc));
                }
            }
        }
    }
}

/// A group of rows times `N` positions from `first` on, whose sums stay in registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn columns<const TY: u32, const N: usize>(
    group: Rows<'_>,
    first: usize,
    x: &Activations<'_>,
) -> [[__m512; 1]; N] {
    let ty = const { type_of(TY) };
    let (subs, of_row) = (ty.block_len() / 32, x.k / 32);
    let (q, _) = x.blocks.q.as_chunks::<32>();
    let (sum16, _) = x.blocks.sum16.as_chunks::<2>();
    let whole = first * of_row..(first + N) * of_row;
    let (q, scale, sum16) = (&q[whole.clone()], &x.blocks.scale[whole.clone()], &sum16[whole]);
    let mut acc = [[_mm512_setzero_ps()]; N];
    for (b, block) in group.0.chunks_exact(16 * ty.block_bytes()).enumerate() {
        for sub in 0..subs {
            let share = block.len() / subs;
            prefetch::<_MM_HINT_T0>(&block[share * sub..share * (sub + 1)], AHEAD);
            let w = unpack::<TY>(Packed(block), sub);
            for (n, acc) in acc.iter_mut().enumerate() {
                let at = n * of_row + b * subs + sub;
                let [low, high] = sum16[at];
                let sums = if TY == Q6_K {
                    [low, high].map(|sum| _mm512_set1_epi32(-i32::from(offset(TY)) * i32::from(sum)))
                } else {
                    let pair = i32::from(low) & 0xffff | i32::from(high) << 16;
                    [prepared::<TY>(_mm512_set1_epi32(pair)); 2]
                };
                *acc = multiply::<TY, 1>(&[w, w], &q[at], &scale[at], sums, *acc);
            }
        }
    }
    acc
}

/// How many sums of activations a sub-block has use for.
const fn sums_per_sub(ty: u32) -> usize {
    if ty == Q6_K { 2 } else { 1 }
}

/// One position's sums of activations in the form that [`multiply`] wants: minus the weights' offset times the sum, or
/// the sum as f32 bits where it is taken times a minimum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn prepare_sums<const TY: u32>(sum16: &[i16], sums: &mut [MaybeUninit<i32>]) {
    if TY == Q6_K {
        for (sum, &sum16) in sums.iter_mut().zip(sum16) {
            sum.write(-i32::from(offset(TY)) * i32::from(sum16));
        }
        return;
    }
    for (sums, sum16) in sums.chunks_mut(16).zip(sum16.chunks(32)) {
        let some = (0xffff_u32 >> (16 - sum16.len() / 2)) as u16;
        // SAFETY: the mask stands for the pairs that are there; nothing else is read.
        let pairs = unsafe { _mm512_maskz_loadu_epi32(some, sum16.as_ptr().cast()) };
        assert!(sums.len() == 16, "a whole register of sums");
        // SAFETY: sixteen sums are writable, as was just asserted.
        unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), prepared::<TY>(pairs)) };
    }
}

/// Sixteen prepared sums of two halves each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn prepared<const TY: u32>(pairs: __m512i) -> __m512i {
    let zero = _mm512_setzero_si512();
    if has_minimum(TY) {
        let both = _mm512_dpwssd_epi32(zero, pairs, _mm512_set1_epi16(1));
        return _mm512_castps_si512(_mm512_cvtepi32_ps(both));
    }
    _mm512_dpwssd_epi32(zero, pairs, _mm512_set1_epi16(-offset(TY)))
}

/// `acc` plus the products of a sub-block of weights with 32 activations.
///
/// Sub-scales and sub-minima multiply integers that are below 2^24 before and after, so floats do it exactly.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn multiply<const TY: u32, const G: usize>(
    w: &[Weights; 2],
    x: &[i8; 32],
    x_scale: &f32,
    sums: [__m512i; 2],
    mut acc: [__m512; G],
) -> [__m512; G] {
    let (x, _) = x.as_chunks::<4>();
    let zero = _mm512_setzero_si512();
    let first = if has_minimum(TY) { zero } else { sums[0] };
    // Two chains of four, so that enough of them are in flight.
    let (mut isum, mut second) = ([first; G], [if TY == Q6_K { sums[1] } else { zero }; G]);
    for j in 0..8 {
        let x = _mm512_set1_epi32(i32::from_le_bytes(x[j].map(|v| v as u8)));
        for g in 0..G {
            let sum = if j >= 4 { &mut second[g] } else { &mut isum[g] };
            *sum = _mm512_dpbusd_epi32(*sum, w[g].q[j], x);
        }
    }
    let x_scale = _mm512_set1_ps(*x_scale);
    for g in 0..G {
        let w = &w[g];
        let isum = if TY == Q6_K { isum[g] } else { _mm512_add_epi32(isum[g], second[g]) };
        let mut isum = _mm512_cvtepi32_ps(isum);
        match TY {
            Q4_K | Q5_K => isum = _mm512_mul_ps(isum, w.sub_scale[0]),
            Q6_K => {
                let second = _mm512_mul_ps(_mm512_cvtepi32_ps(second[g]), w.sub_scale[1]);
                isum = _mm512_fmadd_ps(isum, w.sub_scale[0], second);
            }
            _ => {}
        }
        acc[g] = _mm512_fmadd_ps(_mm512_mul_ps(w.scale, x_scale), isum, acc[g]);
        if has_minimum(TY) {
            let mut xsum = _mm512_castsi512_ps(sums[0]);
            if TY == Q4_K || TY == Q5_K {
                xsum = _mm512_mul_ps(xsum, w.sub_minimum);
            }
            acc[g] = _mm512_fmadd_ps(_mm512_mul_ps(w.minimum, x_scale), xsum, acc[g]);
        }
    }
    acc
}

/// Asks for the weights that come `ahead` bytes behind these.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn prefetch<const HINT: i32>(bytes: &[u8], ahead: usize) {
    for at in (0..bytes.len()).step_by(64) {
        // Only an address: whether anything lies there does not matter.
        _mm_prefetch::<HINT>(bytes.as_ptr().wrapping_add(at + ahead).cast());
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) fn load<const G: usize>(x: &[f32]) -> [__m512; G] {
    let (lanes, _) = x.as_chunks::<16>();
    let mut v = [_mm512_setzero_ps(); G];
    for g in 0..G {
        // SAFETY: 64 bytes are readable behind the reference; the load needs no alignment.
        v[g] = unsafe { _mm512_loadu_ps(lanes[g].as_ptr()) };
    }
    v
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) fn store<const G: usize>(x: &mut [f32], v: [__m512; G]) {
    let (lanes, _) = x.as_chunks_mut::<16>();
    for g in 0..G {
        // SAFETY: 64 bytes are writable behind the reference; the store needs no alignment.
        unsafe { _mm512_storeu_ps(lanes[g].as_mut_ptr(), v[g]) };
    }
}
