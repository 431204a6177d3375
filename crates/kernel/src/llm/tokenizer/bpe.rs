//! Byte-level BPE: every byte is a symbol, pairs merge in the order of the file's merge list.
//!
//! Files write bytes as printable characters ("the byte alphabet" of GPT-2): `!`..`~`, `¡`..`¬` and `®`..`ÿ` stand
//! for themselves, the other 68 bytes are U+0100.. in order. Texts are never rewritten to it: a byte leads to its
//! symbol by a table, pairs of symbols to their merge by a hash table over ids, and most words to their one token by a
//! hash table over bytes.

use alloc::vec::Vec;
use core::ops::Range;

use super::TokenizerError;
use super::merge::{Merger, NONE, Rule, Symbol};
use super::vocab::{Hash, MAX_PROBES, Vocab};

/// Bytes that stand for themselves in the byte alphabet.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The code point that stands for each byte.
const ALPHABET: [u16; 256] = {
    let mut alphabet = [0; 256];
    let (mut byte, mut others) = (0, 0);
    while byte < 256 {
        if is_printable(byte as u8) {
            alphabet[byte] = byte as u16;
        } else {
            alphabet[byte] = 256 + others;
            others += 1;
        }
        byte += 1;
    }
    alphabet
};

/// The byte of each code point below 256 + 68; `None` for those outside the alphabet.
static BYTES: [Option<u8>; 256 + 68] = {
    let mut bytes = [None; 256 + 68];
    let mut byte = 0;
    while byte < 256 {
        bytes[ALPHABET[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
};

/// The UTF-8 of a byte's character: one or two bytes.
fn spelled(byte: u8, buffer: &mut [u8; 2]) -> &[u8] {
    let code = ALPHABET[byte as usize];
    if code < 128 {
        buffer[0] = code as u8;
        &buffer[..1]
    } else {
        *buffer = [0xc0 | (code >> 6) as u8, 0x80 | (code & 0x3f) as u8];
        buffer
    }
}

/// The byte that the character at the start of `text` stands for, and how many bytes the character has.
/// A character outside the alphabet has no byte.
pub(super) fn unspelled(text: &[u8]) -> (Option<u8>, usize) {
    match *text {
        [one, ..] if one < 128 => (BYTES[one as usize], 1),
        [lead, trail, ..] if lead >> 5 == 0b110 && trail >> 6 == 0b10 => {
            let code = usize::from(lead & 0x1f) << 6 | usize::from(trail & 0x3f);
            (BYTES.get(code).copied().flatten(), 2)
        }
        _ => (None, 1),
    }
}

#[derive(Clone, Copy)]
struct Merge {
    pair: u64,
    rank: u32,
    merged: u32,
}

const FREE: Merge = Merge { pair: u64::MAX, rank: 0, merged: 0 };

/// The key of a pair of symbols. Ids are below `i32::MAX`, so none is that of a free place.
fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// The merges of a vocabulary.
pub struct Bpe {
    /// The symbol of each byte; one that is no token is a ghost of the vocabulary.
    byte_symbols: [u32; 256],
    /// Open addressing with linear probing, at most half full.
    merges: Vec<Merge>,
    merge_bits: u32,
    /// Tokens that a word is when it is spelled like them, so that nothing is merged: those that merging gives, or all
    /// where a word that is a token as it stands is that token, whatever the merges say. By the hash of the word, open
    /// addressing with linear probing, at most half full; `NONE` or an id.
    words: Vec<u32>,
    word_bits: u32,
}

/// Tokens of more bytes are found by merging.
const LONGEST_WORD: usize = 32;

impl Bpe {
    /// Reads the merge list of `count` lines: `left right` in order of priority, the first of equal pairs counts. Lines without two
    /// halves can never apply and are passed over, as llama.cpp does.
    pub fn new<'m>(
        vocab: &mut Vocab<'_>,
        merges: impl Iterator<Item = &'m [u8]>,
        count: usize,
        whole_words: bool,
    ) -> Result<Self, TokenizerError> {
        let mut byte_symbols = [0; 256];
        for byte in 0..=255 {
            byte_symbols[byte as usize] = vocab.intern(spelled(byte, &mut [0; 2]), b"")?;
        }
        if count >= i32::MAX as usize {
            return Err(TokenizerError::TooManyMerges { merges: count });
        }
        let merge_bits = (count * 2).next_power_of_two().trailing_zeros().max(4);
        let mut bpe = Bpe {
            byte_symbols,
            merges: alloc::vec![FREE; 1 << merge_bits],
            merge_bits,
            words: Vec::new(),
            word_bits: 0,
        };
        for (rank, line) in merges.take(count).enumerate() {
            // A half may start with a space, so the separator is looked for from the second byte on.
            let Some(space) = line.iter().skip(1).position(|&byte| byte == b' ') else { continue };
            let (left, right) = (&line[..space + 1], &line[space + 2..]);
            if right.is_empty() {
                continue;
            }
            let pair = key(vocab.intern(left, b"")?, vocab.intern(right, b"")?);
            let merged = vocab.intern(left, right)?;
            let mask = bpe.merges.len() - 1;
            let mut slot = bpe.slot(pair);
            let mut probes = 0;
            loop {
                let found = bpe.merges[slot];
                if found.pair == FREE.pair {
                    bpe.merges[slot] = Merge { pair, rank: rank as u32, merged };
                    break;
                }
                if found.pair == pair {
                    break;
                }
                slot = (slot + 1) & mask;
                probes += 1;
                if probes == MAX_PROBES {
                    return Err(TokenizerError::Collisions);
                }
            }
        }
        bpe.find_words(vocab, whole_words)?;
        Ok(bpe)
    }

    /// Fills the table of words.
    fn find_words(&mut self, vocab: &Vocab<'_>, all: bool) -> Result<(), TokenizerError> {
        let (mut merger, mut word) = (Merger::default(), Vec::new());
        let word_bits = (vocab.len() * 2).next_power_of_two().trailing_zeros().max(4);
        let mut words = alloc::vec![NONE; 1 << word_bits];
        for id in 0..vocab.len() as u32 {
            word.clear();
            let mut rest = vocab.any_text(id);
            while let (Some(byte), length) = unspelled(rest) {
                word.push(byte);
                rest = &rest[length..];
            }
            if !rest.is_empty() || word.is_empty() {
                continue; // no word is spelled like this
            }
            if !all {
                if word.len() > LONGEST_WORD {
                    continue;
                }
                self.merge(&mut merger, &word);
                if !matches!(merger.symbols[..], [Symbol { id: only, .. }] if only == id) {
                    continue;
                }
            }
            let slot = Hash::new().with(&word).slot(word_bits);
            let mut slots = (slot..words.len()).chain(0..slot).take(MAX_PROBES);
            let free = slots.find(|&slot| words[slot] == NONE).ok_or(TokenizerError::Collisions)?;
            words[free] = id;
        }
        (self.words, self.word_bits) = (words, word_bits);
        Ok(())
    }

    /// The token that a word is, if the table has one.
    fn find_word(&self, vocab: &Vocab<'_>, word: &[u8]) -> Option<u32> {
        if word.len() > vocab.longest() {
            return None;
        }
        let mask = self.words.len() - 1;
        let mut slot = Hash::new().with(word).slot(self.word_bits);
        loop {
            let id = self.words[slot];
            if id == NONE || is_spelled(word, vocab.any_text(id)) {
                return (id != NONE).then_some(id);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Merges the symbols of `word` in `merger`.
    fn merge(&self, merger: &mut Merger, word: &[u8]) {
        merger.symbols.clear();
        self.symbols(&mut merger.symbols, word);
        merger.merge(self);
    }

    /// The symbols of a word's bytes.
    #[inline]
    fn symbols(&self, symbols: &mut Vec<Symbol>, word: &[u8]) {
        symbols.extend(word.iter().map(|&byte| Symbol::new(self.byte_symbols[byte as usize], 0, 1)));
    }

    /// Appends the ids of one word.
    pub(super) fn encode(&self, vocab: &Vocab<'_>, merger: &mut Merger, word: &[u8], out: &mut Vec<u32>) {
        if let Some(id) = self.find_word(vocab, word) {
            out.push(id);
            return;
        }
        let fill = |symbols: &mut Vec<Symbol>, range: Range<usize>| self.symbols(symbols, &word[range]);
        merger.merge_text(self, word.len(), fill, |id| {
            if (id as usize) < vocab.len() {
                out.push(id);
                return;
            }
            // No token: its bytes as they are spelled, those that are tokens. (llama.cpp looks up single bytes of
            // the UTF-8 here, so a letter outside ASCII gives nothing.)
            for byte in vocab.any_text(id) {
                out.extend(vocab.find(core::slice::from_ref(byte)));
            }
        });
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.merges.capacity() * size_of::<Merge>() + self.words.capacity() * size_of::<u32>()
    }

    #[inline]
    fn slot(&self, pair: u64) -> usize {
        // A multiplicative hash of both ids: the right one's upper product bits plus the left one's lower ones.
        (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - self.merge_bits)) as usize
    }
}

impl Rule for Bpe {
    #[inline]
    fn pair(&self, left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
        let mask = self.merges.len() - 1;
        let pair = key(left.id, right.id);
        let mut slot = self.slot(pair);
        loop {
            let merge = &self.merges[slot];
            if merge.pair == pair {
                return Some((merge.rank, merge.merged));
            }
            if merge.pair == FREE.pair {
                return None;
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// Whether `text` is `word` in the byte alphabet.
fn is_spelled(word: &[u8], text: &[u8]) -> bool {
    let mut rest = text;
    for &byte in word {
        // Of the two kinds of bytes that stand for themselves, the one whose character is a byte.
        rest = match *rest {
            [one, ref after @ ..] if byte.is_ascii_graphic() && one == byte => after,
            [lead, trail, ref after @ ..] if !byte.is_ascii_graphic() => {
                if [lead, trail] != *spelled(byte, &mut [0; 2]) {
                    return false;
                }
                after
            }
            _ => return false,
        };
    }
    rest.is_empty()
}
