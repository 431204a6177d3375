//! `barelm convert`: a GGUF file of a checkpoint folder.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use barelm::llm::gguf::WriteError;
use barelm::llm::quant::GgmlType;
use clap::Args;

use super::quantize::type_parser;
use crate::checkpoint::convert::{ConvertError, convert};
use crate::failure::Failure;
use crate::output_file::OutputFile;
use crate::quantize::Error;

/// Arguments of `barelm convert`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The folder: config.json, tokenizer.json and the weights as safetensors, in one file or several.
    pub folder: PathBuf,
    /// The GGUF file to write; an existing one is replaced once the new one is complete.
    pub output: PathBuf,
    /// The type of the matrices.
    #[arg(long = "type", value_name = "TYPE", value_parser = type_parser(), ignore_case = true)]
    pub ty: GgmlType,
    /// Make every matrix this type, the head too (without it the head becomes Q8_0, as llama.cpp makes it).
    #[arg(long)]
    pub pure: bool,
    /// The pre-tokenizer's name to write, where the folder's is not one of the known.
    #[arg(long, value_name = "NAME")]
    pub pre: Option<String>,
}

/// Converts the folder and prints what was written; progress goes to standard error if that is a terminal.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let bar = std::io::stderr().is_terminal();
    let mut file = OutputFile::create(&arguments.output, None)?;
    let mut shown = None;
    let mut progress = |done: u64, all: u64| {
        let percent = done * 100 / all.max(1);
        if bar && shown.replace(percent) != Some(percent) {
            eprint!("\r{percent:3} %");
        }
    };
    let (ty, pre) = (arguments.ty, arguments.pre.as_deref());
    let report = convert(&arguments.folder, ty, arguments.pure, pre, &mut file, &mut progress);
    if bar {
        eprintln!();
    }
    let report = match report {
        Ok(report) => report,
        Err(ConvertError::Folder(failure)) => return Err(failure),
        Err(ConvertError::File(Error::Write(WriteError::Sink(error)))) => return Err(file.failed(error)),
        Err(ConvertError::File(error)) => return Err(Failure::because(arguments.folder.display(), error)),
    };
    file.finish()?;
    writeln!(out, "{} tensors, {} bytes of data", report.tensors, report.bytes)?;
    Ok(())
}
