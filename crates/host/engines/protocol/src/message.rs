//! The lines, each an object whose `type` says which it is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What an engine is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Load a model, in place of the one before; answered by [`Reply::Loaded`].
    Load(Load),
    /// Continue a prompt from an empty cache; answered by [`Reply::Token`] for each token and [`Reply::Done`].
    Submit(Submit),
    /// Answered by [`Reply::Stats`].
    Stats,
    /// End; not answered.
    Quit,
}

/// A model and how to run it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// A GGUF file.
    pub model: PathBuf,
    /// Threads to compute with.
    pub threads: usize,
    /// Positions to have room for.
    pub context: usize,
    /// Positions of a prompt computed in one pass; without it the engine's own best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
}

/// A prompt to continue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// Comes back in every reply.
    pub id: u64,
    /// Token ids, at least one.
    pub prompt_ids: Vec<u32>,
    /// Tokens to generate, always the likeliest. With 0 the prompt is computed, its last logits included, and nothing
    /// else.
    pub max_tokens: usize,
    /// Go on behind a token that ends the text.
    #[serde(default = "yes")]
    pub ignore_eos: bool,
    /// Write each token's line when there is the token. Without, all of them right before [`Reply::Done`], so that
    /// writing and whoever reads do not disturb the measurement; the time stamps are those of the tokens either way.
    #[serde(default = "yes")]
    pub stream: bool,
}

fn yes() -> bool {
    true
}

/// What an engine says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// The first line, before anything is asked.
    Hello(Hello),
    /// The model is there.
    Loaded(Loaded),
    /// One token was chosen.
    Token {
        /// Of the request.
        id: u64,
        /// When: `CLOCK_MONOTONIC` in nanoseconds.
        t_ns: u64,
    },
    /// A request has its answer.
    Done(Done),
    /// Memory.
    Stats(Stats),
    /// The request was refused; the session goes on.
    Error {
        /// Of the request, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// What is wrong, for a person.
        message: String,
    },
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`crate::VERSION`].
    pub protocol: u32,
    /// Name of the engine.
    pub engine: String,
    /// Its version.
    pub version: String,
    /// CPU features that its code uses, by the engine's own account.
    pub compiled: Vec<String>,
    /// CPU features that this machine has and the engine could use.
    pub detected: Vec<String>,
    /// Why this build is slower than the engine can be on this machine; absent for a good one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crippled: Option<String>,
    /// Settings that a reader of the figures should know.
    pub settings: BTreeMap<String, String>,
}

/// A model that was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loaded {
    /// From the request to the first prompt being welcome.
    pub load_ns: u64,
    /// Token ids run below this.
    pub vocab_size: usize,
}

/// A request's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// Of the request.
    pub id: u64,
    /// From reading the request to the first token, or to the last logits where no token was asked for.
    pub prefill_ns: u64,
    /// From the first token to the last: one pass for each token but the first.
    pub decode_ns: u64,
    /// The tokens.
    pub ids: Vec<u32>,
}

/// A process's memory in bytes, mapped files included; absent where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Resident now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss: Option<u64>,
    /// Resident at most so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss: Option<u64>,
}
