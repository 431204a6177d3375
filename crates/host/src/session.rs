//! Our runtime as an engine: what `lm-rs-bench --session` answers with (`docs/llm/PROTOCOL.md`).

use std::collections::BTreeMap;

use barelm::llm::sampler::argmax;
use barelm::llm::tokenizer::Tokenizer;
use barelm::llm::transformer::{Logits, Session};
use barelm_protocol::{Backend, Engine, Hello, Load};

use crate::commands::setup::{Needs, SessionArguments, with_session};
use crate::failure::Failure;
use crate::model_file::ModelFile;

/// Positions of a prompt computed at a time where nobody says.
const BATCH: u16 = 64;

/// The runtime on this machine's best kernels, or on those asked for.
pub struct Ours {
    /// Threads and batch are those of the requests.
    arguments: SessionArguments,
}

impl Ours {
    /// An engine that computes with these kernels, and batches of this size where a request has none.
    pub fn new(kernels: Option<String>, batch: Option<u16>) -> Result<Self, Failure> {
        let arguments = SessionArguments { threads: None, kernels, batch: batch.unwrap_or(BATCH) };
        arguments.kernels()?;
        Ok(Ours { arguments })
    }
}

impl Backend for Ours {
    fn hello(&self) -> Hello {
        let kernels = self.arguments.kernels().expect("looked up before").name;
        let settings = [
            ("kernels", kernels.to_owned()),
            ("batch", format!("{} positions of a prompt at a time", self.arguments.batch)),
            ("kv_type", "f16".to_owned()),
            ("build", if cfg!(debug_assertions) { "debug assertions" } else { "release" }.to_owned()),
            ("commit", env!("BARELM_COMMIT").to_owned()),
        ];
        let mut detected: Vec<String> =
            barelm::llm::simd::available().map(|kernels| kernels.name.to_owned()).collect();
        let compiled = detected.clone();
        // The kernels are chosen at run time, so that every build has all of them.
        detected.retain(|name| name != "scalar");
        let best = barelm::llm::simd::best().name;
        let crippled = if cfg!(debug_assertions) {
            Some("built with debug assertions: build with --release".to_owned())
        } else if kernels != best {
            Some(format!("computes with the kernels {kernels}, but {best} are the best here"))
        } else {
            None
        };
        Hello {
            protocol: barelm_protocol::VERSION,
            engine: "barelm".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            compiled,
            detected,
            crippled,
            settings: BTreeMap::from(settings.map(|(name, value)| (name.to_owned(), value))),
        }
    }

    fn with_model(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), String> {
        self.load(load, work).map_err(|failure| failure.to_string())
    }
}

impl Ours {
    fn load(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), Failure> {
        let number = |name: &str, value: usize, most: u16| {
            let number = u16::try_from(value).ok().filter(|value| (1..=most).contains(value));
            number.ok_or_else(|| Failure::Message(format!("{name}: a number from 1 to {most} is wanted")))
        };
        let batch = load.batch.map_or(Ok(self.arguments.batch), |batch| number("batch", batch, 4096))?;
        let arguments = SessionArguments {
            threads: Some(number("threads", load.threads, 256)?),
            kernels: self.arguments.kernels.clone(),
            batch: batch.min(u16::try_from(load.context).unwrap_or(u16::MAX)),
        };
        let file = ModelFile::open(&load.model)?;
        let gguf = file.parse()?;
        let tokenizer =
            Tokenizer::from_gguf(&gguf).map_err(|error| Failure::because(load.model.display(), error))?;
        let needs = Needs { context: load.context, window: None, logits: Some(1) };
        with_session(&file, &gguf, &arguments, needs, |session| {
            work(&mut Loaded { session, tokenizer: &tokenizer, best: 0 });
            Ok(())
        })
    }
}

/// A model with its one conversation.
struct Loaded<'s, 'm, 't> {
    session: &'s mut Session<'m>,
    tokenizer: &'t Tokenizer<'t>,
    /// The likeliest token behind the last pass.
    best: u32,
}

impl Loaded<'_, '_, '_> {
    fn pass(&mut self, ids: &[u32]) -> Result<(), String> {
        let logits = self.session.forward(ids, Logits::Last).map_err(|error| error.to_string())?;
        self.best = argmax(logits);
        Ok(())
    }
}

impl Engine for Loaded<'_, '_, '_> {
    fn vocab_size(&self) -> usize {
        self.session.model().shape().vocab_size
    }

    fn start(&mut self, prompt: &[u32]) -> Result<(), String> {
        self.session.reset();
        self.pass(prompt)
    }

    fn best(&mut self) -> u32 {
        self.best
    }

    fn feed(&mut self, id: u32) -> Result<(), String> {
        self.pass(&[id])
    }

    fn ends(&self, id: u32) -> bool {
        self.tokenizer.is_end_of_generation(id)
    }
}
