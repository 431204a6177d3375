//! Vectors of 384 elements and matrices of 384 x 384, each checked against f64.

use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;

use super::noise;
use crate::llm::benchmarks::case::{Case, Work, WrongAnswer};
use crate::llm::quant::GgmlType;
use crate::llm::simd::{ActivationBlocks, Activations, Kernels};

/// Width of the documents' model.
const N: usize = 384;
/// Rows handed to a kernel at a time.
const ROWS: usize = 64;
/// Elements of a Q4_0 block, and its bytes.
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 18;

/// Rounding errors of a sum of `n` products, relative to the sum of their magnitudes, whatever the order: `n` units
/// in the last place (half a unit each for product and sum).
fn sum_bound(n: usize, magnitude: f64) -> f64 {
    n as f64 * f64::from(f32::EPSILON) * magnitude
}

/// Q4_0 blocks with every nibble and scales of both signs, and the numbers they stand for.
///
/// Byte `j` of a block holds element `j` in its low and element `j + 16` in its high nibble; a nibble `q` under scale
/// `d` is `(q - 8) * d` (the format as GGUF files have it).
fn q4_0(blocks: usize, seed: u64) -> (Vec<u8>, Vec<f64>) {
    let mut bytes = Vec::with_capacity(blocks * BLOCK_BYTES);
    let mut values = Vec::with_capacity(blocks * BLOCK);
    let mut nibbles = noise(blocks * BLOCK, seed).into_iter().map(|x| ((x + 1.0) * 8.0) as u8);
    for block in 0..blocks {
        // A whole number of 1/64ths is exact in f16.
        let scale = (block % 13) as f32 / 64.0 - 6.5 / 64.0;
        let scale = half::f16::from_f32(scale);
        let q: Vec<u8> = nibbles.by_ref().take(BLOCK).collect();
        bytes.extend(scale.to_bits().to_le_bytes());
        bytes.extend((0..16).map(|j| q[j] | q[j + 16] << 4));
        values.extend(q.iter().map(|&q| (f64::from(q) - 8.0) * scale.to_f64()));
    }
    (bytes, values)
}

/// 32 blocks of Q4_0 to f32. A unit is one block.
pub struct Dequant {
    kernels: &'static Kernels,
    blocks: Vec<u8>,
    expected: Vec<f64>,
    out: Vec<f32>,
}

impl Dequant {
    /// Sets it up.
    pub fn new(kernels: &'static Kernels) -> Self {
        let (blocks, expected) = q4_0(32, 1);
        Self { kernels, blocks, out: vec![0.0; expected.len()], expected }
    }
}

impl Case for Dequant {
    fn name(&self) -> &'static str {
        "q4_0_dequant"
    }

    fn work(&self) -> Work {
        let bytes = self.blocks.len() + self.out.len() * 4;
        Work { units: 32.0, bytes: bytes as u64, flops: self.out.len() as u64, tokens: 0 }
    }

    fn run(&mut self, calls: u64) {
        for _ in 0..calls {
            self.kernels.dequantize(GgmlType::Q4_0, black_box(&self.blocks), &mut self.out);
            black_box(&self.out);
        }
    }

    fn check(&mut self) -> Result<(), WrongAnswer> {
        for (&expected, &found) in self.expected.iter().zip(&self.out) {
            WrongAnswer::check("a dequantised element", expected, f64::from(found), 0.0)?;
        }
        Ok(())
    }
}

/// One dot product of 384 elements.
pub struct Dot {
    kernels: &'static Kernels,
    a: Vec<f32>,
    b: Vec<f32>,
    last: f32,
}

impl Dot {
    /// Sets it up.
    pub fn new(kernels: &'static Kernels) -> Self {
        Self { kernels, a: noise(N, 2), b: noise(N, 3), last: f32::NAN }
    }
}

impl Case for Dot {
    fn name(&self) -> &'static str {
        "dot_product"
    }

    fn work(&self) -> Work {
        Work { units: 1.0, bytes: 8 * N as u64, flops: 2 * N as u64, tokens: 0 }
    }

    fn run(&mut self, calls: u64) {
        for _ in 0..calls {
            self.last = black_box(self.kernels.dot(black_box(&self.a), black_box(&self.b)));
        }
    }

    fn check(&mut self) -> Result<(), WrongAnswer> {
        let products = || self.a.iter().zip(&self.b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        let bound = sum_bound(N, products().map(f64::abs).sum());
        WrongAnswer::check("the dot product", products().sum(), f64::from(self.last), bound)
    }
}

/// A 384 x 384 matrix times a vector, as the runtime does it: quantized weights meet activations that are quantized
/// in the case, too.
pub struct MatVec {
    kernels: &'static Kernels,
    ty: GgmlType,
    /// In the layout that the kernels want.
    weights: Vec<u8>,
    exact: Vec<f64>,
    x: Vec<f32>,
    q: Vec<i8>,
    scale: Vec<f32>,
    sum16: Vec<i16>,
    out: Vec<f32>,
}

impl MatVec {
    /// With f32 weights.
    pub fn f32(kernels: &'static Kernels) -> Self {
        let weights = noise(N * N, 4);
        let exact = weights.iter().map(|&w| f64::from(w)).collect();
        let weights = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        Self::new(kernels, GgmlType::F32, weights, exact)
    }

    /// With Q4_0 weights.
    pub fn q4_0(kernels: &'static Kernels) -> Self {
        let (weights, exact) = q4_0(N * N / BLOCK, 5);
        Self::new(kernels, GgmlType::Q4_0, weights, exact)
    }

    fn new(kernels: &'static Kernels, ty: GgmlType, weights: Vec<u8>, exact: Vec<f64>) -> Self {
        let mut packed = vec![0; weights.len()];
        kernels.pack(ty, N, &weights, &mut packed);
        Self {
            kernels,
            ty,
            weights: packed,
            exact,
            x: noise(N, 6),
            q: vec![0; N],
            scale: vec![0.0; N / BLOCK],
            sum16: vec![0; N / 16],
            out: vec![0.0; N],
        }
    }
}

impl Case for MatVec {
    fn name(&self) -> &'static str {
        if self.ty == GgmlType::F32 { "matvec_f32" } else { "matvec_q4_0" }
    }

    fn work(&self) -> Work {
        let bytes = self.weights.len() + 8 * N;
        Work { units: 1.0, bytes: bytes as u64, flops: 2 * (N * N) as u64, tokens: 0 }
    }

    fn run(&mut self, calls: u64) {
        let row_bytes = self.weights.len() / N;
        for _ in 0..calls {
            let values = black_box(&self.x[..]);
            if self.ty.is_quantized() {
                self.kernels.quantize_activations(values, &mut self.q, &mut self.scale, &mut self.sum16);
            }
            let blocks = ActivationBlocks { q: &self.q, scale: &self.scale, sum16: &self.sum16 };
            let x = Activations { k: N, positions: 1, values, blocks };
            let rows = self.weights.chunks(ROWS * row_bytes);
            for (weights, out) in rows.zip(self.out.chunks_mut(ROWS)) {
                self.kernels.matmul_packed(self.ty, black_box(weights), out.len(), &x, out);
            }
            black_box(&self.out);
        }
    }

    fn check(&mut self) -> Result<(), WrongAnswer> {
        for (row, &found) in self.exact.chunks(N).zip(&self.out) {
            let (mut sum, mut bound) = (0.0, 0.0);
            for (w, x) in row.chunks(BLOCK).zip(self.x.chunks(BLOCK)) {
                let products = || w.iter().zip(x).map(|(&w, &x)| w * f64::from(x));
                sum += products().sum::<f64>();
                bound += sum_bound(N, products().map(f64::abs).sum());
                if self.ty.is_quantized() {
                    // Rounding x to steps of amax / 127 moves each element by half a step at most.
                    let amax = x.iter().fold(0.0f64, |m, &x| m.max(f64::from(x).abs()));
                    let moved = amax / 127.0 * 0.5001 * w.iter().map(|w| w.abs()).sum::<f64>();
                    bound += moved * (1.0 + N as f64 * f64::from(f32::EPSILON));
                }
            }
            WrongAnswer::check("an element of the product", sum, f64::from(found), bound)?;
        }
        Ok(())
    }
}

/// Normalising 384 elements.
pub struct Norm {
    kernels: &'static Kernels,
    layer: bool,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    out: Vec<f32>,
}

/// Added to the mean square, as Llama models do.
const EPS: f32 = 1e-5;

impl Norm {
    /// By the root of the mean square: what Llama models use.
    pub fn rms(kernels: &'static Kernels) -> Self {
        // Weights and bias away from 1 and 0, so that leaving one out is a wrong answer.
        let weight = noise(N, 8).iter().map(|x| 1.0 + x / 4.0).collect();
        let x = noise(N, 7).iter().map(|x| x + 0.25).collect();
        Self { kernels, layer: false, x, weight, bias: noise(N, 9), out: vec![0.0; N] }
    }

    /// By mean and variance: LayerNorm.
    pub fn layer(kernels: &'static Kernels) -> Self {
        Self { layer: true, ..Self::rms(kernels) }
    }
}

impl Case for Norm {
    fn name(&self) -> &'static str {
        if self.layer { "layer_norm" } else { "rms_norm" }
    }

    fn work(&self) -> Work {
        let vectors = if self.layer { 4 } else { 3 };
        let per_element = if self.layer { 7 } else { 4 };
        Work { units: 1.0, bytes: vectors * 4 * N as u64, flops: per_element * N as u64, tokens: 0 }
    }

    fn run(&mut self, calls: u64) {
        for _ in 0..calls {
            let x = black_box(&self.x);
            if self.layer {
                self.kernels.layer_norm(x, &self.weight, &self.bias, EPS, &mut self.out);
            } else {
                self.kernels.rms_norm(x, &self.weight, EPS, &mut self.out);
            }
            black_box(&self.out);
        }
    }

    fn check(&mut self) -> Result<(), WrongAnswer> {
        let x = || self.x.iter().map(|&x| f64::from(x));
        let mean = if self.layer { x().sum::<f64>() / N as f64 } else { 0.0 };
        let variance = x().map(|x| (x - mean) * (x - mean)).sum::<f64>() / N as f64;
        let inverse = 1.0 / libm::sqrt(variance + f64::from(EPS));
        for (i, x) in x().enumerate() {
            let bias = if self.layer { f64::from(self.bias[i]) } else { 0.0 };
            let expected = (x - mean) * inverse * f64::from(self.weight[i]) + bias;
            // Lanes sum 24 elements each and a tree of 4 adds them: 28 roundings, a few more behind; doubled.
            let bound = 64.0 * f64::from(f32::EPSILON) * (expected.abs() + 1.0);
            WrongAnswer::check("a normalised element", expected, f64::from(self.out[i]), bound)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::simd::available;
    use alloc::boxed::Box;

    fn cases(kernels: &'static Kernels) -> [Box<dyn Case>; 6] {
        [
            Box::new(Dequant::new(kernels)),
            Box::new(Dot::new(kernels)),
            Box::new(MatVec::f32(kernels)),
            Box::new(MatVec::q4_0(kernels)),
            Box::new(Norm::rms(kernels)),
            Box::new(Norm::layer(kernels)),
        ]
    }

    #[test]
    fn every_table_gives_the_right_answers() {
        for kernels in available() {
            for mut case in cases(kernels) {
                assert!(case.check().is_err(), "{}: nothing has run yet", case.name());
                case.run(1);
                assert_eq!(case.check(), Ok(()), "{} {}", kernels.name, case.name());
            }
        }
    }

    #[test]
    fn swapped_nibbles_are_a_wrong_answer() {
        let mut case = Dequant::new(crate::llm::simd::scalar());
        for byte in case.blocks.chunks_mut(BLOCK_BYTES).flat_map(|block| &mut block[2..]) {
            *byte = byte.rotate_left(4);
        }
        case.run(1);
        assert!(case.check().is_err());
    }

    #[test]
    fn a_matvec_is_294912_operations() {
        assert_eq!(MatVec::f32(crate::llm::simd::scalar()).work().flops, 294_912);
    }
}
