//! The token table: texts, kinds, and the way from a text to its id.

use alloc::vec::Vec;

use super::TokenizerError;

/// What a token is for, as `tokenizer.ggml.token_type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what has no token.
    Unknown,
    /// Steers the model and is no text: begin, end, roles.
    Control,
    /// Text that is found before anything else is cut.
    UserDefined,
    /// A place without a use.
    Unused,
    /// One byte, written `<0xXX>`.
    Byte,
    /// Of a type this reader does not know.
    Undefined,
}

impl TokenKind {
    /// The kind of a number in `tokenizer.ggml.token_type`.
    pub const fn from_id(id: i32) -> Self {
        match id {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => TokenKind::Undefined,
        }
    }
}

/// A probe longer than this means texts chosen to collide: at half load chance gives some dozens.
pub(super) const MAX_PROBES: usize = 2048;

/// FNV-1a, 64 bits: streams, so that two halves hash as the whole they make.
#[derive(Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) const fn new() -> Self {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    pub(super) fn with(mut self, bytes: &[u8]) -> Self {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    /// A slot of a table of `1 << bits`.
    pub(super) fn slot(self, bits: u32) -> usize {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as usize
    }
}

/// Texts by id and ids by text.
///
/// Ids below `len()` are the file's tokens. Merges may name texts that are no token; these get ids from `len()` on
/// and are called ghosts: they take part in merging and are never given out.
pub struct Vocab<'a> {
    texts: Vec<&'a [u8]>,
    kinds: Vec<TokenKind>,
    /// Texts of the ghosts one after the other, and where each ends.
    ghost_bytes: Vec<u8>,
    ghost_ends: Vec<usize>,
    /// Open addressing with linear probing, at most half full; `EMPTY` or an id.
    slots: Vec<u32>,
    slot_bits: u32,
    longest: usize,
}

const EMPTY: u32 = u32::MAX;

impl<'a> Vocab<'a> {
    /// Builds the table. Tokens beyond the end of `kinds` are normal; empty texts are never found.
    pub fn new(texts: Vec<&'a [u8]>, kinds: Vec<TokenKind>) -> Result<Self, TokenizerError> {
        if texts.is_empty() || texts.len() > i32::MAX as usize {
            return Err(TokenizerError::VocabularySize { tokens: texts.len() });
        }
        let mut kinds = kinds;
        kinds.resize(texts.len(), TokenKind::Normal);
        let slot_bits = (texts.len() * 2).next_power_of_two().trailing_zeros().max(4);
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut vocab = Vocab {
            texts,
            kinds,
            ghost_bytes: Vec::new(),
            ghost_ends: Vec::new(),
            slots: alloc::vec![EMPTY; 1 << slot_bits],
            slot_bits,
            longest,
        };
        for id in 0..vocab.texts.len() {
            let text = vocab.texts[id];
            if text.is_empty() {
                continue;
            }
            match vocab.probe(Hash::new().with(text), |other| other == text)? {
                Slot::Free(slot) => vocab.slots[slot] = id as u32,
                Slot::Taken(first) => {
                    return Err(TokenizerError::DuplicateToken { first, second: id as u32 });
                }
            }
        }
        Ok(vocab)
    }

    /// Number of tokens in the file.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Never true: a vocabulary without tokens is refused.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Bytes of the longest token text.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The token's text as the file has it.
    pub fn text(&self, id: u32) -> Option<&'a [u8]> {
        self.texts.get(id as usize).copied()
    }

    /// The token's kind; ids outside the vocabulary have none.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        self.kinds[id as usize] = kind;
    }

    /// The token with exactly this text.
    pub fn find(&self, text: &[u8]) -> Option<u32> {
        match self.probe(Hash::new().with(text), |other| other == text) {
            Ok(Slot::Taken(id)) if (id as usize) < self.texts.len() => Some(id),
            _ => None,
        }
    }

    /// The id of a token or ghost whose text is `left` followed by `right`; a new ghost if there is none.
    pub(super) fn intern(&mut self, left: &[u8], right: &[u8]) -> Result<u32, TokenizerError> {
        let hash = Hash::new().with(left).with(right);
        let same = |other: &[u8]| {
            other.len() == left.len() + right.len()
                && other[..left.len()] == *left
                && other[left.len()..] == *right
        };
        match self.probe(hash, same)? {
            Slot::Taken(id) => Ok(id),
            Slot::Free(slot) => {
                let id = self.texts.len() + self.ghost_ends.len();
                if id >= i32::MAX as usize {
                    return Err(TokenizerError::VocabularySize { tokens: id });
                }
                self.ghost_bytes.extend_from_slice(left);
                self.ghost_bytes.extend_from_slice(right);
                self.ghost_ends.push(self.ghost_bytes.len());
                self.slots[slot] = id as u32;
                if (id + 1) * 2 > self.slots.len() {
                    self.grow()?;
                }
                Ok(id as u32)
            }
        }
    }

    /// The text of a ghost, or of a token.
    pub(super) fn any_text(&self, id: u32) -> &[u8] {
        match (id as usize).checked_sub(self.texts.len()) {
            None => self.texts[id as usize],
            Some(ghost) => {
                let start = if ghost == 0 { 0 } else { self.ghost_ends[ghost - 1] };
                &self.ghost_bytes[start..self.ghost_ends[ghost]]
            }
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.texts.capacity() * size_of::<&[u8]>()
            + self.kinds.capacity()
            + self.ghost_bytes.capacity()
            + self.ghost_ends.capacity() * size_of::<usize>()
            + self.slots.capacity() * size_of::<u32>()
    }

    fn probe(&self, hash: Hash, same: impl Fn(&[u8]) -> bool) -> Result<Slot, TokenizerError> {
        let mask = self.slots.len() - 1;
        let mut slot = hash.slot(self.slot_bits);
        for _ in 0..MAX_PROBES.min(self.slots.len()) {
            match self.slots[slot] {
                EMPTY => return Ok(Slot::Free(slot)),
                id if same(self.any_text(id)) => return Ok(Slot::Taken(id)),
                _ => slot = (slot + 1) & mask,
            }
        }
        Err(TokenizerError::Collisions)
    }

    fn grow(&mut self) -> Result<(), TokenizerError> {
        self.slot_bits += 1;
        self.slots = alloc::vec![EMPTY; 1 << self.slot_bits];
        for id in 0..(self.texts.len() + self.ghost_ends.len()) as u32 {
            if self.any_text(id).is_empty() {
                continue;
            }
            let hash = Hash::new().with(self.any_text(id));
            if let Slot::Free(slot) = self.probe(hash, |_| false)? {
                self.slots[slot] = id;
            }
        }
        Ok(())
    }
}

enum Slot {
    Free(usize),
    Taken(u32),
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn every_text_is_found_and_others_are_not() {
        let owned: Vec<Vec<u8>> = (0..5000u32).map(|i| alloc::format!("t{i}").into_bytes()).collect();
        let texts: Vec<&[u8]> = owned.iter().map(|text| text.as_slice()).collect();
        let mut vocab = Vocab::new(texts, vec![]).unwrap();
        for (id, text) in owned.iter().enumerate() {
            assert_eq!(vocab.find(text), Some(id as u32));
        }
        assert_eq!(vocab.find(b"t5000"), None);
        assert_eq!(vocab.find(b""), None);

        // Ghosts are interned once, survive growing, and are never found as tokens.
        let ghosts: Vec<u32> =
            (0..9000u32).map(|i| vocab.intern(b"ghost", alloc::format!("{i}").as_bytes()).unwrap()).collect();
        for (i, &id) in ghosts.iter().enumerate() {
            let text = alloc::format!("ghost{i}");
            assert_eq!(id as usize, 5000 + i);
            assert_eq!(vocab.any_text(id), text.as_bytes());
            assert_eq!(vocab.intern(text.as_bytes(), b"").unwrap(), id);
            assert_eq!(vocab.find(text.as_bytes()), None);
        }
        assert_eq!(vocab.intern(b"t1", b"7").unwrap(), 17);
    }

    #[test]
    fn two_tokens_with_one_text_are_refused() {
        let texts: Vec<&[u8]> = vec![b"a", b"b", b"a"];
        assert_eq!(
            Vocab::new(texts, vec![]).err(),
            Some(TokenizerError::DuplicateToken { first: 0, second: 2 })
        );
        assert_eq!(Vocab::new(vec![], vec![]).err(), Some(TokenizerError::VocabularySize { tokens: 0 }));
    }
}
