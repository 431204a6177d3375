//! Text to token ids and back, with llama.cpp's answers.
//!
//! Read in this order:
//! 1. [`pretokenize`] cuts a text into words ([`unicode`] says what a letter is).
//! 2. [`vocab`] knows the token of a text and the text of a token.
//! 3. [`bpe`] and [`spm`] merge a word's bytes or a text's characters into tokens, with `merge` doing the work.
//! 4. `special` finds control tokens written in a text; [`vocab::TokenKind`] says which those are.
//! 5. [`stream`] turns ids back into text, never half a character.
//!
//! A [`Tokenizer`] borrows the model file and allocates only when it is built; an [`Encoder`] is the scratch of
//! encoding and allocates nothing for texts of the size it was made for.
//!
//! Text is UTF-8. Where bytes are not, [`Tokenizer::encode_bytes`] says where and encodes nothing; llama.cpp puts
//! replacement characters there.
#![forbid(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

pub mod bpe;
mod end_of_generation;
mod from_gguf;

mod merge;
pub mod pretokenize;
mod special;
pub mod spm;
pub mod stream;
pub mod unicode;
pub mod vocab;

use crate::llm::gguf::{GgufError, Name};
use merge::Merger;
pub use pretokenize::PreTokenizer;
use special::{Fragment, Specials};
use stream::Spelling;
pub use stream::{SpecialText, StreamDecoder, TokenBytes};
pub use vocab::TokenKind;
use vocab::Vocab;

/// Whether the special tokens written in a text are found.
///
/// User-defined tokens are found either way, as in llama.cpp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `<|im_start|>` in the text becomes that token: for templates.
    Parse,
    /// It is text like any other: for what users write.
    Plain,
}

/// Why a tokenizer could not be made, or a text not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerError {
    /// The file lacks a key that a tokenizer needs.
    Missing {
        /// The metadata key.
        key: &'static str,
    },
    /// The metadata could not be read.
    Gguf(GgufError),
    /// The array is there with elements of another type than it should have.
    WrongType {
        /// The metadata key.
        key: &'static str,
    },
    /// An array has fewer entries than there are tokens.
    TooShort {
        /// The metadata key.
        key: &'static str,
        /// How many it has.
        entries: usize,
    },
    /// `tokenizer.ggml.model` is neither `gpt2` nor `llama`.
    UnknownModel {
        /// What it is.
        name: Name,
    },
    /// `tokenizer.ggml.pre` is none of those that [`PreTokenizer`] knows.
    UnknownPreTokenizer {
        /// What it is.
        name: Name,
    },
    /// No tokens, or more than ids can number.
    VocabularySize {
        /// How many the file has.
        tokens: usize,
    },
    /// More merges than ranks can number.
    TooManyMerges {
        /// How many the file has.
        merges: usize,
    },
    /// Two tokens have the same text.
    DuplicateToken {
        /// The first of them.
        first: u32,
        /// The second.
        second: u32,
    },
    /// A score is not a number.
    ScoreNotANumber {
        /// The token whose score it is.
        token: u32,
    },
    /// The texts of the vocabulary collide as no honest vocabulary does.
    Collisions,
    /// The file wants a BOS or EOS token added and does not say which.
    NoSuchSpecial {
        /// The metadata key that is missing.
        key: &'static str,
    },
    /// The bytes are not UTF-8.
    InvalidUtf8 {
        /// Where the first wrong byte is.
        at: usize,
    },
    /// The text is longer than 1 GiB.
    TextTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The id is outside the vocabulary.
    UnknownToken {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab_size: usize,
    },
}

impl fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            TokenizerError::Missing { key } => write!(f, "the file has no `{key}`: is it a language model?"),
            TokenizerError::Gguf(error) => error.fmt(f),
            TokenizerError::WrongType { key } => {
                write!(f, "`{key}` has an unexpected type; convert the model again")
            }
            TokenizerError::TooShort { key, entries } => {
                write!(f, "`{key}` has only {entries} entries, fewer than there are tokens")
            }
            TokenizerError::UnknownModel { name } => {
                write!(f, "tokenizer model {name} is not supported; `gpt2` and `llama` are")
            }
            TokenizerError::UnknownPreTokenizer { name } => {
                write!(
                    f,
                    "pre-tokenizer {name} is not supported; gpt-2, smollm, llama-bpe, qwen2 and default are"
                )
            }
            TokenizerError::VocabularySize { tokens } => {
                write!(f, "a vocabulary of {tokens} tokens cannot be used")
            }
            TokenizerError::TooManyMerges { merges } => {
                write!(f, "{merges} merges are more than can be numbered")
            }
            TokenizerError::DuplicateToken { first, second } => {
                write!(f, "tokens {first} and {second} have the same text; convert the model again")
            }
            TokenizerError::ScoreNotANumber { token } => {
                write!(f, "the score of token {token} is not a number")
            }
            TokenizerError::Collisions => {
                write!(f, "the vocabulary's texts collide; the file is broken or hostile")
            }
            TokenizerError::NoSuchSpecial { key } => {
                write!(f, "the file asks for a token to be added, but `{key}` names none")
            }
            TokenizerError::InvalidUtf8 { at } => {
                write!(f, "the text is not UTF-8 at byte {at}; convert it to UTF-8 first")
            }
            TokenizerError::TextTooLong { bytes } => {
                write!(f, "a text of {bytes} bytes is too long; encode it in parts of up to {MAX_TEXT} bytes")
            }
            TokenizerError::UnknownToken { id, vocab_size } => {
                write!(f, "token {id} does not exist; ids are below {vocab_size}")
            }
        }
    }
}

impl core::error::Error for TokenizerError {}

impl From<GgufError> for TokenizerError {
    fn from(error: GgufError) -> Self {
        TokenizerError::Gguf(error)
    }
}

/// Longest text of one call: three times as much is still numbered by 32 bits.
const MAX_TEXT: usize = 1 << 30;

/// How words become tokens.
pub enum Merging {
    /// `tokenizer.ggml.model = gpt2`.
    Bytes {
        /// How texts are cut into words.
        pre: PreTokenizer,
        /// The merges inside a word.
        bpe: bpe::Bpe,
    },
    /// `tokenizer.ggml.model = llama`.
    SentencePiece(spm::Spm),
}

/// The tokens with a role, and whether texts get them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn of a chat, where the file says so.
    pub eot: Option<u32>,
    /// Ends a message that expects an answer by a tool, where the file says so.
    pub eom: Option<u32>,
    /// Padding of fill-in-the-middle prompts; llama.cpp stops at it.
    pub fim_pad: Option<u32>,
    /// Names a repository in such prompts; llama.cpp stops at it.
    pub fim_rep: Option<u32>,
    /// Separates files in such prompts; llama.cpp stops at it.
    pub fim_sep: Option<u32>,
    /// The model was trained with BOS before every text.
    pub add_bos: bool,
    /// The model was trained with EOS after every text.
    pub add_eos: bool,
}

/// Turns text into the ids of one vocabulary, and ids into text.
pub struct Tokenizer<'a> {
    vocab: Vocab<'a>,
    merging: Merging,
    specials: Specials,
    roles: Roles,
    /// Ascending.
    end_of_generation: Vec<u32>,
}

impl<'a> Tokenizer<'a> {
    /// Puts a tokenizer together. Tokens that llama.cpp knows by their text to end a generation do so here, and
    /// count as control tokens.
    pub fn new(mut vocab: Vocab<'a>, merging: Merging, roles: Roles) -> Result<Self, TokenizerError> {
        if roles.add_bos && roles.bos.is_none() {
            return Err(TokenizerError::NoSuchSpecial { key: "tokenizer.ggml.bos_token_id" });
        }
        if roles.add_eos && roles.eos.is_none() {
            return Err(TokenizerError::NoSuchSpecial { key: "tokenizer.ggml.eos_token_id" });
        }
        let end_of_generation = end_of_generation::decide(&mut vocab, &roles);
        let specials = Specials::new(&vocab);
        Ok(Tokenizer { vocab, merging, specials, roles, end_of_generation })
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token table.
    pub fn vocab(&self) -> &Vocab<'a> {
        &self.vocab
    }

    /// The token that begins a text, if the vocabulary has one.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// The token that ends a text, if the vocabulary has one.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// True if the model expects [`Tokenizer::bos`] before a text. Encoding does not put it there.
    pub fn adds_bos(&self) -> bool {
        self.roles.add_bos
    }

    /// True if the model expects [`Tokenizer::eos`] after a text. Encoding does not put it there.
    pub fn adds_eos(&self) -> bool {
        self.roles.add_eos
    }

    /// True if a text, and what follows a special token, gets a space in front when encoded.
    pub fn adds_space_prefix(&self) -> bool {
        matches!(&self.merging, Merging::SentencePiece(spm) if spm.space_prefix())
    }

    /// True for the tokens after which nothing more is to be generated: EOS, end of turn, `<|im_end|>` and so on.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }

    /// All such tokens, ascending.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// The token whose text in the file is `piece`: `<|im_end|>`, or `Ġthe` for " the" of a byte-level vocabulary.
    pub fn token_to_id(&self, piece: &[u8]) -> Option<u32> {
        self.vocab.find(piece)
    }

    /// The bytes a token stands for: for special tokens the text they are written with.
    pub fn token_bytes(&self, id: u32) -> Option<TokenBytes<'a>> {
        let text = self.vocab.text(id)?;
        let kind = self.vocab.kind(id)?;
        if kind == TokenKind::Byte
            && let Some(&[high, low]) = text.strip_prefix(b"<0x").and_then(|rest| rest.strip_suffix(b">"))
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            return Some(TokenBytes::one(high << 4 | low));
        }
        Some(TokenBytes::new(
            text,
            match (kind, &self.merging) {
                (TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined, _) => Spelling::Plain,
                (_, Merging::Bytes { .. }) => Spelling::Alphabet,
                (_, Merging::SentencePiece(_)) => Spelling::Spaces,
            },
        ))
    }

    /// True for control and unknown tokens: those that are no text.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// How texts are cut before merging. SentencePiece vocabularies merge whole texts and name no pre-tokenizer.
    pub fn pre_tokenizer(&self) -> Option<PreTokenizer> {
        match &self.merging {
            Merging::Bytes { pre, .. } => Some(*pre),
            Merging::SentencePiece(_) => None,
        }
    }

    /// `gpt2` or `llama`, as files call the two kinds of vocabulary.
    pub fn model_name(&self) -> &'static str {
        match &self.merging {
            Merging::Bytes { .. } => "gpt2",
            Merging::SentencePiece(_) => "llama",
        }
    }

    /// Bytes this tokenizer holds on the heap.
    pub fn heap_bytes(&self) -> usize {
        let merging = match &self.merging {
            Merging::Bytes { bpe, .. } => bpe.heap_bytes(),
            Merging::SentencePiece(spm) => spm.heap_bytes(),
        };
        self.vocab.heap_bytes() + merging + self.specials.heap_bytes()
    }

    /// Appends the ids of `text` to `out`; no BOS, no EOS.
    ///
    /// Allocates only if `encoder` was made for shorter texts or `out` has no room: an id stands for a byte at
    /// least, three of them (`▁`) before each space of a SentencePiece vocabulary that lacks `▁`.
    pub fn encode(
        &self,
        encoder: &mut Encoder,
        text: &str,
        special: Special,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        if text.len() > MAX_TEXT {
            return Err(TokenizerError::TextTooLong { bytes: text.len() });
        }
        let Encoder { merger, escaped, marks } = encoder;
        merger.steps = 0;
        if !self.specials.mark(&self.vocab, text.as_bytes(), special == Special::Parse, marks) {
            self.encode_fragment(merger, escaped, text, true, out);
            return Ok(());
        }
        let mut after_special = true;
        for fragment in special::fragments(text, marks) {
            match fragment {
                Fragment::Token(id) => out.push(id),
                Fragment::Text(text) => self.encode_fragment(merger, escaped, text, after_special, out),
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        Ok(())
    }

    /// As [`Tokenizer::encode`], for bytes that should be UTF-8.
    pub fn encode_bytes(
        &self,
        encoder: &mut Encoder,
        bytes: &[u8],
        special: Special,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let text = core::str::from_utf8(bytes)
            .map_err(|error| TokenizerError::InvalidUtf8 { at: error.valid_up_to() })?;
        self.encode(encoder, text, special, out)
    }

    /// The ids of `text`, where allocating is no matter.
    pub fn encode_to_vec(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        let mut out = Vec::new();
        self.encode(&mut Encoder::default(), text, special, &mut out)?;
        Ok(out)
    }

    /// The text of `ids` that open a text. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode_to_string(&self, ids: &[u32], special: SpecialText) -> Result<String, TokenizerError> {
        let mut decoder = StreamDecoder::at_text_start(self).with_special(special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(decoder.push(self, id)?);
        }
        text.push_str(decoder.finish());
        Ok(text)
    }

    fn encode_fragment(
        &self,
        merger: &mut Merger,
        escaped: &mut Vec<u8>,
        text: &str,
        at_start: bool,
        out: &mut Vec<u32>,
    ) {
        match &self.merging {
            // llama.cpp gives nothing for an empty text, not the prefix alone.
            _ if text.is_empty() => {}
            Merging::Bytes { pre, bpe } => {
                for word in pre.words(text) {
                    bpe.encode(&self.vocab, merger, word.as_bytes(), out);
                }
            }
            Merging::SentencePiece(spm) => spm.encode(&self.vocab, merger, escaped, text, at_start, out),
        }
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Scratch of encoding, reused from text to text.
#[derive(Debug, Default)]
pub struct Encoder {
    merger: Merger,
    escaped: Vec<u8>,
    marks: Vec<u32>,
}

impl Encoder {
    /// Room for texts of up to `max_text_bytes`, whatever they hold: about 59 times as many bytes of memory.
    pub fn with_capacity(max_text_bytes: usize) -> Self {
        Encoder {
            // A SentencePiece text may start with a space of its own.
            merger: Merger::with_capacity(max_text_bytes + 1),
            escaped: Vec::with_capacity((max_text_bytes + 1) * spm::SPACE.len()),
            marks: Vec::with_capacity(max_text_bytes),
        }
    }

    /// How much work the last call was: symbols looked at and pairs handled. For a text of `n` bytes at most
    /// `20 n`, whatever it holds.
    pub fn steps(&self) -> u64 {
        self.merger.steps
    }
}
