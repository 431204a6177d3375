//! Single operations in candle's tensors, as `docs/llm/PROTOCOL.md` lists them.

use barelm_protocol::ops::{checksum, inputs, time};
use barelm_protocol::{Op, OpAnswer};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Shape, Tensor};
use candle_nn::ops::{layer_norm, rms_norm, silu, softmax_last_dim};

/// What candle can say.
pub const NAMES: [&str; 14] = [
    "dot_product",
    "matvec_384",
    "matvec_f32",
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

/// Times an operation; [`super::engine`] chooses threads.
pub fn answer(op: &Op, device: &Device) -> OpAnswer {
    let timed = match op.name.as_str() {
        "dot_product" => dot(op, device),
        "matvec_384" | "matvec_f32" => matvec(op, device, None),
        "matvec_q4_0" => matvec(op, device, Some(GgmlDType::Q4_0)),
        "matmul" => matmul(op, device),
        "rms_norm" => norm(op, device, |x, weight, _| rms_norm(x, weight, 1e-5)),
        "layer_norm" => norm(op, device, |x, weight, bias| layer_norm(x, weight, bias, 1e-5)),
        "softmax" => norm(op, device, |x, _, _| softmax_last_dim(x)),
        "add" => pairs(op, device, |x, y| x + y),
        "silu_mul" => pairs(op, device, |gate, up| silu(gate)? * up),
        "gelu" => pairs(op, device, |x, _| x.gelu()),
        "attention" => attention(op, device),
        "q4_0_dequant" => dequant(op, device, GgmlDType::Q4_0),
        "q8_0_dequant" => dequant(op, device, GgmlDType::Q8_0),
        name => return OpAnswer::NotExpressible(format!("this adapter has no `{name}`")),
    };
    timed.into()
}

/// Times, calls in a sample, and the checksum of the result.
type Timed = Result<(Vec<f64>, u64, f64), String>;

/// Times `call`, whose result is waited for each time.
fn timed(op: &Op, device: &Device, call: impl Fn() -> candle_core::Result<Tensor>) -> Timed {
    let told = |error: candle_core::Error| error.to_string();
    let (samples, iterations) = time(op.min_ns, || {
        std::hint::black_box(call().map_err(told)?);
        device.synchronize().map_err(told)
    })?;
    let result = call().and_then(|result| result.flatten_all()?.to_vec1::<f32>()).map_err(told)?;
    Ok((samples, iterations, checksum(&result)))
}

/// Sizes multiply to at most this many elements, so that no request takes the machine's memory.
const MOST: usize = 1 << 28;

/// The inputs of a seed in this shape.
fn tensor(seed: u64, shape: &[usize], device: &Device) -> Result<Tensor, String> {
    let count = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let count =
        count.filter(|&all| all <= MOST).ok_or_else(|| format!("{shape:?}: more than {MOST} elements"))?;
    Tensor::from_vec(inputs(seed, count), Shape::from(shape), device).map_err(|error| error.to_string())
}

fn dot(op: &Op, device: &Device) -> Timed {
    let n = op.size("n", 384)?;
    let (a, b) = (tensor(1, &[n], device)?, tensor(2, &[n], device)?);
    timed(op, device, || (&a * &b)?.sum_all())
}

/// A vector times a matrix, as a layer multiplies: through `QMatMul`, also with F32.
fn matvec(op: &Op, device: &Device, ty: Option<GgmlDType>) -> Timed {
    let (rows, k) = (op.size("rows", 384)?, op.size("k", 384)?);
    let weights = tensor(1, &[rows, k], device)?;
    let weights = match ty {
        None => QMatMul::Tensor(weights),
        Some(ty) => QTensor::quantize(&weights, ty)
            .and_then(QMatMul::from_qtensor)
            .map_err(|error| error.to_string())?,
    };
    let x = tensor(2, &[1, k], device)?;
    timed(op, device, || weights.forward(&x))
}

fn matmul(op: &Op, device: &Device) -> Timed {
    let (batch, m) = (op.size("batch", 1)?, op.size("m", 64)?);
    let (n, k) = (op.size("n", 384)?, op.size("k", 384)?);
    let (a, b) = (tensor(1, &[batch, m, k], device)?, tensor(2, &[batch, k, n], device)?);
    timed(op, device, || a.matmul(&b))
}

fn norm(
    op: &Op,
    device: &Device,
    call: impl Fn(&Tensor, &Tensor, &Tensor) -> candle_core::Result<Tensor>,
) -> Timed {
    let (rows, n) = (op.size("rows", 1)?, op.size("n", 384)?);
    let x = tensor(1, &[rows, n], device)?;
    let (weight, bias) = (tensor(2, &[n], device)?, tensor(3, &[n], device)?);
    timed(op, device, || call(&x, &weight, &bias))
}

fn pairs(op: &Op, device: &Device, call: impl Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>) -> Timed {
    let n = op.size("n", 384)?;
    let (x, y) = (tensor(1, &[n], device)?, tensor(2, &[n], device)?);
    timed(op, device, || call(&x, &y))
}

/// Two products with a softmax between, as in the library's models.
fn attention(op: &Op, device: &Device) -> Timed {
    let (heads, queries) = (op.size("heads", 9)?, op.size("queries", 1)?);
    let (positions, size) = (op.size("positions", 256)?, op.size("head_dim", 64)?);
    if queries > positions {
        return Err("queries: at most as many as positions".into());
    }
    let q = tensor(1, &[heads, queries, size], device)?;
    let (k, v) =
        (tensor(2, &[heads, positions, size], device)?, tensor(3, &[heads, positions, size], device)?);
    let seen = |query: usize| positions - queries + query + 1;
    let row = |query| (0..positions).map(move |at| if at < seen(query) { 0.0f32 } else { f32::NEG_INFINITY });
    let mask: Vec<f32> = (0..queries).flat_map(row).collect();
    let mask = (queries > 1)
        .then(|| Tensor::from_vec(mask, (queries, positions), device))
        .transpose()
        .map_err(|error| error.to_string())?;
    timed(op, device, || {
        let mut scores = (q.matmul(&k.t()?)? * (1.0 / (size as f64).sqrt()))?;
        if let Some(mask) = &mask {
            scores = scores.broadcast_add(mask)?;
        }
        softmax_last_dim(&scores)?.matmul(&v)
    })
}

fn dequant(op: &Op, device: &Device, ty: GgmlDType) -> Timed {
    let blocks = op.size("blocks", 32)?;
    let values = tensor(1, &[blocks, 32], device)?;
    let weights = QTensor::quantize(&values, ty).map_err(|error| error.to_string())?;
    timed(op, device, || weights.dequantize(device))
}
