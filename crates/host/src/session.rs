//! Our runtime as an engine: what `lm-rs-bench --session` answers with (`docs/llm/PROTOCOL.md`).
//!
//! A load for one sequence is a session, one for more is the scheduler of [`barelm::llm::scheduler`], which batches
//! continuously. [`ops`] times single operations.

pub mod ops;

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use barelm::llm::generate::Finish as Ended;
use barelm::llm::gguf::Gguf;
use barelm::llm::kv_cache::BLOCK;
use barelm::llm::plan::SchedulerConfig;
use barelm::llm::quant::GgmlType;
use barelm::llm::sampler::{SamplerConfig, argmax};
use barelm::llm::scheduler::{self, Scheduler};
use barelm::llm::tokenizer::Tokenizer;
use barelm::llm::transformer::{Logits, Session};
use barelm_protocol::{
    Backend, Batched, Batching, Engine, Event, Expected, Finish, Hello, Load, Op, OpAnswer, Submit, now_ns,
};

use crate::commands::setup::{Needs, SessionArguments, with_scheduler, with_session};
use crate::failure::Failure;
use crate::model_file::ModelFile;
use crate::serving::stop_ids;

/// Sequences at the same time at most.
const SEQUENCES: usize = 256;
/// Requests that can wait for a sequence.
const QUEUE: usize = 4096;

/// The runtime on this machine's best kernels, or on those asked for.
pub struct Ours {
    /// Threads and batch are those of the requests.
    arguments: SessionArguments,
}

impl Ours {
    /// An engine that computes with these kernels, and batches of this size where a request has none.
    pub fn new(kernels: Option<String>, batch: Option<u16>) -> Result<Self, Failure> {
        let arguments = SessionArguments { threads: None, kernels, batch };
        arguments.kernels()?;
        Ok(Ours { arguments })
    }
}

impl Backend for Ours {
    fn hello(&self) -> Hello {
        let kernels = self.arguments.kernels().expect("looked up before").name;
        let settings = [
            ("kernels", kernels.to_owned()),
            (
                "batch",
                self.arguments.batch.map_or_else(
                    || "64 positions of a prompt a thread at a time, at most 256".to_owned(),
                    |batch| format!("{batch} positions of a prompt at a time"),
                ),
            ),
            ("kv_type", "f16".to_owned()),
            ("flash_attention", "on: blocks of 64 positions, merged by an online softmax".to_owned()),
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
            engine: "barelm".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            compiled,
            detected,
            crippled,
            settings: BTreeMap::from(settings.map(|(name, value)| (name.to_owned(), value))),
            formats: GgmlType::ALL.iter().map(|ty| ty.name().to_owned()).collect(),
            batching: Batching::Continuous,
            max_in_flight: SEQUENCES,
            logits: true,
            ops: ops::NAMES.map(str::to_owned).into(),
            ..Hello::default()
        }
    }

    fn with_model(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), String> {
        self.load(load, work).map_err(|failure| failure.to_string())
    }

    fn with_batched(
        &self,
        load: &Load,
        work: &mut dyn FnMut(&mut dyn Batched),
    ) -> Option<Result<(), String>> {
        (load.sequences() > 1).then(|| self.load_batched(load, work).map_err(|failure| failure.to_string()))
    }

    fn op(&self, op: &Op) -> OpAnswer {
        ops::answer(op, self.arguments.kernels().expect("looked up before"))
    }
}

impl Ours {
    /// What a load says of computing; refuses what we do not have.
    fn arguments(&self, load: &Load) -> Result<SessionArguments, Failure> {
        let number = |name: &str, value: usize, most: u16| {
            let number = u16::try_from(value).ok().filter(|value| (1..=most).contains(value));
            number.ok_or_else(|| Failure::Message(format!("{name}: a number from 1 to {most} is wanted")))
        };
        let only = |name: &str, value: &Option<String>, ours: &str| match value {
            Some(value) if value != ours => {
                Err(Failure::Message(format!("{name}: this engine has {ours} only, not {value}")))
            }
            _ => Ok(()),
        };
        only("device", &load.device, "cpu")?;
        only("kv_type", &load.kv_type, "f16")?;
        let batch = load.batch.map(|batch| number("batch", batch, 4096)).transpose()?;
        Ok(SessionArguments {
            threads: Some(number("threads", load.threads, 256)?),
            kernels: self.arguments.kernels.clone(),
            batch: batch.or(self.arguments.batch),
        })
    }

    fn load(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), Failure> {
        let arguments = self.arguments(load)?;
        let file = ModelFile::open(&load.model)?;
        let gguf = file.parse()?;
        let tokenizer = tokenizer(load, &gguf)?;
        // Logits of one position, so that the output matrix is not computed for a whole prompt.
        let needs = Needs { context: load.context, window: None, logits: Some(1) };
        with_session(&file, &gguf, &arguments, needs, |session| {
            work(&mut Loaded { session, tokenizer: &tokenizer, best: 0 });
            Ok(())
        })
    }

    fn load_batched(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Batched)) -> Result<(), Failure> {
        let arguments = self.arguments(load)?;
        let sequences = load.sequences();
        if sequences > SEQUENCES {
            return Err(Failure::Message(format!("max_sequences: at most {SEQUENCES}")));
        }
        let file = ModelFile::open(&load.model)?;
        let gguf = file.parse()?;
        let tokenizer = tokenizer(load, &gguf)?;
        let config = SchedulerConfig {
            sequences,
            positions: sequences.saturating_mul(load.context.next_multiple_of(BLOCK)),
            context: load.context,
            batch: arguments.batch().max(sequences),
            queue: QUEUE,
            ..SchedulerConfig::default()
        };
        let stop = stop_ids(&tokenizer);
        with_scheduler(&file, &gguf, &arguments, config, |scheduler| {
            work(&mut Many { scheduler, stop, waiting: VecDeque::new() });
            Ok(())
        })
    }
}

fn tokenizer<'g>(load: &Load, gguf: &Gguf<'g>) -> Result<Tokenizer<'g>, Failure> {
    Tokenizer::from_gguf(gguf).map_err(|error| Failure::because(load.model.display(), error))
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

    fn expected(&mut self, ids: &[u32], top: usize) -> Result<Vec<Expected>, String> {
        self.session.reset();
        // One position a pass: the session has room for the logits of one.
        let each = ids.iter().map(|&id| {
            let logits = self.session.forward(&[id], Logits::Last).map_err(|error| error.to_string())?;
            Ok(Expected::of(logits, top))
        });
        each.collect()
    }
}

/// A model whose sequences share passes.
struct Many<'s, 'm> {
    scheduler: &'s mut Scheduler<'m>,
    /// Tokens that end a text.
    stop: Vec<u32>,
    /// Requests that have no sequence yet, in order.
    waiting: VecDeque<u64>,
}

impl Batched for Many<'_, '_> {
    fn vocab_size(&self) -> usize {
        self.scheduler.model().shape().vocab_size
    }

    fn submit(&mut self, submit: &Submit) -> Result<(), String> {
        let request = scheduler::Request {
            id: submit.id,
            prompt: submit.prompt_ids.clone(),
            max_tokens: submit.max_tokens,
            sampler: SamplerConfig { temperature: 0.0, ..SamplerConfig::default() },
            stop: if submit.ignore_eos { Vec::new() } else { self.stop.clone() },
        };
        self.scheduler.submit(request).map_err(|error| error.to_string())?;
        self.waiting.push_back(submit.id);
        Ok(())
    }

    fn cancel(&mut self, id: u64) {
        self.scheduler.cancel(id);
        self.waiting.retain(|&of| of != id);
    }

    fn step(&mut self, listen: &mut dyn FnMut(Event)) -> Result<(), String> {
        let begun = now_ns();
        let mut events = Vec::new();
        self.scheduler.step(|event| {
            events.push((event, now_ns()));
            ControlFlow::Continue(())
        });
        // Sequences are given away in the order of the requests, before the pass.
        let started = self.waiting.len() - self.scheduler.waiting();
        self.waiting.drain(..started).for_each(|id| listen(Event::Started { id, t_ns: begun }));
        for (event, t_ns) in events {
            listen(match event {
                scheduler::Event::Token { id, token } => Event::Token { id, token, t_ns },
                scheduler::Event::Done(done) => match done.finish {
                    Ok(Ended::Stop) => Event::Done { id: done.id, finish: Finish::Stop },
                    Ok(Ended::Cancelled) => Event::Done { id: done.id, finish: Finish::Cancelled },
                    Ok(Ended::Length | Ended::ContextFull) => {
                        Event::Done { id: done.id, finish: Finish::Length }
                    }
                    Err(error) => Event::Failed { id: done.id, message: error.to_string() },
                },
            });
        }
        Ok(())
    }
}
