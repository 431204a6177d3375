//! Burn on CUDA as an engine: speaks the session that `docs/llm/PROTOCOL.md` describes.
//!
//! [`tensors`] is what this version of burn calls its tensors; everything else is the decoder of the folder `burn`,
//! whose code both versions compile.

#[path = "../../burn/src/decoder.rs"]
mod decoder;
#[path = "../../burn/src/engine.rs"]
mod engine;
#[path = "../../burn/src/ops.rs"]
mod ops;
mod tensors;
#[path = "../../burn/src/weights.rs"]
mod weights;

use std::process::ExitCode;

fn main() -> ExitCode {
    barelm_protocol::serve_plain("burn-cuda-bench", &engine::Burn)
}
