//! One position: groups of eight rows, two at a time, so that the activations are loaded once for both.
//!
//! Weights are read in the order of memory, 64 bytes at a time; nibbles are taken apart just before they are multiplied.
//! Two groups' block takes 94 instructions for Q4_0 and 66 for Q8_0.

use super::super::Activations;
use super::super::neon::packed;
use super::super::product::{Q4_0, Q4_1, Q8_0, type_of};
use core::arch::aarch64::*;

/// A block of a group: its pointer, and the registers of its sums.
macro_rules! group {
    (Q4_0, $at:literal, $low:literal, $high:literal) => {
        concat!(
            group!(words $at, "ldr q27, [{", "}], #16\n"),
            group!(nibbles Q4_0),
            group!(sums Q4_0, $low, $high),
        )
    };
    (Q4_1, $at:literal, $low:literal, $high:literal) => {
        concat!(
            group!(words $at, "ld1 {{v27.8h, v28.8h}}, [{", "}], #32\n"),
            group!(nibbles Q4_1),
            group!(sums Q4_1, $low, $high),
            "fcvtl v22.4s, v28.4h\n",
            "fcvtl2 v23.4s, v28.8h\n",
            "fmul v22.4s, v22.4s, v26.s[0]\n",
            "fmul v23.4s, v23.4s, v26.s[0]\n",
            "fmla v", $low, ".4s, v22.4s, v29.s[0]\n",
            "fmla v", $high, ".4s, v23.4s, v29.s[0]\n",
        )
    };
    (Q8_0, $at:literal, $low:literal, $high:literal) => {
        concat!(
            "ldr q27, [{", $at, "}], #16\n",
            "movi v20.2d, #0\n",
            "movi v21.2d, #0\n",
            group!(bytes $at, "24", "0", "1"),
            group!(bytes $at, "24", "2", "3"),
            group!(bytes $at, "25", "0", "1"),
            group!(bytes $at, "25", "2", "3"),
            group!(sums Q8_0, $low, $high),
        )
    };
    // The block's f16 values and its eight registers of nibbles, two for each word.
    (words $at:literal, $load:literal, $step:literal) => {
        concat!(
            $load, $at, $step,
            "ld1 {{v4.16b, v5.16b, v6.16b, v7.16b}}, [{", $at, "}], #64\n",
            "ld1 {{v16.16b, v17.16b, v18.16b, v19.16b}}, [{", $at, "}], #64\n",
            "movi v20.2d, #0\n",
            "movi v21.2d, #0\n",
        )
    };
    (nibbles $ty:ident) => {
        concat!(
            group!(two $ty, "4", "5", "0"), group!(two $ty, "6", "7", "1"),
            group!(two $ty, "16", "17", "2"), group!(two $ty, "18", "19", "3"),
        )
    };
    // Sixteen times the weight, by the sign of a nibble at the top of its byte.
    (two Q4_0, $a:literal, $b:literal, $word:literal) => {
        concat!(
            "shl v22.16b, v", $a, ".16b, #4\n",
            "shl v23.16b, v", $b, ".16b, #4\n",
            "and v", $a, ".16b, v", $a, ".16b, v31.16b\n",
            "and v", $b, ".16b, v", $b, ".16b, v31.16b\n",
            group!(dots $a, $b, $word),
        )
    };
    (two Q4_1, $a:literal, $b:literal, $word:literal) => {
        concat!(
            "and v22.16b, v", $a, ".16b, v31.16b\n",
            "and v23.16b, v", $b, ".16b, v31.16b\n",
            "ushr v", $a, ".16b, v", $a, ".16b, #4\n",
            "ushr v", $b, ".16b, v", $b, ".16b, #4\n",
            group!(dots $a, $b, $word),
        )
    };
    (dots $a:literal, $b:literal, $word:literal) => {
        concat!(
            "sdot v20.4s, v22.16b, v24.4b[", $word, "]\n",
            "sdot v21.4s, v23.16b, v24.4b[", $word, "]\n",
            "sdot v20.4s, v", $a, ".16b, v25.4b[", $word, "]\n",
            "sdot v21.4s, v", $b, ".16b, v25.4b[", $word, "]\n",
        )
    };
    (bytes $at:literal, $x:literal, $first:literal, $second:literal) => {
        concat!(
            "ld1 {{v4.16b, v5.16b, v6.16b, v7.16b}}, [{", $at, "}], #64\n",
            "sdot v20.4s, v4.16b, v", $x, ".4b[", $first, "]\n",
            "sdot v21.4s, v5.16b, v", $x, ".4b[", $first, "]\n",
            "sdot v20.4s, v6.16b, v", $x, ".4b[", $second, "]\n",
            "sdot v21.4s, v7.16b, v", $x, ".4b[", $second, "]\n",
        )
    };
    (sums $ty:ident, $low:literal, $high:literal) => {
        concat!(
            "fcvtl v22.4s, v27.4h\n",
            "fcvtl2 v23.4s, v27.8h\n",
            "fmul v22.4s, v22.4s, v26.s[0]\n",
            "fmul v23.4s, v23.4s, v26.s[0]\n",
            group!(convert $ty "20"), group!(convert $ty "21"),
            "fmla v", $low, ".4s, v22.4s, v20.4s\n",
            "fmla v", $high, ".4s, v23.4s, v21.4s\n",
        )
    };
    (convert Q4_0 $v:literal) => { concat!("scvtf v", $v, ".4s, v", $v, ".4s, #4\n") };
    (convert $ty:ident $v:literal) => { concat!("scvtf v", $v, ".4s, v", $v, ".4s\n") };
}

/// The loop over the blocks of two groups; `$sum` makes v29 of the activations' half sums, where that is needed.
macro_rules! two_groups {
    ($ty:ident, $pass:ident, $mask:literal, $sum:expr) => {
        // SAFETY: both groups and the activations hold `blocks` blocks, and a block's reads are its own.
        unsafe {
            core::arch::asm!(
                "2:",
                "ld1 {{v24.16b, v25.16b}}, [{x}], #32",
                "ldr s26, [{scale}], #4",
                $sum,
                group!($ty, "a", "0", "1"),
                group!($ty, "b", "2", "3"),
                "subs {n}, {n}, #1",
                "b.ne 2b",
                a = inout(reg) $pass.a => _,
                b = inout(reg) $pass.b => _,
                x = inout(reg) $pass.x => _,
                scale = inout(reg) $pass.scale => _,
                sums = inout(reg) $pass.sums => _,
                n = inout(reg) $pass.blocks => _,
                inout("v0") $pass.acc[0][0], inout("v1") $pass.acc[0][1],
                inout("v2") $pass.acc[1][0], inout("v3") $pass.acc[1][1],
                out("v4") _, out("v5") _, out("v6") _, out("v7") _, out("v16") _, out("v17") _,
                out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
                out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _,
                in("v31") vdupq_n_u8($mask),
                options(readonly, nostack)
            );
        }
    };
}

/// Two groups times one position.
struct Pass {
    a: *const u8,
    b: *const u8,
    x: *const i8,
    scale: *const f32,
    sums: *const i16,
    blocks: usize,
    acc: [[float32x4_t; 2]; 2],
}

/// Pairs of groups, for weights of type Q4_0, Q4_1 or Q8_0. Gives the rows that are done.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn pairs_of_groups<const TY: u32>(weights: &[u8], x: &Activations<'_>, out: &mut [f32]) -> usize {
    let ty = const { type_of(TY) };
    let blocks = x.k / 32;
    let group = 8 * blocks * ty.block_bytes();
    assert!(x.blocks.q.len() == 32 * blocks && x.blocks.scale.len() == blocks, "one position");
    assert!(x.blocks.sum16.len() == 2 * blocks, "its sums");
    if blocks == 0 {
        return 0;
    }
    let mut done = 0;
    for (weights, out) in weights.chunks_exact(2 * group).zip(out.chunks_exact_mut(16)) {
        let (a, b) = weights.split_at(group);
        let mut pass = Pass {
            a: a.as_ptr(),
            b: b.as_ptr(),
            x: x.blocks.q.as_ptr(),
            scale: x.blocks.scale.as_ptr(),
            sums: x.blocks.sum16.as_ptr(),
            blocks,
            acc: [packed::pair(vdupq_n_f32(0.0)); 2],
        };
        match TY {
            Q4_0 => two_groups!(Q4_0, pass, 0xf0, "/* {sums} */"),
            Q4_1 => {
                two_groups!(Q4_1, pass, 15, "ldr s29, [{sums}], #4\nsaddlp v29.2s, v29.4h\nscvtf s29, s29")
            }
            Q8_0 => two_groups!(Q8_0, pass, 0, "/* {sums} */"),
            _ => unreachable!("checked by the caller"),
        }
        packed::store(out, &pass.acc[0]);
        packed::store(&mut out[8..], &pass.acc[1]);
        done += 16;
    }
    done
}
