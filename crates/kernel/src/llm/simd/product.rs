//! Products of matrix and activations, written once for all instruction sets: the walk over groups of rows, tiles of
//! positions and blocks. A lane is a row, so there are no horizontal sums, and what was unpacked serves a whole tile.
//!
//! An instruction set gives as [`Products`] what one sub-block of 32 weights takes.

use super::Activations;
use crate::llm::quant::{self, GgmlType};

/// Positions that share one unpacking.
const TILE: usize = 8;

pub(super) const F32: u32 = GgmlType::F32 as u32;
pub(super) const F16: u32 = GgmlType::F16 as u32;
pub(super) const BF16: u32 = GgmlType::BF16 as u32;
pub(super) const Q4_0: u32 = GgmlType::Q4_0 as u32;
pub(super) const Q4_1: u32 = GgmlType::Q4_1 as u32;
pub(super) const Q5_0: u32 = GgmlType::Q5_0 as u32;
pub(super) const Q5_1: u32 = GgmlType::Q5_1 as u32;
pub(super) const Q8_0: u32 = GgmlType::Q8_0 as u32;
pub(super) const Q4_K: u32 = GgmlType::Q4_K as u32;
pub(super) const Q5_K: u32 = GgmlType::Q5_K as u32;
pub(super) const Q6_K: u32 = GgmlType::Q6_K as u32;

/// Calls one of two functions, for float weights and for quantized ones, with the type as its constant.
macro_rules! of_type {
    ($ty:expr, $($floats:ident)::+, $($quantized:ident)::+, $arguments:tt) => {
        match $ty {
            $crate::llm::quant::GgmlType::F32 => $($floats)::+::<{ $crate::llm::simd::product::F32 }> $arguments,
            $crate::llm::quant::GgmlType::F16 => $($floats)::+::<{ $crate::llm::simd::product::F16 }> $arguments,
            $crate::llm::quant::GgmlType::BF16 => $($floats)::+::<{ $crate::llm::simd::product::BF16 }> $arguments,
            $crate::llm::quant::GgmlType::Q4_0 => $($quantized)::+::<{ $crate::llm::simd::product::Q4_0 }> $arguments,
            $crate::llm::quant::GgmlType::Q4_1 => $($quantized)::+::<{ $crate::llm::simd::product::Q4_1 }> $arguments,
            $crate::llm::quant::GgmlType::Q5_0 => $($quantized)::+::<{ $crate::llm::simd::product::Q5_0 }> $arguments,
            $crate::llm::quant::GgmlType::Q5_1 => $($quantized)::+::<{ $crate::llm::simd::product::Q5_1 }> $arguments,
            $crate::llm::quant::GgmlType::Q8_0 => $($quantized)::+::<{ $crate::llm::simd::product::Q8_0 }> $arguments,
            $crate::llm::quant::GgmlType::Q4_K => $($quantized)::+::<{ $crate::llm::simd::product::Q4_K }> $arguments,
            $crate::llm::quant::GgmlType::Q5_K => $($quantized)::+::<{ $crate::llm::simd::product::Q5_K }> $arguments,
            $crate::llm::quant::GgmlType::Q6_K => $($quantized)::+::<{ $crate::llm::simd::product::Q6_K }> $arguments,
        }
    };
}
pub(super) use of_type;

/// Part of each of `R` rows of weights.
pub(super) trait Rows<'a, const R: usize>: Copy {
    /// The rows from `first` on, whole.
    fn group(weights: &'a [u8], first: usize, row_bytes: usize) -> Self;
    /// `len` bytes from `at` of each row.
    fn part(self, at: usize, len: usize) -> Self;
}

/// Rows as they lie in the file.
impl<'a, const R: usize> Rows<'a, R> for [&'a [u8]; R] {
    #[inline(always)]
    fn group(weights: &'a [u8], first: usize, row_bytes: usize) -> Self {
        let mut rows = weights[first * row_bytes..].chunks_exact(row_bytes);
        core::array::from_fn(|_| rows.next().expect("a whole group of rows"))
    }

    #[inline(always)]
    fn part(mut self, at: usize, len: usize) -> Self {
        for row in &mut self {
            *row = &row[at..at + len];
        }
        self
    }
}

/// What products are made of in one instruction set; a register holds a lane for each of `R` rows.
///
/// `TY` is a [`GgmlType`] as a constant, so that each type gets its own code.
pub(super) trait Products<const R: usize>: Copy {
    /// One register of f32.
    type F: Copy;
    /// `R` rows of weights, or the same part of each.
    type Rows<'a>: Rows<'a, R>;
    /// The rows' sub-block of 32 weights, ready to be multiplied.
    type Unpacked;

    /// All lanes zero.
    fn zero(self) -> Self::F;
    /// `a * x`.
    fn scaled(self, a: Self::F, x: f32) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a * x + c`, rounded once.
    fn fma_scalar(self, a: Self::F, x: f32, c: Self::F) -> Self::F;
    /// One value for each row.
    fn store(self, out: &mut [f32; R], v: Self::F);

    /// Asks for weights some way behind this block, where that pays.
    #[inline(always)]
    fn prefetch(self, _block: Self::Rows<'_>) {}
    /// Scales and minima of one block, widened; the minimum of K types has its sign turned.
    fn scales<const TY: u32>(self, block: Self::Rows<'_>) -> (Self::F, Self::F);
    /// Sub-block `sub` of one block.
    fn unpack<const TY: u32>(self, block: Self::Rows<'_>, sub: usize) -> Self::Unpacked;
    /// The integer sums of a sub-block with 32 activations, sub-scales included. `sums` are the activations' own.
    fn integer_sum<const TY: u32>(self, w: &Self::Unpacked, x: &[i8; 32], sums: [i16; 2]) -> Self::F;
    /// What the minimum is taken times: the sum of activations times the sub-minimum.
    fn minimum_sum<const TY: u32>(self, w: &Self::Unpacked, sums: [i16; 2]) -> Self::F;

    /// `R` float weights of each row, turned to columns.
    fn columns<const TY: u32>(self, weights: Self::Rows<'_>) -> [Self::F; R];
    /// One float weight of each row.
    fn column<const TY: u32>(self, weight: Self::Rows<'_>) -> Self::F;
}

/// The type that `TY` stands for.
pub(super) const fn type_of(ty: u32) -> GgmlType {
    GgmlType::from_id(ty).expect("one of GgmlType")
}

/// Whether blocks have a minimum besides their scale.
pub(super) const fn has_minimum(ty: u32) -> bool {
    matches!(ty, Q4_1 | Q5_1 | Q4_K | Q5_K)
}

/// One float weight of each row, from rows as they lie in the file.
pub(super) fn gather<const R: usize, const TY: u32>(weight: [&[u8]; R]) -> [f32; R] {
    let mut column = [0.0; R];
    for (bytes, w) in weight.iter().zip(&mut column) {
        quant::dequantize(const { type_of(TY) }, bytes, core::slice::from_mut(w));
    }
    column
}

/// All whole groups of rows, for weights of type `TY`.
#[inline(always)]
pub(super) fn groups<S: Products<R>, const R: usize, const TY: u32>(
    s: S,
    weights: &[u8],
    rows: usize,
    x: &Activations<'_>,
    out: &mut [f32],
) {
    let row_bytes = const { type_of(TY) }.row_bytes(x.k).expect("checked by the caller");
    for first_row in (0..rows / R * R).step_by(R) {
        let group = S::Rows::group(weights, first_row, row_bytes);
        for first in (0..x.positions).step_by(TILE) {
            // Each call is compiled for its own count: one position's sum stays in a register, and a full tile's
            // loops have a known length.
            let count = TILE.min(x.positions - first);
            let acc = match count {
                1 => tile::<S, R, TY>(s, group, Positions { x, first, count: 1 }),
                TILE => tile::<S, R, TY>(s, group, Positions { x, first, count: TILE }),
                _ => tile::<S, R, TY>(s, group, Positions { x, first, count }),
            };
            for (p, acc) in acc[..count].iter().enumerate() {
                let at = (first + p) * rows + first_row;
                s.store(out[at..].first_chunk_mut().expect("a whole group of rows"), *acc);
            }
        }
    }
}

/// Up to [`TILE`] positions of the activations.
#[derive(Clone, Copy)]
struct Positions<'a> {
    x: &'a Activations<'a>,
    first: usize,
    count: usize,
}

/// One group of rows times a tile of positions.
#[inline(always)]
fn tile<S: Products<R>, const R: usize, const TY: u32>(
    s: S,
    group: S::Rows<'_>,
    positions: Positions<'_>,
) -> [S::F; TILE] {
    if const { type_of(TY) }.is_quantized() {
        quantized_tile::<S, R, TY>(s, group, positions)
    } else {
        float_tile::<S, R, TY>(s, group, positions)
    }
}

#[inline(always)]
fn quantized_tile<S: Products<R>, const R: usize, const TY: u32>(
    s: S,
    group: S::Rows<'_>,
    Positions { x, first, count }: Positions<'_>,
) -> [S::F; TILE] {
    // From the constant, so that offsets in a block need no checks.
    let ty = const { type_of(TY) };
    let (block_bytes, subs) = (ty.block_bytes(), ty.block_len() / 32);
    let (q, _) = x.blocks.q.as_chunks::<32>();
    let (sum16, _) = x.blocks.sum16.as_chunks::<2>();
    let mut acc = [s.zero(); TILE];
    for b in 0..x.k / ty.block_len() {
        let block = group.part(b * block_bytes, block_bytes);
        s.prefetch(block);
        let (scale, minimum) = s.scales::<TY>(block);
        for sub in 0..subs {
            let w = s.unpack::<TY>(block, sub);
            for (p, acc) in acc[..count].iter_mut().enumerate() {
                let at = (first + p) * (x.k / 32) + b * subs + sub;
                let (x_scale, sums) = (x.blocks.scale[at], sum16[at]);
                let isum = s.integer_sum::<TY>(&w, &q[at], sums);
                *acc = s.fma(s.scaled(scale, x_scale), isum, *acc);
                if has_minimum(TY) {
                    let xsum = s.minimum_sum::<TY>(&w, sums);
                    *acc = s.fma(s.scaled(minimum, x_scale), xsum, *acc);
                }
            }
        }
    }
    acc
}

#[inline(always)]
fn float_tile<S: Products<R>, const R: usize, const TY: u32>(
    s: S,
    group: S::Rows<'_>,
    Positions { x, first, count }: Positions<'_>,
) -> [S::F; TILE] {
    let size = const { type_of(TY) }.block_bytes();
    let whole = x.k / R * R;
    let mut acc = [s.zero(); TILE];
    for k in (0..whole).step_by(R) {
        let w = s.columns::<TY>(group.part(k * size, R * size));
        for (p, acc) in acc[..count].iter_mut().enumerate() {
            let x = &x.values[(first + p) * x.k + k..][..R];
            for (&w, &x) in w.iter().zip(x) {
                *acc = s.fma_scalar(w, x, *acc);
            }
        }
    }
    for k in whole..x.k {
        let w = s.column::<TY>(group.part(k * size, size));
        for (p, acc) in acc[..count].iter_mut().enumerate() {
            *acc = s.fma_scalar(w, x.values[(first + p) * x.k + k], *acc);
        }
    }
    acc
}
