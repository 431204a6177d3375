//! Products with packed weights: eight rows a register, for AVX2 alone and with AVX-VNNI.
//!
//! A few positions are multiplied while weights are taken apart in registers ([`direct`]). Of many positions, [`PANEL`]
//! weights of two groups of rows are taken apart once into a panel in the first cache, which then serves all
//! positions, [`TILE`] at a time: a register of weights meets four of activations, and one of activations two of weights,
//! so that loads do not hold up the multiplications. Sums wait in the output between two panels.
//!
//! What differs between the instruction sets is how bytes are multiplied: [`Bytes`].

#![expect(clippy::needless_range_loop, reason = "rows and positions count through several arrays at once")]

use super::super::Activations;
use super::super::product::{Q4_0, Q4_K, Q5_0, Q5_K, Q6_K, Q8_0, Rows as _, has_minimum, type_of};
use super::Avx2;
use super::unpack::Rows;
use core::arch::x86_64::{__m256, _MM_HINT_T0, _mm_prefetch};
use core::ops::Range;

pub(in super::super) use super::unpack::Unpacked;

/// Positions that share a load of weights from a panel.
pub(in super::super) const TILE: usize = 4;

/// Weights of a row in a panel, and activations whose sums are prepared together.
const PANEL: usize = 256;

/// Sub-blocks of a panel.
const SUBS: usize = PANEL / 32;

/// From this many positions on, a panel pays.
pub(in super::super) const MANY: usize = 8;

/// How far ahead weights are asked for, in bytes: a page, where the CPU's own prefetching stops.
const AHEAD: usize = 4096;

/// How an instruction set multiplies bytes.
pub(in super::super) trait Bytes: Copy {
    /// The proof for what both have.
    fn avx2(self) -> Avx2;
    /// [`super::unpack::unpack`], with everything in the form that [`Self::integer_sums`] wants.
    fn unpack<const TY: u32>(self, block: Rows<'_>, sub: usize) -> Unpacked;
    /// What [`Self::integer_sums`] and minima need of a panel's sums of 16 activations.
    fn prepare<const TY: u32>(self, sum16: &[i16; 16]) -> [i32; 16];
    /// The exact sums of a sub-block with 32 activations of each position, sub-scales and offset included.
    fn integer_sums<const TY: u32, const R: usize, const P: usize>(
        self,
        w: &[Unpacked; R],
        x: &[Inputs<'_>; P],
        sub: usize,
    ) -> [[__m256; P]; R];
}

/// A panel's activations of one position.
#[derive(Clone, Copy)]
pub(in super::super) struct Inputs<'a> {
    pub(in super::super) q: &'a [[i8; 32]],
    scale: &'a [f32],
    /// What [`Bytes::prepare`] made of their sums. Of types with a minimum: each sub-block's sum, as the bits of an f32.
    pub(in super::super) sums: [i32; 16],
}

/// The walk that a table of eight packed rows gives as its [`Packing`].
macro_rules! packed_products {
    ($features:literal, $set:ident) => {
        #[target_feature(enable = $features)]
        fn packed_products(
            ty: $crate::llm::quant::GgmlType,
            weights: &[u8],
            rows: usize,
            x: &$crate::llm::simd::Activations<'_>,
            out: &mut [f32],
        ) {
            use $crate::llm::{
                quant::GgmlType,
                simd::avx2::{floats, packed},
                simd::product,
            };
            // A function for each type, so that one type's code cannot crowd another's registers.
            #[target_feature(enable = $features)]
            fn quantized<const TY: u32>(
                weights: &[u8],
                rows: usize,
                x: &$crate::llm::simd::Activations<'_>,
                out: &mut [f32],
            ) {
                // The groups that pairs of panels serve, and the positions that these leave.
                let (mut paired, mut rest) = (0, x.positions);
                if x.positions >= packed::MANY {
                    (paired, rest) = (rows / 16 * 16, x.positions / packed::TILE * packed::TILE);
                    packed::pairs::<_, TY>($set::here(), weights, rows, x, out);
                }
                if rest < x.positions {
                    few::<TY>(weights, (0..paired, rows), x, rest, out);
                }
                few::<TY>(weights, (paired..rows / 8 * 8, rows), x, 0, out);
            }
            #[target_feature(enable = $features)]
            fn few<const TY: u32>(
                weights: &[u8],
                rows: (core::ops::Range<usize>, usize),
                x: &$crate::llm::simd::Activations<'_>,
                first: usize,
                out: &mut [f32],
            ) {
                packed::groups::<_, TY>($set::here(), weights, rows, x, first, out);
            }
            #[target_feature(enable = $features)]
            fn floats<const TY: u32>(
                weights: &[u8],
                rows: usize,
                x: &$crate::llm::simd::Activations<'_>,
                out: &mut [f32],
            ) {
                floats::floats::<_, TY>($set::here(), weights, rows, x, out);
            }
            match ty {
                GgmlType::F32 => floats::<{ product::F32 }>(weights, rows, x, out),
                GgmlType::F16 => floats::<{ product::F16 }>(weights, rows, x, out),
                GgmlType::BF16 => floats::<{ product::BF16 }>(weights, rows, x, out),
                GgmlType::Q4_0 => quantized::<{ product::Q4_0 }>(weights, rows, x, out),
                GgmlType::Q4_1 => quantized::<{ product::Q4_1 }>(weights, rows, x, out),
                GgmlType::Q5_0 => quantized::<{ product::Q5_0 }>(weights, rows, x, out),
                GgmlType::Q5_1 => quantized::<{ product::Q5_1 }>(weights, rows, x, out),
                GgmlType::Q8_0 => quantized::<{ product::Q8_0 }>(weights, rows, x, out),
                GgmlType::Q4_K => quantized::<{ product::Q4_K }>(weights, rows, x, out),
                GgmlType::Q5_K => quantized::<{ product::Q5_K }>(weights, rows, x, out),
                GgmlType::Q6_K => quantized::<{ product::Q6_K }>(weights, rows, x, out),
            }
            // What is no whole group.
            $crate::llm::simd::scalar::matmul_rows(ty, weights, rows, rows / 8 * 8..rows, x, out);
        }

        pub(super) const PACKING: $crate::llm::simd::Packing = $crate::llm::simd::Packing {
            rows: 8,
            pack: $crate::llm::simd::packed::pack::<8>,
            matmul: packed_products,
        };
    };
}
pub(in super::super) use packed_products;

/// Which offset is taken off a type's unsigned weights.
pub(in super::super) const fn offset(ty: u32) -> i16 {
    match ty {
        Q4_0 => 8,
        Q5_0 => 16,
        Q6_K => 32,
        Q8_0 => 128,
        _ => 0,
    }
}

/// One panel's activations of position `p`.
#[inline(always)]
fn inputs<'a, S: Bytes, const TY: u32>(s: S, x: &Activations<'a>, p: usize, panel: usize) -> Inputs<'a> {
    let subs = x.k / 32;
    let from = panel * SUBS;
    let to = (from + SUBS).min(subs);
    let (q, _) = x.blocks.q.as_chunks::<32>();
    let sum16 = &x.blocks.sum16[2 * (p * subs + from)..2 * (p * subs + to)];
    let sums = if let Some(sum16) = sum16.first_chunk() {
        s.prepare::<TY>(sum16)
    } else {
        let mut padded = [0; 16];
        padded[..sum16.len()].copy_from_slice(sum16);
        s.prepare::<TY>(&padded)
    };
    Inputs {
        q: &q[p * subs + from..p * subs + to],
        scale: &x.blocks.scale[p * subs + from..p * subs + to],
        sums,
    }
}

/// One panel's activations of `P` positions from `first`.
#[inline(always)]
fn tile_inputs<'a, S: Bytes, const TY: u32, const P: usize>(
    s: S,
    x: &Activations<'a>,
    first: usize,
    panel: usize,
) -> [Inputs<'a>; P] {
    let mut tile = [Inputs { q: &[], scale: &[], sums: [0; 16] }; P];
    for (p, tile) in tile.iter_mut().enumerate() {
        *tile = inputs::<S, TY>(s, x, first + p, panel);
    }
    tile
}

/// The block that holds sub-block `sub` of a panel, and which of its own it is.
#[inline(always)]
fn block_of<const TY: u32>(group: Rows<'_>, panel: usize, sub: usize) -> (Rows<'_>, usize) {
    let ty = const { type_of(TY) };
    let (block, sub) = if ty.block_len() == 32 { (panel * SUBS + sub, 0) } else { (panel, sub) };
    (group.part(block * ty.block_bytes(), ty.block_bytes()), sub)
}

/// Asks for weights a page behind this block.
#[inline(always)]
fn prefetch(block: Rows<'_>) {
    let bytes = block.bytes();
    for at in (0..bytes.len()).step_by(64) {
        // SAFETY: SSE, which every x86-64 CPU has; only an address, so whether anything lies there does not matter.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at + AHEAD).cast()) };
    }
}

/// A sub-block of `R` groups times `P` positions, added to `acc`.
#[inline(always)]
fn step<S: Bytes, const TY: u32, const R: usize, const P: usize>(
    s: S,
    w: &[Unpacked; R],
    x: &[Inputs<'_>; P],
    sub: usize,
    acc: &mut [[__m256; P]; R],
) {
    let a = s.avx2();
    let isum = s.integer_sums::<TY, R, P>(w, x, sub);
    for p in 0..P {
        let x_scale = a.spread(x[p].scale[sub]);
        for r in 0..R {
            acc[r][p] = a.plus(a.times(w[r].scale, x_scale), isum[r][p], acc[r][p]);
            if has_minimum(TY) {
                let mut xsum = a.spread(f32::from_bits(x[p].sums[sub].cast_unsigned()));
                if TY == Q4_K || TY == Q5_K {
                    // Exact: at most 32 * 127 * 63.
                    xsum = a.times(xsum, w[r].sub_minimum);
                }
                acc[r][p] = a.plus(a.times(w[r].minimum, x_scale), xsum, acc[r][p]);
            }
        }
    }
}

/// A group of rows times `P` positions.
#[inline(always)]
fn direct<S: Bytes, const TY: u32, const P: usize>(
    s: S,
    group: Rows<'_>,
    x: &Activations<'_>,
    first: usize,
) -> [__m256; P] {
    let mut acc = [[s.avx2().zeros(); P]];
    for panel in 0..x.k.div_ceil(PANEL) {
        let x = tile_inputs::<S, TY, P>(s, x, first, panel);
        for sub in 0..x[0].q.len() {
            let (block, of_block) = block_of::<TY>(group, panel, sub);
            if of_block == 0 {
                prefetch(block);
            }
            let w = s.unpack::<TY>(block, of_block);
            step::<S, TY, 1, P>(s, &[w], &x, sub, &mut acc);
        }
    }
    acc[0]
}

/// Where the products of a group of rows with one position go.
#[inline(always)]
pub(super) fn at(out: &mut [f32], rows: usize, row: usize, p: usize) -> &mut [f32; 8] {
    out[p * rows + row..].first_chunk_mut().expect("a whole group of rows")
}

/// The quantized rows of a group, from `row` on, times the positions from `first` on, a few at a time.
#[inline(always)]
fn few<S: Bytes, const TY: u32>(
    s: S,
    group: Rows<'_>,
    (row, rows): (usize, usize),
    x: &Activations<'_>,
    mut first: usize,
    out: &mut [f32],
) {
    let a = s.avx2();
    while first < x.positions {
        match x.positions - first {
            1 => a.store_to(at(out, rows, row, first), direct::<S, TY, 1>(s, group, x, first)[0]),
            2 => {
                for (p, acc) in direct::<S, TY, 2>(s, group, x, first).into_iter().enumerate() {
                    a.store_to(at(out, rows, row, first + p), acc);
                }
            }
            3 => {
                for (p, acc) in direct::<S, TY, 3>(s, group, x, first).into_iter().enumerate() {
                    a.store_to(at(out, rows, row, first + p), acc);
                }
            }
            _ => {
                for (p, acc) in direct::<S, TY, 4>(s, group, x, first).into_iter().enumerate() {
                    a.store_to(at(out, rows, row, first + p), acc);
                }
            }
        }
        first += 4;
    }
}

/// Two groups of quantized rows times the whole tiles among all positions.
#[inline(always)]
fn many<S: Bytes, const TY: u32>(
    s: S,
    groups: [Rows<'_>; 2],
    (row, rows): (usize, usize),
    x: &Activations<'_>,
    weights: &mut [[Unpacked; 2]; SUBS],
    out: &mut [f32],
) {
    let a = s.avx2();
    for panel in 0..x.k.div_ceil(PANEL) {
        let subs = (x.k / 32 - panel * SUBS).min(SUBS);
        for (sub, weights) in weights[..subs].iter_mut().enumerate() {
            for (group, weights) in groups.into_iter().zip(weights) {
                let (block, sub) = block_of::<TY>(group, panel, sub);
                *weights = s.unpack::<TY>(block, sub);
            }
        }
        for first in (0..x.positions / TILE * TILE).step_by(TILE) {
            let x = tile_inputs::<S, TY, TILE>(s, x, first, panel);
            let mut acc = [[a.zeros(); TILE]; 2];
            if panel > 0 {
                for p in 0..TILE {
                    acc[0][p] = a.load(at(out, rows, row, first + p));
                    acc[1][p] = a.load(at(out, rows, row + 8, first + p));
                }
            }
            for (sub, weights) in weights[..subs].iter().enumerate() {
                step::<S, TY, 2, TILE>(s, weights, &x, sub, &mut acc);
            }
            for p in 0..TILE {
                a.store_to(at(out, rows, row, first + p), acc[0][p]);
                a.store_to(at(out, rows, row + 8, first + p), acc[1][p]);
            }
        }
    }
}

/// All pairs of groups of quantized rows times the whole tiles among all positions.
#[inline(always)]
pub(in super::super) fn pairs<S: Bytes, const TY: u32>(
    s: S,
    weights: &[u8],
    rows: usize,
    x: &Activations<'_>,
    out: &mut [f32],
) {
    let row_bytes = const { type_of(TY) }.row_bytes(x.k).expect("checked by the caller");
    let mut panel = [[Unpacked::zero(s.avx2()); 2]; SUBS];
    for row in (0..rows / 16 * 16).step_by(16) {
        let groups = [Rows::group(weights, row, row_bytes), Rows::group(weights, row + 8, row_bytes)];
        many::<S, TY>(s, groups, (row, rows), x, &mut panel, out);
    }
}

/// The whole groups `range` of `rows` quantized rows times the positions from `first` on.
#[inline(always)]
pub(in super::super) fn groups<S: Bytes, const TY: u32>(
    s: S,
    weights: &[u8],
    (range, rows): (Range<usize>, usize),
    x: &Activations<'_>,
    first: usize,
    out: &mut [f32],
) {
    let row_bytes = const { type_of(TY) }.row_bytes(x.k).expect("checked by the caller");
    for row in range.step_by(8) {
        few::<S, TY>(s, Rows::group(weights, row, row_bytes), (row, rows), x, first, out);
    }
}
