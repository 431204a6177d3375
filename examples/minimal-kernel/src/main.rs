//! A kernel of its own that generates text with `barelm`: one core, one model, no operating system.
//!
//! 1. `entry` sets the processor up and calls [`main`].
//! 2. `machine` is all that this kernel knows of its machine.
//! 3. [`main`] shows what a kernel lends to `barelm`, and what it gets.
#![no_std]
#![no_main]

extern crate alloc;

mod entry;
mod machine;

use core::error::Error;
use core::fmt::Write;
use core::ops::ControlFlow;

use alloc::{boxed::Box, vec};
use barelm::llm::generate::{GenerateConfig, generate};
use barelm::llm::gguf::Gguf;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::plan::{Plan, SessionConfig};
use barelm::llm::pool::Solo;
use barelm::llm::sampler::{Sampler, SamplerConfig};
use barelm::llm::simd;
use barelm::llm::tokenizer::{Special, Tokenizer};
use barelm::llm::transformer::Session;

static MODEL: &[u8] = include_bytes!("../../../crates/kernel/assets/tiny.gguf");
const PROMPT: &str = "My dear Miss";
const SAMPLING: SamplerConfig = SamplerConfig {
    temperature: 0.8,
    top_k: 40,
    top_p: 0.95,
    min_p: 0.05,
    repetition_penalty: 1.0,
    repeat_last: 64,
    seed: 7,
};
const TOKENS: usize = 48;

extern "C" fn main() -> ! {
    match answer() {
        Ok(()) => machine::exit(0),
        Err(error) => {
            line!("error: {error}");
            machine::exit(1)
        }
    }
}

fn answer() -> Result<(), Box<dyn Error>> {
    // The model is read where it lies; tokenizer and model borrow it.
    let gguf = Gguf::parse(MODEL)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let model = Model::load(&gguf, LoadConfig::default())?;
    let ids = tokenizer.encode_to_vec(PROMPT, Special::Plain)?;

    // All memory of a session is known from the file's header, and lent.
    let config = SessionConfig { context: ids.len() + TOKENS, ..SessionConfig::default() };
    let plan = Plan::from_header(&gguf, &config)?;
    let mut memory = vec![0; plan.session() as usize];
    let kernels = simd::best();
    let mut session = Session::new(&model, config, kernels, &Solo, &mut memory)?;
    let mut sampler = Sampler::try_new(SAMPLING, model.shape().vocab_size)?;

    line!("{plan}\nkernels: {}", kernels.name);
    line!("temperature: {}\nseed: {}\ntokens: {TOKENS}", SAMPLING.temperature, SAMPLING.seed);
    line!("prompt: {PROMPT}");
    let _ = write!(machine::Uart, "text: ");
    let config = GenerateConfig { max_tokens: TOKENS, ignore_stop: false };
    let generated = generate(&mut session, &tokenizer, &mut sampler, &ids, config, |step| {
        let _ = write!(machine::Uart, "{}", step.text);
        ControlFlow::Continue(())
    })?;
    line!("\ngenerated: {} tokens, {}", generated.tokens, generated.finish);
    Ok(())
}

/// An exception of any kind: this kernel causes none on purpose.
extern "C" fn exception(syndrome: u64, address: u64, fault: u64) -> ! {
    line!("exception: ESR {syndrome:#x}, ELR {address:#x}, FAR {fault:#x}");
    machine::exit(102)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    line!("{info}");
    machine::exit(101)
}
