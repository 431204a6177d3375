//! `barelm inspect`: what a model file holds and how much memory it needs.

use std::io::Write;
use std::path::PathBuf;

use barelm::llm::gguf::{Gguf, Value};
use barelm::llm::tokenizer::Tokenizer;
use clap::Args;

use crate::failure::Failure;
use crate::model_file::ModelFile;

/// Characters of a text value that are shown.
const SHOWN: usize = 72;

/// Arguments of `barelm inspect`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The GGUF file.
    pub model: PathBuf,
    /// Positions to plan memory for (default: the model's own context length).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
}

/// Prints metadata, tensors and the memory plan.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let file = ModelFile::open(&arguments.model)?;
    let gguf = file.parse()?;
    writeln!(
        out,
        "GGUF version {}, {} bytes, header {} bytes, alignment {}",
        gguf.version(),
        gguf.file_size(),
        gguf.header_bytes(),
        gguf.alignment()
    )?;
    writeln!(out, "\nmetadata")?;
    for (key, value) in gguf.metadata() {
        writeln!(out, "  {} = {}", key.escape_debug(), show(value))?;
    }
    write_tensors(&gguf, out)?;
    match Tokenizer::from_gguf(&gguf) {
        Ok(tokenizer) => writeln!(
            out,
            "\ntokenizer: {} ids, pre-tokenizer {:?}, begin {}, end {}, adds begin: {}",
            tokenizer.vocab_size(),
            tokenizer.pre_tokenizer(),
            tokenizer.bos().map_or("none".into(), |id| id.to_string()),
            tokenizer.eos().map_or("none".into(), |id| id.to_string()),
            tokenizer.adds_bos(),
        )?,
        Err(error) => writeln!(out, "\ntokenizer: {error}")?,
    }
    #[cfg(feature = "llm-transformer")]
    write_plan(&gguf, arguments.context, out)?;
    Ok(())
}

fn write_tensors(gguf: &Gguf<'_>, out: &mut dyn Write) -> Result<(), Failure> {
    let (mut elements, mut bytes) = (0u64, 0u64);
    writeln!(out, "\ntensors")?;
    for tensor in gguf.tensors() {
        let dims = &tensor.dims[..tensor.n_dims.min(4)];
        let dims: Vec<_> = dims.iter().map(u64::to_string).collect();
        writeln!(
            out,
            "  {:<32} {:>5} {:>16} {:>12} bytes",
            tensor.name.escape_debug().to_string(),
            tensor.ty.name(),
            dims.join(" x "),
            tensor.size_bytes
        )?;
        elements = elements.saturating_add(tensor.elements());
        bytes = bytes.saturating_add(tensor.size_bytes);
    }
    writeln!(out, "  {} tensors, {elements} values, {bytes} bytes", gguf.tensor_count())?;
    Ok(())
}

#[cfg(feature = "llm-transformer")]
fn write_plan(gguf: &Gguf<'_>, context: Option<u32>, out: &mut dyn Write) -> Result<(), Failure> {
    use barelm::llm::plan::{Plan, SessionConfig};
    let config = SessionConfig {
        context: context.map_or(0, |context| context as usize),
        members: crate::team::default_threads(),
        ..SessionConfig::default()
    };
    match Plan::from_header(gguf, &config) {
        Ok(plan) => {
            writeln!(out, "\nmemory to run it")?;
            for line in plan.to_string().lines() {
                writeln!(out, "  {line}")?;
            }
            match super::setup::available_memory().map(|available| plan.check(available)) {
                Some(Ok(spare)) => writeln!(out, "  fits, {spare} bytes to spare")?,
                Some(Err(shortfall)) => writeln!(out, "  {shortfall}")?,
                None => {}
            }
        }
        // A file that cannot be run can still be looked at.
        Err(error) => writeln!(out, "\ncannot be run: {error}")?,
    }
    Ok(())
}

/// One line for a value; nothing that a terminal would obey.
fn show(value: Value<'_>) -> String {
    match value {
        Value::Str(text) => {
            let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
            if text.chars().nth(SHOWN).is_some() {
                shown.push_str(&format!("… ({} bytes)", text.len()));
            }
            format!("\"{shown}\"")
        }
        Value::Array(array) => format!("{} x {}", array.len(), array.element_type().name()),
        Value::Bool(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::U8(value) => value.to_string(),
        Value::I8(value) => value.to_string(),
        Value::U16(value) => value.to_string(),
        Value::I16(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
    }
}
