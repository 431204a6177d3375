//! The language model: text in, text out, no operating system assumed.
//!
//! Read in this order:
//! 1. [`gguf`] reads the model file; [`quant`] knows the block formats inside it.
//! 2. [`tokenizer`] turns text into token ids and back.
//! 3. [`simd`] holds the arithmetic, one table per instruction set, all with the same bits; [`math`] its functions.
//!    [`random`] gives numbers that are the same everywhere.
//!
//! With feature `llm-transformer`:
//!
//! 4. `model` checks a file's tensors against its shape, and `tensor` multiplies with them.
//! 5. `plan` says how much memory a session needs, from the header alone; `arena` hands it out; `kv_cache` and
//!    `shared` are what lies in it; `pool` is the team of workers. Memory and workers are lent by the platform.
//! 6. `transformer` runs a batch of positions through all layers and leaves logits.
//! 7. `sampler` picks the next id, `chat` writes conversations as the model knows them, `generate` is the loop
//!    around all of it, `draft` guesses ahead for it.
//! 8. `scheduler` runs many requests at once, in passes that they share.
//! 9. `operations` are f32 tensor operations on their own: products, attention, norms, functions of every element.
//! 10. `benchmarks` is the suite.
//!
//! Nothing allocates after a `Session` and a `Sampler`, or a `Scheduler`, are built.

pub mod gguf;
pub mod math;
pub mod quant;
pub mod random;
pub mod simd;
mod sort;
pub mod tokenizer;

#[cfg(feature = "llm-transformer")]
pub mod arena;
#[cfg(feature = "llm-transformer")]
pub mod benchmarks;
#[cfg(feature = "llm-transformer")]
pub mod chat;
#[cfg(feature = "llm-transformer")]
pub mod draft;
#[cfg(feature = "llm-transformer")]
pub mod generate;
#[cfg(feature = "llm-transformer")]
pub mod kv_cache;
#[cfg(feature = "llm-transformer")]
pub mod model;
#[cfg(feature = "llm-transformer")]
pub mod operations;
#[cfg(feature = "llm-transformer")]
pub mod plan;
#[cfg(feature = "llm-transformer")]
pub mod pool;
#[cfg(feature = "llm-transformer")]
pub mod sampler;
#[cfg(feature = "llm-transformer")]
pub mod scheduler;
#[cfg(feature = "llm-transformer")]
pub mod shared;
#[cfg(feature = "llm-transformer")]
pub mod tensor;
#[cfg(feature = "llm-transformer")]
pub mod transformer;
