//! `lm-rs-bench`: requests in on standard input, measurements out, one JSON object a line each way.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use barelm_host::model_file::reference_model_path;
use barelm_host::request::{Engine, Request};
use clap::Parser;

/// Measures a model on prompts: echo '{"prompt":"Hello","iterations":100}' | lm-rs-bench
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The GGUF file (default: $BARELM_MODEL, else the model of `cargo xtask setup`).
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
