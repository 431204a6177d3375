//! A Llama decoder in burn's tensor operations, for several sequences at once.

use barelm_protocol::sequences::{Part, Wanted};
use burn::tensor::TensorData;
use burn::tensor::activation::{silu, softmax};

use crate::tensors::{Device, Floats, Ids, values};
use crate::weights::{Layer, Weights};

/// A model and its sequences.
pub struct Decoder {
    weights: Weights,
    device: Device,
    /// Cosines and sines, `[positions, 1, rotated / 2]`.
    cos: Floats<3>,
    sin: Floats<3>,
    sequences: Vec<Sequence>,
    context: usize,
}

/// Keys and values of one sequence.
struct Sequence {
    length: usize,
    layers: Vec<Cache>,
}

/// Those of one layer, `[key/value heads, positions, elements]`, with room for the whole context: a write is in place.
struct Cache {
    keys: Floats<3>,
    values: Floats<3>,
}

impl Decoder {
    /// With room for `sequences` of `context` positions.
    pub fn new(weights: Weights, device: Device, context: usize, sequences: usize) -> Self {
        let pairs = weights.frequencies.len();
        let table = |function: fn(f64) -> f64| {
            let angles = (0..context).flat_map(|position| {
                weights.frequencies.iter().map(move |frequency| position as f64 * frequency)
            });
            let values: Vec<f32> = angles.map(|angle| function(angle) as f32).collect();
            Floats::from_data(TensorData::new(values, [context, 1, pairs]), &device)
        };
        let (cos, sin) = (table(libm::cos), table(libm::sin));
        let shape = &weights.shape;
        let empty = || Floats::zeros([shape.n_kv_heads, context, shape.head_dim], &device);
        let sequences = (0..sequences)
            .map(|_| Sequence {
                length: 0,
                layers: (0..shape.n_layers).map(|_| Cache { keys: empty(), values: empty() }).collect(),
            })
            .collect();
        Decoder { weights, device, cos, sin, sequences, context }
    }

    /// Token ids run below this.
    pub fn vocab_size(&self) -> usize {
        self.weights.shape.vocab_size
    }

    /// Forgets a sequence.
    pub fn clear(&mut self, slot: usize) {
        self.sequences[slot].length = 0;
    }

    /// Positions each sequence has room for.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Appends tokens to sequences, each at most once a pass, and waits for logits: a row per part or per token.
    ///
    /// # Panics
    /// If a sequence has no room for its part.
    pub fn pass(&mut self, parts: &[Part<'_>], wanted: Wanted) -> Vec<f32> {
        let ids: Vec<i32> = parts.iter().flat_map(|part| part.ids).map(|&id| id as i32).collect();
        let positions: Vec<i32> = parts
            .iter()
            .flat_map(|part| {
                let start = self.sequences[part.slot].length;
                assert!(start + part.ids.len() <= self.context, "the sequence is full");
                (start..start + part.ids.len()).map(|position| position as i32)
            })
            .collect();
        let total = ids.len();
        let row = |values: Vec<i32>| Ids::from_data(TensorData::new(values, [total]), &self.device);
        let positions = row(positions);
        let angles = (self.cos.clone().select(0, positions.clone()), self.sin.clone().select(0, positions));
        let masks: Vec<_> = parts
            .iter()
            .map(|part| {
                (part.ids.len() > 1)
                    .then(|| future(part.ids.len(), self.sequences[part.slot].length, &self.device))
            })
            .collect();
        let mut x = self.weights.embedding.clone().select(0, row(ids));
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let attended = attention(layer, index, x.clone(), &angles, parts, &masks, &mut self.sequences);
            x = x + attended.matmul(layer.wo.clone());
            let normed = layer.ffn_norm.forward(x.clone());
            let gate = silu(normed.clone().matmul(layer.gate.clone()));
            x = x + (gate * normed.matmul(layer.up.clone())).matmul(layer.down.clone());
        }
        for part in parts {
            self.sequences[part.slot].length += part.ids.len();
        }
        if wanted == Wanted::Last && total > parts.len() {
            let mut end = 0;
            let last = parts.iter().map(|part| {
                end += part.ids.len();
                x.clone().narrow(0, end - 1, 1)
            });
            x = Floats::cat(last.collect(), 0);
        }
        let logits = self.weights.norm.forward(x).matmul(self.weights.head.clone());
        values(logits)
    }
}

/// Normed, projected, rotated, stored and attended: `[tokens, query heads * elements]`.
fn attention(
    layer: &Layer,
    index: usize,
    x: Floats<2>,
    angles: &(Floats<3>, Floats<3>),
    parts: &[Part<'_>],
    masks: &[Option<Floats<4>>],
    sequences: &mut [Sequence],
) -> Floats<2> {
    let [total, _] = x.dims();
    let normed = layer.attn_norm.forward(x);
    let [kv_heads, _, size] = sequences[0].layers[index].keys.dims();
    let heads = layer.wq.dims()[1] / size;
    let group = heads / kv_heads;
    let queries = normed.clone().matmul(layer.wq.clone()).reshape([total, heads, size]);
    let queries = rotate(queries, angles) * (size as f32).sqrt().recip();
    let keys = rotate(normed.clone().matmul(layer.wk.clone()).reshape([total, kv_heads, size]), angles);
    let values = normed.matmul(layer.wv.clone()).reshape([total, kv_heads, size]);
    let mut at = 0;
    let mut outputs = Vec::with_capacity(parts.len());
    for (part, mask) in parts.iter().zip(masks) {
        let n = part.ids.len();
        let sequence = &mut sequences[part.slot];
        let (start, end) = (sequence.length, sequence.length + n);
        let cache = &mut sequence.layers[index];
        append(&mut cache.keys, keys.clone().narrow(0, at, n), start);
        append(&mut cache.values, values.clone().narrow(0, at, n), start);
        let known = [0..kv_heads, 0..end];
        let known_keys = cache.keys.clone().slice(known.clone());
        let known_values = cache.values.clone().slice(known);
        // Query heads that share keys are rows of one product.
        let rows = queries.clone().narrow(0, at, n).reshape([n, kv_heads, group, size]);
        let rows = rows.permute([1, 2, 0, 3]).reshape([kv_heads, group * n, size]);
        let mut scores = rows.matmul(known_keys.swap_dims(1, 2));
        if let Some(mask) = mask {
            let masked = scores.reshape([kv_heads, group, n, end]) + mask.clone();
            scores = masked.reshape([kv_heads, group * n, end]);
        }
        let output = softmax(scores, 2).matmul(known_values);
        let output = output.reshape([kv_heads, group, n, size]).permute([2, 0, 1, 3]);
        outputs.push(output.reshape([n, heads * size]));
        at += n;
    }
    match outputs.len() {
        1 => outputs.remove(0),
        _ => Floats::cat(outputs, 0),
    }
}

/// Writes `[new, heads, elements]` into the cache behind `start` positions.
fn append(cache: &mut Floats<3>, new: Floats<3>, start: usize) {
    let [n, heads, size] = new.dims();
    let device = new.device();
    // Out of the cache while it is written, so that nobody else holds it and it is changed in place.
    let whole = std::mem::replace(cache, Floats::empty([0, 0, 0], &device));
    *cache = whole.slice_assign([0..heads, start..start + n, 0..size], new.swap_dims(0, 1));
}

/// Turns the first elements of each head by the angles of its position; `[tokens, heads, elements]`.
fn rotate(x: Floats<3>, (cos, sin): &(Floats<3>, Floats<3>)) -> Floats<3> {
    let [n, heads, size] = x.dims();
    let half = cos.dims()[2];
    let part = |from: usize, to: usize| x.clone().slice([0..n, 0..heads, from..to]);
    let (a, b) = (part(0, half), part(half, 2 * half));
    let mut parts =
        vec![a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos.clone() + a * sin.clone()];
    if 2 * half < size {
        parts.push(part(2 * half, size));
    }
    Floats::cat(parts, 2)
}

/// Minus infinity where a new token would see a later one, else 0: `[1, 1, n, start + n]`.
pub fn future(n: usize, start: usize, device: &Device) -> Floats<4> {
    let row = |i: usize| (0..start + n).map(move |j| if j <= start + i { 0.0 } else { f32::NEG_INFINITY });
    let values: Vec<f32> = (0..n).flat_map(row).collect();
    Floats::from_data(TensorData::new(values, [1, 1, n, start + n]), device)
}
