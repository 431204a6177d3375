//! `barelm tokenize`: text in, token ids out, one JSON object a line.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use barelm::llm::tokenizer::{Encoder, Special, Tokenizer};
use clap::Args;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::model_file::ModelFile;

/// Arguments of `barelm tokenize`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The GGUF file whose tokenizer to use.
    pub model: PathBuf,
    /// Turn the text of special tokens such as <|im_start|> into their ids instead of into ordinary text.
    #[arg(long)]
    pub special: bool,
    /// Each line of input is a JSON object {"text": "…"} (without this flag: a line of plain text, without its line
    /// end); each line of output is {"ids": […]}.
    #[arg(long)]
    pub jsonl: bool,
}

/// Tokenizes every line of `input`. No beginning-of-sequence id is added.
pub fn run(arguments: &Arguments, mut input: impl BufRead, out: &mut dyn Write) -> Result<(), Failure> {
    let file = ModelFile::open(&arguments.model)?;
    let tokenizer = Tokenizer::from_gguf(&file.parse()?)
        .map_err(|error| Failure::because(arguments.model.display(), error))?;
    let special = if arguments.special { Special::Parse } else { Special::Plain };
    let mut encoder = Encoder::with_capacity(0);
    let (mut line, mut ids) = (Vec::new(), Vec::new());
    for number in 1.. {
        line.clear();
        if input
            .read_until(b'\n', &mut line)
            .map_err(|error| Failure::because("cannot read the input", error))?
            == 0
        {
            break;
        }
        let at_line = |error: &dyn std::fmt::Display| {
            Failure::because(format_args!("line {number} of the input"), error)
        };
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let object: Value;
        let text = if arguments.jsonl {
            object = serde_json::from_slice(line).map_err(|error| at_line(&error))?;
            object.get("text").and_then(Value::as_str).ok_or_else(|| at_line(&"no string \"text\""))?
        } else {
            std::str::from_utf8(line).map_err(|error| at_line(&error))?
        };
        ids.clear();
        tokenizer.encode(&mut encoder, text, special, &mut ids).map_err(|error| at_line(&error))?;
        writeln!(out, "{}", json!({ "ids": ids }))?;
    }
    Ok(())
}
