//! A table that computes a little wrong, for tests that must notice it.

use super::{Activations, Attending, Kernels, KvBlock, scalar};
use crate::llm::quant::GgmlType;

/// The scalar table with one element of every result a little off.
pub(crate) static TABLE: Kernels = Kernels {
    name: "spoiled",
    matmul,
    dequantize,
    dot,
    rms_norm,
    layer_norm,
    to_f16,
    attend,
    ..scalar::TABLE
};

/// A hundredth and a thousandth too much in the last place.
fn spoil(out: &mut [f32]) {
    if let Some(last) = out.last_mut() {
        *last += *last / 100.0 + 1e-3;
    }
}

fn matmul(ty: GgmlType, weights: &[u8], rows: usize, x: &Activations<'_>, out: &mut [f32]) {
    super::scalar().matmul(ty, weights, rows, x, out);
    // By more than int8 activations may move a product of 384 elements.
    spoil(out);
    out[0] += 10.0;
}

fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) {
    super::scalar().dequantize(ty, bytes, out);
    spoil(out);
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    super::scalar().dot(a, b) + 1e-2
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    super::scalar().rms_norm(x, weight, eps, out);
    spoil(out);
}

fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    super::scalar().layer_norm(x, weight, bias, eps, out);
    spoil(out);
}

fn to_f16(src: &[f32], dst: &mut [u16]) {
    super::scalar().to_f16(src, dst);
    if let Some(last) = dst.last_mut() {
        *last ^= 1;
    }
}

fn attend(block: &KvBlock<'_>, scale: f32, x: &mut Attending<'_>) {
    super::scalar().attend(block, scale, x);
    spoil(x.out);
}
