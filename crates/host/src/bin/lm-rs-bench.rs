//! `lm-rs-bench`: requests in on standard input, measurements out, one JSON object a line each way.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use barelm_host::model_file::reference_model_path;
use barelm_host::request::{Engine, Request};
use barelm_host::session::Ours;
use clap::Parser;

/// Measures a model on prompts: echo '{"prompt":"Hello","iterations":100}' | lm-rs-bench
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The GGUF file (default: $BARELM_MODEL, else the model of `cargo xtask setup`).
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Speak a session, in which requests load models: see docs/llm/PROTOCOL.md.
    #[arg(long, conflicts_with = "model")]
    session: bool,
    /// Instruction set to compute with in a session (default: the best one here).
    #[arg(long, value_name = "NAME", requires = "session")]
    kernels: Option<String>,
    /// Positions of a prompt computed at a time in a session where `load` does not say.
    #[arg(long, value_name = "N", requires = "session", value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: Option<u16>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.session {
        return speak(arguments);
    }
    let engine = match Engine::open(&arguments.model.unwrap_or_else(reference_model_path)) {
        Ok(engine) => engine,
        Err(failure) => {
            eprintln!("lm-rs-bench: {failure}");
            return ExitCode::FAILURE;
        }
    };
    let mut status = ExitCode::SUCCESS;
    for line in std::io::stdin().lock().lines() {
        let answer = line
            .map_err(|error| error.to_string())
            .and_then(|line| Request::parse(&line))
            .and_then(|request| engine.measure(&request).map_err(|failure| failure.to_string()));
        let answer = answer.unwrap_or_else(|error| {
            status = ExitCode::FAILURE;
            serde_json::json!({ "error": error })
        });
        if writeln!(std::io::stdout(), "{answer}").is_err() {
            // Whoever asked has gone.
            return status;
        }
    }
    status
}

/// Answers a session's requests until its end.
fn speak(arguments: Arguments) -> ExitCode {
    match Ours::new(arguments.kernels, arguments.batch) {
        Ok(ours) => barelm_protocol::serve_standard(&ours),
        Err(failure) => {
            eprintln!("lm-rs-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
