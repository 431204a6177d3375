//! Four rows times 16 or 8 positions by `smmla`: a register of sums is two positions times two rows.
//!
//! Sums are v0 to v15, two registers for each pair of positions. A block's weights are v16 to v23, eight
//! bytes of two rows to a register, those of the other two rows in the next. 149 instructions a block of 16 positions.

use super::super::neon::packed::load_x;
use super::super::neon::panels::{
    PLAIN, Panels, Positions, SIXTEENFOLD, STRIP, STRIP_REGISTERS, STRIPS, Tile, sum,
};
use core::arch::aarch64::*;

/// The table's panels. Weights: pairs of rows. Activations: for each pair of positions, four registers of eight bytes of
/// both, then their scales, each twice, then their sums.
pub(super) struct Squares;

/// What a pair of positions adds to its sums `$a` and `$b`.
macro_rules! pair {
    ($form:ident, $a:literal, $b:literal) => {
        concat!(
            "ld1 {{v24.16b, v25.16b, v26.16b, v27.16b}}, [{x}], #64\n",
            "movi v28.2d, #0\n",
            "movi v29.2d, #0\n",
            "smmla v28.4s, v24.16b, v16.16b\n",
            "smmla v29.4s, v24.16b, v17.16b\n",
            "smmla v28.4s, v25.16b, v18.16b\n",
            "smmla v29.4s, v25.16b, v19.16b\n",
            "smmla v28.4s, v26.16b, v20.16b\n",
            "smmla v29.4s, v26.16b, v21.16b\n",
            "smmla v28.4s, v27.16b, v22.16b\n",
            "smmla v29.4s, v27.16b, v23.16b\n",
            "ldr q24, [{x}], #16\n",
            "fmul v25.4s, v30.4s, v24.4s\n",
            "fmul v26.4s, v31.4s, v24.4s\n",
            pair!(convert $form "28"), pair!(convert $form "29"),
            "fmla v", $a, ".4s, v25.4s, v28.4s\n",
            "fmla v", $b, ".4s, v26.4s, v29.4s\n",
            pair!(minimum $form, $a, $b),
        )
    };
    (convert SIXTEENFOLD $v:literal) => { concat!("scvtf v", $v, ".4s, v", $v, ".4s, #4\n") };
    (convert $form:ident $v:literal) => { concat!("scvtf v", $v, ".4s, v", $v, ".4s\n") };
    (minimum MINIMUM, $a:literal, $b:literal) => {
        concat!(
            "ld1 {{v25.4s, v26.4s}}, [{w}]\n",
            "ldr q27, [{x}], #16\n",
            "fmul v25.4s, v25.4s, v24.4s\n",
            "fmul v26.4s, v26.4s, v24.4s\n",
            "fmla v", $a, ".4s, v25.4s, v27.4s\n",
            "fmla v", $b, ".4s, v26.4s, v27.4s\n",
        )
    };
    (minimum $form:ident, $a:literal, $b:literal) => { "" };
}

/// The whole tile; sums `$a` and `$b` are registers of a pair of positions.
macro_rules! tile {
    ($form:ident, $job:ident, [$($a:literal $b:literal)*], [$($register:tt)*]) => {
        for strip in 0..STRIPS {
            // SAFETY: panels hold `blocks` blocks, and `out` has room for each position's sums (caller).
            unsafe {
                let out = $job.out.add(strip * STRIP);
            core::arch::asm!(
                "cbz {sums}, 3f",
                $(concat!(
                    "ld1 {{v16.4s}}, [{sums}], {stride}\n",
                    "ld1 {{v17.4s}}, [{sums}], {stride}\n",
                    "zip1 v", $a, ".2d, v16.2d, v17.2d\n",
                    "zip2 v", $b, ".2d, v16.2d, v17.2d\n",
                ),)*
                "b 2f",
                "3:",
                $(concat!("movi v", $a, ".2d, #0\n", "movi v", $b, ".2d, #0\n"),)*
                "2:",
                "ld1 {{v16.16b, v17.16b, v18.16b, v19.16b}}, [{w}], #64",
                "ld1 {{v20.16b, v21.16b, v22.16b, v23.16b}}, [{w}], #64",
                "ld1 {{v30.4s, v31.4s}}, [{w}], #32",
                $(pair!($form, $a, $b),)*
                tile!(end $form),
                "subs {n}, {n}, #1",
                "b.ne 2b",
                $(concat!(
                    "zip1 v16.2d, v", $a, ".2d, v", $b, ".2d\n",
                    "zip2 v17.2d, v", $a, ".2d, v", $b, ".2d\n",
                    "st1 {{v16.4s}}, [{out}], {stride}\n",
                    "st1 {{v17.4s}}, [{out}], {stride}\n",
                ),)*
                $(out($register) _,)*
                w = inout(reg) $job.weights.add(strip * STRIP_REGISTERS) => _,
                x = inout(reg) $job.activations => _,
                n = inout(reg) $job.blocks => _,
                out = inout(reg) out => _,
                sums = inout(reg) if $job.fresh { core::ptr::null_mut() } else { out } => _,
                stride = in(reg) 4 * $job.rows,
                out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _,
                out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _, out("v27") _,
                out("v28") _, out("v29") _, out("v30") _, out("v31") _,
                options(nostack)
            );
            }
        }
    };
    (end MINIMUM) => { "add {w}, {w}, #32" };
    (end $form:ident) => { "" };
}

macro_rules! sixteen {
    ($form:ident, $job:ident) => {
        tile!(
            $form, $job,
            ["0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11" "12" "13" "14" "15"],
            ["v0" "v1" "v2" "v3" "v4" "v5" "v6" "v7" "v8" "v9" "v10" "v11" "v12" "v13" "v14" "v15"]
        )
    };
}

macro_rules! eight {
    ($form:ident, $job:ident) => {
        tile!(
            $form, $job,
            ["0" "1" "2" "3" "4" "5" "6" "7"],
            ["v0" "v1" "v2" "v3" "v4" "v5" "v6" "v7"]
        )
    };
}

#[target_feature(enable = "neon,i8mm")]
unsafe fn sixteen_positions<const FORM: u32>(job: Tile) {
    match FORM {
        SIXTEENFOLD => sixteen!(SIXTEENFOLD, job),
        PLAIN => sixteen!(PLAIN, job),
        _ => sixteen!(MINIMUM, job),
    }
}

#[target_feature(enable = "neon,i8mm")]
unsafe fn eight_positions<const FORM: u32>(job: Tile) {
    match FORM {
        SIXTEENFOLD => eight!(SIXTEENFOLD, job),
        PLAIN => eight!(PLAIN, job),
        _ => eight!(MINIMUM, job),
    }
}

/// Lays out one pair of positions; the pair's blocks are `step` registers apart.
///
/// # Safety
/// - The panel has room for them.
#[inline(always)]
unsafe fn lay_pair(x: Positions<'_>, first: usize, minimum: bool, mut to: *mut float32x4_t, step: usize) {
    let (mut p, mut p_scale, mut p_halves) = x.blocks_of(first);
    let (mut q, mut q_scale, mut q_halves) = x.blocks_of(first + 1);
    for _ in 0..x.blocks {
        // SAFETY: NEON is there, the panel has room for this block (caller), and the pointers have so many blocks.
        unsafe {
            let [a, b] = [p, q].map(|bytes| load_x(&*bytes.cast()).map(|v| vreinterpretq_u64_s8(v)));
            // Eight bytes of one and eight of the other in turn.
            vst2q_u64(to.cast(), uint64x2x2_t(a[0], b[0]));
            vst2q_u64(to.add(2).cast(), uint64x2x2_t(a[1], b[1]));
            to.add(4).write(vcombine_f32(vld1_dup_f32(p_scale), vld1_dup_f32(q_scale)));
            if minimum {
                to.add(5).write(vcombine_f32(vdup_n_f32(sum(p_halves)), vdup_n_f32(sum(q_halves))));
            }
            (p, p_scale, p_halves) = (p.add(32), p_scale.add(1), p_halves.add(2));
            (q, q_scale, q_halves) = (q.add(32), q_scale.add(1), q_halves.add(2));
            to = to.add(step);
        }
    }
}

impl Panels for Squares {
    const SCALES: usize = 2;

    // A word is four bytes of four rows: of two words in turn, the first half is eight bytes of the first two rows.
    #[inline(always)]
    unsafe fn weights(words: [int8x16_t; 8], to: *mut int8x16_t) {
        // SAFETY: NEON is there, and room for eight registers (caller).
        unsafe {
            let w = words.map(|v| vreinterpretq_u32_s8(v));
            vst2q_u32(to.cast(), uint32x4x2_t(w[0], w[1]));
            vst2q_u32(to.add(2).cast(), uint32x4x2_t(w[2], w[3]));
            vst2q_u32(to.add(4).cast(), uint32x4x2_t(w[4], w[5]));
            vst2q_u32(to.add(6).cast(), uint32x4x2_t(w[6], w[7]));
        }
    }

    #[inline(always)]
    unsafe fn scales(scales: float32x4_t) -> [float32x4_t; 2] {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (vget_low_f32(scales), vget_high_f32(scales));
            [vcombine_f32(low, low), vcombine_f32(high, high)]
        }
    }

    #[inline(always)]
    unsafe fn activations(
        x: Positions<'_>,
        tile: usize,
        minimum: bool,
        out: *mut float32x4_t,
    ) -> *mut float32x4_t {
        // [blocks][tile / 2][registers].
        let registers = if minimum { 6 } else { 5 };
        let step = tile / 2 * registers;
        for first in (0..tile).step_by(2) {
            // SAFETY: the panel has room for these blocks of `tile` positions (caller).
            unsafe { lay_pair(x, first, minimum, out.add(first / 2 * registers), step) };
        }
        // SAFETY: as above.
        unsafe { out.add(x.blocks * step) }
    }

    #[inline(always)]
    unsafe fn tile<const FORM: u32>(tile: Tile) {
        // SAFETY: as the caller says.
        unsafe { sixteen_positions::<FORM>(tile) }
    }

    #[inline(always)]
    unsafe fn short_tile<const FORM: u32>(tile: Tile) {
        // SAFETY: as the caller says.
        unsafe { eight_positions::<FORM>(tile) }
    }
}
