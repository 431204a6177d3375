//! Models and passes, for the protocol.

use std::collections::BTreeMap;
use std::fs::File;

use barelm::llm::gguf::Gguf;
use barelm::llm::tokenizer::Tokenizer;
use barelm_protocol::sequences::{Continuous, Part, Sequences, Serial, Wanted};
use barelm_protocol::{Backend, Batched, Batching, Engine, Hello, Load, Op, OpAnswer, cpu};
use memmap2::Mmap;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::decoder::Decoder;
use crate::ops;
use crate::tensors::{BACKEND, DEVICE, ENGINE, VERSION, device};
use crate::weights::Weights;

/// Positions of prompts computed in a pass.
const BATCH: usize = 512;
/// Sequences computed at the same time, at most.
const MAX_SEQUENCES: usize = 128;

/// The library.
pub struct Burn;

impl Backend for Burn {
    fn hello(&self) -> Hello {
        let (compiled, detected) = (cpu::compiled(), cpu::detected());
        let settings = [
            ("backend", BACKEND.to_owned()),
            ("weights", "every format is widened to F32 when it is loaded".to_owned()),
            ("kv_type", "f32".to_owned()),
            ("batch", format!("{BATCH} positions of prompts in a pass")),
            ("decoder", "this adapter's own, in burn's tensor operations".to_owned()),
            ("flash_attention", "off: two products with a softmax between".to_owned()),
        ];
        Hello {
            engine: ENGINE.into(),
            version: VERSION.into(),
            // On a GPU the CPU's kernels matter to nobody.
            crippled: cpu::crippled(&compiled, &detected).filter(|_| DEVICE == "cpu"),
            compiled,
            detected,
            unavailable: device().err(),
            device: DEVICE.into(),
            settings: BTreeMap::from(settings.map(|(name, value)| (name.to_owned(), value))),
            formats: vec!["F32".into()],
            batching: Batching::Continuous,
            max_in_flight: MAX_SEQUENCES,
            logits: true,
            ops: ops::NAMES.map(str::to_owned).to_vec(),
            ..Hello::default()
        }
    }

    fn with_model(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), String> {
        with_sequences(load, &mut |model, batch| work(&mut Serial::new(model, batch)))
    }

    fn with_batched(
        &self,
        load: &Load,
        work: &mut dyn FnMut(&mut dyn Batched),
    ) -> Option<Result<(), String>> {
        let sequences = load.sequences();
        (sequences > 1).then(|| {
            with_sequences(load, &mut |model, batch| work(&mut Continuous::new(model, sequences, batch)))
        })
    }

    fn op(&self, op: &Op) -> OpAnswer {
        let timed = op.size("threads", 1).and_then(|threads| Ok((pool(threads)?, device()?)));
        match timed {
            Ok((pool, device)) => pool.install(|| ops::answer(op, &device)),
            Err(why) => OpAnswer::Failed(why),
        }
    }
}

/// Loads a model and gives it to `work`, with the number of positions of prompts in a pass.
fn with_sequences(load: &Load, work: &mut dyn FnMut(Loaded<'_>, usize)) -> Result<(), String> {
    let refused = |error: &dyn std::fmt::Display| format!("{}: {error}", load.model.display());
    load.check(DEVICE, "f32", MAX_SEQUENCES)?;
    let device = device()?;
    let pool = pool(load.threads)?;
    let file = File::open(&load.model).map_err(|error| refused(&error))?;
    // SAFETY: the file is only read, and whoever measures does not change it meanwhile.
    let bytes = unsafe { Mmap::map(&file) }.map_err(|error| refused(&error))?;
    let gguf = Gguf::parse(&bytes).map_err(|error| refused(&error))?;
    let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|error| refused(&error))?;
    let weights = Weights::read(&gguf, &device).map_err(|error| refused(&error))?;
    let decoder = Decoder::new(weights, device, load.context, load.sequences());
    work(Loaded { decoder, pool, tokenizer }, load.batch.unwrap_or(BATCH));
    Ok(())
}

fn pool(threads: usize) -> Result<ThreadPool, String> {
    if !(1..=1024).contains(&threads) {
        return Err("threads: from 1 to 1024".into());
    }
    ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| format!("threads: {error}"))
}

/// A model, and the threads it computes with.
struct Loaded<'g> {
    decoder: Decoder,
    pool: ThreadPool,
    tokenizer: Tokenizer<'g>,
}

impl Sequences for Loaded<'_> {
    fn vocab_size(&self) -> usize {
        self.decoder.vocab_size()
    }

    fn context(&self) -> usize {
        self.decoder.context()
    }

    fn clear(&mut self, slot: usize) {
        self.decoder.clear(slot);
    }

    fn pass(&mut self, parts: &[Part<'_>], wanted: Wanted) -> Result<Vec<f32>, String> {
        let decoder = &mut self.decoder;
        Ok(self.pool.install(|| decoder.pass(parts, wanted)))
    }

    fn ends(&self, id: u32) -> bool {
        self.tokenizer.is_end_of_generation(id)
    }
}
