//! The short form of a benchmark request: a prompt and how often, answered with what it took.
//!
//! One JSON object a line in, one out. Fields of a request, all but the prompt optional:
//!
//! | field | meaning | default |
//! |---|---|---|
//! | `prompt` or `prompt_ids` | text to continue as it stands, or its ids | |
//! | `iterations` | measured runs, each from an empty cache | 100 |
//! | `warmup` | runs before them | 1 |
//! | `max_tokens` | tokens to generate; the end of a text does not stop a run | 32 |
//! | `threads` | threads to compute with | all cores |
//! | `temperature`, `seed` | sampling; 0 is greedy | 0, 0 |
//! | `draft` | tokens guessed from the prompt and verified in one pass | 0 |
//!
//! The answer holds `latency_ms` (whole run), `ttft_ms` (to the first token, prompt included), `tpot_ms` (per further
//! token), `tokens_per_s` (generated tokens over latency) with their distributions, the ids and text, which are
//! the same in every iteration (or the answer is an error), memory, model and machine.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use barelm::llm::benchmarks::Stats;
use barelm::llm::draft::PromptLookup;
use barelm::llm::generate::{GenerateConfig, MOST_DRAFTED, generate_with_draft};
use barelm::llm::gguf::Gguf;
use barelm::llm::model::Shape;
use barelm::llm::plan::{Plan, SessionConfig};
use barelm::llm::sampler::{Sampler, SamplerConfig};
use barelm::llm::tokenizer::{Special, SpecialText, Tokenizer};
use barelm::llm::transformer::Session;
use serde_json::{Map, Value, json};

use crate::commands::setup::{Needs, SessionArguments, system_time, with_session};
use crate::environment;
use crate::failure::Failure;
use crate::model_file::ModelFile;
use crate::team::default_threads;

/// What is to be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

/// One request; the fields are those of the module's table.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the module's table")]
pub struct Request {
    pub prompt: Prompt,
    pub iterations: usize,
    pub warmup: usize,
    pub max_tokens: usize,
    pub threads: Option<u16>,
    pub temperature: f32,
    pub seed: u64,
    pub draft: usize,
}

impl Request {
    /// Reads a request; unknown fields and values out of range are errors that name the field.
    pub fn parse(line: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
        let Value::Object(mut fields) = value else {
            return Err(r#"a request is an object such as {"prompt":"Hello","iterations":100}"#.into());
        };
        let prompt = match (fields.remove("prompt"), fields.remove("prompt_ids")) {
            (Some(Value::String(text)), None) if !text.is_empty() => Prompt::Text(text),
            (None, Some(Value::Array(ids))) if !ids.is_empty() => {
                let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
                Prompt::Ids(ids.iter().map(id).collect::<Option<_>>().ok_or("prompt_ids: not token ids")?)
            }
            _ => return Err("give either `prompt`, a text, or `prompt_ids`, a list, and not empty".into()),
        };
        let request = Request {
            prompt,
            iterations: count(&mut fields, "iterations", 100, 1..=1_000_000)?,
            warmup: count(&mut fields, "warmup", 1, 0..=1_000_000)?,
            max_tokens: count(&mut fields, "max_tokens", 32, 1..=1_000_000)?,
            threads: match count(&mut fields, "threads", 0, 0..=256)? {
                0 => None,
                threads => Some(threads as u16),
            },
            temperature: match fields.remove("temperature") {
                None => 0.0,
                Some(value) => value.as_f64().ok_or("temperature: not a number")? as f32,
            },
            seed: count(&mut fields, "seed", 0, 0..=usize::MAX)? as u64,
            draft: count(&mut fields, "draft", 0, 0..=MOST_DRAFTED)?,
        };
        match fields.keys().next() {
            None => Ok(request),
            Some(unknown) => Err(format!(
                "no field is named `{unknown}`; there are prompt, prompt_ids, iterations, warmup, max_tokens, threads, \
                 temperature, seed and draft"
            )),
        }
    }
}

/// Takes a whole number out of `fields`.
fn count(
    fields: &mut Map<String, Value>,
    name: &str,
    default: usize,
    range: std::ops::RangeInclusive<usize>,
) -> Result<usize, String> {
    let Some(value) = fields.remove(name) else { return Ok(default) };
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("{name}: a whole number from {} to {} is wanted", range.start(), range.end()))
}

/// A model to measure.
pub struct Engine {
    file: ModelFile,
    environment: Vec<(String, String)>,
}

/// One run: milliseconds to the first token and in all, and what was generated.
struct Run {
    first_ms: f64,
    all_ms: f64,
    ids: Vec<u32>,
}

impl Engine {
    /// Opens a model file and looks at the machine.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let file = ModelFile::open(path)?;
        file.parse()?;
        let environment = environment::describe(Some(&file));
        Ok(Engine { file, environment })
    }

    /// Runs a request and describes how it went.
    pub fn measure(&self, request: &Request) -> Result<Value, Failure> {
        let gguf = self.file.parse()?;
        let refused = |error: &dyn std::fmt::Display| Failure::because(self.file.path().display(), error);
        let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|error| refused(&error))?;
        let shape = Shape::from_gguf(&gguf).map_err(|error| refused(&error))?;
        let prompt = match &request.prompt {
            Prompt::Ids(ids) => ids.clone(),
            Prompt::Text(text) => {
                let ids = tokenizer
                    .encode_to_vec(text, Special::Plain)
                    .map_err(|error| Failure::because("the prompt", error))?;
                tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().chain(ids).collect()
            }
        };
        let context = prompt.len() + request.max_tokens;
        if context > shape.context_length {
            return Err(Failure::Message(format!(
                "{} ids of prompt and {} tokens do not fit the model's {} positions; ask for less",
                prompt.len(),
                request.max_tokens,
                shape.context_length
            )));
        }
        let arguments = SessionArguments { threads: request.threads, kernels: None, batch: None };
        let needs = Needs { context, window: None, logits: Some(1 + request.draft) };
        let opened = Instant::now();
        let system = system_time();
        with_session(&self.file, &gguf, &arguments, needs, |session| {
            let load_ms = opened.elapsed().as_secs_f64() * 1e3;
            let system_ms = system_time().zip(system).map(|(now, then)| (now - then).as_millis() as u64);
            let mut runs = Vec::with_capacity(request.iterations);
            for iteration in 0..request.warmup + request.iterations {
                let run = self.run(session, &tokenizer, &prompt, request)?;
                if iteration >= request.warmup {
                    runs.push(run);
                }
            }
            if runs.iter().any(|run| run.ids != runs[0].ids) {
                return Err(Failure::Message(
                    "two iterations gave different tokens: please report this".into(),
                ));
            }
            let kernels = session.kernels().name;
            Ok(self.describe(
                request,
                &gguf,
                session,
                (kernels, load_ms, system_ms),
                &tokenizer,
                &prompt,
                &runs,
            ))
        })
    }

    /// The prompt once, from an empty cache.
    fn run(
        &self,
        session: &mut Session<'_>,
        tokenizer: &Tokenizer<'_>,
        prompt: &[u32],
        request: &Request,
    ) -> Result<Run, Failure> {
        let config = SamplerConfig {
            temperature: request.temperature,
            seed: request.seed,
            ..SamplerConfig::default()
        };
        let mut sampler = Sampler::try_new(config, session.model().shape().vocab_size)
            .map_err(|error| Failure::Message(error.to_string()))?;
        let mut lookup = PromptLookup::new(request.draft, prompt.len() + request.max_tokens);
        let mut ids = Vec::with_capacity(request.max_tokens);
        session.reset();
        let limits = GenerateConfig { max_tokens: request.max_tokens, ignore_stop: true };
        let start = Instant::now();
        let mut first = None;
        let generated =
            generate_with_draft(session, tokenizer, &mut sampler, &mut lookup, prompt, limits, |step| {
                first.get_or_insert_with(|| start.elapsed());
                ids.push(step.id);
                ControlFlow::Continue(())
            })
            .map_err(|error| Failure::Message(error.to_string()))?;
        let all = start.elapsed();
        // The listener may hear the last id twice: once more with the rest of a broken character.
        ids.truncate(generated.tokens);
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        Ok(Run { first_ms: ms(first.unwrap_or(all)), all_ms: ms(all), ids })
    }

    /// The answer.
    #[allow(clippy::too_many_arguments, reason = "one place puts together what was measured")]
    fn describe(
        &self,
        request: &Request,
        gguf: &Gguf<'_>,
        session: &Session<'_>,
        (kernels, load_ms, system_ms): (&str, f64, Option<u64>),
        tokenizer: &Tokenizer<'_>,
        prompt: &[u32],
        runs: &[Run],
    ) -> Value {
        let tokens = runs[0].ids.len();
        let over = |value: &dyn Fn(&Run) -> f64| distribution(runs.iter().map(value).collect());
        let further = tokens.saturating_sub(1).max(1) as f64;
        let config = SessionConfig { ..*session.config() };
        let plan = Plan::from_header(gguf, &config).ok();
        let machine: Map<_, _> =
            self.environment.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({
            "engine": "barelm",
            "prompt_tokens": prompt.len(),
            "tokens": tokens,
            "iterations": runs.len(),
            "warmup": request.warmup,
            "threads": request.threads.map_or_else(default_threads, usize::from),
            "kernels": kernels,
            "load_ms": load_ms,
            "load_system_ms": system_ms,
            "latency_ms": over(&|run| run.all_ms),
            "ttft_ms": over(&|run| run.first_ms),
            "tpot_ms": if tokens > 1 { over(&|run| (run.all_ms - run.first_ms) / further) } else { Value::Null },
            "tokens_per_s": over(&|run| run.ids.len() as f64 / run.all_ms * 1e3),
            "prompt_tokens_per_s": over(&|run| prompt.len() as f64 / run.first_ms * 1e3),
            "memory": {
                "weight_bytes": session.model().weight_bytes(),
                "session_bytes": plan.map(|plan| plan.session()),
                "peak_resident_bytes": barelm_protocol::memory().peak_rss,
            },
            "model": {
                "parameters": session.model().parameters(),
                "file_bytes": self.file.bytes().len(),
            },
            "environment": machine,
            "ids": runs[0].ids,
            "text": tokenizer.decode_to_string(&runs[0].ids, SpecialText::Show).ok(),
        })
    }
}

/// What a set of samples says, as JSON.
fn distribution(mut samples: Vec<f64>) -> Value {
    match Stats::from_samples(&mut samples) {
        None => Value::Null,
        Some(s) => json!({
            "min": s.min, "max": s.max, "mean": s.mean, "median": s.median, "stddev": s.stddev, "cv": s.cv,
            "p90": s.p90, "p99": s.p99, "median_ci95": [s.median_low, s.median_high], "samples": s.samples,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_request_has_defaults() {
        let request = Request::parse(r#"{"prompt":"Hello","iterations":100}"#).expect("the short form");
        assert_eq!(request.prompt, Prompt::Text("Hello".into()));
        assert_eq!((request.iterations, request.warmup, request.max_tokens), (100, 1, 32));
        assert_eq!((request.threads, request.temperature, request.draft), (None, 0.0, 0));
    }

    #[test]
    fn wrong_requests_are_told_what_is_wrong() {
        for (line, part) in [
            ("", "not JSON"),
            ("[]", "an object"),
            ("{}", "give either"),
            (r#"{"prompt":""}"#, "not empty"),
            (r#"{"prompt":"a","prompt_ids":[1]}"#, "give either"),
            (r#"{"prompt_ids":[-1]}"#, "not token ids"),
            (r#"{"prompt":"a","iterations":0}"#, "iterations: a whole number"),
            (r#"{"prompt":"a","iteration":5}"#, "no field is named `iteration`"),
            (r#"{"prompt":"a","draft":999}"#, "draft"),
        ] {
            let error = Request::parse(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
