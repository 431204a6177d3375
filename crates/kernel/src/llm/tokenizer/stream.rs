//! From ids back to text.

use alloc::string::String;

use super::vocab::TokenKind;
use super::{Tokenizer, TokenizerError, bpe, spm};

/// Whether control and unknown tokens show as the text they are written with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpecialText {
    /// They are no text.
    #[default]
    Hide,
    /// `<|im_end|>` and the like appear.
    Show,
}

static ALL_BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        bytes[byte] = byte as u8;
        byte += 1;
    }
    bytes
};

/// The bytes a token stands for.
#[derive(Clone, Debug)]
pub struct TokenBytes<'t> {
    rest: &'t [u8],
    spelling: Spelling,
    /// So many bytes of `rest` are to be given as they are.
    literal: usize,
}

/// How token texts write bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As they are.
    Plain,
    /// In the byte alphabet.
    Alphabet,
    /// `▁` is a space.
    Spaces,
}

impl<'t> TokenBytes<'t> {
    pub(super) fn new(rest: &'t [u8], spelling: Spelling) -> Self {
        TokenBytes { rest, spelling, literal: 0 }
    }

    /// A byte token.
    pub(super) fn one(byte: u8) -> Self {
        TokenBytes { rest: &ALL_BYTES[usize::from(byte)..][..1], spelling: Spelling::Plain, literal: 0 }
    }

    fn take_one(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }
}

impl Iterator for TokenBytes<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        if self.literal > 0 {
            self.literal -= 1;
            return self.take_one();
        }
        match self.spelling {
            Spelling::Plain => self.take_one(),
            Spelling::Alphabet if !self.rest.is_empty() => {
                let (byte, length) = bpe::unspelled(self.rest);
                if byte.is_none() {
                    // Outside the alphabet: the character itself.
                    self.literal = length - 1;
                    return self.take_one();
                }
                self.rest = &self.rest[length..];
                byte
            }
            Spelling::Alphabet => None,
            Spelling::Spaces => match self.rest.strip_prefix(spm::SPACE) {
                Some(rest) => {
                    self.rest = rest;
                    Some(b' ')
                }
                None => self.take_one(),
            },
        }
    }
}

/// Turns ids into text one at a time, never half a character.
///
/// A token may end inside a character; its bytes wait for the next token. Bytes that can be no UTF-8 become U+FFFD.
/// All memory is allocated by [`StreamDecoder::new`].
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    text: String,
    /// The start of a character, valid as far as it goes.
    pending: [u8; 4],
    pending_length: usize,
    special: SpecialText,
    /// Drop a space that opens the next token's text.
    strip_space: bool,
}

impl StreamDecoder {
    /// For ids that go on a text, such as generated ones: a leading space is kept, special tokens are hidden.
    pub fn new(tokenizer: &Tokenizer<'_>) -> Self {
        // Each byte may become a U+FFFD, and up to three have been waiting.
        let capacity = (tokenizer.vocab().longest() + 3) * 3;
        StreamDecoder {
            text: String::with_capacity(capacity),
            pending: [0; 4],
            pending_length: 0,
            special: SpecialText::Hide,
            strip_space: false,
        }
    }

    /// For ids that open a text: a SentencePiece vocabulary's own leading space is dropped.
    pub fn at_text_start(tokenizer: &Tokenizer<'_>) -> Self {
        StreamDecoder { strip_space: tokenizer.adds_space_prefix(), ..StreamDecoder::new(tokenizer) }
    }

    /// Says whether special tokens show.
    pub fn with_special(mut self, special: SpecialText) -> Self {
        self.special = special;
        self
    }

    /// The text that this token completes; empty if it ends inside its first character or is hidden.
    pub fn push(&mut self, tokenizer: &Tokenizer<'_>, id: u32) -> Result<&str, TokenizerError> {
        self.text.clear();
        let out_of_range = TokenizerError::UnknownToken { id, vocab_size: tokenizer.vocab_size() };
        let kind = tokenizer.vocab().kind(id).ok_or(out_of_range)?;
        let hidden = match kind {
            TokenKind::Control | TokenKind::Unknown => self.special == SpecialText::Hide,
            TokenKind::Unused | TokenKind::Undefined => true,
            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte => false,
        };
        if !hidden {
            let mut bytes = tokenizer.token_bytes(id).ok_or(out_of_range)?.peekable();
            if self.strip_space {
                bytes.next_if_eq(&b' ');
            }
            self.strip_space = false;
            for byte in bytes {
                self.push_byte(byte);
            }
        }
        Ok(&self.text)
    }

    /// Ends the text: U+FFFD if it stopped inside a character, else nothing. The decoder can then be used again.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if self.pending_length > 0 {
            self.pending_length = 0;
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        &self.text
    }

    fn push_byte(&mut self, byte: u8) {
        self.pending[self.pending_length] = byte;
        self.pending_length += 1;
        while self.pending_length > 0 {
            let pending = &self.pending[..self.pending_length];
            match core::str::from_utf8(pending) {
                Ok(text) => {
                    self.text.push_str(text);
                    self.pending_length = 0;
                }
                // The first bytes can be no character; the rest may start one.
                Err(error) => match error.error_len() {
                    Some(wrong) => {
                        self.text.push(char::REPLACEMENT_CHARACTER);
                        self.pending.copy_within(wrong..self.pending_length, 0);
                        self.pending_length -= wrong;
                    }
                    None => return,
                },
            }
        }
    }
}
