//! `barelm export`: a checkpoint folder of a GGUF file.

use std::io::Write;
use std::path::PathBuf;

use barelm::llm::quant::GgmlType;
use clap::Args;

use super::quantize::type_parser;
use crate::checkpoint::export::export;
use crate::failure::Failure;
use crate::model_file::ModelFile;

/// Arguments of `barelm export`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The GGUF file to read.
    pub model: PathBuf,
    /// The folder to write; it is made, and must not hold a checkpoint.
    pub folder: PathBuf,
    /// The type of the weights: f32, f16 or bf16.
    #[arg(long = "type", value_name = "TYPE", default_value = "f32", value_parser = type_parser(), ignore_case = true)]
    pub ty: GgmlType,
}

/// Writes the folder and says what it holds.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let file = ModelFile::open(&arguments.model)?;
    let tensors = export(&file.parse()?, &arguments.folder, arguments.ty)?;
    writeln!(out, "{tensors} tensors in {}", arguments.folder.display())?;
    Ok(())
}
