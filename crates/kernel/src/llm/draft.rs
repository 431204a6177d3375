//! Guesses at the next tokens, to be verified in one pass: prompt lookup.
//!
//! Text repeats itself, code and quotations most of all. The last few ids are looked up among all earlier ones, and
//! what followed them there is the guess (Saxena 2023, "Prompt Lookup Decoding"). No second model, no training, and a
//! wrong guess costs time only: logits are the same bits whatever else is in the batch, so
//! [`generate_with_draft`](super::generate::generate_with_draft) picks exactly the tokens it would pick without.

use alloc::vec::Vec;

/// Longest run of ids that is looked up.
const LONGEST: usize = 4;
/// Shortest run of ids that is looked up; a single id repeats by accident too often.
const SHORTEST: usize = 2;

/// All ids so far, and how many to guess.
pub struct PromptLookup {
    history: Vec<u32>,
    /// Ids to guess at most.
    limit: usize,
}

impl PromptLookup {
    /// No guesses, no memory.
    pub const fn off() -> Self {
        PromptLookup { history: Vec::new(), limit: 0 }
    }

    /// Guesses of up to `limit` ids in texts of up to `context` ids; allocates here and never again. What comes
    /// behind `context` ids is not looked up.
    pub fn new(limit: usize, context: usize) -> Self {
        let context = if limit == 0 { 0 } else { context };
        PromptLookup { history: Vec::with_capacity(context), limit }
    }

    /// Ids guessed at most.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Remembers an id of the text.
    pub fn accept(&mut self, id: u32) {
        if self.history.len() < self.history.capacity() {
            self.history.push(id);
        }
    }

    /// What followed the latest earlier place with the longest run of the present last ids; empty where there is none.
    pub fn guess(&self) -> &[u32] {
        let history = &self.history[..];
        if self.limit == 0 || history.len() <= SHORTEST {
            return &[];
        }
        let (mut best, mut longest) = (0, SHORTEST - 1);
        // `end` is where the earlier run ends and its continuation begins.
        for end in (SHORTEST..history.len()).rev() {
            let run = history[..end].iter().rev().zip(history.iter().rev()).take(LONGEST);
            let length = run.take_while(|(earlier, present)| earlier == present).count();
            if length > longest {
                (best, longest) = (end, length);
                if length == LONGEST {
                    break;
                }
            }
        }
        if longest < SHORTEST {
            return &[];
        }
        &history[best..history.len().min(best + self.limit)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ids: &[u32], limit: usize) -> PromptLookup {
        let mut lookup = PromptLookup::new(limit, 100);
        ids.iter().for_each(|&id| lookup.accept(id));
        lookup
    }

    #[test]
    fn what_followed_before_is_guessed() {
        assert_eq!(after(&[1, 2, 3, 4, 9, 1, 2], 3).guess(), [3, 4, 9]);
        assert_eq!(after(&[1, 2, 3, 4, 9, 1, 2], 1).guess(), [3]);
        assert_eq!(after(&[7, 7, 7], 4).guess(), [7]);
    }

    #[test]
    fn longer_runs_win_then_later_ones() {
        assert_eq!(after(&[5, 1, 2, 30, 8, 1, 2, 31, 5, 1, 2], 1).guess(), [30]);
        assert_eq!(after(&[6, 1, 2, 30, 8, 1, 2, 31, 5, 1, 2], 1).guess(), [31]);
    }

    #[test]
    fn nothing_known_is_no_guess() {
        assert_eq!(after(&[1, 2, 3], 4).guess(), []);
        assert_eq!(after(&[], 4).guess(), []);
        assert_eq!(after(&[1, 2, 1, 2], 0).guess(), []);
        assert_eq!(PromptLookup::off().guess(), []);
    }
}
