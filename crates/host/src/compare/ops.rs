//! What the operations of `docs/llm/PROTOCOL.md` should give, by plain arithmetic in f64.

use barelm::llm::quant::{GgmlType, dequantize, quantize};
use barelm_protocol::Op;
use barelm_protocol::ops::{checksum, inputs, magnitude};

/// All operations, as `docs/llm/PROTOCOL.md` lists them.
pub const NAMES: [&str; 13] = [
    "dot_product",
    "matvec_384",
    "matvec_q4_0",
    "matmul",
    "rms_norm",
    "layer_norm",
    "softmax",
    "add",
    "silu_mul",
    "gelu",
    "attention",
    "q4_0_dequant",
    "q8_0_dequant",
];

/// A checksum and how far from it an answer may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reference {
    /// The checksum of the right result.
    pub check: f64,
    /// The largest deviation that rounding explains.
    pub bound: f64,
}

impl Reference {
    /// Whether an engine's checksum is right.
    pub fn agrees(&self, check: f64) -> bool {
        (check - self.check).abs() <= self.bound
    }
}

/// Share of the terms' magnitudes that an answer may be off by: arithmetic in f32.
const F32: f64 = 1e-5;
/// Keys, values or weights may be rounded to f16 or bf16 first.
const HALF: f64 = 5e-3;
/// Activations may be rounded to 8 bits first, in blocks.
const INT8: f64 = 2e-2;

/// What `op` should give.
///
/// # Errors
/// For an operation that is not listed, and sizes that are wrong.
pub fn reference(op: &Op) -> Result<Reference, String> {
    let (result, share) = match op.name.as_str() {
        "dot_product" => {
            let n = op.size("n", 384)?;
            (vec![dot(&inputs(1, n), &inputs(2, n))], F32)
        }
        "matvec_384" | "matvec_f32" => (matvec(op, GgmlType::F32)?, F32),
        "matvec_q4_0" => (matvec(op, GgmlType::Q4_0)?, INT8),
        "matmul" => (matmul(op)?, F32),
        "rms_norm" => (rows(op, |x, weight, _| rms_norm(x, weight))?, F32),
        "layer_norm" => (rows(op, layer_norm)?, F32),
        "softmax" => (rows(op, |x, _, _| softmax(x))?, F32),
        "add" => (pairs(op, |x, y| x + y)?, F32),
        "silu_mul" => (pairs(op, |gate, up| gate / (1.0 + libm::exp(-gate)) * up)?, F32),
        "gelu" => (pairs(op, |x, _| gelu(x))?, F32),
        "attention" => (attention(op)?, HALF),
        "q4_0_dequant" => (dequant(op, GgmlType::Q4_0)?, F32),
        "q8_0_dequant" => (dequant(op, GgmlType::Q8_0)?, F32),
        name => return Err(format!("there is no operation `{name}`")),
    };
    let result: Vec<f32> = result.into_iter().map(|x| x as f32).collect();
    if op.name == "dot_product" {
        // A single sum may cancel: it is off by a share of its terms, not of itself.
        let n = op.size("n", 384)?;
        let (a, b) = (inputs(1, n), inputs(2, n));
        let terms: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a * b).abs()).sum();
        return Ok(Reference { check: checksum(&result), bound: share * terms });
    }
    Ok(Reference { check: checksum(&result), bound: share * magnitude(&result) })
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn matvec(op: &Op, ty: GgmlType) -> Result<Vec<f64>, String> {
    let (rows, k) = (op.size("rows", 384)?, op.size("k", 384)?);
    let (mut weights, x) = (inputs(1, rows * k), inputs(2, k));
    if ty.is_quantized() {
        weights = rounded(ty, &weights)?;
    }
    Ok(weights.chunks(k).map(|row| dot(row, &x)).collect())
}

/// Through a quantized type and back.
fn rounded(ty: GgmlType, values: &[f32]) -> Result<Vec<f32>, String> {
    let bytes = ty.row_bytes(values.len()).ok_or("whole blocks are wanted")?;
    let mut bytes = vec![0; bytes];
    quantize(ty, values, &mut bytes).map_err(|error| error.to_string())?;
    let mut back = vec![0.0; values.len()];
    dequantize(ty, &bytes, &mut back);
    Ok(back)
}

fn matmul(op: &Op) -> Result<Vec<f64>, String> {
    let (batch, m) = (op.size("batch", 1)?, op.size("m", 64)?);
    let (n, k) = (op.size("n", 384)?, op.size("k", 384)?);
    let (a, b) = (inputs(1, batch * m * k), inputs(2, batch * k * n));
    let mut c = vec![0.0; batch * m * n];
    for (at, c) in c.iter_mut().enumerate() {
        let (matrix, row, column) = (at / (m * n), at / n % m, at % n);
        let a = &a[(matrix * m + row) * k..][..k];
        let b = b[matrix * k * n + column..].iter().step_by(n);
        *c = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    }
    Ok(c)
}

/// An operation on each of `rows` rows of `n`, with a weight and a bias for each column.
fn rows(op: &Op, one: impl Fn(&[f32], &[f32], &[f32]) -> Vec<f64>) -> Result<Vec<f64>, String> {
    let (rows, n) = (op.size("rows", 1)?, op.size("n", 384)?);
    let (weight, bias) = (inputs(2, n), inputs(3, n));
    Ok(inputs(1, rows * n).chunks(n).flat_map(|x| one(x, &weight, &bias)).collect())
}

/// What is added to variances.
const EPSILON: f64 = 1e-5;

fn rms_norm(x: &[f32], weight: &[f32]) -> Vec<f64> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + EPSILON).sqrt();
    x.iter().zip(weight).map(|(&x, &weight)| f64::from(x) * scale * f64::from(weight)).collect()
}

fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = x.iter().map(|&x| (f64::from(x) - mean) * (f64::from(x) - mean)).sum::<f64>() / n;
    let scale = 1.0 / (variance + EPSILON).sqrt();
    let affine = weight.iter().zip(bias);
    x.iter()
        .zip(affine)
        .map(|(&x, (&weight, &bias))| (f64::from(x) - mean) * scale * f64::from(weight) + f64::from(bias))
        .collect()
}

fn softmax(x: &[f32]) -> Vec<f64> {
    let most = x.iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
    let powers: Vec<f64> = x.iter().map(|&x| libm::exp(f64::from(x - most))).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

fn pairs(op: &Op, one: impl Fn(f64, f64) -> f64) -> Result<Vec<f64>, String> {
    let n = op.size("n", 384)?;
    let (x, y) = (inputs(1, n), inputs(2, n));
    Ok(x.iter().zip(&y).map(|(&x, &y)| one(f64::from(x), f64::from(y))).collect())
}

/// GELU in its form with tanh.
fn gelu(x: f64) -> f64 {
    let inner = (2.0 / core::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + libm::tanh(inner))
}

fn attention(op: &Op) -> Result<Vec<f64>, String> {
    let (heads, queries) = (op.size("heads", 9)?, op.size("queries", 1)?);
    let (positions, head_dim) = (op.size("positions", 256)?, op.size("head_dim", 64)?);
    if queries > positions {
        return Err("queries: at most as many as positions".into());
    }
    let q = inputs(1, heads * queries * head_dim);
    let (k, v) = (inputs(2, heads * positions * head_dim), inputs(3, heads * positions * head_dim));
    let mut out = Vec::new();
    for head in 0..heads {
        let k = &k[head * positions * head_dim..][..positions * head_dim];
        let v = &v[head * positions * head_dim..][..positions * head_dim];
        for query in 0..queries {
            let q = &q[(head * queries + query) * head_dim..][..head_dim];
            let seen = positions - queries + query + 1;
            let scores = k.chunks(head_dim).take(seen);
            let scores: Vec<f64> = scores.map(|k| dot(q, k) / (head_dim as f64).sqrt()).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let shares: Vec<f64> = scores.iter().map(|score| libm::exp(score - most)).collect();
            let sum: f64 = shares.iter().sum();
            let column = |d: usize| {
                let values = v.chunks(head_dim).zip(&shares);
                values.map(|(v, share)| f64::from(v[d]) * share).sum::<f64>() / sum
            };
            out.extend((0..head_dim).map(column));
        }
    }
    Ok(out)
}

fn dequant(op: &Op, ty: GgmlType) -> Result<Vec<f64>, String> {
    let values = inputs(1, op.size("blocks", 32)? * 32);
    Ok(rounded(ty, &values)?.into_iter().map(f64::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_reference_tells_right_from_nearly_right() {
        let op = Op { id: 0, name: "matvec_f32".into(), params: BTreeMap::new(), min_ns: 1 };
        let reference = reference(&op).unwrap();
        assert!(reference.agrees(reference.check) && reference.bound > 0.0);
        assert!(!reference.agrees(reference.check + 2.0 * reference.bound));
        assert!(!reference.agrees(f64::NAN));
        let other = super::reference(&Op { name: "fly".into(), ..op });
        assert!(other.unwrap_err().contains("fly"));
    }

    #[test]
    fn functions_have_known_values() {
        assert!((gelu(1.0) - 0.841_192).abs() < 1e-6);
        assert_eq!(softmax(&[0.5, 0.5]), [0.5, 0.5]);
        let normed = layer_norm(&[1.0, 3.0], &[1.0, 1.0], &[0.0, 0.0]);
        assert!((normed[1] - 1.0).abs() < 1e-5 && (normed[0] + normed[1]).abs() < 1e-12);
        let normed = rms_norm(&[3.0, 3.0], &[1.0, 2.0]);
        assert!((normed[0] - 1.0).abs() < 1e-5 && (normed[1] - 2.0).abs() < 1e-5);
    }
}
