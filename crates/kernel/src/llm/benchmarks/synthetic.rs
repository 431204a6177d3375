//! Models of four sizes with random weights, built in memory as GGUF files.
//!
//! They answer nonsense, but do the work of a real model of their shape. The documents call the sizes 15 M, 60 M,
//! 240 M and 1 B; what [`crate::llm::model::Model::parameters`] counts is what is printed.

use alloc::format;
use alloc::vec::Vec;

use crate::llm::quant::GgmlType;

/// Alignment of tensors in the file.
const ALIGNMENT: usize = 32;
/// Tokens of every synthetic vocabulary.
const VOCAB: usize = 4096;
/// Elements per head.
const HEAD_DIM: usize = 64;

/// One of the documented sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelSize {
    /// 3 layers of width 256.
    Tiny,
    /// 6 layers of width 384.
    Small,
    /// 12 layers of width 768.
    Medium,
    /// 24 layers of width 1536.
    Large,
}

impl ModelSize {
    /// All four, smallest first.
    pub const ALL: [Self; 4] = [Self::Tiny, Self::Small, Self::Medium, Self::Large];

    /// Its name in cases and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }

    /// How many parameters the documents say it has.
    pub const fn documented_parameters(self) -> u64 {
        match self {
            Self::Tiny => 15_000_000,
            Self::Small => 60_000_000,
            Self::Medium => 240_000_000,
            Self::Large => 1_000_000_000,
        }
    }

    /// Documented tokens in a second on a 1 GHz Cortex-A with NEON: a prediction.
    pub const fn predicted_tokens_per_second(self) -> u32 {
        match self {
            Self::Tiny => 100,
            Self::Small => 40,
            Self::Medium => 10,
            Self::Large => 2,
        }
    }

    /// Layers, width and width of the feed-forward step (8/3 of the width, up to a multiple of 64).
    const fn shape(self) -> (usize, usize, usize) {
        match self {
            Self::Tiny => (3, 256, 704),
            Self::Small => (6, 384, 1024),
            Self::Medium => (12, 768, 2048),
            Self::Large => (24, 1536, 4096),
        }
    }

    /// The file: GGUF version 3, Llama architecture, matrices in Q4_0, norms in F32, head tied to the embedding.
    ///
    /// The same bytes every time. Takes memory for the whole file at once.
    pub fn build(self) -> Vec<u8> {
        let (layers, dim, ffn) = self.shape();
        let mut tensors: Vec<(alloc::string::String, GgmlType, usize, usize)> = Vec::new();
        tensors.push(("token_embd.weight".into(), GgmlType::Q4_0, VOCAB, dim));
        for layer in 0..layers {
            let mut push = |part: &str, ty, rows, k| {
                tensors.push((format!("blk.{layer}.{part}.weight"), ty, rows, k));
            };
            push("attn_norm", GgmlType::F32, 1, dim);
            push("attn_q", GgmlType::Q4_0, dim, dim);
            push("attn_k", GgmlType::Q4_0, dim, dim);
            push("attn_v", GgmlType::Q4_0, dim, dim);
            push("attn_output", GgmlType::Q4_0, dim, dim);
            push("ffn_norm", GgmlType::F32, 1, dim);
            push("ffn_gate", GgmlType::Q4_0, ffn, dim);
            push("ffn_up", GgmlType::Q4_0, ffn, dim);
            push("ffn_down", GgmlType::Q4_0, dim, ffn);
        }
        tensors.push(("output_norm.weight".into(), GgmlType::F32, 1, dim));

        let string = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        let numbers = [
            ("llama.block_count", layers),
            ("llama.context_length", 2048),
            ("llama.embedding_length", dim),
            ("llama.feed_forward_length", ffn),
            ("llama.attention.head_count", dim / HEAD_DIM),
            ("general.alignment", ALIGNMENT),
        ];
        let mut file = Vec::new();
        file.extend(b"GGUF");
        file.extend(3u32.to_le_bytes());
        file.extend((tensors.len() as u64).to_le_bytes());
        file.extend((numbers.len() as u64 + 2).to_le_bytes());
        string(&mut file, "general.architecture");
        file.extend(8u32.to_le_bytes()); // a string
        string(&mut file, "llama");
        string(&mut file, "llama.attention.layer_norm_rms_epsilon");
        file.extend(6u32.to_le_bytes()); // an f32
        file.extend(1e-5f32.to_le_bytes());
        for (key, value) in numbers {
            string(&mut file, key);
            file.extend(4u32.to_le_bytes()); // a u32
            file.extend((value as u32).to_le_bytes());
        }
        let mut offset = 0;
        for (name, ty, rows, k) in &tensors {
            string(&mut file, name);
            let dims: &[usize] = if *rows == 1 { &[*k] } else { &[*k, *rows] };
            file.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|&n| file.extend((n as u64).to_le_bytes()));
            file.extend((*ty as u32).to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            let bytes = ty.row_bytes(*k).expect("widths are multiples of 32") * rows;
            offset += bytes.next_multiple_of(ALIGNMENT);
        }
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.reserve_exact(offset);
        let mut random = self as u64 + 1;
        for (_, ty, rows, k) in &tensors {
            if *ty == GgmlType::F32 {
                (0..*k).for_each(|_| file.extend(1.0f32.to_le_bytes()));
            } else {
                // Weights of about 1 / sqrt(k), so that activations keep their size: nibbles are even over -8..8,
                // whose deviation is 4.6.
                let scale = half::f16::from_f32(1.0 / (4.6 * libm::sqrtf(*k as f32)));
                for _ in 0..rows * k / 32 {
                    file.extend(scale.to_bits().to_le_bytes());
                    for _ in 0..2 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        file.extend((random ^ (random >> 29)).to_le_bytes());
                    }
                }
            }
            file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::gguf::Gguf;
    use crate::llm::model::{LoadConfig, Model};

    #[test]
    fn sizes_load_and_count_true_parameters() {
        // Tiny: 3 x (4 x 256^2 + 3 x 256 x 704 + 2 x 256) + 4096 x 256 + 256.
        // Small: 6 x (4 x 384^2 + 3 x 384 x 1024 + 2 x 384) + 4096 x 384 + 384: 10.6 M without the embedding.
        for (size, count) in [(ModelSize::Tiny, 3_458_816), (ModelSize::Small, 12_194_688)] {
            let file = size.build();
            assert_eq!(file, size.build());
            let gguf = Gguf::parse(&file).unwrap();
            let model = Model::load(&gguf, LoadConfig::default()).unwrap();
            assert_eq!(model.parameters(), count, "{}", size.name());
        }
    }
}
