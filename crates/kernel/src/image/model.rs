//! The model: found in memory, checked, borrowed where it lies.

use alloc::format;
use alloc::string::String;

use super::options::{Options, Source};
use crate::boot::machine::Machine;
use crate::console_line as line;
use crate::llm::gguf::Gguf;
use crate::llm::model::{LoadConfig, Model};
use crate::llm::tokenizer::Tokenizer;

/// Bytes on a 64-byte boundary, as the widest loads like them.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

/// The small model inside the image: it continues texts, and has no chat template.
static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!("../../assets/tiny.gguf"));

/// A model file and what was built on it. The weights stay in the file.
pub struct Loaded {
    /// The name the file gives itself, without blanks.
    pub name: String,
    /// Where it came from.
    pub source: Source,
    /// The file.
    pub gguf: Gguf<'static>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer<'static>,
    /// Its weights.
    pub model: Model<'static>,
}

impl Loaded {
    /// Loads what the command line asks for.
    pub fn load(options: &Options<'_>, machine: &Machine) -> Result<Self, String> {
        let file = match options.model {
            Source::Initrd => machine.initrd.ok_or(
                "no model: pass a GGUF file with -initrd, or use the small one inside the image with model=embedded",
            )?,
            Source::Embedded => &EMBEDDED.0,
        };
        let refused = |error: &dyn core::fmt::Display| format!("the model is refused: {error}");
        let gguf = Gguf::parse(file).map_err(|e| refused(&e))?;
        let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|e| refused(&e))?;
        let model = Model::load(&gguf, LoadConfig::default()).map_err(|e| refused(&e))?;
        let name = gguf.get_str("general.name").ok().flatten().unwrap_or("model");
        let name = name.split_ascii_whitespace().collect::<alloc::vec::Vec<_>>().join("-");
        line!("model: {name}, {} parameters, {} bytes of weights", model.parameters(), model.weight_bytes());
        Ok(Loaded { name, source: options.model, gguf, tokenizer, model })
    }
}
