//! What is asked of a scheduler, and what it answers.

use alloc::vec::Vec;
use core::fmt;

use crate::llm::generate::Finish;
use crate::llm::sampler::{SamplerConfig, SamplerError};
use crate::llm::transformer::RunError;

/// A prompt to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// The caller's name for it; unique among those that are not done.
    pub id: u64,
    /// Ids to continue, at least one.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most, at least one.
    pub max_tokens: usize,
    /// How to pick; every request has its own random sequence.
    pub sampler: SamplerConfig,
    /// Tokens that end the text, such as those of
    /// [`is_end_of_generation`](crate::llm::tokenizer::Tokenizer::is_end_of_generation).
    pub stop: Vec<u32>,
}

/// Why a request was not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SubmitError {
    /// There is nothing to continue.
    EmptyPrompt,
    /// No tokens are wanted.
    NoTokens,
    /// A token id is not in the vocabulary.
    UnknownToken {
        /// The id.
        id: u32,
        /// Ids run below this.
        vocab_size: usize,
    },
    /// The request could never run: a sequence cannot have so many positions.
    TooLong {
        /// Positions of its prompt and of all tokens but the last.
        needed: usize,
        /// Positions a sequence can have.
        context: usize,
    },
    /// A setting of the sampler is out of range.
    Sampler(SamplerError),
    /// As many requests wait as can.
    QueueFull {
        /// [`SchedulerConfig::queue`](crate::llm::plan::SchedulerConfig::queue).
        queue: usize,
    },
    /// A request of this name is not done yet.
    DuplicateId {
        /// The name.
        id: u64,
    },
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyPrompt => f.write_str("the prompt has no tokens; give some text"),
            Self::NoTokens => f.write_str("no tokens are asked for; ask for at least one"),
            Self::UnknownToken { id, vocab_size } => {
                RunError::UnknownToken { id: *id, vocab_size: *vocab_size }.fmt(f)
            }
            Self::TooLong { needed, context } => write!(
                f,
                "prompt and tokens need {needed} positions, a sequence has at most {context}; \
                 shorten the prompt, ask for fewer tokens, or give the scheduler more positions"
            ),
            Self::Sampler(error) => error.fmt(f),
            Self::QueueFull { queue } => {
                write!(f, "{queue} requests are waiting already; submit this one again later")
            }
            Self::DuplicateId { id } => write!(f, "request {id} is not done yet; give this one another id"),
        }
    }
}

impl core::error::Error for SubmitError {}

/// What happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A token was picked.
    Token {
        /// The request's name.
        id: u64,
        /// The token; the one that ends the text too.
        token: u32,
    },
    /// The request is over. This is its last event.
    Done(Done),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The request's name.
    pub id: u64,
    /// Ids of its prompt.
    pub prompt: usize,
    /// Tokens picked.
    pub tokens: usize,
    /// Why; an error means that the model computed nonsense for this request.
    pub finish: Result<Finish, RunError>,
}
