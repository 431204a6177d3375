//! NEON with dot-product instructions (`FEAT_DotProd`): four products of bytes added in one instruction.
//!
//! Only products differ from the NEON table: `sdot` multiplies a register that holds four weights of four rows with
//! four activations, and a lane of its sums is a row. Rust has no stable function for it, so it is written out.
//!
//! Of Q4_0 the packed nibbles are stored minus 8: shifted to the top of a byte they are sixteen times the weight, and
//! the sum's conversion divides by sixteen, which is exact. So neither offsets nor sign extensions are left.
//!
//! - `one`: one position, for decoding.
//! - `tile`: the loop of [`super::neon::panels`], for many.
//! - Everything else, as few positions and K types, is made by [`super::neon::packed`] of this file's `integer_sum`.

use super::neon::packed::{Unpacked, load_x, packed_products, pair, xsum};
use super::neon::panels::{self, Panels};
use super::packed::{pack, unpack_row};
use super::product::{Q4_0, Q4_1, Q4_K, Q5_1, Q5_K, Q6_K, Q8_0};
use super::{Activations, Allowed, Kernels, Packing, neon};
use crate::llm::quant::GgmlType;
use core::arch::aarch64::*;

mod one;
mod tile;

/// NEON's table with other products.
pub(super) static TABLE: Kernels = Kernels {
    name: "dotprod",
    packing: Some(Packing {
        rows: 8,
        pack: pack::<8>,
        unpack: unpack_row,
        turned: signed_nibbles,
        matmul: matmul::<tile::Dot>,
    }),
    ..neon::TABLE
};

static ALLOWED: Allowed = Allowed::nobody_knows();

/// Lets the table `dotprod` be chosen, for platforms where only the caller can ask the CPU.
///
/// # Safety
/// - Every core that will run kernels has `FEAT_DotProd` (ID_AA64ISAR0_EL1.DP is not 0).
pub unsafe fn allow() {
    ALLOWED.allow();
}

/// Whether this CPU has the instructions, as far as this build can know.
pub(super) fn detected() -> bool {
    #[cfg(any(feature = "std", test))]
    {
        extern crate std;
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            return true;
        }
    }
    ALLOWED.is_allowed()
}

/// The bits turned in each word: those that make nibbles signed when they are taken from the upper half of a byte.
pub(super) fn signed_nibbles(ty: GgmlType) -> u32 {
    if ty == GgmlType::Q4_0 { 0x8888_8888 } else { 0 }
}

packed_products! { "neon,dotprod", integer_sum, true, 4 positions a tile }

/// Products by the way that suits the number of positions: many by panels as `P` lays them out, one by itself.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn matmul<P: Panels>(
    ty: GgmlType,
    weights: &[u8],
    rows: usize,
    x: &Activations<'_>,
    out: &mut [f32],
) {
    if x.positions == 1 {
        return one_position(ty, weights, rows, x, out);
    }
    let whole = if panels::has_panels(ty) { panels::in_tiles(x.positions) } else { 0 };
    if whole == 0 {
        return products(ty, weights, rows, x, out);
    }
    let (in_tiles, rest) = out.split_at_mut(whole * rows);
    // SAFETY: a table's function: this CPU has what the table needs, `P` included.
    unsafe { panels::products::<P>(ty, weights, rows, &panels::part(x, 0, whole), in_tiles) };
    match x.positions - whole {
        0 => {}
        1 => one_position(ty, weights, rows, &panels::part(x, whole, 1), rest),
        count => products(ty, weights, rows, &panels::part(x, whole, count), rest),
    }
}

/// Products with one position.
#[target_feature(enable = "neon,dotprod")]
fn one_position(ty: GgmlType, weights: &[u8], rows: usize, x: &Activations<'_>, out: &mut [f32]) {
    let done = match ty {
        GgmlType::Q4_0 => one::pairs_of_groups::<Q4_0>(weights, x, out),
        GgmlType::Q4_1 => one::pairs_of_groups::<Q4_1>(weights, x, out),
        GgmlType::Q8_0 => one::pairs_of_groups::<Q8_0>(weights, x, out),
        _ => 0,
    };
    if done < rows {
        let row_bytes = weights.len() / rows;
        products(ty, &weights[done * row_bytes..], rows - done, x, &mut out[done..]);
    }
}

/// The integer sums of one sub-block with 32 activations, sub-scales included, as floats.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn integer_sum<const TY: u32>(w: &Unpacked, x: &[i8; 32], sums: &[i16; 2]) -> [float32x4_t; 2] {
    let zero = pair(vdupq_n_s32(0));
    let x = load_x(x);
    let first = half(&w.q[..4], x[0], zero);
    let second = half(&w.q[4..], x[1], if TY == Q6_K { zero } else { first });
    let mut isum = second;
    for (i, isum) in isum.iter_mut().enumerate() {
        *isum = match TY {
            Q5_1 => vmlaq_s32(*isum, xsum(sums), vdupq_n_s32(16)),
            Q4_K | Q5_K => vmulq_s32(*isum, w.sub_scale[0][i]),
            Q6_K => vmlaq_s32(vmulq_s32(first[i], w.sub_scale[0][i]), *isum, w.sub_scale[1][i]),
            _ => *isum,
        };
    }
    match TY {
        Q4_0 => isum.map(|isum| vcvtq_n_f32_s32::<4>(isum)),
        _ => isum.map(|isum| vcvtq_f32_s32(isum)),
    }
}

/// Adds the products of 16 weights of eight rows.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn half(w: &[[int8x16_t; 2]], x: int8x16_t, sum: [int32x4_t; 2]) -> [int32x4_t; 2] {
    let sum = core::array::from_fn::<_, 2, _>(|i| sdot::<0>(sum[i], w[0][i], x));
    let sum = core::array::from_fn::<_, 2, _>(|i| sdot::<1>(sum[i], w[1][i], x));
    let sum = core::array::from_fn::<_, 2, _>(|i| sdot::<2>(sum[i], w[2][i], x));
    core::array::from_fn(|i| sdot::<3>(sum[i], w[3][i], x))
}

/// Adds to each lane the products of four bytes of `w` with the four of word `WORD` of `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const WORD: u32>(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the function is compiled with the instruction, which touches nothing but these registers.
    unsafe {
        core::arch::asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{word}]",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            word = const WORD,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
