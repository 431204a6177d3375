//! The fingerprint of logits by which kernel tables, teams, batches and machines are compared.

use core::fmt;

use super::{Logits, RunError, Session};
use crate::llm::simd::ARITHMETIC_VERSION;

/// The text whose logits are hashed: encoded with special tokens as plain text and no beginning-of-sequence id.
///
/// Long enough to fill one block of 64 cached positions and begin another with SmolLM2's tokenizer, and to leave a
/// remainder in batches of 7 and of 64.
pub const HASH_PROMPT: &str = "In the town of Ålesund the harbour light turns four times a minute. A keeper once \
wrote in his log: 17 ships, 3 storms, no sleep. What did the sea say to him? \"Nothing,\" he said, \"it just waved.\" \
He laughed and counted the boats (1, 2, 3, …) home.";

/// The hash of the logits of all positions of `ids`, from an empty context, in batches of `step`.
///
/// The session's batch and logits must be at least `step`. Afterwards the session holds `ids`.
///
/// # Errors
/// As [`Session::forward`]: for instance, `ids` that do not fit in the context.
pub fn hash_of_prompt(session: &mut Session<'_>, ids: &[u32], step: usize) -> Result<LogitsHash, RunError> {
    if ids.is_empty() {
        return Err(RunError::Empty);
    }
    session.reset();
    let mut hash = LogitsHash::default();
    for batch in ids.chunks(step) {
        hash.update(session.forward(batch, Logits::All)?);
    }
    Ok(hash)
}

/// A fingerprint of logits: FNV-1a, 64 bits, over their little-endian bytes. Equal bits give equal hashes on every
/// machine; [`ARITHMETIC_VERSION`] says which arithmetic made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogitsHash(u64);

impl Default for LogitsHash {
    fn default() -> Self {
        LogitsHash(0xcbf2_9ce4_8422_2325)
    }
}

impl LogitsHash {
    /// Takes in more logits.
    pub fn update(&mut self, logits: &[f32]) {
        for byte in logits.iter().flat_map(|logit| logit.to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The hash of all logits so far.
    pub fn value(&self) -> u64 {
        self.0
    }
}

impl fmt::Display for LogitsHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/arithmetic-{}", self.0, ARITHMETIC_VERSION)
    }
}

/// Hash of one slice of logits, which [`Session::forward`] has found finite.
pub fn logits_hash(logits: &[f32]) -> LogitsHash {
    let mut hash = LogitsHash::default();
    hash.update(logits);
    hash
}
