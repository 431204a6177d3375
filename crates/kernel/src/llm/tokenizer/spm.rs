//! SentencePiece BPE: characters are symbols, and the pair whose text is the token of highest score merges first.
//!
//! A space is written U+2581 (`▁`). A character that ends as no token is given as its bytes, `<0x00>`..`<0xFF>`.

use alloc::vec::Vec;

use super::TokenizerError;
use super::merge::{Merger, NONE, Rule, Symbol};
use super::vocab::Vocab;

/// What stands for a space.
pub(super) const SPACE: &[u8] = "▁".as_bytes();

/// Scores and byte tokens of a SentencePiece vocabulary.
pub struct Spm {
    /// Each token's score as a priority: the highest score is the smallest number.
    priorities: Vec<u32>,
    /// The token of each byte, else the unknown token, else `NONE`.
    bytes: [u32; 256],
    /// A text starts with a space of its own.
    space_prefix: bool,
}

impl Spm {
    /// Takes one score a token. A byte without a token is given as `unknown`; without that it is lost.
    pub fn new(
        vocab: &Vocab<'_>,
        scores: impl ExactSizeIterator<Item = f32>,
        unknown: Option<u32>,
        space_prefix: bool,
    ) -> Result<Self, TokenizerError> {
        if scores.len() < vocab.len() {
            return Err(TokenizerError::TooShort { key: "tokenizer.ggml.scores", entries: scores.len() });
        }
        let mut priorities = Vec::with_capacity(vocab.len());
        for (id, score) in scores.take(vocab.len()).enumerate() {
            if score.is_nan() {
                return Err(TokenizerError::ScoreNotANumber { token: id as u32 });
            }
            // Adding zero makes -0 equal to 0. Then flip so that unsigned order is the order of floats.
            let bits = (score + 0.0).to_bits();
            let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
            priorities.push(!ascending);
        }
        let digit = |nibble: usize| b"0123456789ABCDEF"[nibble];
        let bytes = core::array::from_fn(|byte| {
            let spelled = [b'<', b'0', b'x', digit(byte >> 4), digit(byte & 15), b'>'];
            vocab.find(&spelled).or_else(|| vocab.find(&[byte as u8])).or(unknown).unwrap_or(NONE)
        });
        Ok(Spm { priorities, bytes, space_prefix })
    }

    /// True if a text starts with a space of its own.
    pub fn space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.priorities.capacity() * size_of::<u32>()
    }

    /// Appends the ids of one stretch of text. `at_start` says that it opens the text or follows a special token;
    /// `escaped` is scratch for the text with its spaces rewritten, at most three times as long and three more.
    pub(super) fn encode(
        &self,
        vocab: &Vocab<'_>,
        merger: &mut Merger,
        escaped: &mut Vec<u8>,
        text: &str,
        at_start: bool,
        out: &mut Vec<u32>,
    ) {
        escaped.clear();
        merger.symbols.clear();
        if at_start && self.space_prefix {
            merger.symbols.push(Symbol::new(0, 0, SPACE.len() as u32));
            escaped.extend_from_slice(SPACE);
        }
        for c in text.chars() {
            let start = escaped.len() as u32;
            if c == ' ' {
                escaped.extend_from_slice(SPACE);
            } else {
                escaped.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            merger.symbols.push(Symbol::new(0, start, escaped.len() as u32 - start));
        }
        merger.merge(&Pairs { vocab, priorities: &self.priorities, text: escaped });
        for symbol in &merger.symbols {
            let bytes = &escaped[symbol.start as usize..][..symbol.length as usize];
            match vocab.find(bytes) {
                Some(id) => out.push(id),
                None => {
                    out.extend(bytes.iter().map(|&byte| self.bytes[byte as usize]).filter(|&id| id != NONE));
                }
            }
        }
    }
}

/// Merges by the text that two symbols have together.
struct Pairs<'s, 'a> {
    vocab: &'s Vocab<'a>,
    priorities: &'s [u32],
    text: &'s [u8],
}

impl Rule for Pairs<'_, '_> {
    fn pair(&self, left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
        let length = (left.length + right.length) as usize;
        if length > self.vocab.longest() {
            return None;
        }
        let id = self.vocab.find(&self.text[left.start as usize..][..length])?;
        Some((self.priorities[id as usize], id))
    }
}
