//! What is measured, and what of the machine it takes at least.

use std::time::Duration;

use barelm::llm::gguf::Gguf;
use barelm::llm::model::Shape;
use barelm::llm::pool::Team;
use barelm::llm::tokenizer::{Special, Tokenizer};

use crate::failure::Failure;
use crate::limits::{Demand, ReadBuffer, f32_rate, int8_rate};
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

    /// Which of the machine's limits it is held against.
    pub fn limit(self, demand: &Demand) -> LimitKind {
        match self {
            Self::Decode(_) => LimitKind::Read,
            Self::Prefill(_) if demand.is_quantized() => LimitKind::Int8,
            Self::Prefill(_) => LimitKind::F32,
        }
    }

    /// Bytes or operations of a token, whichever the limit counts: in decode every matrix once, without the few keys and
    /// values; in a prompt all operations, against the one peak.
    pub fn needs(self, demand: &Demand) -> f64 {
        match self {
            Self::Decode(_) => demand.matrix_bytes,
            Self::Prefill(count) => demand.prompt_operations(count, 0).iter().sum(),
        }
    }
}

/// What is to be known of a model.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Sizes.
    pub shape: Shape,
    /// What its passes take.
    pub demand: Demand,
}

impl Model {
    /// Reads a file's header.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, Failure> {
        let shape = Shape::from_gguf(gguf).map_err(|error| Failure::Message(error.to_string()))?;
        Ok(Model { shape, demand: Demand::of(gguf, &shape) })
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
}
