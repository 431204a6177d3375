//! NEON as every AArch64 has it: four 32-bit lanes, no dot-product instructions.
//!
//! - `matmul`: products with weights of every type; a lane is a row.
//! - `vector`: norms, activation quantization, rotation and attention.
//!
//! What does not fill a register is left to the scalar functions, which give the same bits. Among instructions that
//! do the same on a real core, those are taken that an emulator runs inline: shifts, masks and 16-bit multiply-adds
//! rather than widening multiplications and pairwise sums.

use super::{Kernels, scalar};
use core::arch::aarch64::*;

mod matmul;
mod vector;

pub(super) static TABLE: Kernels = Kernels {
    name: "neon",
    matmul: matmul::matmul,
    quantize_activations: vector::quantize_activations,
    dequantize: scalar::TABLE.dequantize,
    dot: vector::dot,
    rms_norm: vector::rms_norm,
    layer_norm: vector::layer_norm,
    add: vector::add,
    silu_mul: vector::silu_mul,
    rope: vector::rope,
    to_f16: vector::to_f16,
    scores16: vector::scores16,
    max: vector::max,
    exp_sub: vector::exp_sub,
    accumulate: vector::accumulate,
    merge: vector::merge,
};

#[inline]
#[target_feature(enable = "neon")]
fn load(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: four floats are readable behind the reference.
    unsafe { vld1q_f32(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(x: &mut [f32; 4], v: float32x4_t) {
    // SAFETY: four floats are writable behind the reference.
    unsafe { vst1q_f32(x.as_mut_ptr(), v) }
}

/// Four f16 widened.
#[inline]
#[target_feature(enable = "neon")]
fn widen(halves: uint16x4_t) -> float32x4_t {
    vcvt_f32_f16(vreinterpret_f16_u16(halves))
}

/// Four f16 widened.
#[inline]
#[target_feature(enable = "neon")]
fn load_halves(x: &[u16; 4]) -> float32x4_t {
    // SAFETY: eight bytes are readable behind the reference.
    widen(unsafe { vld1_u16(x.as_ptr()) })
}
