//! Special tokens written in a text: which stretches of it are such tokens.
//!
//! llama.cpp looks for the longest special token everywhere first, then for the next, each in what is left of the
//! text. That is what this does, in one walk that finds the tokens that occur at all and one more for each of them.

use alloc::vec::Vec;

use super::vocab::{TokenKind, Vocab};
use crate::llm::sort;

/// The special tokens of a vocabulary.
pub struct Specials {
    /// Ids in byte order of their texts.
    sorted: Vec<u32>,
    /// Where in `sorted` the texts that start with each byte begin; the last entry is the end.
    first_byte: [u32; 257],
    /// Whether any text starts with each byte.
    starts: [bool; 256],
    /// For each place in `sorted` its turn: the longest text has turn 0.
    turns: Vec<u32>,
    /// Places in `sorted` by turn.
    by_turn: Vec<u32>,
}

/// Turns that occur in a text; those beyond the bits share them.
const TURN_BITS: usize = 1024;

/// A byte inside a special token (not its first).
const INSIDE: u32 = u32::MAX - 1;
/// A byte of plain text.
const PLAIN: u32 = u32::MAX;

impl Specials {
    /// Collects the control, unknown and user-defined tokens.
    pub fn new(vocab: &Vocab<'_>) -> Self {
        let is_special = |id: &u32| {
            let kind = vocab.kind(*id);
            let special =
                matches!(kind, Some(TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined));
            special && !vocab.any_text(*id).is_empty()
        };
        let mut sorted: Vec<u32> = (0..vocab.len() as u32).filter(is_special).collect();
        sort::by(&mut sorted, &|a, b| vocab.any_text(a) < vocab.any_text(b));
        let first_byte = core::array::from_fn(|byte| {
            sorted.partition_point(|&id| usize::from(vocab.any_text(id)[0]) < byte) as u32
        });
        let mut by_turn: Vec<u32> = (0..sorted.len() as u32).collect();
        let turn = |place: u32| {
            let id = sorted[place as usize];
            (core::cmp::Reverse(vocab.any_text(id).len()), id)
        };
        sort::by(&mut by_turn, &|a, b| turn(a) < turn(b));
        let mut turns = alloc::vec![0; sorted.len()];
        for (turn, &place) in by_turn.iter().enumerate() {
            turns[place as usize] = turn as u32;
        }
        let starts = core::array::from_fn(|byte| first_byte[byte] < first_byte[byte + 1]);
        Specials { sorted, first_byte, starts, turns, by_turn }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        (self.sorted.capacity() + self.turns.capacity() + self.by_turn.capacity()) * size_of::<u32>()
    }

    /// Fills `marks` with one entry a byte of text: at the first byte of a special token its id. False, and
    /// `marks` left as it was, if the text holds none. Control and unknown tokens count only when `parse`.
    pub(super) fn mark(&self, vocab: &Vocab<'_>, text: &[u8], parse: bool, marks: &mut Vec<u32>) -> bool {
        if self.sorted.is_empty() {
            return false;
        }
        let counts = |id: u32| parse || vocab.kind(id) == Some(TokenKind::UserDefined);
        let mut occurs = [0u64; TURN_BITS / 64];
        let mut any = false;
        let mut from = 0;
        while let Some(ahead) = text[from..].iter().position(|&byte| self.starts[usize::from(byte)]) {
            let start = from + ahead;
            from = start + 1;
            self.matches_at(vocab, &text[start..], |place| {
                if counts(self.sorted[place]) {
                    let bit = self.turns[place] as usize % TURN_BITS;
                    occurs[bit / 64] |= 1 << (bit % 64);
                    any = true;
                }
            });
        }
        if !any {
            return false;
        }
        marks.clear();
        marks.resize(text.len(), PLAIN);
        for (turn, &place) in self.by_turn.iter().enumerate() {
            let bit = turn % TURN_BITS;
            let id = self.sorted[place as usize];
            if occurs[bit / 64] >> (bit % 64) & 1 == 0 || !counts(id) {
                continue;
            }
            let token = vocab.any_text(id);
            let Some(last_start) = text.len().checked_sub(token.len()) else { continue };
            let mut start = 0;
            while start <= last_start {
                let Some(ahead) = text[start..=last_start].iter().position(|&byte| byte == token[0]) else {
                    break;
                };
                start += ahead;
                // What is taken already is at least as long as this token: it cannot lie inside it.
                let free = marks[start] == PLAIN && marks[start + token.len() - 1] == PLAIN;
                if free && text[start..].starts_with(token) {
                    marks[start..start + token.len()].fill(INSIDE);
                    marks[start] = id;
                    start += token.len();
                } else {
                    start += 1;
                }
            }
        }
        true
    }

    /// Calls `found` with the place of every special token that `text` starts with.
    fn matches_at(&self, vocab: &Vocab<'_>, text: &[u8], mut found: impl FnMut(usize)) {
        let first = usize::from(text[0]);
        let mut low = self.first_byte[first] as usize;
        let mut high = self.first_byte[first + 1] as usize;
        let mut depth = 1;
        while low < high {
            if low + 1 == high {
                if text.starts_with(vocab.any_text(self.sorted[low])) {
                    found(low);
                }
                return;
            }
            // All of low..high start with text[..depth]; the shortest is the first.
            if vocab.any_text(self.sorted[low]).len() == depth {
                found(low);
                low += 1;
            }
            let Some(&byte) = text.get(depth) else { return };
            let range = &self.sorted[low..high];
            let from = range.partition_point(|&id| vocab.any_text(id)[depth] < byte);
            let to = range.partition_point(|&id| vocab.any_text(id)[depth] <= byte);
            (low, high) = (low + from, low + to);
            depth += 1;
        }
    }
}

/// A stretch of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

/// Cuts a marked text into its fragments.
pub(super) fn fragments<'t>(text: &'t str, marks: &[u32]) -> impl Iterator<Item = Fragment<'t>> {
    let mut start = 0;
    core::iter::from_fn(move || {
        let &mark = marks.get(start)?;
        let from = start;
        start += 1;
        if mark == PLAIN {
            start += marks[start..].iter().take_while(|&&mark| mark == PLAIN).count();
            Some(Fragment::Text(&text[from..start]))
        } else {
            start += marks[start..].iter().take_while(|&&mark| mark == INSIDE).count();
            Some(Fragment::Token(mark))
        }
    })
}
