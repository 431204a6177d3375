//! Products of many positions with packed weights: tiles of four rows and 16 or 8 positions, whose sums stay in
//! registers from the first block to the last.
//!
//! So that a tile's loop only multiplies, what it reads is laid out before, in panels on the stack: weights unpacked to
//! bytes with their scales widened, once for up to [`POSITIONS`] positions, and the activations' scales side by side,
//! once for all rows of a call. [`Panels`] is what an instruction set adds: its loop, and the order it wants bytes in.

use super::super::product::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, has_minimum, type_of};
use super::super::{ActivationBlocks, Activations, scalar};
use super::packed;
use crate::llm::quant::GgmlType;
use core::arch::aarch64::*;
use core::mem::MaybeUninit;

/// Rows of a packed group.
const GROUP: usize = 8;
/// Rows whose sums are in registers at a time, and how often a group has them.
pub(in super::super) const STRIP: usize = 4;
pub(in super::super) const STRIPS: usize = GROUP / STRIP;
/// Positions that share one unpacking.
const POSITIONS: usize = 32;
/// Positions of a tile, and of a short one.
const TILE: usize = 16;
const SHORT_TILE: usize = 8;
/// Blocks of 32 between two stores of a tile's sums.
const BLOCKS: usize = 24;

/// Integer sums are sixteen times too large: Q4_0, whose nibbles lie in the top of a byte.
pub(in super::super) const SIXTEENFOLD: u32 = 0;
/// One scale.
pub(in super::super) const PLAIN: u32 = 1;
/// A scale and a minimum.
pub(in super::super) const MINIMUM: u32 = 2;

/// Most registers of a strip's panel for one block, and of a pair of positions'.
const MOST_WEIGHTS: usize = 12;
/// Registers from a strip's panel to the next strip's.
pub(in super::super) const STRIP_REGISTERS: usize = BLOCKS * MOST_WEIGHTS;
const MOST_ACTIVATIONS: usize = 6;

/// A group of eight rows times a tile of positions, some blocks of it.
#[derive(Clone, Copy)]
pub(in super::super) struct Tile {
    /// The first strip's panel of weights, the next behind it: for each block eight registers of bytes, the scales, and the minima if there are any.
    pub weights: *const int8x16_t,
    /// The activations' panel.
    pub activations: *const float32x4_t,
    /// Blocks to multiply, one at least.
    pub blocks: usize,
    /// Where the first position's eight sums go, and how many floats behind them the next position's.
    pub out: *mut f32,
    pub rows: usize,
    /// Whether sums start at zero; if not, they go on from what lies in `out`.
    pub fresh: bool,
}

/// The tile's loop of an instruction set, and the order of its panels.
///
/// # Safety
/// Methods may use the set's instructions: the caller's CPU has them. Pointers are good for what a [`Tile`] says.
pub(in super::super) trait Panels {
    /// Registers of a strip's scales for one block.
    const SCALES: usize;

    /// Writes eight words of four weights of four rows as eight registers.
    unsafe fn weights(words: [int8x16_t; 8], to: *mut int8x16_t);
    /// Four rows' scales; of one register the first is used.
    unsafe fn scales(scales: float32x4_t) -> [float32x4_t; 2];
    /// Lays out blocks of `tile` positions, behind each block's scales the sums if `minimum`. Gives the end.
    unsafe fn activations(
        x: Positions<'_>,
        tile: usize,
        minimum: bool,
        out: *mut float32x4_t,
    ) -> *mut float32x4_t;
    /// 16 positions.
    unsafe fn tile<const FORM: u32>(tile: Tile);
    /// 8 positions.
    unsafe fn short_tile<const FORM: u32>(tile: Tile);
}

/// Some blocks of a tile's activations.
#[derive(Clone, Copy)]
pub(in super::super) struct Positions<'a> {
    pub x: ActivationBlocks<'a>,
    /// Blocks of a position.
    pub n: usize,
    /// First position.
    pub position: usize,
    /// First block, and how many.
    pub block: usize,
    pub blocks: usize,
}

impl Positions<'_> {
    /// The first of these blocks of position `p` of the tile: its bytes, scale and half sums.
    #[inline(always)]
    pub fn blocks_of(&self, p: usize) -> (*const i8, *const f32, *const i16) {
        let at = (self.position + p) * self.n + self.block;
        let blocks = at..at + self.blocks;
        let q = &self.x.q[32 * blocks.start..32 * blocks.end];
        let sums = &self.x.sum16[2 * blocks.start..2 * blocks.end];
        (q.as_ptr(), self.x.scale[blocks].as_ptr(), sums.as_ptr())
    }
}

/// The sum of a block's activations.
///
/// # Safety
/// - Both half sums are readable.
#[inline(always)]
pub(in super::super) unsafe fn sum(halves: *const i16) -> f32 {
    // SAFETY: as the caller says.
    unsafe { f32::from(*halves) + f32::from(*halves.add(1)) }
}

/// Whether a type's products can be made of panels.
pub(in super::super) fn has_panels(ty: GgmlType) -> bool {
    matches!(ty, GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0)
}

/// Positions from the first on that come in whole tiles; the others are left to the caller.
pub(in super::super) fn in_tiles(positions: usize) -> usize {
    positions / SHORT_TILE * SHORT_TILE
}

/// `count` positions of `x` from `first` on.
pub(in super::super) fn part<'a>(x: &Activations<'a>, first: usize, count: usize) -> Activations<'a> {
    let range = |size: usize| first * size..(first + count) * size;
    let ActivationBlocks { q, scale, sum16 } = x.blocks;
    let blocks = ActivationBlocks {
        q: &q[range(x.k)],
        scale: &scale[range(x.k / 32)],
        sum16: &sum16[range(x.k / 16)],
    };
    Activations { positions: count, values: &[], blocks, ..*x }
}

/// Products of weights of type `ty`, one of [`has_panels`], with positions in whole tiles.
///
/// # Safety
/// - This CPU has the instructions of `P`.
#[target_feature(enable = "neon")]
pub(in super::super) unsafe fn products<P: Panels>(
    ty: GgmlType,
    weights: &[u8],
    rows: usize,
    x: &Activations<'_>,
    out: &mut [f32],
) {
    // SAFETY: as the caller says.
    unsafe {
        match ty {
            GgmlType::Q4_0 => groups::<P, Q4_0, SIXTEENFOLD>(weights, rows, x, out),
            GgmlType::Q4_1 => groups::<P, Q4_1, MINIMUM>(weights, rows, x, out),
            GgmlType::Q5_0 => groups::<P, Q5_0, PLAIN>(weights, rows, x, out),
            GgmlType::Q5_1 => groups::<P, Q5_1, MINIMUM>(weights, rows, x, out),
            GgmlType::Q8_0 => groups::<P, Q8_0, PLAIN>(weights, rows, x, out),
            _ => unreachable!("{} has no panels", ty.name()),
        }
    }
    // What is no whole group.
    if !rows.is_multiple_of(GROUP) {
        scalar::matmul_rows(ty, weights, rows, rows / GROUP * GROUP..rows, x, out);
    }
}

/// Panels of two strips of weights, and of activations.
struct Scratch {
    weights: [[MaybeUninit<int8x16_t>; STRIP_REGISTERS]; STRIPS],
    activations: [MaybeUninit<float32x4_t>; BLOCKS * POSITIONS / 2 * MOST_ACTIVATIONS],
}

/// All whole groups of rows.
///
/// # Safety
/// - As [`products`].
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn groups<P: Panels, const TY: u32, const FORM: u32>(
    weights: &[u8],
    rows: usize,
    x: &Activations<'_>,
    out: &mut [f32],
) {
    let ty = const { type_of(TY) };
    let n = x.k / 32;
    let row_bytes = n * ty.block_bytes();
    assert!(out.len() == rows * x.positions && x.positions == in_tiles(x.positions), "whole tiles");
    assert!(x.blocks.q.len() == x.positions * x.k, "all activations");
    let mut scratch = MaybeUninit::<Scratch>::uninit();
    // SAFETY: arrays of what may be uninitialized need no initialization.
    let scratch = unsafe { &mut *scratch.as_mut_ptr() };
    for first in (0..x.positions).step_by(POSITIONS) {
        let positions = first..x.positions.min(first + POSITIONS);
        for block in (0..n).step_by(BLOCKS) {
            let blocks = BLOCKS.min(n - block);
            let mut starts = [core::ptr::null(); POSITIONS / SHORT_TILE];
            let mut end = scratch.activations.as_mut_ptr().cast();
            for (tile, start) in tiles(&positions).zip(&mut starts) {
                let x = Positions { x: x.blocks, n, position: tile.0, block, blocks };
                *start = end;
                // SAFETY: the panel has room for the most registers of `POSITIONS` positions and `BLOCKS` blocks.
                end = unsafe { P::activations(x, tile.1, has_minimum(TY), end) };
            }
            for (g, group) in weights.chunks_exact(GROUP * row_bytes).enumerate() {
                let size = GROUP * ty.block_bytes();
                // SAFETY: as the caller says.
                unsafe { lay::<P, TY>(&group[block * size..][..blocks * size], &mut scratch.weights) };
                for (tile, &activations) in tiles(&positions).zip(&starts) {
                    let out = &mut out[tile.0 * rows + g * GROUP..];
                    assert!(out.len() >= (tile.1 - 1) * rows + GROUP, "the last position's sums");
                    let job = Tile {
                        weights: scratch.weights.as_ptr().cast(),
                        activations,
                        blocks,
                        out: out.as_mut_ptr(),
                        rows,
                        fresh: block == 0,
                    };
                    // SAFETY: `blocks` blocks of these panels were just laid out, and the last position's eight sums
                    // are inside `out`.
                    unsafe { if tile.1 == TILE { P::tile::<FORM>(job) } else { P::short_tile::<FORM>(job) } }
                }
            }
        }
    }
}

/// First position and length of each tile.
#[inline(always)]
fn tiles(positions: &core::ops::Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    let end = positions.end;
    let whole = positions.start + positions.len() / TILE * TILE;
    let short = (whole < end).then_some((whole, SHORT_TILE));
    (positions.start..whole).step_by(TILE).map(|first| (first, TILE)).chain(short)
}

/// Lays out blocks of eight rows as two strips.
///
/// # Safety
/// - As [`products`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn lay<P: Panels, const TY: u32>(
    group: &[u8],
    strips: &mut [[MaybeUninit<int8x16_t>; STRIP_REGISTERS]; STRIPS],
) {
    let per_block = 8 + P::SCALES * if has_minimum(TY) { 2 } else { 1 };
    let size = GROUP * const { type_of(TY) }.block_bytes();
    let [mut low, mut high] = strips.each_mut().map(|strip| strip.as_mut_ptr().cast::<int8x16_t>());
    assert!(group.len() / size <= BLOCKS && per_block <= MOST_WEIGHTS, "room for all blocks");
    for block in group.chunks_exact(size) {
        let mut w = packed::unpack::<TY, true>(block, 0).q;
        if TY == Q5_1 {
            // Unpacked less sixteen.
            w = w.map(|pair| pair.map(|v| vaddq_s8(v, vdupq_n_s8(16))));
        }
        let (scale, minimum) = packed::scales::<TY>(block);
        // SAFETY: a strip has room for `BLOCKS` blocks of `per_block` registers, which was asserted.
        unsafe {
            lay_strip::<P, TY>(w.map(|pair| pair[0]), scale[0], minimum[0], low);
            lay_strip::<P, TY>(w.map(|pair| pair[1]), scale[1], minimum[1], high);
            (low, high) = (low.add(per_block), high.add(per_block));
        }
    }
}

/// One block of four rows.
///
/// # Safety
/// - `to` has room for a block.
#[inline(always)]
unsafe fn lay_strip<P: Panels, const TY: u32>(
    words: [int8x16_t; 8],
    scale: float32x4_t,
    minimum: float32x4_t,
    to: *mut int8x16_t,
) {
    // SAFETY: as the caller says; scales follow eight registers of weights.
    unsafe {
        P::weights(words, to);
        let scales = to.add(8).cast::<float32x4_t>();
        let (s, m) = (P::scales(scale), P::scales(minimum));
        for j in 0..P::SCALES {
            scales.add(j).write(s[j]);
            if has_minimum(TY) {
                scales.add(P::SCALES + j).write(m[j]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::simd::self_test::{Fill, matmul_agrees};

    #[test]
    fn panels_have_the_scalar_bits_whatever_tiles_and_pieces_they_come_in() {
        for kernels in crate::llm::simd::available() {
            for ty in GgmlType::ALL.into_iter().filter(|&ty| has_panels(ty)) {
                for positions in [15, 16, 24, 31, 40, 67] {
                    for k in [32, 32 * BLOCKS, 32 * (BLOCKS + 1), 64 * BLOCKS + 96] {
                        let size = [19, k, positions];
                        let agrees = matmul_agrees(kernels, ty, size, Fill::Random, Fill::Random);
                        assert!(agrees, "{} {} at {size:?}", kernels.name, ty.name());
                    }
                }
            }
        }
    }
}
