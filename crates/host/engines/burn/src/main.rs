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

const HELP: &str = "Speaks a session of JSON lines on standard input and output: see docs/llm/PROTOCOL.md.";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => barelm_protocol::serve_standard(&engine::Burn),
        Some("--help") => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Some(_) => {
            eprintln!("burn-bench: {HELP}");
            ExitCode::FAILURE
        }
    }
}
