//! Greeting, and loading: which here means to find out how the server wants to be asked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use barelm::llm::gguf::Gguf;
use barelm::llm::tokenizer::{Special, Tokenizer};
use barelm_protocol::{Backend, Batched, Batching, Hello, Load};

use crate::Options;
use crate::local;
use crate::model::{Manner, Model, Remote};
use crate::server::Server;

/// Requests at the same time: each has a thread here, which waits.
const MAX_IN_FLIGHT: usize = 256;

/// A server, or why there is none.
pub struct OpenAi {
    device: String,
    formats: Vec<String>,
    settings: BTreeMap<String, String>,
    version: String,
    processes: Vec<u32>,
    server: Result<Arc<Remote>, String>,
}

impl OpenAi {
    /// Looks for the server.
    pub fn new(options: Options) -> Self {
        let mut settings = BTreeMap::new();
        // Nobody can ask a server for these.
        for name in ["threads", "kv_type", "flash_attention", "cuda_graphs"] {
            settings.insert(name.into(), "the server's own".into());
        }
        if let Some(url) = &options.url {
            settings.insert("url".into(), url.clone());
        }
        let server = find(&options);
        let mut version = "server of an unknown version".to_owned();
        let mut processes = Vec::new();
        if let Ok(remote) = &server {
            version = remote.server.version();
            processes = options.url.as_deref().map(local::processes).unwrap_or_default();
            settings.insert("model".into(), remote.model.clone());
        }
        let memory = match processes.is_empty() {
            true => "of this client, not of the server",
            false => "of this client and of the processes here that listen at the server's address",
        };
        settings.insert("memory".into(), memory.into());
        let formats = options.format.into_iter().collect();
        OpenAi { device: options.device, formats, settings, version, processes, server: server.map(Arc::new) }
    }
}

fn find(options: &Options) -> Result<Remote, String> {
    let url = options.url.as_deref().ok_or(
        "no server is named: set BARELM_OPENAI_URL, or give --url, such as http://127.0.0.1:8000/v1",
    )?;
    let server = Server::new(url, options.key.clone())?;
    let models = server.models().map_err(|error| error.to_string())?;
    let model = match &options.model {
        Some(name) => name.clone(),
        None => {
            models.first().cloned().ok_or_else(|| format!("{url} lists no model; name one with --model"))?
        }
    };
    Ok(Remote { server, model })
}

impl Backend for OpenAi {
    fn hello(&self) -> Hello {
        Hello {
            engine: "openai".into(),
            version: self.version.clone(),
            // Nobody can ask a server.
            compiled: vec!["unknown".into()],
            detected: Vec::new(),
            unavailable: self.server.as_ref().err().cloned(),
            settings: self.settings.clone(),
            device: self.device.clone(),
            formats: self.formats.clone(),
            batching: Batching::Continuous,
            max_in_flight: MAX_IN_FLIGHT,
            processes: self.processes.clone(),
            ..Hello::default()
        }
    }

    fn with_batched(
        &self,
        load: &Load,
        work: &mut dyn FnMut(&mut dyn Batched),
    ) -> Option<Result<(), String>> {
        Some(self.loaded(load, work))
    }
}

impl OpenAi {
    fn loaded(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Batched)) -> Result<(), String> {
        let remote = self.server.clone()?;
        if load.threads == 0 {
            return Err("threads: at least one, though the server has its own".into());
        }
        if load.device.as_ref().is_some_and(|device| *device != self.device) {
            let wanted = load.device.as_deref().unwrap_or_default();
            return Err(format!(
                "device {wanted}: this program was told that the server has --device {}",
                self.device
            ));
        }
        if let Some(kv_type) = &load.kv_type {
            return Err(format!("kv_type {kv_type}: the server's cache is its own matter"));
        }
        if load.sequences() > MAX_IN_FLIGHT {
            return Err(format!("max_sequences: at most {MAX_IN_FLIGHT}"));
        }
        let (bytes, file_size) = header(&load.model)?;
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", load.model.display());
        let gguf = Gguf::parse_header(&bytes, file_size).map_err(|error| wrong(&error))?;
        let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|error| wrong(&error))?;
        let manner = Manner::find(&remote, &tokenizer)?;
        eprintln!("openai-bench: {} answers; {manner}", remote.model);
        work(&mut Model::new(remote, &tokenizer, manner, load.context));
        Ok(())
    }
}

/// The beginning of a GGUF file, with all but its weights, and the size of the whole.
fn header(path: &Path) -> Result<(Vec<u8>, u64), String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut file = File::open(path).map_err(|error| told(&error))?;
    let size = file.metadata().map_err(|error| told(&error))?.len();
    let mut bytes = Vec::new();
    let mut wanted = 4 << 20;
    loop {
        let more = wanted - bytes.len() as u64;
        file.by_ref().take(more).read_to_end(&mut bytes).map_err(|error| told(&error))?;
        match Gguf::parse_header(&bytes, size) {
            Ok(_) => return Ok((bytes, size)),
            // All that there is was read.
            Err(error) if wanted >= size => return Err(told(&error)),
            Err(_) => wanted *= 4,
        }
    }
}

/// A text of a few ids.
pub fn sample(tokenizer: &Tokenizer<'_>) -> Result<Vec<u32>, String> {
    let ids = tokenizer.encode_to_vec("Hello there", Special::Plain).map_err(|error| error.to_string())?;
    match ids.is_empty() {
        true => Err("the vocabulary has no words for a greeting".into()),
        false => Ok(ids),
    }
}
