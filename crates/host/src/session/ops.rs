//! Single operations of our runtime, as `docs/llm/PROTOCOL.md` lists them.

use std::hint::black_box;

use barelm::llm::pool::{Member, Team};
use barelm::llm::quant::{GgmlType, quantize};
use barelm::llm::simd::{ActivationBlocks, Activations, Attending, BLOCK, GROUP, Kernels, KvBlock};
use barelm::llm::tensor::{CALL_ROWS, Matrix, ROW_TILE};
use barelm_protocol::ops::{checksum, inputs, time};
use barelm_protocol::{Op, OpAnswer};
use half::f16;

use crate::team::ThreadTeam;

/// What we can say.
pub const NAMES: [&str; 12] = [
    "dot_product",
    "matvec_384",
    "matvec_f32",
    "matvec_q4_0",
    "matmul",
    "rms_norm",
    "layer_norm",
    "add",
    "silu_mul",
    "attention",
    "q4_0_dequant",
    "q8_0_dequant",
];

/// Times an operation on these kernels.
pub fn answer(op: &Op, kernels: &'static Kernels) -> OpAnswer {
    let timed = match op.name.as_str() {
        "dot_product" => dot(op, kernels),
        "matvec_384" | "matvec_f32" => product(op, kernels, GgmlType::F32, true),
        "matvec_q4_0" => product(op, kernels, GgmlType::Q4_0, true),
        "matmul" => product(op, kernels, GgmlType::F32, false),
        "rms_norm" => norm(op, kernels, false),
        "layer_norm" => norm(op, kernels, true),
        "add" => add(op, kernels),
        "silu_mul" => silu_mul(op, kernels),
        "attention" => attention(op, kernels),
        "q4_0_dequant" => dequant(op, kernels, GgmlType::Q4_0),
        "q8_0_dequant" => dequant(op, kernels, GgmlType::Q8_0),
        "softmax" => {
            return OpAnswer::NotExpressible("this runtime's softmax is part of its attention".into());
        }
        name => return OpAnswer::NotExpressible(format!("this runtime has no `{name}`")),
    };
    match timed {
        Ok((samples_ns, iterations, result)) => {
            OpAnswer::Timed { samples_ns, iterations, check: checksum(&result) }
        }
        Err(why) => OpAnswer::Failed(why),
    }
}

/// Times, calls in a sample, and the result.
type Timed = Result<(Vec<f64>, u64, Vec<f32>), String>;

/// Times `call`, which writes its result to the slice it is given.
fn timed(op: &Op, mut result: Vec<f32>, mut call: impl FnMut(&mut [f32])) -> Timed {
    let (samples, iterations) = time(op.min_ns, || {
        call(&mut result);
        black_box(&result);
        Ok(())
    })?;
    Ok((samples, iterations, result))
}

/// Sizes multiply to at most this many elements, so that no request takes the machine's memory.
const MOST: usize = 1 << 28;

/// Elements of `sizes` together.
fn elements(sizes: &[usize]) -> Result<usize, String> {
    let product = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    product.filter(|&all| all <= MOST).ok_or_else(|| format!("{sizes:?}: more than {MOST} elements"))
}

fn dot(op: &Op, kernels: &'static Kernels) -> Timed {
    let n = elements(&[op.size("n", 384)?])?;
    let (a, b) = (inputs(1, n), inputs(2, n));
    timed(op, vec![0.0], |out| out[0] = kernels.dot(black_box(&a), black_box(&b)))
}

/// Weights times vectors: one (`matvec`), or `m` in each of `batch` products (`matmul`).
fn product(op: &Op, kernels: &'static Kernels, ty: GgmlType, vector: bool) -> Timed {
    let (batch, positions, rows) = match vector {
        true => (1, 1, op.size("rows", 384)?),
        false => (op.size("batch", 1)?, op.size("m", 64)?, op.size("n", 384)?),
    };
    let k = op.size("k", 384)?;
    let (weights_len, x_len) = (elements(&[batch, rows, k])?, elements(&[batch, positions, k])?);
    let out_len = elements(&[batch, positions, rows])?;
    let row_bytes =
        ty.row_bytes(k).ok_or_else(|| format!("k: a multiple of {} is wanted", ty.block_len()))?;
    // Weights of a `matmul` are its second input, and lie [batch x k x n] where ours are rows of k.
    let (x, weights) = match vector {
        true => (inputs(2, x_len), inputs(1, weights_len)),
        false => {
            let b = inputs(2, weights_len);
            let row = |at: usize| {
                let (matrix, r, c) = (at / (rows * k), at / k % rows, at % k);
                b[matrix * rows * k + c * rows + r]
            };
            (inputs(1, x_len), (0..weights_len).map(row).collect())
        }
    };
    let mut bytes = vec![0; batch * rows * row_bytes];
    quantize(ty, &weights, &mut bytes).map_err(|error| error.to_string())?;
    let mut packed = vec![0; bytes.len()];
    let matrix_bytes = rows * row_bytes;
    let matrices: Vec<Matrix<'_>> = bytes
        .chunks(matrix_bytes)
        .zip(packed.chunks_mut(matrix_bytes))
        .map(|(bytes, packed)| {
            Matrix::new(ty, rows, k, bytes).expect("sized by its own rows").packed(kernels, packed)
        })
        .collect();
    let team = team(op)?;
    // A quantized product starts with quantizing its activations, as in a layer.
    let mut blocks = (vec![0i8; x_len], vec![0.0f32; x_len.div_ceil(32)], vec![0i16; x_len.div_ceil(16)]);
    let members = team.size();
    let mut tiles: Vec<Vec<f32>> = (0..members).map(|_| vec![0.0; positions * CALL_ROWS]).collect();
    timed(op, vec![0.0; out_len], |out| {
        if ty.is_quantized() {
            kernels.quantize_activations(black_box(&x), &mut blocks.0, &mut blocks.1, &mut blocks.2);
        }
        for (at, matrix) in matrices.iter().enumerate() {
            let span = at * positions * k..(at + 1) * positions * k;
            let blocks = match ty.is_quantized() {
                true => ActivationBlocks { q: &blocks.0, scale: &blocks.1, sum16: &blocks.2 },
                false => ActivationBlocks { q: &[], scale: &[], sum16: &[] },
            };
            let x = Activations { k, positions, values: black_box(&x[span]), blocks };
            let out = Pointer(out[at * positions * rows..].as_mut_ptr());
            let tiles = Pointer(tiles.as_mut_ptr());
            let grain = matrix.group().max(ROW_TILE);
            team.run(&|member: Member<'_>| {
                // SAFETY: every member has the tile of its own index, of which there are as many as members.
                let tile = || unsafe { &mut *tiles.at(member.index) };
                member.step(rows.div_ceil(grain), tile, |tile, units| {
                    let claimed = units.start * grain..(units.end * grain).min(rows);
                    matrix.multiply(kernels, claimed, &x, tile, |rows_of, products| {
                        for (position, products) in products.chunks(rows_of.len()).enumerate() {
                            for (row, &product) in rows_of.clone().zip(products) {
                                // SAFETY: rows below `rows` of positions below `positions`, of which `out` holds all;
                                // what members have claimed does not overlap.
                                unsafe { *out.at(position * rows + row) = product };
                            }
                        }
                    });
                });
            });
        }
    })
}

/// An address that members share; each touches what is its own.
#[derive(Clone, Copy)]
struct Pointer<T>(*mut T);

// SAFETY: whoever dereferences says why no two threads have the same element.
unsafe impl<T> Sync for Pointer<T> {}

impl<T> Pointer<T> {
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

fn team(op: &Op) -> Result<ThreadTeam, String> {
    let threads = op.size("threads", 1)?;
    if threads > 256 {
        return Err("params.threads: at most 256".into());
    }
    ThreadTeam::try_new(threads).map_err(|error| error.to_string())
}

fn norm(op: &Op, kernels: &'static Kernels, layer: bool) -> Timed {
    let (rows, n) = (op.size("rows", 1)?, op.size("n", 384)?);
    let x = inputs(1, elements(&[rows, n])?);
    let (weight, bias) = (inputs(2, n), inputs(3, n));
    timed(op, vec![0.0; rows * n], |out| {
        for (x, out) in x.chunks(n).zip(out.chunks_mut(n)) {
            match layer {
                true => kernels.layer_norm(black_box(x), &weight, &bias, 1e-5, out),
                false => kernels.rms_norm(black_box(x), &weight, 1e-5, out),
            }
        }
    })
}

fn add(op: &Op, kernels: &'static Kernels) -> Timed {
    let n = elements(&[op.size("n", 384)?])?;
    let (x, y) = (inputs(1, n), inputs(2, n));
    timed(op, vec![0.0; n], |out| {
        out.copy_from_slice(black_box(&x));
        kernels.add(out, black_box(&y));
    })
}

fn silu_mul(op: &Op, kernels: &'static Kernels) -> Timed {
    let n = elements(&[op.size("n", 384)?])?;
    let (gate, up) = (inputs(1, n), inputs(2, n));
    timed(op, vec![0.0; n], |out| kernels.silu_mul(black_box(&gate), black_box(&up), out))
}

fn dequant(op: &Op, kernels: &'static Kernels, ty: GgmlType) -> Timed {
    let n = elements(&[op.size("blocks", 32)?, 32])?;
    let mut bytes = vec![0; ty.row_bytes(n).expect("whole blocks")];
    quantize(ty, &inputs(1, n), &mut bytes).map_err(|error| error.to_string())?;
    timed(op, vec![0.0; n], |out| kernels.dequantize(ty, black_box(&bytes), out))
}

/// Attention over keys and values as our cache holds them: f16, keys by dimension in groups of positions.
fn attention(op: &Op, kernels: &'static Kernels) -> Timed {
    let (heads, queries) = (op.size("heads", 9)?, op.size("queries", 1)?);
    let (positions, head_dim) = (op.size("positions", 256)?, op.size("head_dim", 64)?);
    if queries > positions {
        return Err("queries: at most as many as positions".into());
    }
    let q = inputs(1, elements(&[heads, queries, head_dim])?);
    let each = elements(&[heads, positions, head_dim])? / heads;
    let padded = positions.next_multiple_of(GROUP) * head_dim;
    let (k, v) = (inputs(2, heads * each), inputs(3, heads * each));
    let half = |x: f32| f16::from_f32(x).to_bits();
    let mut keys = vec![0u16; heads * padded];
    for (head, k) in k.chunks(each).enumerate() {
        for (at, &x) in k.iter().enumerate() {
            let (position, d) = (at / head_dim, at % head_dim);
            let place = (position / GROUP * head_dim + d) * GROUP + position % GROUP;
            keys[head * padded + place] = half(x);
        }
    }
    let values: Vec<u16> = v.iter().map(|&x| half(x)).collect();
    let scale = 1.0 / (head_dim as f32).sqrt();
    let (mut max, mut sum) = (vec![0.0f32; queries], vec![0.0f32; queries]);
    timed(op, vec![0.0; heads * queries * head_dim], |out| {
        for head in 0..heads {
            let q = &q[head * queries * head_dim..][..queries * head_dim];
            let out = &mut out[head * queries * head_dim..][..queries * head_dim];
            for start in (0..positions).step_by(BLOCK) {
                // Queries that see positions of this block: the later ones.
                let sees = |query: usize| positions - queries + query + 1;
                let from = (0..queries).find(|&query| sees(query) > start).unwrap_or(queries);
                let until: Vec<usize> =
                    (from..queries).map(|query| (sees(query) - start).min(BLOCK)).collect();
                let block = KvBlock {
                    head_dim,
                    keys: black_box(&keys[head * padded..][start * head_dim..padded]),
                    values: black_box(&values[head * each..][start * head_dim..each]),
                    from: 0,
                    first: start == 0,
                    ahead: [&[]; 2],
                };
                let mut x = Attending {
                    q: &q[from * head_dim..],
                    until: &until,
                    max: &mut max[from..],
                    sum: &mut sum[from..],
                    out: &mut out[from * head_dim..],
                };
                kernels.attend(&block, scale, &mut x);
            }
            for (out, sum) in out.chunks_mut(head_dim).zip(&sum) {
                out.iter_mut().for_each(|x| *x /= sum);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use barelm::llm::simd;
    use serde_json::json;

    fn op(name: &str, params: serde_json::Value) -> Op {
        let params = serde_json::from_value(params).unwrap();
        Op { id: 1, name: name.into(), params, min_ns: 1 }
    }

    #[test]
    fn every_operation_has_the_answer_of_plain_arithmetic() {
        let cases = [
            ("dot_product", json!({})),
            ("matvec_384", json!({})),
            ("matvec_f32", json!({"rows": 70, "k": 33, "threads": 2})),
            ("matvec_q4_0", json!({"rows": 70, "k": 64})),
            ("matmul", json!({"batch": 2, "m": 3, "n": 37, "k": 50})),
            ("matmul", json!({"m": 64, "n": 128, "k": 96, "threads": 2})),
            ("rms_norm", json!({"rows": 2})),
            ("layer_norm", json!({"rows": 2, "n": 100})),
            ("add", json!({"n": 77})),
            ("silu_mul", json!({"n": 77})),
            ("attention", json!({})),
            ("attention", json!({"heads": 2, "queries": 70, "positions": 150, "head_dim": 32})),
            ("q4_0_dequant", json!({})),
            ("q8_0_dequant", json!({"blocks": 3})),
        ];
        assert!(NAMES.iter().all(|name| cases.iter().any(|(case, _)| case == name)));
        for kernels in simd::available() {
            for (name, params) in &cases {
                let op = op(name, params.clone());
                let OpAnswer::Timed { check, samples_ns, .. } = answer(&op, kernels) else {
                    panic!("{name}: {:?}", answer(&op, kernels));
                };
                assert!(samples_ns.len() >= 3);
                let reference = crate::compare::ops::reference(&op).unwrap();
                assert!(reference.agrees(check), "{name} {params}: {check}, not {reference:?}");
            }
        }
    }

    #[test]
    fn what_is_wrong_or_unknown_is_said() {
        let best = simd::best();
        for (name, params, part) in [
            ("matvec_q4_0", json!({"k": 33}), "multiple of 32"),
            ("attention", json!({"queries": 9, "positions": 8}), "at most"),
            ("matmul", json!({"m": 1 << 20, "k": 1 << 20}), "elements"),
            ("add", json!({"n": "x"}), "params.n"),
        ] {
            let answer = answer(&op(name, params), best);
            assert!(matches!(&answer, OpAnswer::Failed(why) if why.contains(part)), "{name}: {answer:?}");
        }
        for name in ["softmax", "fly"] {
            assert!(matches!(answer(&op(name, json!({})), best), OpAnswer::NotExpressible(_)));
        }
    }
}
