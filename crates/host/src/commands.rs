//! One file per command: its arguments, and a `run` that does it and writes to the output it is given.

#[cfg(feature = "llm-transformer")]
pub mod batch;
#[cfg(feature = "llm-transformer")]
pub mod bench;
#[cfg(feature = "llm-transformer")]
pub mod compare;
pub mod convert;
#[cfg(feature = "llm-transformer")]
pub mod doctor;
pub mod export;
pub mod inspect;
#[cfg(feature = "llm-transformer")]
pub mod logits;
#[cfg(feature = "llm-transformer")]
pub mod perplexity;
pub mod quantize;
#[cfg(feature = "llm-transformer")]
pub mod report;
#[cfg(feature = "llm-transformer")]
pub mod run;
#[cfg(feature = "llm-transformer")]
pub mod setup;
pub mod synth;
pub mod tokenize;
#[cfg(feature = "llm-transformer")]
pub mod versus;
