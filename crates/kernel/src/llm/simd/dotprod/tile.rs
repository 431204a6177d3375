//! Four rows times 16 or 8 positions by `sdot`: a lane of a sum is a row.
//!
//! Sums are v0 to v15. A block's weights are v16 to v23, a word of four rows each; two positions' bytes are
//! one load, and their chains of sums run side by side. 209 instructions a block of 16 positions.

use super::super::neon::packed::load_x;
use super::super::neon::panels::{
    PLAIN, Panels, Positions, SIXTEENFOLD, STRIP, STRIP_REGISTERS, STRIPS, Tile, sum,
};
use core::arch::aarch64::*;

/// The table's panels. Weights: words as they come. Activations: for each four positions their scales, their bytes one
/// position after the other, and their sums.
pub(super) struct Dot;

/// What two positions add to their sums `$a` and `$b`; `$i` and `$j` are their places among four.
macro_rules! pair {
    ($form:ident, $a:literal, $b:literal, $i:tt, $j:tt) => {
        concat!(
            "ld1 {{v24.16b, v25.16b, v26.16b, v27.16b}}, [{x}], #64\n",
            "movi v30.2d, #0\n",
            "movi v31.2d, #0\n",
            pair!(words "16", "24", "26", "0"), pair!(words "17", "24", "26", "1"),
            pair!(words "18", "24", "26", "2"), pair!(words "19", "24", "26", "3"),
            pair!(words "20", "25", "27", "0"), pair!(words "21", "25", "27", "1"),
            pair!(words "22", "25", "27", "2"), pair!(words "23", "25", "27", "3"),
            "fmul v24.4s, v28.4s, v29.s[", $i, "]\n",
            "fmul v26.4s, v28.4s, v29.s[", $j, "]\n",
            pair!(convert $form "30"), pair!(convert $form "31"),
            "fmla v", $a, ".4s, v24.4s, v30.4s\n",
            "fmla v", $b, ".4s, v26.4s, v31.4s\n",
            pair!(minimum $form, $a, $b, $i, $j),
        )
    };
    (words $w:literal, $x:literal, $y:literal, $word:literal) => {
        concat!(
            "sdot v30.4s, v", $w, ".16b, v", $x, ".4b[", $word, "]\n",
            "sdot v31.4s, v", $w, ".16b, v", $y, ".4b[", $word, "]\n",
        )
    };
    (convert SIXTEENFOLD $v:literal) => { concat!("scvtf v", $v, ".4s, v", $v, ".4s, #4\n") };
    (convert $form:ident $v:literal) => { concat!("scvtf v", $v, ".4s, v", $v, ".4s\n") };
    (minimum MINIMUM, $a:literal, $b:literal, $i:tt, $j:tt) => {
        concat!(
            "ldr q25, [{w}]\n",
            pair!(sums $i),
            "fmul v24.4s, v25.4s, v29.s[", $i, "]\n",
            "fmul v26.4s, v25.4s, v29.s[", $j, "]\n",
            "fmla v", $a, ".4s, v24.4s, v27.s[", $i, "]\n",
            "fmla v", $b, ".4s, v26.4s, v27.s[", $j, "]\n",
        )
    };
    // Behind the other two positions' bytes.
    (sums "0") => { "ldr q27, [{x}, #64]\n" };
    (sums "2") => { "ldr q27, [{x}]\n" };
    (minimum $form:ident, $a:literal, $b:literal, $i:tt, $j:tt) => { "" };
}

/// Four positions.
macro_rules! quad {
    ($form:ident, $a:literal $b:literal $c:literal $d:literal) => {
        concat!(
            "ldr q29, [{x}], #16\n",
            pair!($form, $a, $b, "0", "1"),
            pair!($form, $c, $d, "2", "3"),
            quad!(end $form),
        )
    };
    (end MINIMUM) => { "add {x}, {x}, #16\n" };
    (end $form:ident) => { "" };
}

/// The whole tile, `$body` being what a block adds and the registers sums.
macro_rules! tile {
    ($form:ident, $job:ident, $body:expr, [$($sum:literal $register:tt)*]) => {
        for strip in 0..STRIPS {
            // SAFETY: panels hold `blocks` blocks, and `out` has room for each position's sums (caller).
            unsafe {
                let out = $job.out.add(strip * STRIP);
                core::arch::asm!(
                    "cbz {sums}, 3f",
                    $(concat!("ld1 {{v", $sum, ".4s}}, [{sums}], {stride}"),)*
                    "b 2f",
                    "3:",
                    $(concat!("movi v", $sum, ".2d, #0"),)*
                    "2:",
                    "ld1 {{v16.16b, v17.16b, v18.16b, v19.16b}}, [{w}], #64",
                    "ld1 {{v20.16b, v21.16b, v22.16b, v23.16b}}, [{w}], #64",
                    "ldr q28, [{w}], #16",
                    $body,
                    tile!(end $form),
                    "subs {n}, {n}, #1",
                    "b.ne 2b",
                    $(concat!("st1 {{v", $sum, ".4s}}, [{out}], {stride}"),)*
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
    (end MINIMUM) => { "add {w}, {w}, #16" };
    (end $form:ident) => { "" };
}

macro_rules! sixteen {
    ($form:ident, $job:ident) => {
        tile!(
            $form, $job,
            concat!(
                quad!($form, "0" "1" "2" "3"),
                quad!($form, "4" "5" "6" "7"),
                quad!($form, "8" "9" "10" "11"),
                quad!($form, "12" "13" "14" "15"),
            ),
            ["0" "v0" "1" "v1" "2" "v2" "3" "v3" "4" "v4" "5" "v5" "6" "v6" "7" "v7"
             "8" "v8" "9" "v9" "10" "v10" "11" "v11" "12" "v12" "13" "v13" "14" "v14" "15" "v15"]
        )
    };
}

macro_rules! eight {
    ($form:ident, $job:ident) => {
        tile!(
            $form, $job,
            concat!(
                quad!($form, "0" "1" "2" "3"),
                quad!($form, "4" "5" "6" "7"),
            ),
            ["0" "v0" "1" "v1" "2" "v2" "3" "v3" "4" "v4" "5" "v5" "6" "v6" "7" "v7"]
        )
    };
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn sixteen_positions<const FORM: u32>(job: Tile) {
    match FORM {
        SIXTEENFOLD => sixteen!(SIXTEENFOLD, job),
        PLAIN => sixteen!(PLAIN, job),
        _ => sixteen!(MINIMUM, job),
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn eight_positions<const FORM: u32>(job: Tile) {
    match FORM {
        SIXTEENFOLD => eight!(SIXTEENFOLD, job),
        PLAIN => eight!(PLAIN, job),
        _ => eight!(MINIMUM, job),
    }
}

/// Lays out position `p` at the panels of its four, which for each block are `step` registers apart.
///
/// # Safety
/// - The panels have room for it.
#[inline(always)]
unsafe fn lay_position(x: Positions<'_>, p: usize, minimum: bool, to: *mut float32x4_t, step: usize) {
    let (mut q, mut scale, mut halves) = x.blocks_of(p);
    let place = p % 4;
    let mut to = to.cast::<f32>();
    for _ in 0..x.blocks {
        // SAFETY: NEON is there, the panel has room for this block (caller), and the pointers have so many blocks.
        unsafe {
            to.add(place).write(*scale);
            to.add(4 + 8 * place).cast::<[int8x16_t; 2]>().write(load_x(&*q.cast()));
            if minimum {
                to.add(36 + place).write(sum(halves));
            }
            (q, scale, halves, to) = (q.add(32), scale.add(1), halves.add(2), to.add(4 * step));
        }
    }
}

impl Panels for Dot {
    const SCALES: usize = 1;

    #[inline(always)]
    unsafe fn weights(words: [int8x16_t; 8], to: *mut int8x16_t) {
        // SAFETY: room for eight registers (caller).
        unsafe { to.cast::<[int8x16_t; 8]>().write(words) }
    }

    #[inline(always)]
    unsafe fn scales(scales: float32x4_t) -> [float32x4_t; 2] {
        [scales; 2]
    }

    #[inline(always)]
    unsafe fn activations(
        x: Positions<'_>,
        tile: usize,
        minimum: bool,
        out: *mut float32x4_t,
    ) -> *mut float32x4_t {
        // [blocks][tile / 4][registers].
        let four = if minimum { 10 } else { 9 };
        let step = tile / 4 * four;
        for p in 0..tile {
            // SAFETY: the panel has room for these blocks of `tile` positions (caller).
            unsafe { lay_position(x, p, minimum, out.add(p / 4 * four), step) };
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
