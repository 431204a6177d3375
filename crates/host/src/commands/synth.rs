//! `barelm synth`: a model of a known shape with random weights.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use barelm::llm::gguf::WriteError;
use barelm::llm::quant::GgmlType;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::failure::Failure;
use crate::output_file::OutputFile;
use crate::synth::{Error, SynthShape, TYPES, synthesize};

/// Arguments of `barelm synth`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The GGUF file to write; an existing one is replaced once the new one is complete.
    pub output: PathBuf,
    /// The shape.
    #[arg(long, value_name = "SHAPE", default_value = "llama-3.2-1b", value_parser = shape_parser())]
    pub shape: SynthShape,
    /// The type of all matrices.
    #[arg(long = "type", value_name = "TYPE", default_value = "Q4_0", ignore_case = true, value_parser = type_parser())]
    pub ty: GgmlType,
    /// Other seeds give other weights.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

fn shape_parser() -> impl TypedValueParser<Value = SynthShape> {
    let names = SynthShape::ALL.map(|shape| shape.name);
    PossibleValuesParser::new(names)
        .map(|name| SynthShape::by_name(&name).expect("the parser lets only these names through"))
}

fn type_parser() -> impl TypedValueParser<Value = GgmlType> {
    let type_of =
        |name: &str| TYPES.into_iter().map(|(ty, _)| ty).find(|ty| ty.name().eq_ignore_ascii_case(name));
    PossibleValuesParser::new(TYPES.map(|(ty, _)| ty.name()))
        .map(move |name| type_of(&name).expect("the parser lets only these names through"))
}

/// Writes the file; progress goes to standard error if that is a terminal.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let bar = std::io::stderr().is_terminal();
    let mut file = OutputFile::create(&arguments.output, None)?;
    let made = synthesize(&arguments.shape, arguments.ty, arguments.seed, &mut file, &mut |done, all| {
        if bar {
            eprint!("\r{:3} %", done * 100 / all.max(1));
        }
    });
    if bar {
        eprintln!();
    }
    match made {
        Ok(()) => file.finish()?,
        Err(Error::Write(WriteError::Sink(error))) => return Err(file.failed(error)),
        Err(error) => return Err(Failure::Message(error.to_string())),
    }
    writeln!(
        out,
        "{}: shape {}, {}, seed {}",
        arguments.output.display(),
        arguments.shape.name,
        arguments.ty,
        arguments.seed
    )?;
    Ok(())
}
