//! Products with packed weights: eight rows a register, for AVX2 alone and with AVX-VNNI.
//!
//! A position alone is multiplied while weights are taken apart in registers ([`direct`]). Of several positions, [`SUBS`]
//! sub-blocks of two groups of rows are taken apart once into a panel in the first cache, which then serves all
//! positions, [`TILE`] at a time: a register of weights meets four of activations, and one of activations two of
//! weights, so that loads do not hold up the multiplications. Sums wait in the output between two panels.
//!
//! What differs between the instruction sets is how bytes are multiplied: [`Bytes`].

#![expect(clippy::needless_range_loop, reason = "rows and positions count through several arrays at once")]

use super::super::Activations;
use super::super::product::{Q4_0, Q4_K, Q5_0, Q5_K, Q6_K, Q8_0, Rows as _, has_minimum, type_of};
use super::Avx2;
use super::unpack::Rows;
use core::arch::x86_64::{__m256, _MM_HINT_T0, _mm_prefetch};

pub(in super::super) use super::unpack::Unpacked;

/// Positions that share a load of weights from a panel.
const TILE: usize = 4;

/// Sub-blocks of a panel, and of activations whose sums are prepared together: 20 KB of weights.
const SUBS: usize = 24;

/// From this many positions on, a panel pays: fewer go one by one.
pub(in super::super) const MANY: usize = 4;

/// How far ahead weights are asked for, in bytes: a page, where the CPU's own prefetching stops.
const AHEAD: usize = 4096;

/// How an instruction set multiplies bytes.
pub(in super::super) trait Bytes: Copy {
    /// The proof for what both have.
    fn avx2(self) -> Avx2;
    /// [`super::unpack::unpack`], with everything in the form that [`Self::integer_sums`] wants.
    fn unpack<const TY: u32>(self, block: Rows<'_>, sub: usize) -> Unpacked;
    /// Writes what [`Self::integer_sums`] and minima need of the activations' sums of eight sub-blocks, of which `first`
    /// is the first.
    fn prepare<const TY: u32>(self, sum16: &[i16; 16], first: usize, sums: &mut Sums);
    /// The exact sums of a sub-block with 32 activations of each position, sub-scales and offset included.
    fn integer_sums<const TY: u32, const R: usize, const P: usize>(
        self,
        w: &[Unpacked; R],
        x: &[Inputs<'_>; P],
        sub: usize,
    ) -> [[__m256; P]; R];
}

/// What [`Bytes::prepare`] makes of the sums of a panel's activations: one number for each sub-block, or two. Of types
/// with a minimum each sub-block's sum, as the bits of an f32.
pub(in super::super) type Sums = [i32; 2 * SUBS];

/// A panel's activations of one position.
#[derive(Clone, Copy)]
pub(in super::super) struct Inputs<'a> {
    q: &'a [[i8; 32]],
    scale: &'a [f32],
    pub(in super::super) sums: &'a Sums,
}

impl Inputs<'_> {
    /// Activations `4j..4j + 4` of a sub-block.
    #[inline(always)]
    pub(in super::super) fn four(&self, sub: usize, j: usize) -> &[i8; 4] {
        &self.q[sub].as_chunks().0[j]
    }
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
            use $crate::llm::simd::avx2::{floats, packed};
            use $crate::llm::simd::product;
            // A function for each type, so that one type's code cannot crowd another's registers.
            #[target_feature(enable = $features)]
            fn quantized<const TY: u32>(
                weights: &[u8],
                rows: usize,
                x: &$crate::llm::simd::Activations<'_>,
                out: &mut [f32],
            ) {
                // Panels serve pairs of groups.
                let mut rest = 0;
                if x.positions >= packed::MANY {
                    packed::many::<_, TY>($set::here(), weights, rows, x, out);
                    rest = rows / 16 * 16;
                }
                packed::few::<_, TY>($set::here(), weights, (rest, rows), x, out);
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
            product::of_type!(ty, floats, quantized, (weights, rows, x, out));
            // What is no whole group.
            $crate::llm::simd::scalar::matmul_rows(ty, weights, rows, rows / 8 * 8..rows, x, out);
        }

        pub(super) const PACKING: $crate::llm::simd::Packing = $crate::llm::simd::Packing {
            rows: 8,
            pack: $crate::llm::simd::packed::pack::<8>,
            unpack: $crate::llm::simd::packed::unpack_row,
            turned: $crate::llm::simd::packed::unsigned_bytes,
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

/// One panel's activations of `P` positions from `first`: sub-blocks `from..to` of each.
#[inline(always)]
fn inputs<'a, S: Bytes, const TY: u32, const P: usize>(
    s: S,
    x: &Activations<'a>,
    first: usize,
    (from, to): (usize, usize),
    sums: &'a mut [Sums; P],
) -> [Inputs<'a>; P] {
    let (subs, len) = (x.k / 32, to - from);
    let (q, _) = x.blocks.q.as_chunks::<32>();
    for (p, sums) in sums.iter_mut().enumerate() {
        let sum16 = &x.blocks.sum16[2 * ((first + p) * subs + from)..][..2 * len];
        if len < 8 {
            let mut padded = [0; 16];
            padded[..2 * len].copy_from_slice(sum16);
            s.prepare::<TY>(&padded, 0, sums);
            continue;
        }
        for first in (0..len).step_by(8) {
            // The last eight begin among those before them where the panel is no multiple.
            let first = first.min(len - 8);
            s.prepare::<TY>(sum16[2 * first..].first_chunk().expect("eight sub-blocks"), first, sums);
        }
    }
    let mut tile = [Inputs { q: &[], scale: &[], sums: &[0; 2 * SUBS] }; P];
    for (p, (tile, sums)) in tile.iter_mut().zip(sums).enumerate() {
        let at = (first + p) * subs + from;
        *tile = Inputs { q: &q[at..][..len], scale: &x.blocks.scale[at..][..len], sums };
    }
    tile
}

/// Runs `$body` for each sub-block from `$from` to `$to`, both whole blocks: with its block, its number there, and its
/// number from `$from` on. That of a K block is a constant, so that shifts are.
macro_rules! each_sub_block {
    ($ty:ident, $group:expr, $from:expr, $to:expr, |$block:ident, $of_block:ident, $sub:ident| $body:block) => {
        let ty = const { type_of($ty) };
        if ty.block_len() == 32 {
            for $sub in 0..$to - $from {
                let $block = $group.part(($from + $sub) * ty.block_bytes(), ty.block_bytes());
                const $of_block: usize = 0;
                $body
            }
        } else {
            for first in (0..$to - $from).step_by(8) {
                let $block = $group.part(($from + first) / 8 * ty.block_bytes(), ty.block_bytes());
                each_sub_block!(unrolled first, $of_block, $sub, $body, 0 1 2 3 4 5 6 7);
            }
        }
    };
    (unrolled $first:ident, $of_block:ident, $sub:ident, $body:block, $($number:literal)*) => {
        $({
            const $of_block: usize = $number;
            let $sub = $first + $of_block;
            $body
        })*
    };
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

/// A group of rows times one position.
#[inline(always)]
fn direct<S: Bytes, const TY: u32>(
    s: S,
    group: Rows<'_>,
    x: &Activations<'_>,
    position: usize,
    sums: &mut [Sums; 1],
) -> __m256 {
    let mut acc = [[s.avx2().zeros()]];
    let subs = x.k / 32;
    for from in (0..subs).step_by(SUBS) {
        let to = (from + SUBS).min(subs);
        let x = inputs::<S, TY, 1>(s, x, position, (from, to), sums);
        each_sub_block!(TY, group, from, to, |block, OF_BLOCK, sub| {
            if OF_BLOCK == 0 {
                prefetch(block);
            }
            let w = s.unpack::<TY>(block, OF_BLOCK);
            step::<S, TY, 1, 1>(s, &[w], &x, sub, &mut acc);
        });
    }
    acc[0][0]
}

/// Where the products of `G` groups of rows with one position go.
#[inline(always)]
pub(super) fn at<const G: usize>(out: &mut [f32], rows: usize, row: usize, p: usize) -> &mut [[f32; 8]; G] {
    let (groups, _) = out[p * rows + row..][..8 * G].as_chunks_mut();
    groups.first_chunk_mut().expect("whole groups of rows")
}

/// Two groups of quantized rows, of which `weights` are the sub-blocks `from..to`, times `P` positions from `first`.
#[inline(always)]
fn tile<S: Bytes, const TY: u32, const P: usize>(
    s: S,
    weights: &[[Unpacked; 2]],
    (from, to): (usize, usize),
    x: &Activations<'_>,
    first: usize,
    sums: &mut [Sums; P],
    (out, row, rows): (&mut [f32], usize, usize),
) {
    let a = s.avx2();
    let x = inputs::<S, TY, P>(s, x, first, (from, to), sums);
    let mut acc = [[a.zeros(); P]; 2];
    if from > 0 {
        for p in 0..P {
            let [low, high] = at(out, rows, row, first + p);
            (acc[0][p], acc[1][p]) = (a.load(low), a.load(high));
        }
    }
    for (sub, weights) in weights.iter().enumerate() {
        step::<S, TY, 2, P>(s, weights, &x, sub, &mut acc);
    }
    for p in 0..P {
        let [low, high] = at(out, rows, row, first + p);
        a.store_to(low, acc[0][p]);
        a.store_to(high, acc[1][p]);
    }
}

/// All pairs of groups of quantized rows times all positions.
#[inline(always)]
pub(in super::super) fn many<S: Bytes, const TY: u32>(
    s: S,
    weights: &[u8],
    rows: usize,
    x: &Activations<'_>,
    out: &mut [f32],
) {
    let row_bytes = const { type_of(TY) }.row_bytes(x.k).expect("checked by the caller");
    let subs = x.k / 32;
    let mut panel = [[Unpacked::zero(s.avx2()); 2]; SUBS];
    let mut sums = ([[0; 2 * SUBS]; TILE], [[0; 2 * SUBS]; 2], [[0; 2 * SUBS]; 1]);
    for row in (0..rows / 16 * 16).step_by(16) {
        for from in (0..subs).step_by(SUBS) {
            let range = (from, (from + SUBS).min(subs));
            let panel = &mut panel[..range.1 - from];
            for r in 0..2 {
                let group: Rows<'_> = Rows::group(weights, row + 8 * r, row_bytes);
                each_sub_block!(TY, group, from, range.1, |block, OF_BLOCK, sub| {
                    panel[sub][r] = s.unpack::<TY>(block, OF_BLOCK);
                });
            }
            let mut first = 0;
            while first + TILE <= x.positions {
                tile::<S, TY, TILE>(s, panel, range, x, first, &mut sums.0, (out, row, rows));
                first += TILE;
            }
            if first + 2 <= x.positions {
                tile::<S, TY, 2>(s, panel, range, x, first, &mut sums.1, (out, row, rows));
                first += 2;
            }
            if first < x.positions {
                tile::<S, TY, 1>(s, panel, range, x, first, &mut sums.2, (out, row, rows));
            }
        }
    }
}

/// The whole groups from row `from` on times all positions, one at a time.
#[inline(always)]
pub(in super::super) fn few<S: Bytes, const TY: u32>(
    s: S,
    weights: &[u8],
    (from, rows): (usize, usize),
    x: &Activations<'_>,
    out: &mut [f32],
) {
    let row_bytes = const { type_of(TY) }.row_bytes(x.k).expect("checked by the caller");
    let mut sums = [[0; 2 * SUBS]];
    for row in (from..rows / 8 * 8).step_by(8) {
        let group = Rows::group(weights, row, row_bytes);
        for position in 0..x.positions {
            let products = direct::<S, TY>(s, group, x, position, &mut sums);
            s.avx2().store_to(&mut at::<1>(out, rows, row, position)[0], products);
        }
    }
}
