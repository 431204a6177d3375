//! Models, and requests to mistral.rs's scheduler.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use barelm::llm::gguf::Gguf;
use barelm::llm::model::Shape;
use barelm::llm::tokenizer::Tokenizer;
use barelm_protocol::{
    Backend, Batched, Batching, Event, Finish, Hello, Load, Request, Submit, cpu, fixed_threads,
};
use memmap2::Mmap;
use mistralrs::core::{
    AutoDeviceMapParams, DeviceMapSetting, GGUFLoaderBuilder, GGUFSpecificConfig, MistralRs as Runner,
    MistralRsBuilder, RequestMessage, TokenSource,
};
use mistralrs::{
    DefaultSchedulerMethod, Device, ModelDType, NormalRequest, Response, SamplingParams, SchedulerConfig,
    StopTokens,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

use crate::tokens::Watcher;

/// Sequences it computes at the same time, at most.
const MAX_SEQUENCES: usize = 128;

/// Where this build computes.
const DEVICE: &str = if cfg!(feature = "cuda") { "cuda" } else { "cpu" };

/// Types of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    F32,
    /// As the library decides.
    Auto,
}

/// The library.
pub struct MistralRs {
    pub activations: Activations,
}

impl Activations {
    /// As greetings and refusals name them; the cache has the same type.
    fn name(self) -> &'static str {
        match self {
            Activations::F32 => "f32",
            Activations::Auto => "as mistral.rs decides",
        }
    }
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

impl Backend for MistralRs {
    fn hello(&self) -> Hello {
        let (compiled, detected) = (cpu::compiled(), cpu::detected());
        let activations = self.activations.name();
        let settings = [
            ("activations", activations),
            ("kv_type", activations),
            ("prefix_cache", "off"),
            ("paged_attention", "off"),
            ("scheduler", "mistral.rs's default, first come first served"),
            ("tokens", "their ids by a logits processor, which finds the likeliest once more"),
        ];
        let formats = ["F32", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];
        Hello {
            engine: if cfg!(feature = "cuda") { "mistral.rs-cuda" } else { "mistral.rs" }.into(),
            version: "mistralrs 0.8.1".into(),
            // On a GPU the CPU's kernels matter to nobody.
            crippled: cpu::crippled(&compiled, &detected).filter(|_| DEVICE == "cpu"),
            compiled,
            detected,
            unavailable: device().err(),
            device: DEVICE.into(),
            settings: BTreeMap::from(settings.map(|(name, value)| (name.to_owned(), value.to_owned()))),
            formats: formats.map(str::to_owned).to_vec(),
            batching: Batching::Continuous,
            max_in_flight: MAX_SEQUENCES,
            ..Hello::default()
        }
    }

    fn with_batched(
        &self,
        load: &Load,
        work: &mut dyn FnMut(&mut dyn Batched),
    ) -> Option<Result<(), String>> {
        Some(self.load(load, work))
    }
}

impl MistralRs {
    fn load(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Batched)) -> Result<(), String> {
        let refused = |error: &dyn std::fmt::Display| format!("{}: {error}", load.model.display());
        load.check(DEVICE, self.activations.name(), MAX_SEQUENCES)?;
        let room = NonZeroUsize::new(load.sequences()).expect("checked above");
        let file = std::fs::File::open(&load.model).map_err(|error| refused(&error))?;
        fixed_threads::fix(load.threads, &Request::Load(load.clone()))?;
        // SAFETY: the file is only read, and whoever measures does not change it meanwhile.
        let bytes = unsafe { Mmap::map(&file) }.map_err(|error| refused(&error))?;
        let gguf = Gguf::parse(&bytes).map_err(|error| refused(&error))?;
        let shape = Shape::from_gguf(&gguf).map_err(|error| refused(&error))?;
        let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|error| refused(&error))?;
        let ends = (0..shape.vocab_size as u32).filter(|&id| tokenizer.is_end_of_generation(id)).collect();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| refused(&error))?;
        let runner = self.runner(&load.model, room, &runtime).map_err(|error| refused(&error))?;
        let (sender, events) = channel();
        work(&mut Loaded {
            runner,
            runtime,
            sender,
            events,
            flights: BTreeMap::new(),
            vocab_size: shape.vocab_size,
            context: load.context,
            ends,
        });
        Ok(())
    }

    fn runner(&self, model: &Path, room: NonZeroUsize, runtime: &Runtime) -> Result<Arc<Runner>, String> {
        let model = std::path::absolute(model).map_err(|error| error.to_string())?;
        let folder = model.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let loader = GGUFLoaderBuilder::new(
            None,
            None,
            folder,
            vec![name],
            GGUFSpecificConfig { topology: None },
            false,
            None,
        )
        .build();
        let dtype = match self.activations {
            Activations::F32 => ModelDType::F32,
            Activations::Auto => ModelDType::Auto,
        };
        let device = device()?;
        // The library reads the folder as if it were a repository, in a runtime of its own.
        let pipeline = runtime.block_on(async {
            loader
                .load_model_from_hf(
                    None,
                    TokenSource::None,
                    &dtype,
                    &device,
                    true,
                    DeviceMapSetting::Auto(AutoDeviceMapParams::default_text()),
                    None,
                    None,
                )
                .map_err(|error| format!("{error:#}"))
        })?;
        let scheduler = SchedulerConfig::DefaultScheduler { method: DefaultSchedulerMethod::Fixed(room) };
        let builder = MistralRsBuilder::new(pipeline, scheduler, false, None)
            .with_no_prefix_cache(true)
            .with_disable_eos_stop(true);
        Ok(runtime.block_on(builder.build()))
    }
}

/// A model and its requests in flight.
struct Loaded {
    runner: Arc<Runner>,
    runtime: Runtime,
    sender: Sender<Event>,
    events: Receiver<Event>,
    flights: BTreeMap<u64, Flight>,
    vocab_size: usize,
    context: usize,
    ends: BTreeSet<u32>,
}

/// A request in flight.
struct Flight {
    /// Listens for its end; without a listener the library drops the request.
    listener: AbortHandle,
    /// Set when it is over for us.
    silent: Arc<AtomicBool>,
}

impl Batched for Loaded {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn submit(&mut self, submit: &Submit) -> Result<(), String> {
        if submit.max_tokens == 0 {
            return Err("max_tokens: at least 1, because mistral.rs always samples".into());
        }
        let needed = submit.prompt_ids.len() + submit.max_tokens - 1;
        if needed > self.context {
            return Err(format!("{needed} positions do not fit the context of {}", self.context));
        }
        let id = submit.id;
        let mut sampling = SamplingParams::deterministic();
        sampling.max_len = Some(submit.max_tokens);
        if !submit.ignore_eos {
            sampling.stop_toks = Some(StopTokens::Ids(self.ends.iter().copied().collect()));
        }
        let (response, mut answers) = tokio::sync::mpsc::channel(64);
        let mut request = NormalRequest::new_simple(
            RequestMessage::CompletionTokens(submit.prompt_ids.clone()),
            sampling,
            response,
            self.runner.next_request_id(),
            None,
            None,
        );
        request.is_streaming = true;
        let silent = Arc::new(AtomicBool::new(false));
        let watcher = Watcher::new(id, self.sender.clone(), Arc::clone(&silent));
        request.logits_processors = Some(vec![Arc::new(watcher)]);
        let queue = self.runner.get_sender(None).map_err(|error| error.to_string())?;
        queue
            .blocking_send(mistralrs::Request::Normal(Box::new(request)))
            .map_err(|error| error.to_string())?;
        let events = self.sender.clone();
        let listener = self.runtime.spawn(async move {
            let end = loop {
                let failed = |message: String| Event::Failed { id, message };
                match answers.recv().await {
                    Some(Response::CompletionChunk(chunk)) => {
                        let reason = chunk.choices.iter().find_map(|choice| choice.finish_reason.as_deref());
                        match reason {
                            None => {}
                            Some("length") => break Event::Done { id, finish: Finish::Length },
                            Some("stop") => break Event::Done { id, finish: Finish::Stop },
                            Some(other) => break failed(format!("ended by `{other}`")),
                        }
                    }
                    Some(Response::CompletionDone(_)) => break Event::Done { id, finish: Finish::Length },
                    Some(Response::InternalError(error) | Response::ValidationError(error)) => {
                        break failed(error.to_string());
                    }
                    Some(Response::CompletionModelError(why, _)) => break failed(why),
                    Some(_) => break failed("an answer that is none to a completion".into()),
                    None => break failed("mistral.rs dropped the request".into()),
                }
            };
            let _ = events.send(end);
        });
        self.flights.insert(id, Flight { listener: listener.abort_handle(), silent });
        Ok(())
    }

    fn cancel(&mut self, id: u64) {
        if let Some(flight) = self.flights.remove(&id) {
            flight.silent.store(true, Ordering::Relaxed);
            flight.listener.abort();
        }
    }

    fn step(&mut self, listen: &mut dyn FnMut(Event)) -> Result<(), String> {
        let mut next = match self.events.recv_timeout(Duration::from_millis(1)) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Err("mistral.rs has ended".into()),
        };
        while let Some(event) = next {
            let id = match &event {
                Event::Started { id, .. }
                | Event::Token { id, .. }
                | Event::Done { id, .. }
                | Event::Failed { id, .. } => *id,
            };
            let over = matches!(event, Event::Done { .. } | Event::Failed { .. });
            // Of a cancelled request nothing more is said.
            let known = self.flights.contains_key(&id);
            if over {
                self.cancel(id);
            }
            if known {
                listen(event);
            }
            next = self.events.try_recv().ok();
        }
        Ok(())
    }
}
