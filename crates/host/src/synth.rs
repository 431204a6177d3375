//! Models of a known shape with seeded random weights: the work of a real model, and nothing to download.
//!
//! Weights of a matrix are even over an interval around 0 whose width keeps activations at their size (a deviation of one over
//! the square root of the row), norms are 1. The vocabulary is numbered words behind the 256 bytes, with what a loader
//! asks for and no more: prompts are given as ids.

use std::fmt::Write as _;
use std::io;

use barelm::llm::gguf::{Value, WriteError, Writer};
use barelm::llm::quant::GgmlType;
use barelm::llm::random::SplitMix64;

/// A shape that files can be made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SynthShape {
    /// As on the command line.
    pub name: &'static str,
    /// Layers.
    pub layers: usize,
    /// Width.
    pub dim: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of the feed-forward step.
    pub ffn: usize,
    /// Tokens.
    pub vocab: usize,
    /// Positions.
    pub context: usize,
    /// Whether the embedding is the output matrix too.
    pub tied: bool,
    /// Base of the rotation.
    pub rope_base: f32,
}

impl SynthShape {
    /// All shapes. Those of real models are as their `config.json` has them; Mistral's is version 0.3's, which has no window.
    pub const ALL: [Self; 4] = [
        Self {
            name: "llama-3.2-1b",
            layers: 16,
            dim: 2048,
            heads: 32,
            kv_heads: 8,
            ffn: 8192,
            vocab: 128_256,
            context: 131_072,
            tied: true,
            rope_base: 500_000.0,
        },
        Self {
            name: "llama-3.2-3b",
            layers: 28,
            dim: 3072,
            heads: 24,
            kv_heads: 8,
            ffn: 8192,
            vocab: 128_256,
            context: 131_072,
            tied: true,
            rope_base: 500_000.0,
        },
        Self {
            name: "mistral-7b",
            layers: 32,
            dim: 4096,
            heads: 32,
            kv_heads: 8,
            ffn: 14_336,
            vocab: 32_768,
            context: 32_768,
            tied: false,
            rope_base: 1_000_000.0,
        },
        Self {
            name: "tiny",
            layers: 2,
            dim: 128,
            heads: 4,
            kv_heads: 2,
            ffn: 256,
            vocab: 512,
            context: 256,
            tied: true,
            rope_base: 500_000.0,
        },
    ];

    /// The one of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.name == name)
    }

    /// Name, rows and row length of each tensor; one row is a norm.
    fn tensors(&self) -> Vec<(String, usize, usize)> {
        let kv_dim = self.dim / self.heads * self.kv_heads;
        let mut tensors = vec![("token_embd.weight".into(), self.vocab, self.dim)];
        for layer in 0..self.layers {
            for (part, rows, k) in [
                ("attn_norm", 1, self.dim),
                ("attn_q", self.dim, self.dim),
                ("attn_k", kv_dim, self.dim),
                ("attn_v", kv_dim, self.dim),
                ("attn_output", self.dim, self.dim),
                ("ffn_norm", 1, self.dim),
                ("ffn_gate", self.ffn, self.dim),
                ("ffn_up", self.ffn, self.dim),
                ("ffn_down", self.dim, self.ffn),
            ] {
                tensors.push((format!("blk.{layer}.{part}.weight"), rows, k));
            }
        }
        tensors.push(("output_norm.weight".into(), 1, self.dim));
        if !self.tied {
            tensors.push(("output.weight".into(), self.vocab, self.dim));
        }
        tensors
    }
}

/// Types that matrices are made of, each with its number in `general.file_type`.
pub const TYPES: [(GgmlType, u32); 3] = [(GgmlType::Q4_0, 2), (GgmlType::Q8_0, 7), (GgmlType::BF16, 32)];

/// Why no file was made.
#[derive(Debug)]
pub enum Error {
    /// Matrices of this type are not made.
    Type(GgmlType),
    /// It could not be written.
    Write(WriteError<io::Error>),
}

impl From<WriteError<io::Error>> for Error {
    fn from(error: WriteError<io::Error>) -> Self {
        Error::Write(error)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Type(ty) => {
                let names = TYPES.map(|(ty, _)| ty.name());
                write!(f, "matrices of type {ty} are not made; there are {}", names.join(", "))
            }
            Error::Write(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// Writes the file to `out`; `progress` is told (elements written, elements in all). Takes a few MiB of memory, most of
/// it for the vocabulary. The same arguments give the same bytes.
pub fn synthesize(
    shape: &SynthShape,
    ty: GgmlType,
    seed: u64,
    out: &mut dyn io::Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let (_, file_type) = TYPES.into_iter().find(|(made, _)| *made == ty).ok_or(Error::Type(ty))?;
    let mut writer = Writer::new();
    writer.put("general.architecture", Value::Str("llama"));
    writer.put("general.name", Value::Str(&format!("random weights, shape {}, seed {seed}", shape.name)));
    writer.put("general.quantization_version", Value::U32(2));
    writer.put("general.file_type", Value::U32(file_type));
    for (key, value) in [
        ("llama.block_count", shape.layers),
        ("llama.context_length", shape.context),
        ("llama.embedding_length", shape.dim),
        ("llama.feed_forward_length", shape.ffn),
        ("llama.attention.head_count", shape.heads),
        ("llama.attention.head_count_kv", shape.kv_heads),
        ("llama.rope.dimension_count", shape.dim / shape.heads),
        ("llama.vocab_size", shape.vocab),
    ] {
        writer.put(key, Value::U32(value as u32));
    }
    writer.put("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    writer.put("llama.rope.freq_base", Value::F32(shape.rope_base));
    vocabulary(&mut writer, shape.vocab);
    let tensors = shape.tensors();
    for (name, rows, k) in &tensors {
        match rows {
            1 => writer.tensor(name, GgmlType::F32, &[*k as u64])?,
            _ => writer.tensor(name, ty, &[*k as u64, *rows as u64])?,
        }
    }
    let all = tensors.iter().map(|(_, rows, k)| (rows * k) as u64).sum();
    let mut done = 0;
    let mut random = Random(SplitMix64(seed));
    let mut data = writer.begin(|bytes: &[u8]| out.write_all(bytes))?;
    let mut bytes = Vec::new();
    for (_, rows, k) in tensors {
        for _ in 0..rows {
            bytes.clear();
            match rows {
                1 => bytes.extend((0..k).flat_map(|_| 1.0f32.to_le_bytes())),
                _ => random.row(ty, k, &mut bytes),
            }
            data.write(&bytes)?;
        }
        done += (rows * k) as u64;
        progress(done, all);
    }
    data.finish()?;
    Ok(())
}

/// A vocabulary of byte-level pieces: the 256 bytes, then numbered words, then an end; no merge leads to a word.
fn vocabulary(writer: &mut Writer, vocab: usize) {
    let end = vocab - 1;
    let mut pieces: Vec<String> = byte_letters().map(String::from).collect();
    for id in pieces.len()..end {
        let mut piece = String::new();
        // Writing to a text cannot fail.
        let _ = write!(piece, "word{id}");
        pieces.push(piece);
    }
    pieces.push("<|end_of_text|>".into());
    let types: Vec<i32> = (0..vocab).map(|id| if id == end { 3 } else { 1 }).collect();
    writer.put("tokenizer.ggml.model", Value::Str("gpt2"));
    writer.put("tokenizer.ggml.pre", Value::Str("llama-bpe"));
    writer.put_strings("tokenizer.ggml.tokens", &pieces);
    writer.put_i32s("tokenizer.ggml.token_type", &types);
    // One merge, since loaders refuse none: `w` and `o`.
    writer.put_strings("tokenizer.ggml.merges", &["w o"]);
    writer.put("tokenizer.ggml.bos_token_id", Value::U32(end as u32));
    writer.put("tokenizer.ggml.eos_token_id", Value::U32(end as u32));
    writer.put("tokenizer.ggml.add_bos_token", Value::Bool(false));
}

/// The letters that stand for bytes in byte-level vocabularies: printable bytes for themselves, the others for the
/// characters from 256 on.
fn byte_letters() -> impl Iterator<Item = char> {
    let mut others = 256u32..;
    (0..=255u8).map(move |byte| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        _ => others.next().and_then(char::from_u32).expect("letters follow 256"),
    })
}

/// Random blocks.
struct Random(SplitMix64);

impl Random {
    /// One row of `k` values.
    fn row(&mut self, ty: GgmlType, k: usize, out: &mut Vec<u8>) {
        match ty {
            GgmlType::BF16 => self.plain_row(k, out),
            _ => self.block_row(ty, k, out),
        }
    }

    /// In BF16: even over an interval around 0, whose half is the deviation times the square root of 3.
    fn plain_row(&mut self, k: usize, out: &mut Vec<u8>) {
        let half = (3.0 / k as f32).sqrt();
        for at in (0..k).step_by(2) {
            let dice = self.0.next();
            for value in [dice as u32, (dice >> 32) as u32].into_iter().take(k - at) {
                let unit = (value >> 8) as f32 / (1 << 23) as f32 - 1.0;
                out.extend(half::bf16::from_f32(unit * half).to_le_bytes());
            }
        }
    }

    /// In 32-blocks of Q4_0 or Q8_0: a scale, then random integers.
    fn block_row(&mut self, ty: GgmlType, k: usize, out: &mut Vec<u8>) {
        // Integers of Q4_0 are even over -8..=7, whose deviation is 4.6; of Q8_0 over -127..=127, 73.6.
        let (bytes, deviation) = if ty == GgmlType::Q4_0 { (16, 4.6) } else { (32, 73.6) };
        let mean = 1.0 / (deviation * (k as f32).sqrt());
        for _ in 0..k / 32 {
            let dice = self.0.next();
            // Scales differ from block to block by up to a quarter.
            let scale = mean * (0.75 + 0.5 * (dice >> 40) as f32 / (1 << 24) as f32);
            out.extend(half::f16::from_f32(scale).to_le_bytes());
            for _ in 0..bytes / 8 {
                let eight = self.0.next().to_le_bytes();
                match ty {
                    GgmlType::Q4_0 => out.extend(eight),
                    // -128 is not a value of the format.
                    _ => out.extend(eight.map(|byte| if byte == 0x80 { 0 } else { byte })),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barelm::llm::gguf::Gguf;
    use barelm::llm::model::{LoadConfig, Model, Shape};
    use barelm::llm::quant::dequantize;
    use barelm::llm::tokenizer::{Special, Tokenizer};

    fn made(ty: GgmlType, seed: u64) -> Vec<u8> {
        let mut file = Vec::new();
        let shape = SynthShape::by_name("tiny").unwrap();
        synthesize(&shape, ty, seed, &mut file, &mut |_, _| {}).unwrap();
        file
    }

    #[test]
    fn files_load_and_repeat() {
        for (ty, _) in TYPES {
            let file = made(ty, 7);
            assert!(file == made(ty, 7) && file != made(ty, 8));
            let gguf = Gguf::parse(&file).unwrap();
            let model = Model::load(&gguf, LoadConfig::default()).unwrap();
            assert!(model.is_tied() && model.is_quantized() == ty.is_quantized());
            let Shape { n_layers, dim, n_heads, n_kv_heads, ffn_dim, vocab_size, .. } = *model.shape();
            assert_eq!(
                (n_layers, dim, n_heads, n_kv_heads, ffn_dim, vocab_size),
                (2, 128, 4, 2, 256, 512),
                "{ty}"
            );
            let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
            assert_eq!(tokenizer.vocab_size(), 512);
            let ids = tokenizer.encode_to_vec("Aé ", Special::Plain).unwrap();
            assert_eq!(ids, [0x41, 0xC3, 0xA9, 0x20]);
        }
    }

    #[test]
    fn weights_keep_activations_at_their_size() {
        for (ty, _) in TYPES {
            let file = made(ty, 1);
            let gguf = Gguf::parse(&file).unwrap();
            for name in ["token_embd.weight", "blk.1.ffn_down.weight"] {
                let tensor = gguf.tensor(name).unwrap();
                let mut values = vec![0.0; tensor.elements() as usize];
                dequantize(ty, gguf.data(&tensor).unwrap(), &mut values);
                let squares: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                let deviation = (squares / values.len() as f64).sqrt();
                let wanted = 1.0 / (tensor.dims[0] as f64).sqrt();
                assert!((deviation / wanted - 1.0).abs() < 0.05, "{name} {ty}: {deviation} {wanted}");
            }
        }
    }

    #[test]
    fn the_large_shapes_have_their_models_parameters() {
        // As the models' cards count them.
        for (name, parameters) in
            [("llama-3.2-1b", 1_235_814_400), ("llama-3.2-3b", 3_212_749_824), ("mistral-7b", 7_248_023_552)]
        {
            let shape = SynthShape::by_name(name).unwrap();
            let elements: usize = shape.tensors().iter().map(|(_, rows, k)| rows * k).sum();
            assert_eq!(elements, parameters, "{name}");
        }
    }

    #[test]
    fn checkpoints_are_made_of_them() {
        let file = made(GgmlType::BF16, 3);
        let gguf = Gguf::parse(&file).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let tensors = crate::checkpoint::export::export(&gguf, folder.path(), GgmlType::BF16).unwrap();
        assert_eq!(tensors, gguf.tensor_count());
        let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        assert!(config.contains("\"rope_theta\": 500000.0"), "{config}");
    }

    #[test]
    fn other_types_are_refused() {
        let shape = SynthShape::by_name("tiny").unwrap();
        let refused = synthesize(&shape, GgmlType::Q4_1, 1, &mut Vec::new(), &mut |_, _| {}).unwrap_err();
        assert!(refused.to_string().contains("Q4_1"));
    }
}
