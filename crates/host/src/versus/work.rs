//! What is measured, and what of the machine it takes at least.

use std::time::Duration;

use barelm::llm::gguf::{Gguf, TensorInfo};
use barelm::llm::model::Shape;
use barelm::llm::pool::Team;
use barelm::llm::tokenizer::{Special, Tokenizer};

use crate::failure::Failure;
use crate::limits::{ReadBuffer, f32_rate, int8_rate};
use crate::prompt::random_ids;

/// The text whose continuation the engines are compared by.
const TEXT: &str = "The history of the steam engine begins";
/// Ids in place of the text where the vocabulary cannot spell it.
const LETTERLESS: [u32; 8] = [11, 7, 42, 101, 64, 3, 90, 27];

/// A measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// So many positions of a prompt.
    Prefill(usize),
    /// So many tokens, from an empty cache on.
    Decode(usize),
}

impl Work {
    /// As in the table: `prefill 512`.
    pub fn name(self) -> String {
        match self {
            Self::Prefill(count) => format!("prefill {count}"),
            Self::Decode(count) => format!("decode {count}"),
        }
    }

    /// Prompt and tokens to ask for, of a vocabulary of this size.
    pub fn request(self, vocab_size: usize) -> (Vec<u32>, usize) {
        match self {
            Self::Prefill(count) => (random_ids(0, count, vocab_size), 0),
            Self::Decode(count) => (random_ids(0, 1, vocab_size), count),
        }
    }

    /// Tokens a second: a prompt's positions by its time, or the tokens behind the first by theirs.
    pub fn rate(self, prefill_ns: u64, decode_ns: u64) -> f64 {
        let (tokens, ns) = match self {
            Self::Prefill(count) => (count, prefill_ns),
            Self::Decode(count) => (count - 1, decode_ns),
        };
        tokens as f64 * 1e9 / ns.max(1) as f64
    }
}

/// What a model's passes read and compute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// Sizes.
    pub shape: Shape,
    /// Bytes of all matrices that a token goes through, the head included.
    pub token_bytes: u64,
    /// Elements of the layers' matrices.
    pub layer_elements: u64,
    /// Elements of the head.
    pub head_elements: u64,
    /// Whether the layers' matrices are quantized, so that 8-bit products are the limit.
    pub quantized: bool,
}

impl Model {
    /// Reads a file's header.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, Failure> {
        let shape = Shape::from_gguf(gguf).map_err(|error| Failure::Message(error.to_string()))?;
        let head = gguf.tensor("output.weight").or_else(|| gguf.tensor("token_embd.weight"));
        let head = head.expect("the shape was read from it");
        let elements = |tensor: &TensorInfo<'_>| tensor.dims.iter().product::<u64>();
        let matrices: Vec<_> =
            gguf.tensors().filter(|tensor| tensor.n_dims == 2 && tensor.name.starts_with("blk.")).collect();
        Ok(Model {
            shape,
            token_bytes: matrices.iter().map(|tensor| tensor.size_bytes).sum::<u64>() + head.size_bytes,
            layer_elements: matrices.iter().map(elements).sum(),
            head_elements: elements(&head),
            quantized: matrices.iter().any(|tensor| tensor.ty.is_quantized()),
        })
    }

    /// Multiplications and additions of one position in the middle of `work`: matrices, and attention over the positions so
    /// far. The head counts once in a prompt.
    pub fn token_ops(&self, work: Work) -> f64 {
        let (count, heads) = match work {
            Work::Prefill(count) => (count, 1.0 / count as f64),
            Work::Decode(count) => (count, 1.0),
        };
        let context = (count + 1) as f64 / 2.0;
        let attention = 4.0 * context * (self.shape.q_dim() * self.shape.n_layers) as f64;
        2.0 * (self.layer_elements as f64 + heads * self.head_elements as f64) + attention
    }

    /// Which of the machine's limits `work` is held against.
    pub fn limit(&self, work: Work) -> LimitKind {
        match work {
            Work::Decode(_) => LimitKind::Read,
            Work::Prefill(_) if self.quantized => LimitKind::Int8,
            Work::Prefill(_) => LimitKind::F32,
        }
    }

    /// Bytes or operations of a token, whichever the limit counts: every weight is read once a token in decode; in a
    /// prompt, attention is held against the same peak as the matrices.
    pub fn token_needs(&self, work: Work) -> f64 {
        match self.limit(work) {
            LimitKind::Read => self.token_bytes as f64,
            LimitKind::Int8 | LimitKind::F32 => self.token_ops(work),
        }
    }
}

/// What of the machine a speed is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Bytes read from memory a second.
    Read,
    /// Operations of 8-bit products a second.
    Int8,
    /// Operations of f32 products a second.
    F32,
}

impl LimitKind {
    /// Measures it with all of `team`.
    pub fn measure(self, buffer: &ReadBuffer, team: &dyn Team, time: Duration) -> f64 {
        match self {
            Self::Read => buffer.read_rate(team, time),
            Self::Int8 => int8_rate(team, time).1,
            Self::F32 => f32_rate(team, time).1,
        }
    }

    /// As records name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read bytes/s",
            Self::Int8 => "int8 ops/s",
            Self::F32 => "f32 ops/s",
        }
    }
}

/// Ids of a text, for comparing what the engines answer.
pub fn text_ids(gguf: &Gguf<'_>, vocab_size: usize) -> Result<Vec<u32>, Failure> {
    let refused = |error: &dyn std::fmt::Display| Failure::because("the model's tokenizer", error);
    let tokenizer = Tokenizer::from_gguf(gguf).map_err(|error| refused(&error))?;
    match tokenizer.encode_to_vec(TEXT, Special::Plain) {
        Ok(ids) if !ids.is_empty() => {
            Ok(tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().chain(ids).collect())
        }
        _ => Ok(LETTERLESS.map(|id| id % vocab_size as u32).to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_tokens_over_their_own_time() {
        assert_eq!(Work::Prefill(512).rate(1_000_000_000, 7), 512.0);
        assert_eq!(Work::Decode(65).rate(9, 2_000_000_000), 32.0);
        let (prompt, tokens) = Work::Prefill(512).request(100);
        assert_eq!((prompt.len(), tokens), (512, 0));
        assert!(prompt.iter().all(|&id| id < 100) && prompt.iter().any(|&id| id != prompt[0]));
        assert_eq!(Work::Decode(64).request(100).1, 64);
    }

    #[test]
    fn a_token_needs_its_matrices_once_or_their_products() {
        let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../kernel/assets/tiny.gguf")).unwrap();
        let model = Model::from_gguf(&Gguf::parse(&file).unwrap()).unwrap();
        let shape = model.shape;
        let per_layer = 2 * shape.dim * (shape.q_dim() + shape.kv_dim()) + 3 * shape.dim * shape.ffn_dim;
        assert_eq!(model.layer_elements, (shape.n_layers * per_layer) as u64);
        assert_eq!(model.head_elements, (shape.dim * shape.vocab_size) as u64);
        assert_eq!(model.token_needs(Work::Decode(9)), model.token_bytes as f64);
        // One position: matrices, the head, and attention to itself.
        let ops =
            2 * (model.layer_elements + model.head_elements) + 4 * (shape.q_dim() * shape.n_layers) as u64;
        assert_eq!(model.token_needs(Work::Prefill(1)), ops as f64);
        let kind = if model.quantized { LimitKind::Int8 } else { LimitKind::F32 };
        assert_eq!((model.limit(Work::Prefill(1)), model.limit(Work::Decode(1))), (kind, LimitKind::Read));
    }
}
