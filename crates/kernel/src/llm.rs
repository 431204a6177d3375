//! The language model: text in, text out, no operating system assumed.
//!
//! Read in this order:
//! 1. `gguf` reads the model file; `quant` knows the block formats inside it.
//! 2. `tokenizer` turns text into token ids and back.
//! 3. `simd` holds the arithmetic, one table per instruction set, all with the same bits; `math` its functions.
//! 4. `arena`, `pool`: memory and workers, both lent by the platform.

#[cfg(feature = "llm-transformer")]
pub mod arena;
#[cfg(feature = "llm-transformer")]
pub mod pool;
