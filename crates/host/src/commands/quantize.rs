//! `barelm quantize`: a model file of another type.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use barelm::llm::gguf::WriteError;
use barelm::llm::quant::GgmlType;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::failure::Failure;
use crate::model_file::ModelFile;
use crate::output_file::OutputFile;
use crate::quantize::{Error, Report, quantize};

/// The types that can be made, as they are written on the command line.
const TYPES: [(&str, GgmlType); 8] = [
    ("q4_0", GgmlType::Q4_0),
    ("q4_1", GgmlType::Q4_1),
    ("q5_0", GgmlType::Q5_0),
    ("q5_1", GgmlType::Q5_1),
    ("q8_0", GgmlType::Q8_0),
    ("bf16", GgmlType::BF16),
    ("f16", GgmlType::F16),
    ("f32", GgmlType::F32),
];

/// Arguments of `barelm quantize`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The GGUF file to read.
    pub input: PathBuf,
    /// The GGUF file to write; an existing one is replaced once the new one is complete.
    pub output: PathBuf,
    /// The type of the matrices.
    #[arg(long = "type", value_name = "TYPE", value_parser = type_parser(), ignore_case = true)]
    pub ty: GgmlType,
    /// Make every matrix this type, the head too (without it the head becomes Q8_0, as llama.cpp makes it).
    #[arg(long)]
    pub pure: bool,
}

/// Reads a type by its name.
pub(super) fn type_parser() -> impl TypedValueParser<Value = GgmlType> {
    PossibleValuesParser::new(TYPES.map(|(name, _)| name)).map(|name| {
        let found = TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name));
        found.expect("the parser lets only these names through").1
    })
}

/// Converts the file and prints what was done; progress goes to standard error if that is a terminal.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let bar = std::io::stderr().is_terminal();
    let mut shown = None;
    let report =
        convert(&arguments.input, &arguments.output, arguments.ty, arguments.pure, &mut |done, all| {
            let percent = done * 100 / all.max(1);
            if bar && shown.replace(percent) != Some(percent) {
                eprint!("\r{percent:3} %");
            }
        });
    if bar {
        eprintln!();
    }
    let report = report?;
    writeln!(
        out,
        "{} of {} tensors converted, {} bytes of data became {}",
        report.converted, report.tensors, report.bytes_in, report.bytes_out
    )?;
    if report.f16_for_width > 0 {
        writeln!(
            out,
            "{} of them are F16: their rows are not whole blocks of {}",
            report.f16_for_width,
            arguments.ty.name()
        )?;
    }
    if report.q8_0_for_q6_k {
        writeln!(out, "the head is Q8_0; llama.cpp would have chosen Q6_K, which is smaller and less exact")?;
    }
    Ok(())
}

/// Writes the model of `input` in type `ty` to `output`, which is never half a model. `progress` is told (bytes read, bytes in all).
pub fn convert(
    input: &Path,
    output: &Path,
    ty: GgmlType,
    pure: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, Failure> {
    let file = ModelFile::open(input)?;
    let gguf = file.parse()?;
    let mut out = OutputFile::create(output, Some(input))?;
    match quantize(&gguf, ty, pure, &mut out, progress) {
        Ok(report) => out.finish().map(|()| report),
        Err(Error::Write(WriteError::Sink(error))) => Err(out.failed(error)),
        Err(error) => Err(Failure::because(input.display(), error)),
    }
}
