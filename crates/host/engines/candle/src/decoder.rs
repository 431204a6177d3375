//! A Llama forward in candle's operations for what the library's own cannot do: several sequences at once, contexts of
//! more than 4096 positions, frequency factors.
//!
//! Products are the library's `QMatMul`, on the file's own blocks.

use std::io::{Read, Seek};

use barelm_protocol::sequences::{Part, Wanted};
use candle_core::quantized::QMatMul;
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Module, Result, Tensor, bail};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};
use candle_nn::rotary_emb::rope_i;

struct Layer {
    attn_norm: Tensor,
    wq: QMatMul,
    wk: QMatMul,
    wv: QMatMul,
    wo: QMatMul,
    ffn_norm: Tensor,
    gate: QMatMul,
    up: QMatMul,
    down: QMatMul,
}

/// A model and its sequences.
pub struct Decoder {
    embedding: QMatMul,
    layers: Vec<Layer>,
    norm: Tensor,
    /// Without one, the embedding.
    head: Option<QMatMul>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f32,
    /// `[positions, rotated / 2]`.
    cos: Tensor,
    sin: Tensor,
    sequences: Vec<Sequence>,
    context: usize,
    vocab_size: usize,
    device: Device,
}

/// Keys and values of one sequence.
struct Sequence {
    length: usize,
    /// Keys and values of each layer, `[key/value heads, positions, elements]`, with room for the whole context.
    layers: Vec<(Tensor, Tensor)>,
}

impl Decoder {
    /// Reads a model, with room for `sequences` of `context` positions.
    pub fn read<R: Read + Seek>(
        content: &Content,
        file: &mut R,
        device: &Device,
        context: usize,
        sequences: usize,
    ) -> Result<Self> {
        let number = |key: &str| match content.metadata.get(key) {
            Some(value) => value.to_u32().map(|value| value as usize),
            None => bail!("cannot find {key} in metadata"),
        };
        let float = |key: &str| content.metadata.get(key).map(|value| value.to_f32()).transpose();
        let (n_layers, dim) = (number("llama.block_count")?, number("llama.embedding_length")?);
        let heads = number("llama.attention.head_count")?;
        let kv_heads = number("llama.attention.head_count_kv").unwrap_or(heads);
        if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 || dim % heads != 0 {
            bail!("{heads} heads, {kv_heads} of them with keys, do not share {dim} elements");
        }
        let head_dim = number("llama.attention.key_length").unwrap_or(dim / heads);
        if number("llama.rope.dimension_count").unwrap_or(head_dim) != head_dim {
            bail!("only whole heads can be rotated");
        }
        let eps = float("llama.attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5);
        let base = float("llama.rope.freq_base")?.unwrap_or(10000.0);
        let mut tensor = |name: &str| content.tensor(file, name, device);
        let factors = match content.tensor_infos.contains_key("rope_freqs.weight") {
            true => Some(tensor("rope_freqs.weight")?.dequantize(device)?.to_vec1::<f32>()?),
            false => None,
        };
        let embedding = tensor("token_embd.weight")?;
        let vocab_size = embedding.shape().dims()[0];
        let embedding = QMatMul::from_qtensor(embedding)?;
        let head = match content.tensor_infos.contains_key("output.weight") {
            true => Some(QMatMul::from_qtensor(tensor("output.weight")?)?),
            false => None,
        };
        let norm = tensor("output_norm.weight")?.dequantize(device)?;
        let mut layers = Vec::with_capacity(n_layers);
        for index in 0..n_layers {
            let mut part = |part: &str| tensor(&format!("blk.{index}.{part}.weight"));
            layers.push(Layer {
                attn_norm: part("attn_norm")?.dequantize(device)?,
                wq: QMatMul::from_qtensor(part("attn_q")?)?,
                wk: QMatMul::from_qtensor(part("attn_k")?)?,
                wv: QMatMul::from_qtensor(part("attn_v")?)?,
                wo: QMatMul::from_qtensor(part("attn_output")?)?,
                ffn_norm: part("ffn_norm")?.dequantize(device)?,
                gate: QMatMul::from_qtensor(part("ffn_gate")?)?,
                up: QMatMul::from_qtensor(part("ffn_up")?)?,
                down: QMatMul::from_qtensor(part("ffn_down")?)?,
            });
        }
        let (cos, sin) = angles(head_dim, base, factors.as_deref(), context, device)?;
        let empty = || Tensor::zeros((kv_heads, context, head_dim), candle_core::DType::F32, device);
        let caches = |_| (0..n_layers).map(|_| Ok((empty()?, empty()?))).collect::<Result<Vec<_>>>();
        let sequences = (0..sequences).map(|slot| Ok(Sequence { length: 0, layers: caches(slot)? }));
        let sequences = sequences.collect::<Result<_>>()?;
        let device = device.clone();
        Ok(Decoder {
            embedding,
            layers,
            norm,
            head,
            heads,
            kv_heads,
            head_dim,
            eps,
            cos,
            sin,
            sequences,
            context,
            vocab_size,
            device,
        })
    }

    /// Token ids run below this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Forgets a sequence.
    pub fn clear(&mut self, slot: usize) {
        self.sequences[slot].length = 0;
    }

    /// Positions each sequence has room for.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Appends tokens to sequences, each at most once a pass: logits, a row per part or per token.
    pub fn pass(&mut self, parts: &[Part<'_>], wanted: Wanted) -> Result<Tensor> {
        let ids: Vec<u32> = parts.iter().flat_map(|part| part.ids).copied().collect();
        let total = ids.len();
        let masks = parts.iter().map(|part| self.future(part)).collect::<Result<Vec<_>>>()?;
        let mut x = self.embedding.embedding(&Tensor::from_vec(ids, total, &self.device)?)?;
        for index in 0..self.layers.len() {
            let layer = &self.layers[index];
            let attended = self.attention(layer, index, &x, parts, &masks)?;
            x = (x + layer.wo.forward(&attended)?)?;
            let normed = rms_norm(&x, &layer.ffn_norm, self.eps)?;
            let hidden = (silu(&layer.gate.forward(&normed)?)? * layer.up.forward(&normed)?)?;
            x = (x + layer.down.forward(&hidden)?)?;
        }
        for part in parts {
            self.sequences[part.slot].length += part.ids.len();
        }
        if wanted == Wanted::Last && total > parts.len() {
            let ends = parts.iter().scan(0u32, |end, part| {
                *end += part.ids.len() as u32;
                Some(*end - 1)
            });
            let ends: Vec<u32> = ends.collect();
            x = x.index_select(&Tensor::new(ends.as_slice(), &self.device)?, 0)?;
        }
        self.head.as_ref().unwrap_or(&self.embedding).forward(&rms_norm(&x, &self.norm, self.eps)?)
    }

    /// Normed, projected, rotated, stored and attended: `[tokens, query heads * elements]`.
    fn attention(
        &self,
        layer: &Layer,
        index: usize,
        x: &Tensor,
        parts: &[Part<'_>],
        masks: &[Option<Tensor>],
    ) -> Result<Tensor> {
        let (heads, kv_heads, size) = (self.heads, self.kv_heads, self.head_dim);
        let group = heads / kv_heads;
        let normed = rms_norm(x, &layer.attn_norm, self.eps)?;
        let queries = (layer.wq.forward(&normed)? * (1.0 / (size as f64).sqrt()))?;
        let (keys, values) = (layer.wk.forward(&normed)?, layer.wv.forward(&normed)?);
        let mut at = 0;
        let mut outputs = Vec::with_capacity(parts.len());
        for (part, mask) in parts.iter().zip(masks) {
            let n = part.ids.len();
            let sequence = &self.sequences[part.slot];
            let (start, end) = (sequence.length, sequence.length + n);
            let (cos, sin) = (self.cos.narrow(0, start, n)?, self.sin.narrow(0, start, n)?);
            // `[1, heads, n, elements]`
            let split = |x: &Tensor, heads: usize| -> Result<Tensor> {
                x.narrow(0, at, n)?.reshape((1, n, heads, size))?.transpose(1, 2)?.contiguous()
            };
            let new_keys = rope_i(&split(&keys, kv_heads)?, &cos, &sin)?.squeeze(0)?;
            let new_values = split(&values, kv_heads)?.squeeze(0)?;
            let (known_keys, known_values) = &sequence.layers[index];
            known_keys.slice_set(&new_keys, 1, start)?;
            known_values.slice_set(&new_values, 1, start)?;
            let known_keys = known_keys.narrow(1, 0, end)?;
            let known_values = known_values.narrow(1, 0, end)?;
            // Query heads that share keys are rows of one product.
            let rows = rope_i(&split(&queries, heads)?, &cos, &sin)?.reshape((kv_heads, group * n, size))?;
            let mut scores = products(&rows, &known_keys.transpose(1, 2)?, n)?;
            if let Some(mask) = mask {
                let shaped = scores.reshape((kv_heads, group, n, end))?;
                scores = shaped.broadcast_add(mask)?.reshape((kv_heads, group * n, end))?;
            }
            let output = products(&softmax_last_dim(&scores)?, &known_values, n)?;
            let output = output.reshape((heads, n, size))?.transpose(0, 1)?;
            outputs.push(output.reshape((n, heads * size))?);
            at += n;
        }
        match outputs.len() {
            1 => Ok(outputs.remove(0)),
            _ => Tensor::cat(&outputs, 0),
        }
    }

    /// Minus infinity where a new token would see a later one, else 0: `[n, start + n]`; none for a single token.
    fn future(&self, part: &Part<'_>) -> Result<Option<Tensor>> {
        let (n, start) = (part.ids.len(), self.sequences[part.slot].length);
        if n == 1 {
            return Ok(None);
        }
        let row =
            |i: usize| (0..start + n).map(move |j| if j <= start + i { 0.0 } else { f32::NEG_INFINITY });
        let values: Vec<f32> = (0..n).flat_map(row).collect();
        Tensor::from_vec(values, (n, start + n), &self.device).map(Some)
    }
}

/// The product of each key/value head's rows with its matrix. With one token, row by row: a product of one row is computed
/// in place, one of a few rows is handed to threads, which costs more than such a small product.
fn products(rows: &Tensor, matrices: &Tensor, tokens: usize) -> Result<Tensor> {
    if tokens > 1 {
        return rows.matmul(matrices);
    }
    let row = |at| rows.narrow(1, at, 1)?.matmul(matrices);
    let products = (0..rows.dim(1)?).map(row).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&products, 1)
}

/// Cosines and sines of every position, computed in f64 and rounded once.
fn angles(
    head_dim: usize,
    base: f32,
    factors: Option<&[f32]>,
    context: usize,
    device: &Device,
) -> Result<(Tensor, Tensor)> {
    let pairs = head_dim / 2;
    if factors.is_some_and(|factors| factors.len() != pairs) {
        bail!("rope_freqs.weight has not {pairs} factors");
    }
    let frequency = |pair: usize| {
        let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
        f64::from(base).powf(-2.0 * pair as f64 / head_dim as f64) / factor
    };
    let frequencies: Vec<f64> = (0..pairs).map(frequency).collect();
    let table = |function: fn(f64) -> f64| {
        let angles = (0..context)
            .flat_map(|position| frequencies.iter().map(move |frequency| position as f64 * frequency));
        let values: Vec<f32> = angles.map(|angle| function(angle) as f32).collect();
        Tensor::from_vec(values, (context, pairs), device)
    };
    Ok((table(f64::cos)?, table(f64::sin)?))
}
