//! llama.cpp as an engine: speaks the session that `docs/llm/PROTOCOL.md` describes.
//!
//! 1. [`engine`] loads models and computes.
//! 2. [`features`] says which instructions the library was compiled for and which this machine has.

mod engine;
mod features;

use std::process::ExitCode;

use engine::{Flash, LlamaCpp};

const HELP: &str = "Speaks a session of JSON lines on standard input and output: see docs/llm/PROTOCOL.md.

  --flash auto|on|off   flash attention (default: auto, which is on wherever it can be)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flash = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Flash::Auto,
        ["--flash", word] => match Flash::from_word(word) {
            Some(flash) => flash,
            None => return refuse(&format!("--flash {word}: there are auto, on and off")),
        },
        ["--help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => return refuse(HELP),
    };
    let backend = match LlamaCpp::new(flash) {
        Ok(backend) => backend,
        Err(why) => return refuse(&why),
    };
    barelm_protocol::serve_standard(&backend)
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("llama-cpp: {why}");
    ExitCode::FAILURE
}
