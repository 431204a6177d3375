//! Mistral.rs as an engine: speaks the session that `docs/llm/PROTOCOL.md` describes.
//!
//! [`engine`] loads models and hands requests to mistral.rs's own scheduler; [`tokens`] is how it learns of their tokens.

mod engine;
mod tokens;

use std::process::ExitCode;

use engine::{Activations, MistralRs};

const HELP: &str = "Speaks a session of JSON lines on standard input and output: see docs/llm/PROTOCOL.md.

  --activations f32|auto   type of activations and of the cache (default: f32; auto: as mistral.rs decides)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let activations = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Activations::F32,
        ["--activations", "f32"] => Activations::F32,
        ["--activations", "auto"] => Activations::Auto,
        ["--help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("mistral-rs-bench: {HELP}");
            return ExitCode::FAILURE;
        }
    };
    barelm_protocol::fixed_threads::serve_standard(&MistralRs { activations })
}
