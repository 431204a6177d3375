//! Models and passes, for the protocol.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;

use barelm::llm::gguf::Gguf;
use barelm::llm::tokenizer::Tokenizer;
use barelm_protocol::sequences::{Continuous, Part, Sequences, Serial, Wanted};
use barelm_protocol::{
    Backend, Batched, Batching, Engine, Hello, Load, Op, OpAnswer, Request, cpu, fixed_threads,
};
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::{MAX_SEQ_LEN, ModelWeights};
use memmap2::Mmap;

use crate::decoder::Decoder;
use crate::ops;

/// Positions of prompts computed in a pass.
const BATCH: usize = 512;
/// Sequences computed at the same time, at most.
const MAX_SEQUENCES: usize = 128;
/// Where this build computes.
const DEVICE: &str = if cfg!(feature = "cuda") { "cuda" } else { "cpu" };
/// Types of weights that products take as they are.
const FORMATS: [&str; 9] = ["F32", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];

/// Which forward computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The library's, where it can; else this adapter's.
    Auto,
    /// This adapter's, always.
    Own,
}

impl Forward {
    /// The one with this name.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "auto" => Some(Self::Auto),
            "own" => Some(Self::Own),
            _ => None,
        }
    }
}

/// The library.
pub struct Candle {
    pub forward: Forward,
}

/// The CPU, or the first GPU.
fn device() -> Result<Device, String> {
    match cfg!(feature = "cuda") {
        // The first line: the rest is where in candle it was found.
        true => Device::new_cuda(0)
            .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned()),
        false => Ok(Device::Cpu),
    }
}

impl Backend for Candle {
    fn hello(&self) -> Hello {
        let (compiled, detected) = (cpu::compiled(), cpu::detected());
        let forward = match self.forward {
            Forward::Auto => {
                "candle-transformers' quantized_llama; this adapter's own for several sequences, contexts over 4096 and files \
                 with rope_freqs"
            }
            Forward::Own => "this adapter's own, on candle's quantized products",
        };
        let settings = [
            ("forward", forward.to_owned()),
            ("kv_type", "f32".to_owned()),
            ("batch", format!("{BATCH} positions of prompts in a pass")),
            ("weights", "the file's blocks; F16 and BF16 are widened to F32".to_owned()),
            ("flash_attention", "off: two products with a softmax between".to_owned()),
        ];
        Hello {
            engine: if cfg!(feature = "cuda") { "candle-cuda" } else { "candle" }.into(),
            version: "candle-core 0.11.1".into(),
            // On a GPU the CPU's kernels matter to nobody.
            crippled: cpu::crippled(&compiled, &detected).filter(|_| DEVICE == "cpu"),
            compiled,
            detected,
            unavailable: device().err(),
            device: DEVICE.into(),
            settings: BTreeMap::from(settings.map(|(name, value)| (name.to_owned(), value))),
            formats: FORMATS.map(str::to_owned).to_vec(),
            batching: Batching::Continuous,
            max_in_flight: MAX_SEQUENCES,
            logits: true,
            ops: ops::NAMES.map(str::to_owned).to_vec(),
            ..Hello::default()
        }
    }

    fn with_model(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), String> {
        self.with_sequences(load, &mut |model, batch| work(&mut Serial::new(model, batch)))
    }

    fn with_batched(
        &self,
        load: &Load,
        work: &mut dyn FnMut(&mut dyn Batched),
    ) -> Option<Result<(), String>> {
        let sequences = load.sequences();
        (sequences > 1).then(|| {
            self.with_sequences(load, &mut |model, batch| {
                work(&mut Continuous::new(model, sequences, batch));
            })
        })
    }

    fn op(&self, op: &Op) -> OpAnswer {
        let threads = op.size("threads", 1);
        let threads = threads.and_then(|threads| fixed_threads::fix(threads, &Request::Op(op.clone())));
        match threads.and_then(|()| device()) {
            Ok(device) => ops::answer(op, &device),
            Err(why) => OpAnswer::Failed(why),
        }
    }
}

impl Candle {
    /// Loads a model and gives it to `work`, with the number of positions of prompts in a pass.
    fn with_sequences(&self, load: &Load, work: &mut dyn FnMut(Loaded<'_>, usize)) -> Result<(), String> {
        let refused = |error: &dyn std::fmt::Display| format!("{}: {error}", load.model.display());
        load.check(DEVICE, "f32", MAX_SEQUENCES)?;
        let file = File::open(&load.model).map_err(|error| refused(&error))?;
        fixed_threads::fix(load.threads, &Request::Load(load.clone()))?;
        let device = device()?;
        // SAFETY: the file is only read, and whoever measures does not change it meanwhile.
        let bytes = unsafe { Mmap::map(&file) }.map_err(|error| refused(&error))?;
        let gguf = Gguf::parse(&bytes).map_err(|error| refused(&error))?;
        let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|error| refused(&error))?;
        let mut file = BufReader::new(file);
        let content = Content::read(&mut file).map_err(|error| refused(&error))?;
        let own = self.forward == Forward::Own
            || load.sequences() > 1
            || load.context > MAX_SEQ_LEN
            || content.tensor_infos.contains_key("rope_freqs.weight");
        let model = if own {
            let decoder = Decoder::read(&content, &mut file, &device, load.context, load.sequences());
            Model::Own(decoder.map_err(|error| refused(&error))?)
        } else {
            let vocab_size = tokenizer.vocab_size();
            let weights = ModelWeights::from_gguf(content, &mut file, &device);
            let weights = weights.map_err(|error| refused(&error))?;
            Model::Library { weights, device, vocab_size, context: load.context, used: 0 }
        };
        work(Loaded { model, tokenizer }, load.batch.unwrap_or(BATCH));
        Ok(())
    }
}

enum Model {
    /// One sequence, of which it knows the keys and values itself.
    Library {
        weights: ModelWeights,
        device: Device,
        vocab_size: usize,
        context: usize,
        used: usize,
    },
    Own(Decoder),
}

/// A model with its tokenizer.
struct Loaded<'g> {
    model: Model,
    tokenizer: Tokenizer<'g>,
}

impl Model {
    fn pass(&mut self, parts: &[Part<'_>], wanted: Wanted) -> candle_core::Result<Vec<f32>> {
        match self {
            Self::Own(decoder) => decoder.pass(parts, wanted)?.flatten_all()?.to_vec1(),
            Self::Library { weights, device, used, .. } => {
                let mut rows = Vec::new();
                for part in parts {
                    // It gives the last token's logits only: for all of them, a pass each.
                    let passes = if wanted == Wanted::All { 1 } else { part.ids.len() };
                    for ids in part.ids.chunks(passes) {
                        let ids_tensor = Tensor::new(ids, device)?.unsqueeze(0)?;
                        let logits = weights.forward(&ids_tensor, *used)?;
                        *used += ids.len();
                        rows.append(&mut logits.flatten_all()?.to_vec1()?);
                    }
                }
                Ok(rows)
            }
        }
    }
}

impl Sequences for Loaded<'_> {
    fn vocab_size(&self) -> usize {
        match &self.model {
            Model::Library { vocab_size, .. } => *vocab_size,
            Model::Own(decoder) => decoder.vocab_size(),
        }
    }

    fn context(&self) -> usize {
        match &self.model {
            Model::Library { context, .. } => *context,
            Model::Own(decoder) => decoder.context(),
        }
    }

    fn clear(&mut self, slot: usize) {
        match &mut self.model {
            // It forgets by itself when a pass is at position 0.
            Model::Library { used, .. } => *used = 0,
            Model::Own(decoder) => decoder.clear(slot),
        }
    }

    fn pass(&mut self, parts: &[Part<'_>], wanted: Wanted) -> Result<Vec<f32>, String> {
        self.model.pass(parts, wanted).map_err(|error| error.to_string())
    }

    fn ends(&self, id: u32) -> bool {
        self.tokenizer.is_end_of_generation(id)
    }
}
