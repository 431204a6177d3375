//! Candle as an engine: speaks the session that `docs/llm/PROTOCOL.md` describes.
//!
//! 1. [`engine`] loads models with candle's own forward where it can.
//! 2. [`decoder`] is a forward of this adapter for what that one cannot do.
//! 3. [`ops`] are single operations.

mod decoder;
mod engine;
mod ops;

use std::process::ExitCode;

use engine::{Candle, Forward};

const HELP: &str = "Speaks a session of JSON lines on standard input and output: see docs/llm/PROTOCOL.md.

  --forward auto|own   auto: candle-transformers' quantized_llama where it can (default); own: always this adapter's";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let forward = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Some(Forward::Auto),
        ["--forward", word] => Forward::from_word(word),
        ["--help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => None,
    };
    match forward {
        Some(forward) => barelm_protocol::fixed_threads::serve_standard(&Candle { forward }),
        None => {
            eprintln!("candle-bench: {HELP}");
            ExitCode::FAILURE
        }
    }
}
