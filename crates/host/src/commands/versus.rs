//! `barelm versus`: ours and other engines, slot by slot.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use crate::environment;
use crate::failure::Failure;
use crate::limits::ReadBuffer;
use crate::model_file::ModelFile;
use crate::output_file::OutputFile;
use crate::versus::report::table;
use crate::versus::work::Work;
use crate::versus::{EngineCommand, Plan, measure};

/// Models with more matrix bytes than this decode fewer tokens, so that a slot stays short.
const LARGE: f64 = 400e6;

/// Arguments of `barelm versus`. `cargo xtask versus` builds engines and models and gives them.
#[derive(Args, Debug)]
pub struct Arguments {
    /// GGUF files.
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// An engine to compare with: a program that speaks docs/llm/PROTOCOL.md, with its arguments behind blanks.
    #[arg(long = "peer", value_name = "PROGRAM", required = true)]
    pub peers: Vec<String>,
    /// Our engine (default: `lm-rs-bench --session` beside this program).
    #[arg(long, value_name = "PROGRAM")]
    pub ours: Option<String>,
    /// Numbers of threads, one after the other.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Vec<u16>,
    /// Good slots of each work.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// Positions of the prompt; 0 leaves prompts out.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(0..=65536))]
    pub prefill: u32,
    /// Tokens to decode (default: 128, of large models 64); 0 leaves decoding out.
    #[arg(long, value_name = "N")]
    pub decode: Option<u32>,
    /// Keep so many threads spinning while an engine works: how engines do beside a busy neighbor. Limits stay those of the
    /// free machine.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=256))]
    pub beside: u16,
    /// Append a record of each row to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the table to this file, with what it was measured on.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// A program and its arguments, separated by blanks.
fn engine(line: &str) -> Result<EngineCommand, Failure> {
    let mut words = line.split_whitespace();
    let program = words.next().ok_or_else(|| Failure::Message("--peer and --ours name a program".into()))?;
    Ok(EngineCommand { program: program.into(), arguments: words.map(OsString::from).collect() })
}

/// Measures and prints the table; progress goes to standard error.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let ours = match &arguments.ours {
        Some(line) => engine(line)?,
        None => {
            let here =
                std::env::current_exe().map_err(|error| Failure::because("this program's file", error))?;
            let program = here.with_file_name("lm-rs-bench");
            EngineCommand { program, arguments: vec!["--session".into()] }
        }
    };
    let peers = arguments.peers.iter().map(|line| engine(line));
    let engines = [Ok(ours)].into_iter().chain(peers).collect::<Result<Vec<_>, _>>()?;
    // Opened before anything is measured, so that a bad path costs no minutes.
    let before = arguments.json.as_deref().map_or(Ok(String::new()), existing)?;
    let open =
        |path: &Option<PathBuf>| path.as_deref().map(|path| OutputFile::create(path, None)).transpose();
    let (json, markdown) = (open(&arguments.json)?, open(&arguments.markdown)?);
    let buffer = ReadBuffer::try_new()?;
    let bar = std::io::stderr().is_terminal();
    let mut runs = Vec::new();
    let mut records = String::new();
    for path in &arguments.models {
        let file = ModelFile::open(path)?;
        let large = crate::versus::work::Model::from_gguf(&file.parse()?)?.demand.matrix_bytes > LARGE;
        let decode = arguments.decode.unwrap_or(if large { 64 } else { 128 }) as usize;
        let works = [Work::Prefill(arguments.prefill as usize), Work::Decode(decode)];
        let works = works.into_iter().filter(|work| !matches!(work, Work::Prefill(0) | Work::Decode(0 | 1)));
        let plan = Plan {
            engines: engines.clone(),
            rounds: arguments.rounds.into(),
            works: works.collect(),
            beside: arguments.beside.into(),
        };
        let environment = Value::Object(environment::object(Some(&file)));
        for &threads in &arguments.threads {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let mut progress = |what: &str| {
                if bar {
                    eprint!("\r\x1b[K{name}, threads {threads}: {what}");
                }
            };
            let run = measure(&plan, path, threads.into(), &buffer, &mut progress)?;
            if bar {
                eprint!("\r\x1b[K");
            }
            eprintln!("{}", run.remarks());
            for record in run.records(&environment) {
                records.push_str(&format!("{record}\n"));
            }
            runs.push(run);
        }
    }
    let mut text = table(&runs);
    for engine in runs.first().map_or(&[][..], |run| &run.engines) {
        let hello = &engine.hello;
        text.push_str(&format!("\n{} {}: {}", hello.engine, hello.version, hello.compiled.join(" ")));
        for (name, value) in &hello.settings {
            text.push_str(&format!("; {name} {value}"));
        }
        if let Some(why) = &hello.crippled {
            text.push_str(&format!("; CRIPPLED, no ratios: {why}"));
        }
    }
    text.push('\n');
    write!(out, "{text}")?;
    if let Some(file) = json {
        save(file, &format!("{before}{records}"))?;
    }
    if let Some(file) = markdown {
        let remarks: String = runs.iter().map(|run| format!("- {}\n", run.remarks())).collect();
        save(file, &format!("{text}\n{remarks}"))?;
    }
    Ok(())
}

/// What a file holds that records are appended to. An unreadable one is an error: it would be replaced.
fn existing(path: &Path) -> Result<String, Failure> {
    if !path.is_file() {
        return Ok(String::new());
    }
    std::fs::read_to_string(path)
        .map_err(|error| Failure::because(path.display(), format!("{error}; append to another file")))
}

fn save(mut file: OutputFile, text: &str) -> Result<(), Failure> {
    file.write_all(text.as_bytes()).map_err(|error| file.failed(error))?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_program_with_arguments() {
        let peer = engine("target/release/lm-rs-bench --session --batch 8").unwrap();
        assert_eq!(peer.program, PathBuf::from("target/release/lm-rs-bench"));
        assert_eq!(peer.arguments, ["--session", "--batch", "8"]);
        assert!(engine("  ").is_err());
    }

    #[test]
    fn records_are_appended_and_never_replace_what_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        assert_eq!(existing(&path).unwrap(), "");
        std::fs::write(&path, "{}\n").unwrap();
        assert_eq!(existing(&path).unwrap(), "{}\n");
        std::fs::write(&path, b"\xff").unwrap();
        assert!(existing(&path).unwrap_err().to_string().contains("append to another file"));
    }
}
