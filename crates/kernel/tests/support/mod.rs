//! A small random Llama model: as a GGUF file in memory, and as an f64 transformer to compare with.
#![allow(clippy::disallowed_methods, reason = "the reference is std in f64, on purpose")]

use std::collections::BTreeMap;

use barelm::llm::gguf::{Value, Writer};
use barelm::llm::quant::{GgmlType, check_scales, dequantize, quantize};

/// Sizes small enough to run everywhere, odd enough to find mistakes.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub layers: usize,
    pub dim: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    pub vocab: usize,
    pub context: usize,
    pub tied: bool,
    pub rope_factors: bool,
}

pub const SMALL: Sizes = Sizes {
    layers: 2,
    dim: 64,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    ffn: 96,
    vocab: 77,
    context: 256,
    tied: false,
    rope_factors: true,
};

const ROPE_BASE: f32 = 500.0;
const EPS: f32 = 1e-5;

/// A tensor as it stands in the file, and what that means.
struct Tensor {
    /// Row length.
    k: usize,
    rows: usize,
    ty: GgmlType,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Tensor {
    fn of(k: usize, rows: usize, values: Vec<f32>) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { k, rows, ty: GgmlType::F32, bytes, values }
    }

    /// The nearest tensor of a type; for the types that the crate cannot make, a random one of about the same spread.
    fn convert(&mut self, ty: GgmlType, random: &mut impl FnMut() -> f32) {
        let size = ty.row_bytes(self.values.len()).expect("rows are whole blocks");
        let mut bytes = vec![0; size];
        if quantize(ty, &self.values, &mut bytes).is_err() {
            bytes.fill_with(|| (random() * 4096.0) as i32 as u8);
            for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                // With random quants and sub-scales these give a standard deviation of about 0.09, that of the values in
                // rows of 256, and a mean of 0.
                let factor = 1.0 + 0.5 * random();
                let (at, scale, minimum) = match ty {
                    GgmlType::Q4_K => (0, 3.4e-4, Some(7.5 * 3.4e-4)),
                    GgmlType::Q5_K => (0, 1.7e-4, Some(15.5 * 1.7e-4)),
                    GgmlType::Q6_K => (208, 6.3e-5, None),
                    _ => unreachable!("{ty} can be quantized to"),
                };
                let mut put = |at: usize, value: f32| {
                    block[at..at + 2].copy_from_slice(&half::f16::from_f32(factor * value).to_le_bytes());
                };
                put(at, scale);
                if let Some(minimum) = minimum {
                    put(at + 2, minimum);
                }
            }
        }
        check_scales(ty, &bytes).expect("scales are finite");
        dequantize(ty, &bytes, &mut self.values);
        (self.ty, self.bytes) = (ty, bytes);
    }
}

/// What a reference makes of the input of a quantized matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// Nothing.
    Exact,
    /// Blocks of 32 rounded to int8, as the arithmetic is defined.
    Rounded,
}

/// Tensors by name.
pub struct TestModel {
    pub sizes: Sizes,
    tensors: BTreeMap<String, Tensor>,
}

impl TestModel {
    pub fn random(sizes: Sizes, seed: u64) -> Self {
        let mut next = uniform(seed);
        // Products then keep about the size of their input, so that attention is neither flat nor all on one position.
        let spread = 2.4 / (sizes.dim as f32).sqrt();
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, k: usize, rows: usize, centre: f32| {
            let values = (0..k * rows).map(|_| centre + spread * next()).collect();
            tensors.insert(name, Tensor::of(k, rows, values));
        };
        let (q_dim, kv_dim) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        add("token_embd.weight".into(), sizes.dim, sizes.vocab, 0.0);
        add("output_norm.weight".into(), sizes.dim, 1, 1.0);
        if !sizes.tied {
            add("output.weight".into(), sizes.dim, sizes.vocab, 0.0);
        }
        if sizes.rope_factors {
            add("rope_freqs.weight".into(), sizes.head_dim / 2, 1, 2.0);
        }
        for layer in 0..sizes.layers {
            for (part, k, rows, centre) in [
                ("attn_norm", sizes.dim, 1, 1.0),
                ("attn_q", sizes.dim, q_dim, 0.0),
                ("attn_k", sizes.dim, kv_dim, 0.0),
                ("attn_v", sizes.dim, kv_dim, 0.0),
                ("attn_output", q_dim, sizes.dim, 0.0),
                ("ffn_norm", sizes.dim, 1, 1.0),
                ("ffn_gate", sizes.dim, sizes.ffn, 0.0),
                ("ffn_up", sizes.dim, sizes.ffn, 0.0),
                ("ffn_down", sizes.ffn, sizes.dim, 0.0),
            ] {
                add(format!("blk.{layer}.{part}.weight"), k, rows, centre);
            }
        }
        TestModel { sizes, tensors }
    }

    /// Leaves a tensor out, so that the file is incomplete.
    pub fn without(mut self, name: &str) -> Self {
        self.tensors.remove(name).expect("a tensor of the model");
        self
    }

    /// Renames a tensor, or gives it another shape.
    pub fn with_tensor(mut self, name: &str, k: usize, rows: usize, value: f32) -> Self {
        self.tensors.insert(name.into(), Tensor::of(k, rows, vec![value; k * rows]));
        self
    }

    /// Gives every matrix the type that `choose` names for it.
    pub fn with_types(mut self, choose: impl Fn(&str) -> GgmlType) -> Self {
        let mut next = uniform(77);
        for (name, tensor) in &mut self.tensors {
            if tensor.rows > 1 {
                tensor.convert(choose(name), &mut next);
            }
        }
        self
    }

    /// The GGUF file.
    pub fn file(&self) -> Vec<u8> {
        let s = &self.sizes;
        let mut writer = Writer::new();
        writer.put("general.architecture", Value::Str("llama"));
        for (key, value) in [
            ("llama.block_count", s.layers),
            ("llama.embedding_length", s.dim),
            ("llama.attention.head_count", s.heads),
            ("llama.attention.head_count_kv", s.kv_heads),
            ("llama.attention.key_length", s.head_dim),
            ("llama.attention.value_length", s.head_dim),
            ("llama.feed_forward_length", s.ffn),
            ("llama.context_length", s.context),
        ] {
            writer.put(key, Value::U32(value as u32));
        }
        writer.put("llama.rope.freq_base", Value::F32(ROPE_BASE));
        writer.put("llama.attention.layer_norm_rms_epsilon", Value::F32(EPS));
        for (name, Tensor { k, rows, ty, .. }) in &self.tensors {
            let dims = [*k as u64, *rows as u64];
            writer.tensor::<()>(name, *ty, if *rows == 1 { &dims[..1] } else { &dims }).unwrap();
        }
        let mut file = Vec::new();
        let sink = |bytes: &[u8]| {
            file.extend_from_slice(bytes);
            Ok::<(), ()>(())
        };
        let mut data = writer.begin(sink).unwrap();
        self.tensors.values().for_each(|tensor| data.write(&tensor.bytes).unwrap());
        data.finish().unwrap();
        file
    }

    fn matvec(&self, name: &str, x: &[f64], inputs: Inputs) -> Vec<f64> {
        let Tensor { k, ty, values, .. } = &self.tensors[name];
        let rounded;
        let x = if inputs == Inputs::Rounded && ty.is_quantized() {
            rounded = x.chunks(32).flat_map(rounded_block).collect::<Vec<_>>();
            &rounded
        } else {
            x
        };
        values.chunks(*k).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (square + f64::from(EPS)).sqrt();
        x.iter().zip(&self.tensors[name].values).map(|(x, w)| x * scale * f64::from(*w)).collect()
    }

    fn turn(&self, x: &mut [f64], position: usize) {
        let (half, dim) = (self.sizes.head_dim / 2, self.sizes.head_dim as f64);
        for head in x.chunks_mut(2 * half) {
            for pair in 0..half {
                let factor = self
                    .tensors
                    .get("rope_freqs.weight")
                    .map_or(1.0, |tensor| f64::from(tensor.values[pair]));
                let angle = position as f64 * f64::from(ROPE_BASE).powf(-2.0 * pair as f64 / dim) / factor;
                let (a, b) = (head[2 * pair], head[2 * pair + 1]);
                head[2 * pair] = a * angle.cos() - b * angle.sin();
                head[2 * pair + 1] = a * angle.sin() + b * angle.cos();
            }
        }
    }

    /// Logits of every position in f64, straight from the definition; keys and values rounded to f16 as in the cache.
    pub fn reference(&self, ids: &[u32], window: usize, inputs: Inputs) -> Vec<Vec<f64>> {
        let s = &self.sizes;
        let embedding = &self.tensors["token_embd.weight"].values;
        let mut stream: Vec<Vec<f64>> = ids
            .iter()
            .map(|&id| embedding[id as usize * s.dim..][..s.dim].iter().map(|v| f64::from(*v)).collect())
            .collect();
        for layer in 0..s.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for (position, row) in stream.iter_mut().enumerate() {
                let x = self.norm(&name("attn_norm"), row);
                let mut q = self.matvec(&name("attn_q"), &x, inputs);
                let mut k = self.matvec(&name("attn_k"), &x, inputs);
                self.turn(&mut q, position);
                self.turn(&mut k, position);
                // The cache holds f16: part of the definition, so the reference rounds there too.
                let round =
                    |x: Vec<f64>| x.into_iter().map(|x| half::f16::from_f64(x).to_f64()).collect::<Vec<_>>();
                keys.push(round(k));
                values.push(round(self.matvec(&name("attn_v"), &x, inputs)));
                let mut attended = vec![0.0; s.heads * s.head_dim];
                for head in 0..s.heads {
                    let kv = head / (s.heads / s.kv_heads) * s.head_dim;
                    let at = head * s.head_dim;
                    let first = (position + 1).saturating_sub(window);
                    let weights: Vec<f64> = (first..=position)
                        .map(|p| {
                            let dot: f64 = (0..s.head_dim).map(|d| q[at + d] * keys[p][kv + d]).sum();
                            (dot / (s.head_dim as f64).sqrt()).exp()
                        })
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    for d in 0..s.head_dim {
                        attended[at + d] =
                            weights.iter().zip(first..).map(|(w, p)| w / sum * values[p][kv + d]).sum();
                    }
                }
                let out = self.matvec(&name("attn_output"), &attended, inputs);
                row.iter_mut().zip(out).for_each(|(x, out)| *x += out);
            }
            for x in &mut stream {
                let normed = self.norm(&name("ffn_norm"), x);
                let gate = self.matvec(&name("ffn_gate"), &normed, inputs);
                let up = self.matvec(&name("ffn_up"), &normed, inputs);
                let hidden: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let out = self.matvec(&name("ffn_down"), &hidden, inputs);
                x.iter_mut().zip(out).for_each(|(x, out)| *x += out);
            }
        }
        let head = if s.tied { "token_embd.weight" } else { "output.weight" };
        stream.iter().map(|x| self.matvec(head, &self.norm("output_norm.weight", x), inputs)).collect()
    }
}

/// A block of 32 as `largest / 127` times whole numbers.
fn rounded_block(x: &[f64]) -> Vec<f64> {
    let step = x.iter().fold(0.0f64, |m, v| m.max(v.abs())) / 127.0;
    x.iter().map(|v| if step == 0.0 { 0.0 } else { (v / step).round_ties_even() * step }).collect()
}

/// Numbers in [-1, 1) from Marsaglia's xorshift.
fn uniform(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}
