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

const HELP: &str = "Speaks a session of JSON lines on standard input and output: see docs/llm/PROTOCOL.md.";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => barelm_protocol::serve_standard(&engine::Burn),
        Some("--help") => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Some(_) => {
            eprintln!("burn-cuda-bench: {HELP}");
            ExitCode::FAILURE
        }
    }
}
