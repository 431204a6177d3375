//! A small random Llama model: as a GGUF file in memory, and as an f64 transformer to compare with.
#![allow(clippy::disallowed_methods, reason = "the reference is std in f64, on purpose")]

use std::collections::BTreeMap;

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

/// Tensors by name: row length, rows, values.
pub struct TestModel {
    pub sizes: Sizes,
    tensors: BTreeMap<String, (usize, usize, Vec<f32>)>,
}

impl TestModel {
    pub fn random(sizes: Sizes, seed: u64) -> Self {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, k: usize, rows: usize, centre: f32| {
            let values = (0..k * rows).map(|_| centre + 0.3 * next()).collect();
            tensors.insert(name, (k, rows, values));
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
        self.tensors.insert(name.into(), (k, rows, vec![value; k * rows]));
        self
    }

    /// The GGUF version 3 file, all tensors F32.
    pub fn file(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        let string = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        let s = &self.sizes;
        let integers = [
            ("llama.block_count", s.layers),
            ("llama.embedding_length", s.dim),
            ("llama.attention.head_count", s.heads),
            ("llama.attention.head_count_kv", s.kv_heads),
            ("llama.attention.key_length", s.head_dim),
            ("llama.attention.value_length", s.head_dim),
            ("llama.feed_forward_length", s.ffn),
            ("llama.context_length", s.context),
        ];
        let floats = [("llama.rope.freq_base", ROPE_BASE), ("llama.attention.layer_norm_rms_epsilon", EPS)];
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((1 + integers.len() as u64 + floats.len() as u64).to_le_bytes());
        string(&mut out, "general.architecture");
        out.extend(8u32.to_le_bytes());
        string(&mut out, "llama");
        for (key, value) in integers {
            string(&mut out, key);
            out.extend(4u32.to_le_bytes());
            out.extend((value as u32).to_le_bytes());
        }
        for (key, value) in floats {
            string(&mut out, key);
            out.extend(6u32.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        let mut data = Vec::new();
        for (name, (k, rows, values)) in &self.tensors {
            string(&mut out, name);
            let dims: &[usize] = if *rows == 1 { &[*k] } else { &[*k, *rows] };
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend((*d as u64).to_le_bytes()));
            out.extend(0u32.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            values.iter().for_each(|v| data.extend(v.to_le_bytes()));
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    fn matvec(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (k, _, values) = &self.tensors[name];
        values.chunks(*k).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (square + f64::from(EPS)).sqrt();
        x.iter().zip(&self.tensors[name].2).map(|(x, w)| x * scale * f64::from(*w)).collect()
    }

    fn turn(&self, x: &mut [f64], position: usize) {
        let (half, dim) = (self.sizes.head_dim / 2, self.sizes.head_dim as f64);
        for head in x.chunks_mut(2 * half) {
            for pair in 0..half {
                let factor = self
                    .tensors
                    .get("rope_freqs.weight")
                    .map_or(1.0, |(_, _, values)| f64::from(values[pair]));
                let angle = position as f64 * f64::from(ROPE_BASE).powf(-2.0 * pair as f64 / dim) / factor;
                let (a, b) = (head[2 * pair], head[2 * pair + 1]);
                head[2 * pair] = a * angle.cos() - b * angle.sin();
                head[2 * pair + 1] = a * angle.sin() + b * angle.cos();
            }
        }
    }

    /// Logits of every position in f64, straight from the definition; keys and values rounded to f16 as in the cache.
    pub fn reference(&self, ids: &[u32], window: usize) -> Vec<Vec<f64>> {
        let s = &self.sizes;
        let embedding = &self.tensors["token_embd.weight"].2;
        let mut stream: Vec<Vec<f64>> = ids
            .iter()
            .map(|&id| embedding[id as usize * s.dim..][..s.dim].iter().map(|v| f64::from(*v)).collect())
            .collect();
        for layer in 0..s.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for (position, row) in stream.iter_mut().enumerate() {
                let x = self.norm(&name("attn_norm"), row);
                let mut q = self.matvec(&name("attn_q"), &x);
                let mut k = self.matvec(&name("attn_k"), &x);
                self.turn(&mut q, position);
                self.turn(&mut k, position);
                // The cache holds f16: part of the definition, so the reference rounds there too.
                let round =
                    |x: Vec<f64>| x.into_iter().map(|x| half::f16::from_f64(x).to_f64()).collect::<Vec<_>>();
                keys.push(round(k));
                values.push(round(self.matvec(&name("attn_v"), &x)));
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
                let out = self.matvec(&name("attn_output"), &attended);
                row.iter_mut().zip(out).for_each(|(x, out)| *x += out);
            }
            for x in &mut stream {
                let normed = self.norm(&name("ffn_norm"), x);
                let gate = self.matvec(&name("ffn_gate"), &normed);
                let up = self.matvec(&name("ffn_up"), &normed);
                let hidden: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let out = self.matvec(&name("ffn_down"), &hidden);
                x.iter_mut().zip(out).for_each(|(x, out)| *x += out);
            }
        }
        let head = if s.tied { "token_embd.weight" } else { "output.weight" };
        stream.iter().map(|x| self.matvec(head, &self.norm("output_norm.weight", x))).collect()
    }
}
