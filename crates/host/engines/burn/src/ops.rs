//! Single operations in burn's tensors, as `docs/llm/PROTOCOL.md` lists them.

use barelm_protocol::ops::{checksum, inputs, time};
use barelm_protocol::{Op, OpAnswer};
use burn::module::Param;
use burn::nn::{LayerNormConfig, RmsNormConfig};
use burn::tensor::TensorData;
use burn::tensor::activation::{gelu_approximate, silu, softmax};

use crate::decoder::future;
use crate::tensors::{Device, Floats, values, wait};

/// What burn can say.
pub const NAMES: [&str; 11] = [
    "dot_product",
    "matvec_384",
    "matvec_f32",
    "matmul",
    "rms_norm",
    "layer_norm",
    "softmax",
    "add",
    "silu_mul",
    "gelu",
    "attention",
];

/// Times an operation; [`super::engine`] gives it threads.
pub fn answer(op: &Op, device: &Device) -> OpAnswer {
    let timed = match op.name.as_str() {
        "dot_product" => dot(op, device),
        "matvec_384" | "matvec_f32" => matvec(op, device),
        "matmul" => matmul(op, device),
        "rms_norm" => rms_norm(op, device),
        "layer_norm" => layer_norm(op, device),
        "softmax" => rows(op, device, |x| softmax(x, 1)),
        "add" => pairs(op, device, |x, y| x + y),
        "silu_mul" => pairs(op, device, |gate, up| silu(gate) * up),
        "gelu" => pairs(op, device, |x, _| gelu_approximate(x)),
        "attention" => attention(op, device),
        "matvec_q4_0" | "q4_0_dequant" | "q8_0_dequant" => {
            return OpAnswer::NotExpressible("burn knows none of GGUF's block formats".into());
        }
        name => return OpAnswer::NotExpressible(format!("this adapter has no `{name}`")),
    };
    timed.into()
}

/// Times, calls in a sample, and the checksum of the result.
type Timed = Result<(Vec<f64>, u64, f64), String>;

/// Times `call`, whose result is waited for each time.
fn timed<const D: usize>(op: &Op, call: impl Fn() -> Floats<D>) -> Timed {
    let (samples, iterations) = time(op.min_ns, || {
        wait(&std::hint::black_box(call()));
        Ok(())
    })?;
    Ok((samples, iterations, checksum(&values(call()))))
}

/// Sizes multiply to at most this many elements, so that no request takes the machine's memory.
const MOST: usize = 1 << 28;

/// The inputs of a seed in this shape.
fn tensor<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Result<Floats<D>, String> {
    let count = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let count =
        count.filter(|&all| all <= MOST).ok_or_else(|| format!("{shape:?}: more than {MOST} elements"))?;
    Ok(Floats::from_data(TensorData::new(inputs(seed, count), shape), device))
}

fn dot(op: &Op, device: &Device) -> Timed {
    let n = op.size("n", 384)?;
    let (a, b) = (tensor::<1>(1, [n], device)?, tensor::<1>(2, [n], device)?);
    timed(op, || (a.clone() * b.clone()).sum())
}

/// A vector times a matrix that lies as the decoder's do: inputs as rows.
fn matvec(op: &Op, device: &Device) -> Timed {
    let (rows, k) = (op.size("rows", 384)?, op.size("k", 384)?);
    let weights = tensor::<2>(1, [rows, k], device)?.transpose().into_data();
    let weights = Floats::<2>::from_data(weights, device);
    let x = tensor::<2>(2, [1, k], device)?;
    timed(op, || x.clone().matmul(weights.clone()))
}

fn matmul(op: &Op, device: &Device) -> Timed {
    let (batch, m) = (op.size("batch", 1)?, op.size("m", 64)?);
    let (n, k) = (op.size("n", 384)?, op.size("k", 384)?);
    if batch == 1 {
        let (a, b) = (tensor::<2>(1, [m, k], device)?, tensor::<2>(2, [k, n], device)?);
        return timed(op, || a.clone().matmul(b.clone()));
    }
    let (a, b) = (tensor::<3>(1, [batch, m, k], device)?, tensor::<3>(2, [batch, k, n], device)?);
    timed(op, || a.clone().matmul(b.clone()))
}

fn rows(op: &Op, device: &Device, call: impl Fn(Floats<2>) -> Floats<2>) -> Timed {
    let x = tensor::<2>(1, [op.size("rows", 1)?, op.size("n", 384)?], device)?;
    timed(op, || call(x.clone()))
}

fn rms_norm(op: &Op, device: &Device) -> Timed {
    let n = op.size("n", 384)?;
    let mut norm = RmsNormConfig::new(n).with_epsilon(1e-5).init(device);
    norm.gamma = Param::from_tensor(tensor::<1>(2, [n], device)?);
    rows(op, device, |x| norm.forward(x))
}

fn layer_norm(op: &Op, device: &Device) -> Timed {
    let n = op.size("n", 384)?;
    let mut norm = LayerNormConfig::new(n).with_epsilon(1e-5).init(device);
    norm.gamma = Param::from_tensor(tensor::<1>(2, [n], device)?);
    norm.beta = Some(Param::from_tensor(tensor::<1>(3, [n], device)?));
    rows(op, device, |x| norm.forward(x))
}

fn pairs(op: &Op, device: &Device, call: impl Fn(Floats<1>, Floats<1>) -> Floats<1>) -> Timed {
    let n = op.size("n", 384)?;
    let (x, y) = (tensor::<1>(1, [n], device)?, tensor::<1>(2, [n], device)?);
    timed(op, || call(x.clone(), y.clone()))
}

/// As the decoder does it: two products with a softmax between.
fn attention(op: &Op, device: &Device) -> Timed {
    let (heads, queries) = (op.size("heads", 9)?, op.size("queries", 1)?);
    let (positions, size) = (op.size("positions", 256)?, op.size("head_dim", 64)?);
    if queries > positions {
        return Err("queries: at most as many as positions".into());
    }
    let q = tensor::<3>(1, [heads, queries, size], device)?;
    let (k, v) = (
        tensor::<3>(2, [heads, positions, size], device)?,
        tensor::<3>(3, [heads, positions, size], device)?,
    );
    let mask =
        (queries > 1).then(|| future(queries, positions - queries, device).reshape([1, queries, positions]));
    let scale = (size as f32).sqrt().recip();
    timed(op, || {
        let mut scores: Floats<3> = (q.clone() * scale).matmul(k.clone().swap_dims(1, 2));
        if let Some(mask) = &mask {
            scores = scores + mask.clone();
        }
        softmax(scores, 2).matmul(v.clone())
    })
}
