//! Models of four sizes with random weights, built in memory as GGUF files.
//!
//! They answer nonsense, but do the work of a real model of their shape. The documents call the sizes 15 M, 60 M,
//! 240 M and 1 B; what [`crate::llm::model::Model::parameters`] counts is what is printed.

use alloc::format;
use alloc::vec::Vec;

use crate::llm::gguf::{Value, Writer};
use crate::llm::quant::GgmlType;

/// Padding of a tensor at most.
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

    /// The file: Llama architecture, matrices in Q4_0, norms in F32, head tied to the embedding. The same bytes every
    /// time, or `None` where the memory for them is not there.
    pub fn build(self) -> Option<Vec<u8>> {
        let (layers, dim, ffn) = self.shape();
        let mut writer = Writer::new();
        writer.put("general.architecture", Value::Str("llama"));
        writer.put("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        for (key, value) in [
            ("llama.block_count", layers),
            ("llama.context_length", 2048),
            ("llama.embedding_length", dim),
            ("llama.feed_forward_length", ffn),
            ("llama.attention.head_count", dim / HEAD_DIM),
        ] {
            writer.put(key, Value::U32(value as u32));
        }
        let mut sizes: Vec<(GgmlType, usize)> = Vec::new(); // elements of each tensor
        let mut size_bytes = 64 * 1024; // more than the header of 24 layers
        let mut tensor = |name: &str, rows: usize, k: usize| {
            let (ty, dims) = match rows {
                1 => (GgmlType::F32, &[k as u64][..]),
                _ => (GgmlType::Q4_0, &[k as u64, rows as u64][..]),
            };
            writer.tensor::<()>(name, ty, dims).expect("widths are multiples of 32");
            sizes.push((ty, rows * k));
            size_bytes += ty.row_bytes(rows * k).expect("widths are multiples of 32") + ALIGNMENT;
        };
        tensor("token_embd.weight", VOCAB, dim);
        for layer in 0..layers {
            for (part, rows, k) in [
                ("attn_norm", 1, dim),
                ("attn_q", dim, dim),
                ("attn_k", dim, dim),
                ("attn_v", dim, dim),
                ("attn_output", dim, dim),
                ("ffn_norm", 1, dim),
                ("ffn_gate", ffn, dim),
                ("ffn_up", ffn, dim),
                ("ffn_down", dim, ffn),
            ] {
                tensor(&format!("blk.{layer}.{part}.weight"), rows, k);
            }
        }
        tensor("output_norm.weight", 1, dim);

        let mut file = Vec::new();
        file.try_reserve_exact(size_bytes).ok()?;
        let sink = |bytes: &[u8]| {
            file.extend_from_slice(bytes);
            Ok::<(), ()>(())
        };
        let mut data = writer.begin(sink).expect("the sink takes everything");
        let mut random = self as u64 + 1;
        for (ty, elements) in sizes {
            let written = match ty {
                GgmlType::F32 => (0..elements).try_for_each(|_| data.write(&1.0f32.to_le_bytes())),
                _ => (0..elements / 32).try_for_each(|_| {
                    // Weights of about 1 / sqrt(dim), so that activations keep their size: nibbles are even over
                    // -8..8, whose deviation is 4.6.
                    let scale = half::f16::from_f32(1.0 / (4.6 * libm::sqrtf(dim as f32)));
                    let mut block = [0; 18];
                    block[..2].copy_from_slice(&scale.to_bits().to_le_bytes());
                    for eight in block[2..].chunks_mut(8) {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        eight.copy_from_slice(&(random ^ (random >> 29)).to_le_bytes());
                    }
                    data.write(&block)
                }),
            };
            written.expect("the sink takes everything");
        }
        data.finish().expect("every tensor had its bytes");
        Some(file)
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
            let file = size.build().unwrap();
            assert_eq!(Some(&file), size.build().as_ref());
            let gguf = Gguf::parse(&file).unwrap();
            let model = Model::load(&gguf, LoadConfig::default()).unwrap();
            assert_eq!(model.parameters(), count, "{}", size.name());
        }
    }
}
