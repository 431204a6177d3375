//! What the image does once the machine is up: self-test, model, text.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::boot::machine::Machine;
use crate::boot::{Step, begin};
use crate::console;
use crate::console_line as line;
use crate::llm::chat::{ChatTemplate, Role};
use crate::llm::generate::{GenerateConfig, generate};
use crate::llm::gguf::Gguf;
use crate::llm::model::{LoadConfig, Model};
use crate::llm::plan::{Plan, SessionConfig, Shortfall};
use crate::llm::pool::Solo;
use crate::llm::sampler::{Sampler, SamplerConfig};
use crate::llm::simd;
use crate::llm::tokenizer::{Special, Tokenizer};
use crate::llm::transformer::{Logits, Session, logits_hash};
use cortex_a::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};

/// Runs the image to its end.
pub fn run(machine: &Machine, heap: usize) -> Result<(), String> {
    line!("BareLM {} on bare metal", env!("CARGO_PKG_VERSION"));
    line!("{} core(s) in the device tree, {} bytes of RAM", machine.cores, machine.ram.1);
    let options = Options::parse(machine.bootargs)?;

    begin(Step::SelfTest);
    let mut checks = 0;
    let passed = simd::self_test(|table, what, equal| {
        checks += 1;
        if !equal {
            line!("self-test: {table} {what} differs from the scalar table");
        }
    });
    if !passed {
        return Err("self-test failed".to_string());
    }
    line!("self-test: {checks} checks, all equal to the scalar table");

    begin(Step::Model);
    let file = machine.initrd.ok_or("no model: pass a GGUF file with -initrd")?;
    let text = |error: &dyn core::fmt::Display| format!("{error}");
    let gguf = Gguf::parse(file).map_err(|e| text(&e))?;
    let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|e| text(&e))?;
    let model = Model::load(&gguf, LoadConfig::default()).map_err(|e| text(&e))?;
    line!("model: {} parameters, {} bytes of weights", model.parameters(), model.weight_bytes());
    let prompt = options.encode(&gguf, &tokenizer)?;

    begin(Step::Session);
    let config = SessionConfig { context: prompt.len() + options.tokens, ..SessionConfig::default() };
    let plan = Plan::from_header(&gguf, &config).map_err(|e| text(&e))?;
    line!("{plan}");
    let (needed, available) = (plan.session(), (heap / 2) as u64);
    if needed > available {
        return Err(format!("not enough memory: {}", Shortfall { needed, available }));
    }
    let mut memory = vec![0; needed as usize];
    let kernels = simd::best();
    let mut session = Session::new(&model, config, kernels, &Solo, &mut memory).map_err(|e| text(&e))?;
    let hash = logits_hash(session.forward(&prompt, Logits::Last).map_err(|e| text(&e))?);
    line!("kernels {}, logits hash {hash} of the prompt's last position", kernels.name);
    session.reset();

    begin(Step::Generation);
    let mut sampler =
        Sampler::try_new(SamplerConfig::default(), model.shape().vocab_size).map_err(|e| text(&e))?;
    let start = CNTPCT_EL0.get();
    let stop = GenerateConfig { max_tokens: options.tokens, ignore_stop: false };
    let generated = generate(&mut session, &tokenizer, &mut sampler, &prompt, stop, |step| {
        console::print(format_args!("{}", step.text));
        ControlFlow::Continue(())
    })
    .map_err(|e| text(&e))?;
    let seconds = (CNTPCT_EL0.get() - start) as f64 / CNTFRQ_EL0.get() as f64;
    let tokens = prompt.len() + generated.tokens;
    line!(
        "\n{}: {tokens} tokens with the prompt, {:.2} tok/s emulated",
        generated.finish,
        tokens as f64 / seconds
    );
    Ok(())
}

/// What the kernel command line asks for: `key=value` words.
struct Options {
    prompt: String,
    tokens: usize,
    raw: bool,
}

impl Options {
    fn parse(bootargs: &str) -> Result<Self, String> {
        let mut options =
            Options { prompt: "What is the capital of France?".to_string(), tokens: 48, raw: false };
        for word in bootargs.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("prompt", text)) => options.prompt = decode(text)?,
                Some(("tokens", number)) => {
                    options.tokens = number.parse().map_err(|_| format!("`{word}`: not a number"))?;
                }
                Some(("raw", flag)) => options.raw = flag == "1",
                _ => {
                    return Err(format!("unknown bootarg `{word}`; known are prompt=, tokens= and raw="));
                }
            }
        }
        Ok(options)
    }

    fn encode(&self, gguf: &Gguf<'_>, tokenizer: &Tokenizer<'_>) -> Result<Vec<u32>, String> {
        let ids = if self.raw {
            tokenizer.encode_to_vec(&self.prompt, Special::Plain)
        } else {
            let template = ChatTemplate::from_gguf(gguf).map_err(|e| format!("{e}: add raw=1"))?;
            tokenizer.encode_to_vec(&template.render(&[(Role::User, &self.prompt)]), Special::Parse)
        };
        let ids = ids.map_err(|e| format!("{e}"))?;
        Ok(tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().chain(ids).collect())
    }
}

/// Undoes percent encoding.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|d| (d as char).to_digit(16));
                let (high, low) = (digit(), digit());
                let (Some(high), Some(low)) = (high, low) else {
                    return Err("prompt: `%` wants two hexadecimal digits".to_string());
                };
                (high << 4 | low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| "prompt: not UTF-8".to_string())
}
