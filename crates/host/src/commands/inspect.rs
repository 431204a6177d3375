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

/// Contexts whose memory is shown if none is asked for.
#[cfg(feature = "llm-transformer")]
const USUAL_CONTEXTS: [usize; 2] = [512, 2048];

/// Arguments of `barelm inspect`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The GGUF file.
    pub model: PathBuf,
    /// Positions to plan memory for (default: 512, 2048 and the model's own context length).
    #[arg(long, visible_alias = "ctx", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
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
            "\ntokenizer: {} ids, pre-tokenizer {}, begin {}, end {}, adds begin: {}",
            tokenizer.vocab_size(),
            tokenizer.pre_tokenizer().map_or("none".into(), |kind| format!("{kind:?}")),
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

/// A line for each context: the one asked for, else some that are usual and the model's own.
#[cfg(feature = "llm-transformer")]
fn write_plan(gguf: &Gguf<'_>, context: Option<u32>, out: &mut dyn Write) -> Result<(), Failure> {
    use barelm::llm::model::Shape;
    use barelm::llm::plan::{Plan, SessionConfig};
    use barelm::llm::simd;
    let own = match Shape::from_gguf(gguf) {
        Ok(shape) => shape.context_length,
        // A file that cannot be run can still be looked at.
        Err(error) => return Ok(writeln!(out, "\ncannot be run: {error}")?),
    };
    let contexts = match context {
        Some(context) => vec![context as usize],
        None => USUAL_CONTEXTS.into_iter().filter(|&usual| usual < own).chain([own]).collect(),
    };
    let members = crate::team::default_threads();
    let available = super::setup::available_memory();
    writeln!(out, "\nmemory to run it on {members} threads, bytes")?;
    writeln!(
        out,
        "  {:>9} {:>14} {:>15} {:>14} {:>14} {:>15}",
        "positions", "weights", "keys and values", "scratch", "packed", "total"
    )?;
    for context in contexts {
        let config = SessionConfig { context, members, ..SessionConfig::default() };
        let plan = match Plan::from_header(gguf, &config) {
            Ok(plan) => plan.packed_for(simd::best(), gguf),
            Err(error) => {
                writeln!(out, "  {context:>9} {error}")?;
                continue;
            }
        };
        let fits = match available.map(|available| plan.check(available)) {
            None => "",
            Some(Ok(_)) => "fits here",
            Some(Err(_)) => "too much here",
        };
        writeln!(
            out,
            "  {context:>9} {:>14} {:>15} {:>14} {:>14} {:>15}  {fits}",
            plan.weights,
            plan.kv,
            plan.scratch,
            plan.packed,
            plan.total()
        )?;
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
