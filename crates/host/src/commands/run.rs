//! `barelm run`: a prompt in, text out as it is made.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use barelm::llm::chat::{ChatTemplate, Role};
use barelm::llm::draft::PromptLookup;
use barelm::llm::generate::{GenerateConfig, MOST_DRAFTED, generate_with_draft};
use barelm::llm::gguf::Gguf;
use barelm::llm::model::Shape;
use barelm::llm::plan::Plan;
use barelm::llm::sampler::{Sampler, SamplerConfig};
use barelm::llm::tokenizer::{Special, Tokenizer};
use clap::Args;

use super::setup::{Needs, SessionArguments, system_time, with_session};
use crate::failure::Failure;
use crate::model_file::ModelFile;

/// Arguments of `barelm run`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The GGUF file.
    pub model: PathBuf,
    /// What to answer, or with --raw: to continue.
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: String,
    /// Instructions in front of the conversation (default: those in the model's template, if any).
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// Continue the prompt as it stands, without the model's chat template.
    #[arg(long)]
    pub raw: bool,
    /// Tokens to generate at most.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    pub tokens: usize,
    /// Go on behind the model's own end of text.
    #[arg(long)]
    pub ignore_stop: bool,
    /// Guess up to N tokens from what followed the same words before, and verify them in one pass: the same text,
    /// sooner where text repeats.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = draft)]
    pub draft: usize,
    /// Positions to hold, prompt and answer together (default: as many as needed, up to the model's own limit).
    #[arg(long, visible_alias = "ctx", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Let each position see only the last N, so that the text can go on without end.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub window: Option<u32>,
    /// Divide the logits by this before drawing; 0 takes the likeliest token.
    #[arg(long = "temp", value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Draw from the K likeliest tokens; 0 from all.
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Draw from the likeliest tokens that together reach probability P.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Leave out tokens less likely than P times the likeliest.
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Make tokens of the last 64 less likely; 1 is off.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// Start of the random sequence; equal seeds give equal texts on every machine.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print the ids of the generated tokens behind the text.
    #[arg(long)]
    pub ids: bool,
    /// Say how long loading took, and what memory was planned and held.
    #[arg(short, long)]
    pub verbose: bool,
    /// How to compute.
    #[command(flatten)]
    pub session: SessionArguments,
}

/// Generates, writing each piece of text at once; speeds go to standard error.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    if arguments.prompt.is_empty() {
        return Err(Failure::Message("the prompt is empty; give some text with -p".into()));
    }
    let (opened, system) = (Instant::now(), system_time());
    // A wrong name is found before the model, which may take long to read.
    arguments.session.kernels()?;
    let file = ModelFile::open(&arguments.model)?;
    let gguf = file.parse()?;
    let refused = |error: &dyn std::fmt::Display| Failure::because(arguments.model.display(), error);
    let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|error| refused(&error))?;
    let prompt = encode_prompt(arguments, &gguf, &tokenizer)?;
    let shape = Shape::from_gguf(&gguf).map_err(|error| refused(&error))?;
    let context = match arguments.context {
        Some(context) => context as usize,
        None => prompt.len().saturating_add(arguments.tokens).min(shape.context_length),
    };
    if context > shape.context_length {
        eprintln!(
            "note: the model was trained on {} positions; text behind them gets worse",
            shape.context_length
        );
    }
    let mut sampler = Sampler::try_new(
        SamplerConfig {
            temperature: arguments.temperature,
            top_k: arguments.top_k,
            top_p: arguments.top_p,
            min_p: arguments.min_p,
            repetition_penalty: arguments.repeat_penalty,
            seed: arguments.seed,
            ..SamplerConfig::default()
        },
        shape.vocab_size,
    )
    .map_err(|error| Failure::Message(error.to_string()))?;
    let needs = Needs {
        context,
        window: arguments.window.map(|window| window as usize),
        logits: Some(1 + arguments.draft),
    };
    with_session(&file, &gguf, &arguments.session, needs, |session| {
        let config = GenerateConfig { max_tokens: arguments.tokens, ignore_stop: arguments.ignore_stop };
        let start = Instant::now();
        let load_ms = (start - opened).as_secs_f64() * 1e3;
        let system_ms = system_time().zip(system).map(|(now, then)| (now - then).as_millis());
        let (mut first, mut written, mut ids) = (None, Ok(()), Vec::new());
        let mut lookup = PromptLookup::new(arguments.draft, context);
        let generated =
            generate_with_draft(session, &tokenizer, &mut sampler, &mut lookup, &prompt, config, |step| {
                first.get_or_insert_with(|| start.elapsed());
                if arguments.ids {
                    ids.push(step.id.to_string());
                }
                written = out.write_all(step.text.as_bytes()).and_then(|()| out.flush());
                if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .map_err(|error| Failure::Message(error.to_string()))?;
        written?;
        writeln!(out)?;
        if arguments.ids {
            // A token that ends the text is no part of it.
            ids.truncate(generated.tokens);
            writeln!(out, "generated ids: {}", ids.join(","))?;
        }
        out.flush()?;
        let all = start.elapsed();
        let first = first.unwrap_or(all);
        let per_second = |tokens: usize, seconds: f64| tokens as f64 / seconds.max(1e-9);
        eprintln!(
            "{}: prompt {} tokens, {:.1} tok/s; {} tokens, {:.1} tok/s after the first",
            generated.finish,
            prompt.len(),
            per_second(prompt.len(), first.as_secs_f64()),
            generated.tokens,
            per_second(generated.tokens.saturating_sub(1), (all - first).as_secs_f64()),
        );
        if arguments.verbose {
            let of_it =
                system_ms.map_or(String::new(), |ms| format!(" ({ms} ms of processor time for the system)"));
            eprintln!(
                "loaded in {load_ms:.0} ms{of_it}, first token {:.1} ms later",
                first.as_secs_f64() * 1e3
            );
            if let Ok(plan) = Plan::from_header(&gguf, session.config()) {
                eprintln!("{}", plan.packed_for(session.kernels(), &gguf));
            }
            if let Some(peak) = barelm_protocol::memory().peak_rss {
                eprintln!("peak    {peak:>14} bytes resident, file {} bytes", file.bytes().len());
            }
        }
        if generated.drafted > 0 {
            eprintln!("{} of {} guessed tokens were right", generated.accepted, generated.drafted);
        }
        Ok(())
    })
}

/// A number of tokens that one pass can verify.
fn draft(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(tokens) if tokens <= MOST_DRAFTED => Ok(tokens),
        _ => Err(format!("0 to {MOST_DRAFTED} tokens can be guessed at a time")),
    }
}

/// The ids of the prompt, in the model's template unless it is to be raw.
fn encode_prompt(
    arguments: &Arguments,
    gguf: &Gguf<'_>,
    tokenizer: &Tokenizer<'_>,
) -> Result<Vec<u32>, Failure> {
    let ids = if arguments.raw {
        tokenizer.encode_to_vec(&arguments.prompt, Special::Plain)
    } else {
        let template =
            ChatTemplate::from_gguf(gguf).map_err(|error| Failure::Message(format!("{error}: add --raw")))?;
        let system = arguments.system.as_deref().map(|system| (Role::System, system));
        let messages: Vec<_> = system.into_iter().chain([(Role::User, arguments.prompt.as_str())]).collect();
        tokenizer.encode_to_vec(&template.render(&messages), Special::Parse)
    }
    .map_err(|error| Failure::because("the prompt", error))?;
    Ok(tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().chain(ids).collect())
}
