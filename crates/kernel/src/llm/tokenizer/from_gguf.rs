//! What a model file says about its tokenizer.

use alloc::vec::Vec;

use super::bpe::Bpe;
use super::spm::Spm;
use super::vocab::{TokenKind, Vocab};
use super::{Merging, PreTokenizer, Roles, Tokenizer, TokenizerError};
use crate::llm::gguf::{Array, Gguf, Name};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";

impl<'a> Tokenizer<'a> {
    /// Builds the tokenizer of a model file, from its `tokenizer.ggml.*` metadata. Needs no more than the header.
    ///
    /// Where the file is silent, llama.cpp's defaults hold.
    pub fn from_gguf(gguf: &Gguf<'a>) -> Result<Self, TokenizerError> {
        let model = gguf.get_str(MODEL)?.ok_or(TokenizerError::Missing { key: MODEL })?;
        let tokens = array(gguf, TOKENS)?.ok_or(TokenizerError::Missing { key: TOKENS })?;
        let mut texts = Vec::with_capacity(tokens.len());
        texts.extend(tokens.strings().ok_or(TokenizerError::WrongType { key: TOKENS })?);
        let kinds = match array(gguf, TYPES)? {
            None => Vec::new(),
            Some(types) if types.len() < texts.len() => {
                return Err(TokenizerError::TooShort { key: TYPES, entries: types.len() });
            }
            Some(types) => {
                let types = types.i32s().ok_or(TokenizerError::WrongType { key: TYPES })?;
                types.take(texts.len()).map(TokenKind::from_id).collect()
            }
        };
        let mut vocab = Vocab::new(texts, kinds)?;
        match model {
            "gpt2" => {
                // Roles the file does not give fall to token 11 in llama.cpp, a heritage of Falcon.
                let name = gguf.get_str("tokenizer.ggml.pre")?.unwrap_or("default");
                let pre = PreTokenizer::from_name(name)
                    .ok_or(TokenizerError::UnknownPreTokenizer { name: Name::new(name) })?;
                // `dbrx` and `smaug-bpe` cut as Llama 3 does without its other habits.
                let llama3 = pre == PreTokenizer::Llama3 && !matches!(name, "dbrx" | "smaug-bpe");
                let roles = roles(gguf, &vocab, Some(11), Some(11), llama3)?;
                let merges = array(gguf, MERGES)?.ok_or(TokenizerError::Missing { key: MERGES })?;
                let lines = merges.strings().ok_or(TokenizerError::WrongType { key: MERGES })?;
                let bpe = Bpe::new(&mut vocab, lines, merges.len(), llama3)?;
                Tokenizer::new(vocab, Merging::Bytes { pre, bpe }, roles)
            }
            "llama" => {
                let roles = roles(gguf, &vocab, Some(1), Some(2), true)?;
                let unknown = role(gguf, &vocab, "tokenizer.ggml.unknown_token_id", Some(0))?;
                let prefix = gguf.get_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
                let spm = match array(gguf, SCORES)? {
                    None => Spm::new(&vocab, core::iter::repeat_n(0.0, vocab.len()), unknown, prefix)?,
                    Some(scores) => match (scores.f32s(), scores.i32s()) {
                        (Some(scores), _) => Spm::new(&vocab, scores, unknown, prefix)?,
                        (_, Some(scores)) => {
                            Spm::new(&vocab, scores.map(|score| score as f32), unknown, prefix)?
                        }
                        _ => return Err(TokenizerError::WrongType { key: SCORES }),
                    },
                };
                Tokenizer::new(vocab, Merging::SentencePiece(spm), roles)
            }
            _ => Err(TokenizerError::UnknownModel { name: Name::new(model) }),
        }
    }
}

fn array<'a>(gguf: &Gguf<'a>, key: &'static str) -> Result<Option<Array<'a>>, TokenizerError> {
    Ok(gguf.get_array(key)?)
}

/// The token of a role; one outside the vocabulary is no token, and the default counts instead.
fn role(
    gguf: &Gguf<'_>,
    vocab: &Vocab<'_>,
    key: &str,
    default: Option<u32>,
) -> Result<Option<u32>, TokenizerError> {
    let exists = |id: &u32| (*id as usize) < vocab.len();
    Ok(gguf.get_u32(key)?.filter(exists).or(default.filter(exists)))
}

fn roles(
    gguf: &Gguf<'_>,
    vocab: &Vocab<'_>,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
) -> Result<Roles, TokenizerError> {
    Ok(Roles {
        bos: role(gguf, vocab, "tokenizer.ggml.bos_token_id", bos)?,
        eos: role(gguf, vocab, "tokenizer.ggml.eos_token_id", eos)?,
        eot: role(gguf, vocab, "tokenizer.ggml.eot_token_id", None)?,
        eom: role(gguf, vocab, "tokenizer.ggml.eom_token_id", None)?,
        fim_pad: role(gguf, vocab, "tokenizer.ggml.fim_pad_token_id", None)?,
        fim_rep: role(gguf, vocab, "tokenizer.ggml.fim_rep_token_id", None)?,
        fim_sep: role(gguf, vocab, "tokenizer.ggml.fim_sep_token_id", None)?,
        add_bos: gguf.get_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos),
        add_eos: gguf.get_bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
    })
}
