//! Models and passes of llama.cpp.
//!
//! Settings are llama.cpp's best for one sequence: the file mapped, weights repacked where it can, 512 positions of a prompt
//! at a time, keys and values in f16, no performance counters. With feature `cuda` all layers and the cache are on the GPU.

use std::ffi::{CStr, c_char, c_void};
use std::num::NonZeroU32;

use barelm_protocol::sequences::argmax;
use barelm_protocol::{Backend, Engine, Expected, Hello, Load, cpu};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LlamaBackendDeviceType, list_llama_ggml_backend_devices};

use crate::features;

/// What this build computes on.
const DEVICE: &str = if cfg!(feature = "cuda") { "cuda" } else { "cpu" };
/// Layers on the GPU: all of any model, or none.
const GPU_LAYERS: u32 = if cfg!(feature = "cuda") { u32::MAX } else { 0 };
/// Where weights are.
const WEIGHTS: &str =
    if cfg!(feature = "cuda") { "all layers on the GPU" } else { "mapped, repacked where the library can" };
/// Positions of a prompt computed at a time.
const BATCH: usize = 512;
/// Types of weights that it computes with as they are and that models of this project have.
const FORMATS: [&str; 11] =
    ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];

/// When to use flash attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flash {
    /// As the library decides.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Flash {
    const ALL: [(&str, Self); 3] = [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];

    /// The one with this name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == word).map(|(_, flash)| *flash)
    }

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, flash)| *flash == self).expect("all are listed").0
    }

    fn policy(self) -> llama_cpp_sys_2::llama_flash_attn_type {
        match self {
            Self::Auto => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_AUTO,
            Self::On => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            Self::Off => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        }
    }
}

/// The library, started.
pub struct LlamaCpp {
    backend: LlamaBackend,
    flash: Flash,
}

impl LlamaCpp {
    /// Starts it. Its warnings and errors go to standard error, everything else it would say is dropped.
    pub fn new(flash: Flash) -> Result<Self, String> {
        // SAFETY: the function is what the library asks for, needs no data and lives as long as the program.
        unsafe { llama_cpp_sys_2::llama_log_set(Some(log), std::ptr::null_mut()) };
        let backend = LlamaBackend::init().map_err(|error| error.to_string())?;
        Ok(LlamaCpp { backend, flash })
    }
}

/// Why this build cannot compute here: without a GPU the library would quietly take the CPU.
fn unavailable() -> Option<String> {
    let gpu = |kind| matches!(kind, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu);
    let found = || list_llama_ggml_backend_devices().iter().any(|device| gpu(device.device_type));
    (DEVICE == "cuda" && !found()).then(|| "llama.cpp sees no CUDA device".to_owned())
}

/// Called by the library for each of its messages.
unsafe extern "C" fn log(level: llama_cpp_sys_2::ggml_log_level, text: *const c_char, _data: *mut c_void) {
    if level == llama_cpp_sys_2::GGML_LOG_LEVEL_WARN || level == llama_cpp_sys_2::GGML_LOG_LEVEL_ERROR {
        // SAFETY: the library gives a string that lives during the call.
        eprint!("{}", unsafe { CStr::from_ptr(text) }.to_string_lossy());
    }
}

impl Backend for LlamaCpp {
    fn hello(&self) -> Hello {
        let info = features::system_info();
        let (compiled, detected) = (features::compiled(&info), features::detected());
        let mut settings = vec![
            ("flash_attention", self.flash.word().to_owned()),
            ("batch", format!("{BATCH} positions of a prompt at a time")),
            ("kv_type", "f16".to_owned()),
            ("weights", WEIGHTS.to_owned()),
            ("openmp", compiled.iter().any(|name| name == "OPENMP").to_string()),
        ];
        if DEVICE == "cuda" {
            let graphs = compiled.iter().any(|name| name == "USE_GRAPHS");
            settings.push(("cuda_graphs", if graphs { "where the library can" } else { "off" }.to_owned()));
        }
        Hello {
            engine: if cfg!(feature = "cuda") { "llama.cpp-cuda" } else { "llama.cpp" }.into(),
            version: concat!("llama-cpp-2 ", env!("LLAMA_CPP_2")).into(),
            // On a GPU the CPU's kernels matter to nobody.
            crippled: cpu::crippled(&compiled, &detected).filter(|_| DEVICE == "cpu"),
            compiled,
            detected,
            unavailable: unavailable(),
            device: DEVICE.into(),
            settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            formats: FORMATS.map(str::to_owned).into(),
            logits: true,
            ..Hello::default()
        }
    }

    fn with_model(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), String> {
        if let Some(device) = load.device.as_deref().filter(|&device| device != DEVICE) {
            return Err(format!("device: this build has {DEVICE} only, not {device}"));
        }
        if let Some(kv_type) = load.kv_type.as_deref().filter(|&kv_type| kv_type != "f16") {
            return Err(format!("kv_type: this engine keeps f16, not {kv_type}"));
        }
        if !load.model.is_file() {
            return Err(format!("{}: no such file", load.model.display()));
        }
        let threads = i32::try_from(load.threads).ok().filter(|&threads| threads > 0);
        let threads = threads.ok_or("threads: at least one")?;
        let context =
            u32::try_from(load.context).ok().and_then(NonZeroU32::new).ok_or("context: at least 1")?;
        let batch = load.batch.unwrap_or(BATCH).clamp(1, load.context);
        let refused = |error: &dyn std::fmt::Display| format!("{}: {error}", load.model.display());
        let params = LlamaModelParams::default().with_n_gpu_layers(GPU_LAYERS).with_use_mmap(true);
        let model = LlamaModel::load_from_file(&self.backend, &load.model, &params)
            .map_err(|error| refused(&error))?;
        let params = LlamaContextParams::default()
            .with_n_ctx(Some(context))
            .with_n_batch(load.context as u32)
            .with_n_ubatch(batch as u32)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_flash_attention_policy(self.flash.policy())
            .with_no_perf(true);
        let context = model.new_context(&self.backend, params).map_err(|error| refused(&error))?;
        let vocab_size = usize::try_from(model.n_vocab()).map_err(|error| refused(&error))?;
        work(&mut Loaded { model: &model, context, room: load.context, used: 0, vocab_size });
        Ok(())
    }
}

/// A model with its one sequence.
struct Loaded<'m> {
    model: &'m LlamaModel,
    context: LlamaContext<'m>,
    room: usize,
    used: usize,
    vocab_size: usize,
}

impl Loaded<'_> {
    /// Appends tokens and waits for the last one's logits.
    fn pass(&mut self, tokens: &[LlamaToken]) -> Result<(), String> {
        self.used += tokens.len();
        if self.used > self.room {
            return Err(format!("{} positions do not fit the context of {}", self.used, self.room));
        }
        let mut batch = LlamaBatch::get_one(tokens).map_err(|error| error.to_string())?;
        self.context.decode(&mut batch).map_err(|error| error.to_string())?;
        self.context.synchronize();
        Ok(())
    }
}

impl Engine for Loaded<'_> {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn start(&mut self, prompt: &[u32]) -> Result<(), String> {
        self.context.clear_kv_cache();
        self.used = 0;
        // Ids are below the size of the vocabulary, which is an i32.
        let tokens: Vec<_> = prompt.iter().map(|&id| LlamaToken::new(id as i32)).collect();
        self.pass(&tokens)
    }

    fn best(&mut self) -> u32 {
        argmax(self.context.get_logits_ith(-1))
    }

    fn feed(&mut self, id: u32) -> Result<(), String> {
        self.pass(&[LlamaToken::new(id as i32)])
    }

    fn ends(&self, id: u32) -> bool {
        self.model.vocab().is_eog(LlamaToken::new(id as i32))
    }

    fn expected(&mut self, ids: &[u32], top: usize) -> Result<Vec<Expected>, String> {
        self.context.clear_kv_cache();
        self.used = 0;
        let each = ids.iter().map(|&id| {
            self.pass(&[LlamaToken::new(id as i32)])?;
            Ok(Expected::of(self.context.get_logits_ith(-1), top))
        });
        each.collect()
    }
}
