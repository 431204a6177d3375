//! `cargo xtask versus`: builds ours and llama.cpp, makes the models, and lets `barelm versus` compare.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::setup::{self, Need};
use crate::toolchain::Toolchain;
use crate::{Failure, engines, model, process};

/// The engine that ours is measured beside.
const ENGINE: &str = "llama-cpp";

/// Where a model's file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// It is the reference model.
    Reference,
    /// From the reference model, in another type.
    Quantized(&'static str),
    /// Random weights of the Llama 3.2 1B shape.
    Synthetic(&'static str),
}

/// Names on the command line and files in the cache.
const MODELS: [(&str, &str, Source); 6] = [
    ("smollm2-q4_0", "SmolLM2-135M-Instruct.Q4_0.gguf", Source::Quantized("q4_0")),
    ("smollm2-q8_0", "SmolLM2-135M-Instruct.Q8_0.gguf", Source::Quantized("q8_0")),
    ("smollm2-q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf", Source::Reference),
    ("smollm2-f16", "SmolLM2-135M-Instruct.F16.gguf", Source::Quantized("f16")),
    ("1b-q4_0", "random-llama-3.2-1b.Q4_0.gguf", Source::Synthetic("q4_0")),
    ("1b-q8_0", "random-llama-3.2-1b.Q8_0.gguf", Source::Synthetic("q8_0")),
];

/// What to compare.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Models, separated by commas (default: all).
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = PossibleValuesParser::new(MODELS.map(|(name, ..)| name)))]
    models: Vec<String>,
    /// Numbers of threads, one after the other.
    #[arg(long, value_name = "N,N", default_value = "1,2")]
    threads: String,
    /// Good slots of each model, number of threads and work (default: 7; 3 with --quick).
    #[arg(long, value_name = "N")]
    rounds: Option<u16>,
    /// Only SmolLM2 in Q4_0, few rounds: to see that it works, not to publish.
    #[arg(long)]
    quick: bool,
    /// Append a record of each row to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table to this file, in Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Build and make models, but measure nothing.
    #[arg(long)]
    build_only: bool,
}

/// Builds, makes and compares.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    setup::provide(&[Need::Model])?;
    let release = crate::target_folder().join("release");
    process::run(Toolchain::current().cargo().args(["build", "--release", "-p", "barelm-host"]))?;
    let engine = engines::Engine::named(ENGINE).expect("it is in the table");
    let engine = engines::build(engine, false)?;
    let barelm = release.join("barelm");
    let files = wanted(arguments).map(|(file, source)| make(&barelm, file, source));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let mut command = process::command(&barelm);
    command.arg("versus").arg("--peer").arg(&engine).args(["--threads", &arguments.threads]);
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 3 } else { 7 });
    command.args(["--rounds", &rounds.to_string()]);
    // Relative to where the command was typed, which is not where the program runs.
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    for (option, path) in [("--json", &arguments.json), ("--markdown", &arguments.markdown)] {
        if let Some(path) = path {
            command.arg(option).arg(here.join(path));
        }
    }
    command.args(&files);
    println!("{}", process::shown(&command));
    if arguments.build_only {
        return Ok(ExitCode::SUCCESS);
    }
    process::run(&mut command).map(|()| ExitCode::SUCCESS)
}

/// Files and sources of the models asked for.
fn wanted(arguments: &Arguments) -> impl Iterator<Item = (&'static str, Source)> + '_ {
    let asked = |name: &str| match (arguments.models.is_empty(), arguments.quick) {
        (false, _) => arguments.models.iter().any(|wanted| wanted == name),
        (true, true) => name == MODELS[0].0,
        (true, false) => true,
    };
    MODELS.into_iter().filter(move |(name, ..)| asked(name)).map(|(_, file, source)| (file, source))
}

/// The model's file, made if it is not in the cache.
fn make(barelm: &Path, file: &str, source: Source) -> Result<PathBuf, Failure> {
    let reference = model::path();
    let path = reference.with_file_name(file);
    let mut command = process::command(barelm);
    match source {
        Source::Reference => return Ok(reference),
        _ if path.exists() => return Ok(path),
        Source::Quantized(ty) => command.arg("quantize").args([
            reference.as_os_str(),
            path.as_os_str(),
            OsStr::new("--type"),
            OsStr::new(ty),
        ]),
        Source::Synthetic(ty) => {
            command.arg("synth").arg(&path).args(["--shape", "llama-3.2-1b", "--type", ty, "--seed", "1"])
        }
    };
    println!("{}", process::shown(&command));
    process::run(&mut command)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn files(line: &[&str]) -> Vec<&'static str> {
        let line = Line::try_parse_from([&["versus"], line].concat()).expect("a good line");
        wanted(&line.arguments).map(|(file, _)| file).collect()
    }

    #[test]
    fn models_are_those_asked_for() {
        assert_eq!(files(&[]).len(), MODELS.len());
        assert_eq!(files(&["--quick"]), ["SmolLM2-135M-Instruct.Q4_0.gguf"]);
        assert_eq!(
            files(&["--quick", "--models", "1b-q8_0,smollm2-f16"]),
            ["SmolLM2-135M-Instruct.F16.gguf", "random-llama-3.2-1b.Q8_0.gguf"]
        );
        assert!(Line::try_parse_from(["versus", "--models", "gpt"]).is_err());
    }
}
