//! Memory known before load: every byte a session will use, from the file's header alone.
//!
//! The same `SessionLayout` sizes the plan and carves the session's memory, so that the two cannot disagree.

use core::fmt;

use super::gguf::Gguf;
use super::kv_cache::{BLOCK, KvShape, Overflow};
use super::model::{ModelError, Shape, packed_bytes};
use super::scheduler::bookkeeping;
use super::simd::Kernels;
use super::tensor::CALL_ROWS;
use super::transformer::attention::MOST_QUERIES;
use super::transformer::{FEW, TILES};

/// What a session is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Positions the session can hold; 0 means the model's own context length.
    pub context: usize,
    /// Positions computed in one pass over the weights.
    pub batch: usize,
    /// Positions of one batch whose logits can be asked for: 1 for generation, `batch` for scoring.
    pub logits: usize,
    /// What happens when the context is full.
    pub overflow: Overflow,
    /// Members of the team that will run it.
    pub members: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig { context: 0, batch: 64, logits: 1, overflow: Overflow::Error, members: 1 }
    }
}

/// What a [`Scheduler`](super::scheduler::Scheduler) is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Sequences computed at the same time, at most 256; more requests wait.
    pub sequences: usize,
    /// Positions kept of all sequences together, rounded up to whole pages of [`BLOCK`].
    pub positions: usize,
    /// Positions of one sequence at most; 0 means the model's own context length. Never more than `positions`.
    pub context: usize,
    /// Positions computed in one pass over the weights, at least `sequences`.
    pub batch: usize,
    /// Positions of prompts in a pass that also decodes, so that those who wait for their next token wait no longer
    /// than a pass over so many more.
    pub chunk: usize,
    /// Requests that can wait.
    pub queue: usize,
    /// Members of the team that will run it.
    pub members: usize,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            sequences: 8,
            positions: 8192,
            context: 0,
            batch: 64,
            chunk: 32,
            queue: 256,
            members: 1,
        }
    }
}

/// Why a session cannot be built.
#[derive(Clone, Debug, PartialEq)]
pub enum PlanError {
    /// The model was refused.
    Model(ModelError),
    /// A configuration value is zero or larger than what it is part of.
    BadConfig(&'static str),
    /// The sizes overflow the address space.
    Overflow,
    /// The memory is too small.
    Short(Shortfall),
}

/// By how much memory is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Bytes needed.
    pub needed: u64,
    /// Bytes there.
    pub available: u64,
}

impl Shortfall {
    /// Bytes missing.
    pub fn missing(&self) -> u64 {
        self.needed - self.available
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "short by {} bytes: {} needed, {} available; use a shorter context, a smaller batch or a smaller model",
            self.missing(),
            self.needed,
            self.available
        )
    }
}

impl From<ModelError> for PlanError {
    fn from(error: ModelError) -> Self {
        PlanError::Model(error)
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(error) => error.fmt(f),
            Self::BadConfig(what) => write!(f, "session configuration: {what}"),
            Self::Overflow => {
                f.write_str("the session's memory overflows the address space; use a shorter context")
            }
            Self::Short(shortfall) => shortfall.fmt(f),
        }
    }
}

impl core::error::Error for PlanError {}

/// Element counts of every buffer of a session, or of many sequences that share passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionLayout {
    pub kv: KvShape,
    pub context: usize,
    /// Rows of a pass.
    pub batch: usize,
    /// Sequences at once.
    pub sequences: usize,
    /// Pages of the cache that one sequence can have.
    pub pages_each: usize,
    /// Residual stream, `[batch × dim]`.
    pub stream: usize,
    /// Normed input, `[batch × dim]`.
    pub normed: usize,
    /// The same as int8, or attention's output, `[batch × wider]`.
    pub q8: usize,
    /// One member's own normed rows, and the same as int8.
    pub own: usize,
    /// Query rows, and attention's output.
    pub query: usize,
    /// Feed-forward rows.
    pub hidden: usize,
    /// The same as int8.
    pub hidden_q8: usize,
    /// Logits.
    pub logits: usize,
    /// One of a member's three tiles: of products, or of queries, or of what they find.
    pub tile: usize,
    /// Cosines (and sines) of the batch.
    pub angles: usize,
}

/// Every allocation starts on a 64-byte boundary.
fn padded(elements: usize, size: usize) -> Option<u64> {
    Some((elements.checked_mul(size)? as u64).checked_add(63)? / 64 * 64)
}

/// Bytes of int8 blocks of so many elements: values, scales and sums.
fn blocks_bytes(elements: usize) -> Option<u64> {
    padded(elements, 1)?.checked_add(padded(elements / 32, 4)?)?.checked_add(padded(elements / 16, 2)?)
}

fn check_members_and_batch(members: usize, batch: usize) -> Result<(), PlanError> {
    if batch == 0 || batch > 4096 {
        return Err(PlanError::BadConfig("batch must be 1 to 4096"));
    }
    if members == 0 || members > 256 {
        return Err(PlanError::BadConfig("members must be 1 to 256"));
    }
    Ok(())
}

impl SessionLayout {
    /// One sequence with a cache of its own.
    pub fn new(shape: &Shape, config: &SessionConfig) -> Result<Self, PlanError> {
        if config.logits == 0 || config.logits > config.batch {
            return Err(PlanError::BadConfig("logits must be 1 to batch"));
        }
        check_members_and_batch(config.members, config.batch)?;
        let context = if config.context == 0 { shape.context_length } else { config.context };
        let held = match config.overflow {
            Overflow::Error => context,
            Overflow::Window(0) => {
                return Err(PlanError::BadConfig("a window must hold at least one position"));
            }
            Overflow::Window(window) => window.checked_add(config.batch).ok_or(PlanError::Overflow)?,
        };
        Self::sized(shape, context, held, [1, held], config.batch, config.logits)
    }

    /// Many sequences that share a cache.
    pub fn shared(shape: &Shape, config: &SchedulerConfig) -> Result<Self, PlanError> {
        check_members_and_batch(config.members, config.batch)?;
        if config.sequences == 0 || config.sequences > 256 {
            return Err(PlanError::BadConfig("sequences must be 1 to 256"));
        }
        if config.batch < config.sequences {
            return Err(PlanError::BadConfig("batch must be at least the number of sequences"));
        }
        if config.chunk == 0 || config.positions == 0 {
            return Err(PlanError::BadConfig("chunk and positions must be at least 1"));
        }
        if config.queue > 1 << 20 {
            return Err(PlanError::BadConfig("a queue holds at most 1048576 requests"));
        }
        let context = if config.context == 0 { shape.context_length } else { config.context };
        let context = context.min(config.positions);
        Self::sized(
            shape,
            context,
            config.positions,
            [config.sequences, context],
            config.batch,
            config.sequences,
        )
    }

    /// A cache of `held` positions for so many sequences of so many positions each.
    fn sized(
        shape: &Shape,
        context: usize,
        held: usize,
        [sequences, each]: [usize; 2],
        batch: usize,
        logits: usize,
    ) -> Result<Self, PlanError> {
        let capacity = held.checked_next_multiple_of(BLOCK).ok_or(PlanError::Overflow)?;
        if u32::try_from(capacity / BLOCK).is_err() {
            return Err(PlanError::Overflow);
        }
        let kv = KvShape {
            n_layers: shape.n_layers,
            n_kv_heads: shape.n_kv_heads,
            head_dim: shape.head_dim,
            capacity,
        };
        let queries = (batch * (shape.n_heads / shape.n_kv_heads)).min(MOST_QUERIES);
        let wider = shape.dim.max(shape.q_dim());
        Ok(SessionLayout {
            kv,
            context,
            batch,
            sequences,
            pages_each: each.div_ceil(BLOCK),
            stream: batch * shape.dim,
            normed: batch * shape.dim,
            q8: batch * wider.next_multiple_of(64),
            own: batch.min(FEW) * shape.dim.next_multiple_of(64),
            query: batch * shape.q_dim(),
            hidden: batch * shape.ffn_dim,
            hidden_q8: batch * shape.ffn_dim.next_multiple_of(64),
            logits: logits.checked_mul(shape.vocab_size).ok_or(PlanError::Overflow)?,
            tile: (batch * CALL_ROWS).max(queries * shape.head_dim),
            angles: batch * shape.rope_dim / 2,
        })
    }

    /// Pages of the cache.
    pub fn pages(&self) -> usize {
        self.kv.capacity / BLOCK
    }

    /// Bytes of keys and values.
    pub fn kv_bytes(&self) -> Option<u64> {
        padded(self.kv.elements()?, 2)?.checked_mul(2)
    }

    /// Bytes of all else, one alignment gap included.
    pub fn scratch_bytes(&self, members: usize) -> Option<u64> {
        let sizes = [
            padded(self.stream, 4)?,
            padded(self.normed, 4)?,
            blocks_bytes(self.q8)?,
            padded(self.own.checked_mul(members)?, 4)?,
            blocks_bytes(self.own.checked_mul(members)?)?,
            padded(self.query, 4)?.checked_mul(2)?,
            padded(self.hidden, 4)?,
            blocks_bytes(self.hidden_q8)?,
            padded(self.logits, 4)?,
            padded(self.tile.checked_mul(TILES * members)?, 4)?,
            padded(self.angles, 4)?.checked_mul(2)?,
            padded(self.sequences.checked_mul(self.pages_each)?, 4)?,
            64,
        ];
        sizes.into_iter().try_fold(0u64, u64::checked_add)
    }
}

/// Bytes of all tensors.
fn weights(gguf: &Gguf<'_>) -> Result<u64, PlanError> {
    let add = |sum: u64, size| sum.checked_add(size).ok_or(PlanError::Overflow);
    gguf.tensors().map(|tensor| tensor.size_bytes).try_fold(0, add)
}

/// Bytes a model and one session need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The weights, in the file's own form.
    pub weights: u64,
    /// The matrices once more in the layout of a table of kernels; 0 for one that works on the file's.
    pub packed: u64,
    /// Keys and values of all positions.
    pub kv: u64,
    /// Everything else that a pass writes to.
    pub scratch: u64,
    /// What a scheduler allocates for itself at construction: queue, tables and scratch of its samplers; 0 for a
    /// session, whose sampler is its caller's.
    pub bookkeeping: u64,
    /// Positions the session will hold, or all sequences of a scheduler together.
    pub context: usize,
}

impl Plan {
    /// Plans from the header of a file; the tensors' data need not be there.
    pub fn from_header(gguf: &Gguf<'_>, config: &SessionConfig) -> Result<Self, PlanError> {
        Self::new(&Shape::from_gguf(gguf)?, weights(gguf)?, config)
    }

    /// Plans from sizes and the bytes of the weights.
    pub fn new(shape: &Shape, weights: u64, config: &SessionConfig) -> Result<Self, PlanError> {
        let layout = SessionLayout::new(shape, config)?;
        Self::of(&layout, weights, config.members, 0, layout.context)
    }

    /// Plans a scheduler from the header of a file.
    pub fn scheduler(gguf: &Gguf<'_>, config: &SchedulerConfig) -> Result<Self, PlanError> {
        let shape = Shape::from_gguf(gguf)?;
        let layout = SessionLayout::shared(&shape, config)?;
        let bookkeeping = bookkeeping(&layout, shape.vocab_size, config);
        Self::of(&layout, weights(gguf)?, config.members, bookkeeping, layout.kv.capacity)
    }

    fn of(
        layout: &SessionLayout,
        weights: u64,
        members: usize,
        bookkeeping: u64,
        context: usize,
    ) -> Result<Self, PlanError> {
        let kv = layout.kv_bytes().ok_or(PlanError::Overflow)?;
        let scratch = layout.scratch_bytes(members).ok_or(PlanError::Overflow)?;
        Ok(Plan { weights, packed: 0, kv, scratch, bookkeeping, context })
    }

    /// The same plan for a model that is [packed](super::model::Model::packed) for `kernels`, of `gguf`'s header.
    pub fn packed_for(self, kernels: &Kernels, gguf: &Gguf<'_>) -> Self {
        if kernels.packed_rows().is_none() {
            return Plan { packed: 0, ..self };
        }
        // All matrices are multiplied with, except embeddings where the head is another one.
        let untied = gguf.tensor("output.weight").is_some();
        let sizes = gguf
            .tensors()
            .filter(|tensor| tensor.n_dims > 1 && !(untied && tensor.name == "token_embd.weight"))
            .map(|tensor| tensor.size_bytes);
        Plan { packed: packed_bytes(sizes), ..self }
    }

    /// Bytes of the memory a [`Session`](super::transformer::Session) or [`Scheduler`](super::scheduler::Scheduler)
    /// asks for: keys, values and scratch.
    pub fn session(&self) -> u64 {
        self.kv.saturating_add(self.scratch)
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.weights
            .saturating_add(self.packed)
            .saturating_add(self.session())
            .saturating_add(self.bookkeeping)
    }

    /// Bytes to spare out of `available`, or by how much it is short.
    pub fn check(&self, available: u64) -> Result<u64, Shortfall> {
        let needed = self.total();
        available.checked_sub(needed).ok_or(Shortfall { needed, available })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "weights {:>14} bytes", self.weights)?;
        if self.packed > 0 {
            writeln!(f, "packed  {:>14} bytes", self.packed)?;
        }
        writeln!(f, "kv      {:>14} bytes for {} positions", self.kv, self.context)?;
        writeln!(f, "scratch {:>14} bytes", self.scratch)?;
        if self.bookkeeping > 0 {
            writeln!(f, "queue   {:>14} bytes", self.bookkeeping)?;
        }
        write!(f, "total   {:>14} bytes", self.total())
    }
}
