//! One pass through all layers: token ids in, logits out.
//!
//! - [`Session`] owns the state of one conversation and runs [`Session::forward`].
//! - `engine` holds the memory and runs passes, for a session or for many requests at once.
//! - `pass` is the pass itself, the same function on every member of the team; `batch` is what it computes.
//! - `attention` mixes positions; `rope` turns queries and keys by their position.
//! - [`Profile`] counts the time of its steps.
//! - `hash` is the fingerprint of logits by which machines are compared.
//!
//! A pass takes a batch of positions, of one sequence or of several: prefill is decode with more columns. Each step computes every position from
//! the same inputs in the same order whatever the batch, the team or the kernels, so the logits' bits never differ.

pub(crate) mod attention;
mod batch;
mod engine;
mod hash;
mod pass;
mod profile;
mod rope;

use core::fmt;

use super::kv_cache::Overflow;
use super::model::Model;
use super::plan::{PlanError, SessionConfig, SessionLayout};
use super::pool::Team;
use super::simd::Kernels;

pub(crate) use engine::{Engine, finite};
pub use hash::{HASH_PROMPT, LogitsHash, hash_of_prompt, logits_hash};
pub use profile::{Event, Profile, Step};

/// Rows that every member norms for itself: that costs less than to meet the others.
pub(crate) const FEW: usize = 4;
/// Tiles of scratch that each member has.
pub(crate) const TILES: usize = 3;

/// Why a pass was refused. Nothing was computed or stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunError {
    /// There is nothing to compute.
    Empty,
    /// A token id is not in the vocabulary.
    UnknownToken {
        /// The id.
        id: u32,
        /// Ids run below this.
        vocab_size: usize,
    },
    /// The context is full.
    ContextFull {
        /// Positions needed.
        needed: usize,
        /// Positions there are.
        context: usize,
    },
    /// More positions' logits were asked for than the session has room for.
    TooManyLogits {
        /// Positions asked for.
        asked: usize,
        /// [`SessionConfig::logits`].
        room: usize,
    },
    /// A logit is infinite or not a number.
    NonFinite {
        /// Its place in the logits.
        index: usize,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the prompt has no tokens; give some text"),
            Self::UnknownToken { id, vocab_size } => {
                write!(
                    f,
                    "token id {id} is not in the vocabulary of {vocab_size}; use ids of this model's tokenizer"
                )
            }
            Self::ContextFull { needed, context } => write!(
                f,
                "the context of {context} positions is full, {needed} are needed; \
                 use a longer context, a shorter prompt or a sliding window"
            ),
            Self::TooManyLogits { asked, room } => write!(
                f,
                "logits of {asked} positions asked for, {room} fit; raise SessionConfig::logits or pass fewer ids at a time"
            ),
            Self::NonFinite { index } => write!(f, "logit {index} is not finite; the model file is damaged"),
        }
    }
}

impl core::error::Error for RunError {}

/// Which positions' logits a pass computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: the head is not computed.
    None,
    /// The last position's, `[vocab]`.
    Last,
    /// Every position's, `[ids × vocab]`.
    All,
}

/// The state of one conversation: keys and values so far, and the scratch of a pass.
///
/// All memory is taken at construction; nothing allocates afterwards.
pub struct Session<'m> {
    engine: Engine<'m>,
    config: SessionConfig,
    context: usize,
    position: usize,
}

impl<'m> Session<'m> {
    /// Builds a session in `memory`, which must hold [`Plan::session`](super::plan::Plan::session) bytes of a plan
    /// made with the same configuration. `config.members` is taken from the team.
    pub fn new(
        model: &'m Model<'_>,
        config: SessionConfig,
        kernels: &'static Kernels,
        team: &'m dyn Team,
        memory: &'m mut [u8],
    ) -> Result<Self, PlanError> {
        let config = SessionConfig { members: team.size(), ..config };
        let layout = SessionLayout::new(model.shape(), &config)?;
        let window = match config.overflow {
            Overflow::Error => usize::MAX,
            Overflow::Window(window) => window,
        };
        let engine = Engine::new(model, &layout, window, kernels, team, memory)?;
        // The only sequence has all pages.
        for (index, page) in engine.tables.iter_mut().enumerate() {
            *page = index as u32;
        }
        Ok(Session { engine, config, context: layout.context, position: 0 })
    }

    /// The model.
    pub fn model(&self) -> &'m Model<'m> {
        self.engine.model
    }

    /// The kernels it computes with.
    pub fn kernels(&self) -> &'static Kernels {
        self.engine.kernels
    }

    /// What the session was built for.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// Positions seen so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions that still fit; with a sliding window there is no end.
    pub fn room(&self) -> usize {
        match self.config.overflow {
            Overflow::Error => self.context - self.position,
            Overflow::Window(_) => usize::MAX - self.position,
        }
    }

    /// Forgets all positions after the first `position`. With a sliding window, whose ring has overwritten older
    /// positions, at most the last [`SessionConfig::batch`] positions can be forgotten, or all.
    pub fn truncate(&mut self, position: usize) {
        assert!(position <= self.position, "{position} of {}", self.position);
        let kept = self.config.overflow == Overflow::Error || self.position - position <= self.config.batch;
        assert!(position == 0 || kept, "positions before {position} may be overwritten");
        self.position = position;
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.position = 0;
    }

    /// Bytes of matrix rows read by all passes so far, each row once for 64 positions of a pass, embedding rows not
    /// included.
    pub fn weight_bytes_read(&self) -> u64 {
        self.engine.weight_bytes_read()
    }

    /// Bytes of embedding rows looked up so far, one row a token.
    pub fn embedding_bytes_read(&self) -> u64 {
        self.engine.embedding_bytes_read()
    }

    /// Counts the time of every step of the passes from here on, in ticks of `now`; `None` ends it. Allocates, unlike passes.
    pub fn set_profile(&mut self, now: Option<fn() -> u64>) {
        self.engine.profile = now.map(|now| Profile::new(self.config.members, now));
    }

    /// As [`Self::set_profile`], and each member's first `events` are kept one by one.
    pub fn set_recording(&mut self, now: fn() -> u64, events: usize) {
        self.engine.profile = Some(Profile::recording(self.config.members, now, events));
    }

    /// What was counted since [`Self::set_profile`].
    pub fn profile(&self) -> Option<&Profile> {
        self.engine.profile.as_ref()
    }

    /// Bytes of the memory lent to [`Self::new`] that the session uses, from its start to its end.
    pub fn memory_used(&self) -> usize {
        self.engine.memory_used
    }

    /// Products (matrix rows times positions) that each member of the team has computed.
    pub fn work_units(&self) -> impl Iterator<Item = u64> + '_ {
        self.engine.work_units()
    }

    /// Appends `ids` to the conversation and returns the logits asked for.
    ///
    /// Runs in batches of [`SessionConfig::batch`], one pass over the weights each. `Logits::All` needs
    /// `ids.len() <= SessionConfig::logits`.
    ///
    /// # Errors
    /// Everything is checked before the first pass, so an error leaves the session as it was, except
    /// [`RunError::NonFinite`], which says that the model computes nonsense.
    pub fn forward(&mut self, ids: &[u32], logits: Logits) -> Result<&[f32], RunError> {
        let shape = self.engine.model.shape();
        if ids.is_empty() {
            return Err(RunError::Empty);
        }
        let vocab_size = shape.vocab_size;
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(RunError::UnknownToken { id, vocab_size });
        }
        if ids.len() > self.room() {
            return Err(RunError::ContextFull { needed: self.position + ids.len(), context: self.context });
        }
        let wanted = match logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => ids.len(),
        };
        if wanted > self.config.logits {
            return Err(RunError::TooManyLogits { asked: wanted, room: self.config.logits });
        }
        let batches = ids.len().div_ceil(self.config.batch);
        for (index, batch) in ids.chunks(self.config.batch).enumerate() {
            let last = index + 1 == batches;
            self.engine.batch.clear();
            self.engine.batch.push(0, self.position, batch, if last { wanted } else { 0 });
            self.position += batch.len();
            self.engine.run();
        }
        finite(self.engine.logits())
    }
}
