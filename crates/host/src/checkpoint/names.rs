//! Names of tensors in both forms.

use super::config::{Architecture, Config};

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// In GGUF.
    pub gguf: String,
    /// In the folder.
    pub folder: String,
    /// Rows, and elements of each; a vector has one row.
    pub shape: [usize; 2],
    /// Whether it is a vector.
    pub vector: bool,
    /// Heads whose rows GGUF holds in another order ([`row_of`]); 0 where the order is the same.
    pub interleaved_heads: usize,
}

/// Of row `row` in GGUF, the row in the folder: the two halves of a head one after the other there, pairs of one row of
/// each here.
pub fn row_of(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    head * head_dim + within % 2 * (head_dim / 2) + within / 2
}

/// All tensors of a model, in the order GGUF files have them.
pub fn pairs(config: &Config) -> Vec<Pair> {
    let (dim, ffn) = (config.dim, config.ffn);
    let (q_dim, kv_dim) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let matrix = |gguf: String, folder: String, rows: usize, k: usize, heads: usize| Pair {
        gguf,
        folder,
        shape: [rows, k],
        vector: false,
        interleaved_heads: if config.architecture.interleaves() { heads } else { 0 },
    };
    let vector = |gguf: String, folder: String, len: usize| Pair {
        gguf,
        folder,
        shape: [1, len],
        vector: true,
        interleaved_heads: 0,
    };
    let mut pairs =
        vec![matrix("token_embd.weight".into(), "model.embed_tokens.weight".into(), config.vocab, dim, 0)];
    for layer in 0..config.layers {
        let gguf = |part: &str| format!("blk.{layer}.{part}");
        let folder = |part: &str| format!("model.layers.{layer}.{part}");
        pairs.push(vector(gguf("attn_norm.weight"), folder("input_layernorm.weight"), dim));
        for (theirs, ours, rows, heads) in [
            ("q", "attn_q", q_dim, config.heads),
            ("k", "attn_k", kv_dim, config.kv_heads),
            ("v", "attn_v", kv_dim, 0),
        ] {
            let folder = |part: &str| folder(&format!("self_attn.{theirs}_proj.{part}"));
            pairs.push(matrix(gguf(&format!("{ours}.weight")), folder("weight"), rows, dim, heads));
            if config.architecture == Architecture::Qwen2 {
                pairs.push(vector(gguf(&format!("{ours}.bias")), folder("bias"), rows));
            }
        }
        pairs.push(matrix(gguf("attn_output.weight"), folder("self_attn.o_proj.weight"), dim, q_dim, 0));
        pairs.push(vector(gguf("ffn_norm.weight"), folder("post_attention_layernorm.weight"), dim));
        pairs.push(matrix(gguf("ffn_gate.weight"), folder("mlp.gate_proj.weight"), ffn, dim, 0));
        pairs.push(matrix(gguf("ffn_up.weight"), folder("mlp.up_proj.weight"), ffn, dim, 0));
        pairs.push(matrix(gguf("ffn_down.weight"), folder("mlp.down_proj.weight"), dim, ffn, 0));
    }
    pairs.push(vector("output_norm.weight".into(), "model.norm.weight".into(), dim));
    if !config.tied {
        pairs.push(matrix("output.weight".into(), "lm_head.weight".into(), config.vocab, dim, 0));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_neighbors() {
        let order: Vec<_> = (0..16).map(|row| row_of(row, 8)).collect();
        assert_eq!(order, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    }
}
