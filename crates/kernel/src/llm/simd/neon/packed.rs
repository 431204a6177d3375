//! Products with packed weights, eight rows at a time, four to a register.
//!
//! Word `j` of a packed sub-block is a register of weights `4j..4j + 4` of four rows, and one of four more. What differs
//! between NEON tables is only how such words are multiplied with activations: `packed_products!` makes a table's
//! products of its `integer_sum`. Two or four positions share one unpacking; a tile's sums stay in registers.

use super::super::packed::{Packed, pack, unpack_row};
use super::super::product::{F16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, has_minimum};
use super::super::{Activations, Packing};
use super::memory::{load_f32, load_pair, load_pairs, load_u8, store_f32};
use super::widen;
use core::arch::aarch64::*;

/// Rows of a group.
const ROWS: usize = 8;

type Rows<'a> = Packed<'a, ROWS>;

/// Eight rows' sub-block of 32 weights; a lane of a pair is a row.
pub(in super::super) struct Unpacked {
    /// Pair `j`: weights `4j..4j + 4`.
    pub q: [[int8x16_t; 2]; 8],
    /// The integer sub-scale of each half of the sub-block, for K types.
    pub sub_scale: [[int32x4_t; 2]; 2],
    /// The integer that the sum of activations is taken times, for K types with a minimum.
    pub sub_minimum: [int32x4_t; 2],
}

/// What a sub-block adds to the sums of position `$p` of a tile.
macro_rules! step {
    (
        $p:literal, $integer_sum:ident, $ty:ident,
        $w:ident, $q:ident, $scales:ident, $sums:ident, $at:ident, $scale:ident, $minimum:ident, $acc:ident
    ) => {
        let x_scale = $scales[$p][$at];
        let isum = $integer_sum::<$ty>(&$w, &$q[$p][$at], &$sums[$p][$at]);
        $acc[$p][0] = vfmaq_f32($acc[$p][0], vmulq_n_f32($scale[0], x_scale), isum[0]);
        $acc[$p][1] = vfmaq_f32($acc[$p][1], vmulq_n_f32($scale[1], x_scale), isum[1]);
        if $crate::llm::simd::product::has_minimum($ty) {
            let xsum = $crate::llm::simd::neon::packed::minimum_sum::<$ty>(&$w, &$sums[$p][$at]);
            $acc[$p][0] = vfmaq_f32($acc[$p][0], vmulq_n_f32($minimum[0], x_scale), xsum[0]);
            $acc[$p][1] = vfmaq_f32($acc[$p][1], vmulq_n_f32($minimum[1], x_scale), xsum[1]);
        }
    };
}
pub(in super::super) use step;

/// The products of a table: the walk over types, groups of rows, tiles of positions and blocks.
///
/// `$integer_sum::<TY>(&Unpacked, &[i8; 32], &[i16; 2])` gives the integer sums of a sub-block with 32 activations
/// as floats, sub-scales included; two or `$most` positions share an unpacking; with `$signed` it takes Q4_0 as sixteen times the weight, else as nibbles.
macro_rules! packed_products {
    ($features:literal, $integer_sum:ident, $signed:literal, $most:literal positions a tile) => {
        #[target_feature(enable = $features)]
        fn products(
            ty: $crate::llm::quant::GgmlType,
            weights: &[u8],
            rows: usize,
            x: &$crate::llm::simd::Activations<'_>,
            out: &mut [f32],
        ) {
            use $crate::llm::simd::neon::packed;
            use $crate::llm::simd::product;

            // A function for each type, so that one type's code cannot crowd another's registers.
            #[inline(never)]
            #[target_feature(enable = $features)]
            fn groups<const TY: u32>(
                weights: &[u8],
                rows: usize,
                x: &$crate::llm::simd::Activations<'_>,
                out: &mut [f32],
            ) {
                let row_bytes = const { product::type_of(TY) }.row_bytes(x.k).expect("checked by the caller");
                for (g, group) in weights.chunks_exact(8 * row_bytes).enumerate() {
                    let mut first = 0;
                    while first < x.positions {
                        let at = first * rows + 8 * g;
                        first += match x.positions - first {
                            1 => tile::<TY, 1>(group, x, first, rows, &mut out[at..]),
                            n if n < $most || $most == 2 => {
                                tile::<TY, 2>(group, x, first, rows, &mut out[at..])
                            }
                            _ => tile::<TY, 4>(group, x, first, rows, &mut out[at..]),
                        };
                    }
                }
            }

            /// One group of rows times `N` positions from `first` on. Gives `N`.
            #[inline]
            #[target_feature(enable = $features)]
            fn tile<const TY: u32, const N: usize>(
                group: &[u8],
                x: &$crate::llm::simd::Activations<'_>,
                first: usize,
                rows: usize,
                out: &mut [f32],
            ) -> usize {
                // From the constant, so that offsets in a block need no checks.
                let ty = const { product::type_of(TY) };
                let subs = ty.block_len() / 32;
                let n = x.k / 32;
                let (q, sum16) = (x.blocks.q.as_chunks::<32>().0, x.blocks.sum16.as_chunks::<2>().0);
                let q: [&[[i8; 32]]; N] = core::array::from_fn(|p| &q[(first + p) * n..][..n]);
                let sums: [&[[i16; 2]]; N] = core::array::from_fn(|p| &sum16[(first + p) * n..][..n]);
                let scales: [&[f32]; N] = core::array::from_fn(|p| &x.blocks.scale[(first + p) * n..][..n]);
                let mut acc = [pair(vdupq_n_f32(0.0)); N];
                for (b, block) in (0..n / subs).zip(group.chunks_exact(8 * ty.block_bytes())) {
                    let (scale, minimum) = packed::scales::<TY>(block);
                    for sub in 0..subs {
                        let at = b * subs + sub;
                        let w = packed::unpack::<TY, $signed>(block, sub);
                        // Written out for each position, so that all sums are registers.
                        packed::step!(0, $integer_sum, TY, w, q, scales, sums, at, scale, minimum, acc);
                        if N > 1 {
                            packed::step!(1, $integer_sum, TY, w, q, scales, sums, at, scale, minimum, acc);
                        }
                        if N > 2 {
                            packed::step!(2, $integer_sum, TY, w, q, scales, sums, at, scale, minimum, acc);
                            packed::step!(3, $integer_sum, TY, w, q, scales, sums, at, scale, minimum, acc);
                        }
                    }
                }
                for (p, acc) in acc.iter().enumerate() {
                    packed::store(&mut out[p * rows..], acc);
                }
                N
            }

            product::of_type!(ty, packed::floats, groups, (weights, rows, x, out));
            // What is no whole group.
            if !rows.is_multiple_of(8) {
                $crate::llm::simd::scalar::matmul_rows(ty, weights, rows, rows / 8 * 8..rows, x, out);
            }
        }
    };
}
pub(in super::super) use packed_products;

// Four positions would not leave registers for sixteen of products and activations: 91 instructions a block and position
// instead of 78.
packed_products! { "neon", integer_sum, false, 2 positions a tile }

/// This layout, for plain NEON: words as they lie in the file.
pub(super) const PACKING: Packing =
    Packing { rows: ROWS, pack: pack::<ROWS>, unpack: unpack_row, turned: |_| 0, matmul: products };

inlined! {
    /// The integer sums of one sub-block with 32 activations, sub-scales included, as floats.
    ///
    /// A register of weights times four activations in every lane gives two registers of 16-bit products, of two rows
    /// each. They are added up in 16 bits as long as they fit; then neighbors are folded until a lane is a row.
    fn integer_sum<const TY: u32>(w: &Unpacked, x: &[i8; 32], sums: &[i16; 2]) -> [float32x4_t; 2] {
        let x = broadcast(x);
        let mut isum = pair(vdupq_n_s32(0));
        for (i, isum) in isum.iter_mut().enumerate() {
            *isum = match TY {
                Q8_0 => eight_bit_sum(&w.q, &x, i),
                Q5_K => fold_wide(products_of(&w.q, &x, i)),
                // A half's lanes have four products: folded in 16 bits, 8 * 32 * 127 = 32512.
                Q6_K => vmulq_s32(fold(products_of(&w.q[..4], &x[..4], i)), w.sub_scale[0][i]),
                // Eight products a lane, folded in 16 bits: 16 * 16 * 127 = 32512.
                _ => fold(products_of(&w.q, &x, i)),
            };
            *isum = match TY {
                Q4_0 => vmlsq_s32(*isum, xsum(sums), vdupq_n_s32(8)),
                Q5_1 => vmlaq_s32(*isum, xsum(sums), vdupq_n_s32(16)),
                Q4_K | Q5_K => vmulq_s32(*isum, w.sub_scale[0][i]),
                Q6_K => vmlaq_s32(*isum, fold(products_of(&w.q[4..], &x[4..], i)), w.sub_scale[1][i]),
                _ => *isum,
            };
        }
        isum.map(|isum| vcvtq_f32_s32(isum))
    }

    /// Sums of products of registers `i` of `w` with `x`, in 16 bits: of the first two rows, and of the other two.
    fn products_of(w: &[[int8x16_t; 2]], x: &[int8x16_t], i: usize) -> [int16x8_t; 2] {
        let mut low = vmull_s8(vget_low_s8(w[0][i]), vget_low_s8(x[0]));
        let mut high = vmull_high_s8(w[0][i], x[0]);
        for (w, &x) in w.iter().zip(x).skip(1) {
            low = vmlal_s8(low, vget_low_s8(w[i]), vget_low_s8(x));
            high = vmlal_high_s8(high, w[i], x);
        }
        [low, high]
    }

    /// The same for weights of eight bits: two products fit 16 bits (2 * 128 * 127 = 32512), then they are widened.
    fn eight_bit_sum(w: &[[int8x16_t; 2]; 8], x: &[int8x16_t; 8], i: usize) -> int32x4_t {
        let mut sums = products_of(&w[..2], &x[..2], i).map(|sum| vpaddlq_s16(sum));
        for j in [2, 4, 6] {
            let products = products_of(&w[j..j + 2], &x[j..j + 2], i);
            sums = [vpadalq_s16(sums[0], products[0]), vpadalq_s16(sums[1], products[1])];
        }
        vpaddq_s32(sums[0], sums[1])
    }
}

/// Four lanes of each row to one, the first step in 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn fold([low, high]: [int16x8_t; 2]) -> int32x4_t {
    vpaddlq_s16(vpaddq_s16(low, high))
}

/// Four lanes of each row to one, all in 32 bits.
#[inline]
#[target_feature(enable = "neon")]
fn fold_wide([low, high]: [int16x8_t; 2]) -> int32x4_t {
    vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high))
}

/// Register `j` has activations `4j..4j + 4` in every lane of 32 bits.
#[inline]
#[target_feature(enable = "neon")]
fn broadcast(x: &[i8; 32]) -> [int8x16_t; 8] {
    // SAFETY: sixteen bytes are readable from each address; the instruction asks for no alignment of normal memory.
    let (a, b) = unsafe { (vld4q_dup_s32(x.as_ptr().cast()), vld4q_dup_s32(x[16..].as_ptr().cast())) };
    [a.0, a.1, a.2, a.3, b.0, b.1, b.2, b.3].map(|v| vreinterpretq_s8_s32(v))
}

/// 32 activations.
#[inline]
#[target_feature(enable = "neon")]
pub(in super::super) fn load_x(x: &[i8; 32]) -> [int8x16_t; 2] {
    // SAFETY: any byte is a `u8`, and the array's size and alignment are the same.
    let x = unsafe { &*x.as_ptr().cast::<[u8; 32]>() };
    load_pair(x).map(|v| vreinterpretq_s8_u8(v))
}

/// The sum of 32 activations in every lane.
#[inline]
#[target_feature(enable = "neon")]
pub(in super::super) fn xsum(sums: &[i16; 2]) -> int32x4_t {
    // SAFETY: both halves' sums are readable behind the reference.
    let sums = unsafe { vld2_dup_s16(sums.as_ptr()) };
    vaddl_s16(sums.0, sums.1)
}

/// What the minimum is taken times: the sum of activations times the sub-minimum.
#[inline]
#[target_feature(enable = "neon")]
pub(in super::super) fn minimum_sum<const TY: u32>(w: &Unpacked, sums: &[i16; 2]) -> [float32x4_t; 2] {
    let xsum = xsum(sums);
    if TY == Q4_K || TY == Q5_K {
        w.sub_minimum.map(|minimum| vcvtq_f32_s32(vmulq_s32(xsum, minimum)))
    } else {
        pair(vcvtq_f32_s32(xsum))
    }
}

/// The same register for both halves of the group.
pub(in super::super) fn pair<T: Copy>(v: T) -> [T; 2] {
    [v; 2]
}

/// Eight rows' values.
#[inline]
#[target_feature(enable = "neon")]
pub(in super::super) fn store(out: &mut [f32], v: &[float32x4_t; 2]) {
    let out: &mut [f32; ROWS] = out.first_chunk_mut().expect("a whole group of rows");
    let (halves, _) = out.as_chunks_mut();
    store_f32(&mut halves[0], v[0]);
    store_f32(&mut halves[1], v[1]);
}

/// Scales and minima of one block, widened; the minimum of K types has its sign turned.
#[inline]
#[target_feature(enable = "neon")]
pub(in super::super) fn scales<const TY: u32>(block: &[u8]) -> ([float32x4_t; 2], [float32x4_t; 2]) {
    let block: Rows<'_> = Packed(block);
    if !has_minimum(TY) {
        return (halves(load_u8(block.column(0))), pair(vdupq_n_f32(0.0)));
    }
    let [scale, minimum] = load_pair(block.column(0)).map(|v| halves(v));
    if TY == Q4_K || TY == Q5_K { (scale, minimum.map(|v| vnegq_f32(v))) } else { (scale, minimum) }
}

/// An f16 of each row, widened.
#[inline]
#[target_feature(enable = "neon")]
fn halves(v: uint8x16_t) -> [float32x4_t; 2] {
    let v = vreinterpretq_u16_u8(v);
    [widen(vget_low_u16(v)), widen(vget_high_u16(v))]
}

/// Four bytes of each row.
#[inline]
#[target_feature(enable = "neon")]
fn word(block: Rows<'_>, at: usize) -> [uint8x16_t; 2] {
    load_pair(block.column(at))
}

/// 16 bytes of each row: four words.
#[inline]
#[target_feature(enable = "neon")]
fn four_words(block: Rows<'_>, at: usize) -> [[uint8x16_t; 2]; 4] {
    load_pairs(block.column(at))
}

/// `f` of every register.
#[inline(always)]
fn each<const N: usize>(
    mut v: [[uint8x16_t; 2]; N],
    f: impl Fn(usize, usize, uint8x16_t) -> uint8x16_t,
) -> [[uint8x16_t; 2]; N] {
    for (j, v) in v.iter_mut().enumerate() {
        *v = [f(j, 0, v[0]), f(j, 1, v[1])];
    }
    v
}

inlined! {
    /// 32 bytes of each row.
    fn words(block: Rows<'_>, at: usize) -> [[uint8x16_t; 2]; 8] {
        let ([a, b, c, d], [e, f, g, h]) = (four_words(block, at), four_words(block, at + 16));
        [a, b, c, d, e, f, g, h]
    }

    /// Sub-block `sub` of eight blocks; Q4_0 as sixteen times the weight if `SIGNED`, else as nibbles.
    pub(in super::super) fn unpack<const TY: u32, const SIGNED: bool>(block: &[u8], sub: usize) -> Unpacked {
        let block: Rows<'_> = Packed(block);
        let mut sub_scale = [pair(vdupq_n_s32(1)); 2];
        let mut sub_minimum = pair(vdupq_n_s32(1));
        if TY == Q4_K || TY == Q5_K {
            let (scale, minimum) = k_scales(block, sub);
            sub_scale = [scale; 2];
            sub_minimum = minimum;
        }
        let q = match TY {
            Q4_0 if SIGNED => top_nibbles(block, 2),
            Q4_0 => nibbles(block, 2),
            Q4_1 => nibbles(block, 4),
            Q5_0 => less_sixteen(nibbles(block, 6), word(block, 2)),
            Q5_1 => less_sixteen(nibbles(block, 8), word(block, 4)),
            Q8_0 => words(block, 2),
            Q4_K => bits::<15>(words(block, 16 + 32 * (sub / 2)), 4 * (sub % 2)),
            Q5_K => {
                let low = bits::<15>(words(block, 48 + 32 * (sub / 2)), 4 * (sub % 2));
                let high = bits::<1>(words(block, 16), sub);
                each(low, |j, i, low| vorrq_u8(low, vshlq_n_u8::<4>(high[j][i])))
            }
            _ => {
                // The words come behind the scale, which is the last in the file's block.
                let (half, quarter) = (sub / 4, sub % 4);
                let low = bits::<15>(words(block, 2 + 64 * half + 32 * (quarter % 2)), 4 * (quarter / 2));
                let high = bits::<3>(words(block, 2 + 128 + 32 * half), 2 * quarter);
                // Sixteen sub-scales of a byte, four a word; this sub-block's two are neighbors.
                let scales = word(block, 2 + 192 + 4 * (sub / 2));
                let byte = |at: usize| {
                    let up = vdupq_n_s32(24 - 8 * at as i32);
                    scales.map(|v| vshrq_n_s32::<24>(vshlq_s32(vreinterpretq_s32_u8(v), up)))
                };
                sub_scale = [byte(2 * (sub % 2)), byte(2 * (sub % 2) + 1)];
                let offset = vdupq_n_u8(32);
                each(low, |j, i, low| vsubq_u8(vorrq_u8(low, vshlq_n_u8::<4>(high[j][i])), offset))
            }
        };
        Unpacked { q: q.map(|pair| pair.map(|v| vreinterpretq_s8_u8(v))), sub_scale, sub_minimum }
    }

    /// `(byte >> shift) & MASK` of every byte.
    fn bits<const MASK: u8>(v: [[uint8x16_t; 2]; 8], shift: usize) -> [[uint8x16_t; 2]; 8] {
        let (shift, mask) = (vdupq_n_s8(-(shift as i8)), vdupq_n_u8(MASK));
        each(v, |_, _, v| vandq_u8(vshlq_u8(v, shift), mask))
    }

    // 16 bytes hold 32 nibbles: low ones are weights 0..16, high ones 16..32.
    fn nibbles(block: Rows<'_>, at: usize) -> [[uint8x16_t; 2]; 8] {
        let words = four_words(block, at);
        let mask = vdupq_n_u8(15);
        let low = words.map(|pair| pair.map(|v| vandq_u8(v, mask)));
        let high = words.map(|pair| pair.map(|v| vshrq_n_u8::<4>(v)));
        [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]
    }

    // The same nibbles, each in the top of a byte.
    fn top_nibbles(block: Rows<'_>, at: usize) -> [[uint8x16_t; 2]; 8] {
        let words = four_words(block, at);
        let mask = vdupq_n_u8(0xf0);
        let low = words.map(|pair| pair.map(|v| vshlq_n_u8::<4>(v)));
        let high = words.map(|pair| pair.map(|v| vandq_u8(v, mask)));
        [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]
    }

    // Bit `i` of each row's word is the fifth bit of weight `i`: copy its byte to the lane's four bytes, pick one bit in
    // each, and put ones above the nibble where it is clear, so that weights go from -16 to 15.
    fn less_sixteen(q: [[uint8x16_t; 2]; 8], word: [uint8x16_t; 2]) -> [[uint8x16_t; 2]; 8] {
        const LANE: [u8; 16] = [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12];
        let lane = load_u8(&LANE);
        let clear = word.map(|v| vmvnq_u8(v));
        each(q, |j, i, q| {
            let bytes = vqtbl1q_u8(clear[i], vaddq_u8(lane, vdupq_n_u8(j as u8 / 2)));
            let bit = vdupq_n_u32(if j % 2 == 0 { 0x0804_0201 } else { 0x8040_2010 });
            vsliq_n_u8::<4>(q, vtstq_u8(bytes, vreinterpretq_u8_u32(bit)))
        })
    }

    /// Sub-scale and sub-minimum `sub` of eight Q4_K or Q5_K blocks.
    fn k_scales(block: Rows<'_>, sub: usize) -> ([int32x4_t; 2], [int32x4_t; 2]) {
        // Behind both f16: four scales, four minima, and four bytes of nibbles for the other four.
        let byte = |at: usize| {
            let down = vdupq_n_s32(-8 * (sub as i32 % 4));
            word(block, at).map(|v| vandq_u32(vshlq_u32(vreinterpretq_u32_u8(v), down), vdupq_n_u32(0xff)))
        };
        let (a, b, c) = (byte(4), byte(8), byte(12));
        let signed = |v: [uint32x4_t; 2]| v.map(|v| vreinterpretq_s32_u32(v));
        if sub < 4 {
            let six = vdupq_n_u32(63);
            return (signed(a.map(|v| vandq_u32(v, six))), signed(b.map(|v| vandq_u32(v, six))));
        }
        let top = |v: uint32x4_t| vshlq_n_u32::<4>(vshrq_n_u32::<6>(v));
        let scale = |i: usize| vorrq_u32(vandq_u32(c[i], vdupq_n_u32(15)), top(a[i]));
        let minimum = |i: usize| vorrq_u32(vshrq_n_u32::<4>(c[i]), top(b[i]));
        (signed([scale(0), scale(1)]), signed([minimum(0), minimum(1)]))
    }
}

/// Products of whole groups of float weights of type `TY`.
#[target_feature(enable = "neon")]
pub(in super::super) fn floats<const TY: u32>(
    weights: &[u8],
    rows: usize,
    x: &Activations<'_>,
    out: &mut [f32],
) {
    let size = if TY == F32 { 4 } else { 2 };
    for (g, group) in weights.chunks_exact(ROWS * size * x.k).enumerate() {
        let mut first = 0;
        while first < x.positions {
            let out = &mut out[first * rows + ROWS * g..];
            first += match x.positions - first {
                1 => float_tile::<TY, 1>(group, x, first, rows, out),
                2 | 3 => float_tile::<TY, 2>(group, x, first, rows, out),
                _ => float_tile::<TY, 4>(group, x, first, rows, out),
            };
        }
    }
}

/// One group of rows times `N` positions from `first` on. Gives `N`.
#[inline]
#[target_feature(enable = "neon")]
fn float_tile<const TY: u32, const N: usize>(
    group: &[u8],
    x: &Activations<'_>,
    first: usize,
    rows: usize,
    out: &mut [f32],
) -> usize {
    let size = if TY == F32 { 4 } else { 2 };
    let k = x.k;
    let x: [&[f32]; N] = core::array::from_fn(|p| &x.values[(first + p) * k..][..k]);
    let mut acc = [pair(vdupq_n_f32(0.0)); N];
    let whole = k / 4;
    for (b, weights) in (0..whole).zip(group.chunks_exact(4 * ROWS * size)) {
        let w = [0, 1, 2, 3].map(|j| column::<TY>(&weights[j * ROWS * size..]));
        for p in 0..N {
            let x = load_f32(&x[p].as_chunks().0[b]);
            for i in 0..2 {
                let sum = vfmaq_laneq_f32::<0>(acc[p][i], w[0][i], x);
                let sum = vfmaq_laneq_f32::<1>(sum, w[1][i], x);
                let sum = vfmaq_laneq_f32::<2>(sum, w[2][i], x);
                acc[p][i] = vfmaq_laneq_f32::<3>(sum, w[3][i], x);
            }
        }
    }
    for k in 4 * whole..k {
        let w = column::<TY>(&group[k * ROWS * size..]);
        for p in 0..N {
            for i in 0..2 {
                acc[p][i] = vfmaq_n_f32(acc[p][i], w[i], x[p][k]);
            }
        }
    }
    for (p, acc) in acc.iter().enumerate() {
        store(&mut out[p * rows..], acc);
    }
    N
}

/// A float weight of each row, widened.
#[inline]
#[target_feature(enable = "neon")]
fn column<const TY: u32>(weights: &[u8]) -> [float32x4_t; 2] {
    let weights: Rows<'_> = Packed(weights);
    match TY {
        F32 => word(weights, 0).map(|v| vreinterpretq_f32_u8(v)),
        F16 => halves(load_u8(weights.column(0))),
        _ => {
            let v = vreinterpretq_u16_u8(load_u8(weights.column(0)));
            let wide = [vshll_n_u16::<16>(vget_low_u16(v)), vshll_high_n_u16::<16>(v)];
            wide.map(|v| vreinterpretq_f32_u32(v))
        }
    }
}
