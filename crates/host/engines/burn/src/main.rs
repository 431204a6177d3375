//! Burn as an engine: speaks the session that `docs/llm/PROTOCOL.md` describes.
//!
//! 1. [`tensors`] is what this version of burn calls its tensors; everything behind it is shared with `burn-cuda`.
//! 2. [`weights`] reads a model, [`decoder`] computes it, [`engine`] answers with it.
//! 3. [`ops`] are single operations.

mod decoder;
mod engine;
mod ops;
mod tensors;
mod weights;

use std::process::ExitCode;

fn main() -> ExitCode {
    barelm_protocol::serve_plain("burn-bench", &engine::Burn)
}
