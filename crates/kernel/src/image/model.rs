//! The model: found in memory, checked, borrowed where it lies.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::checksum::checksum;
use super::options::{Options, Source};
use crate::boot::machine::Machine;
use crate::boot::{heap_free, make_read_only, make_writable, model_file, take_pages};
use crate::console_line as line;
use crate::llm::gguf::Gguf;
use crate::llm::model::{LoadConfig, Model};
use crate::llm::plan::{Plan, SessionConfig};
use crate::llm::simd::Kernels;
use crate::llm::tokenizer::Tokenizer;
use crate::log;

/// Bytes on a 64-byte boundary, as the widest loads like them.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

/// The small model inside the image: it continues texts, and has no chat template.
static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!("../../assets/tiny.gguf"));

/// A model file and what was built on it. The weights stay in the file; a copy of them may be packed for the kernels.
pub struct Loaded {
    /// The name the file gives itself, without blanks.
    pub name: String,
    /// Where it came from.
    pub source: Source,
    /// The file.
    pub gguf: Gguf<'static>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer<'static>,
    /// Its weights, as they lie in the file.
    pub model: Model<'static>,
    /// Its weights in the layout of the table that was chosen, where it has one of its own and memory sufficed.
    packed: Option<(&'static Kernels, Model<'static>)>,
    /// Memory that is not to change: its name, where it lies, and its checksum where that was asked for.
    kept: Vec<Kept>,
    checked: bool,
}

/// Memory that is not to change while the machine runs.
struct Kept {
    name: &'static str,
    range: Range<usize>,
    sum: u64,
}

impl Kept {
    fn sum_now(&self) -> u64 {
        let first = core::ptr::with_exposed_provenance(self.range.start);
        // SAFETY: a file or a packed copy, which nothing frees and nothing writes to, save what this is to find.
        checksum(unsafe { core::slice::from_raw_parts(first, self.range.len()) })
    }
}

impl Loaded {
    /// Loads what the command line asks for.
    pub fn load(options: &Options<'_>, machine: &Machine<'static>) -> Result<Self, String> {
        let file = match options.model {
            Source::Initrd => model_file(machine).ok_or(
                "no model: pass a GGUF file with -initrd, or use the small one inside the image with model=embedded",
            )?,
            Source::Embedded => &EMBEDDED.0,
        };
        let refused = |error: &dyn core::fmt::Display| format!("the model is refused: {error}");
        let gguf = Gguf::parse(file).map_err(|e| refused(&e))?;
        let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|e| refused(&e))?;
        let model = Model::load(&gguf, LoadConfig::default()).map_err(|e| refused(&e))?;
        let name = gguf.get_str("general.name").ok().flatten().unwrap_or("model");
        let name = name.split_ascii_whitespace().collect::<Vec<_>>().join("-");
        line!("model: {name}, {} parameters, {} bytes of weights", model.parameters(), model.weight_bytes());
        log!(info, "model {=str}, {=u64} bytes of weights", name.as_str(), model.weight_bytes());
        let mut loaded = Loaded {
            name,
            source: options.model,
            gguf,
            tokenizer,
            model,
            packed: None,
            kept: Vec::new(),
            checked: options.checksum,
        };
        loaded.keep("the model file", file);
        Ok(loaded)
    }

    /// Packs the weights for `kernels` if that leaves room for `session`; otherwise says that they stay as they are.
    pub fn pack(&mut self, kernels: &'static Kernels, session: &SessionConfig) -> Result<(), String> {
        let needed = self.model.packed_bytes(kernels) as usize;
        if needed == 0 {
            return Ok(());
        }
        let plan = Plan::from_header(&self.gguf, session).map_err(|error| format!("{error}"))?;
        let room = (heap_free() as u64).checked_sub(plan.session()).is_some_and(|room| needed as u64 <= room);
        // The copy lives as long as the machine runs.
        let Some(memory) = room.then(|| take_pages(needed)).flatten() else {
            line!("packed for {}: no, {needed} more bytes are not free; slower", kernels.name);
            log!(warn, "not packed: {=usize} bytes are not free", needed);
            return Ok(());
        };
        let pages = memory.as_mut_ptr_range();
        let pages = pages.start.expose_provenance()..pages.end.addr();
        let model = self.model.packed(kernels, memory).map_err(|error| format!("{error}"))?;
        make_read_only(pages.clone()).map_err(|error| format!("{error}"))?;
        line!("packed for {}: {needed} bytes, read-only from now on", kernels.name);
        self.packed = Some((kernels, model));
        self.keep_range("the packed weights", pages);
        Ok(())
    }

    fn keep(&mut self, name: &'static str, bytes: &'static [u8]) {
        let first = bytes.as_ptr().expose_provenance();
        self.keep_range(name, first..first + bytes.len());
    }

    /// From now on the range is not to change.
    fn keep_range(&mut self, name: &'static str, range: Range<usize>) {
        let mut kept = Kept { name, range, sum: 0 };
        if self.checked {
            kept.sum = kept.sum_now();
            line!("checksum of {name}: {:016x}", kept.sum);
        }
        self.kept.push(kept);
    }

    /// Whether checksums are kept.
    pub fn is_checked(&self) -> bool {
        self.checked
    }

    /// Compares the model in memory with its checksums, where they are kept.
    pub fn verify(&self) -> Result<(), String> {
        for kept in self.kept.iter().filter(|_| self.checked) {
            let found = kept.sum_now();
            if found != kept.sum {
                return Err(format!(
                    "the model in memory has changed: the checksum of {} at {:#x} is {found:016x}, and was {:016x}; \
                     load it again, and test the machine's memory",
                    kept.name, kept.range.start, kept.sum
                ));
            }
        }
        Ok(())
    }

    /// Changes one bit in the middle of the packed weights: for tests of [`Self::verify`].
    pub fn damage(&self) -> Result<(), String> {
        let copy = self.kept.last().filter(|_| self.packed.is_some());
        let range = &copy.ok_or("the weights lie in the file, which cannot be written")?.range;
        let address = range.start + range.len() / 2;
        let page = address / 4096 * 4096;
        make_writable(page..page + 4096).map_err(|error| format!("{error}"))?;
        // SAFETY: none that the language knows: this stands for memory that fails, or a write by somebody who may. The
        // byte is the packed copy's, and the machine ends with the report.
        unsafe {
            core::arch::asm!(
                "ldrb {byte:w}, [{at}]", "eor {byte:w}, {byte:w}, #16", "strb {byte:w}, [{at}]",
                at = in(reg) address, byte = out(reg) _, options(nostack)
            );
        }
        line!("changed a bit at {address:#x}");
        Ok(())
    }

    /// The weights to compute with.
    pub fn fastest(&self) -> &Model<'static> {
        self.packed.as_ref().map_or(&self.model, |(_, packed)| packed)
    }

    /// The plan of a session on [`Self::fastest`].
    pub fn plan(&self, config: &SessionConfig) -> Result<Plan, String> {
        let plan = Plan::from_header(&self.gguf, config).map_err(|error| format!("{error}"))?;
        Ok(match self.packed {
            Some((kernels, _)) => plan.packed_for(kernels, &self.gguf),
            None => plan,
        })
    }
}
