//! The short form: a prompt and how often, answered with what it took.
//!
//! A line that is an object without `type` but with `prompt` or `prompt_ids`. Its other fields: `model` (a GGUF file;
//! default: `$BARELM_MODEL`, else the model that `cargo xtask setup` fetched), `iterations` (100), `warmup` (1), `max_tokens`
//! (32), `threads` (all cores). The answer is one line, the same fields as those of `lm-rs-bench`.

use std::path::PathBuf;

use barelm::llm::gguf::Gguf;
use barelm::llm::tokenizer::{Special, SpecialText, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::engine::{Backend, Batched, Engine, Event};
use crate::message::{Load, Submit};
use crate::{memory, now_ns};

#[path = "../../../src/cache.rs"]
#[allow(unreachable_pub, reason = "a file that several crates include")]
mod cache;

/// Whether a line is of the short form.
pub(crate) fn is_short(line: &str) -> bool {
    let value = serde_json::from_str::<Value>(line).unwrap_or_default();
    value.get("type").is_none() && (value.get("prompt").is_some() || value.get("prompt_ids").is_some())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Short {
    prompt: Option<String>,
    prompt_ids: Option<Vec<u32>>,
    model: Option<PathBuf>,
    #[serde(default = "hundred")]
    iterations: usize,
    #[serde(default = "one")]
    warmup: usize,
    #[serde(default = "thirty_two")]
    max_tokens: usize,
    threads: Option<usize>,
}

fn hundred() -> usize {
    100
}

fn one() -> usize {
    1
}

fn thirty_two() -> usize {
    32
}

/// One run.
struct Run {
    first_ns: u64,
    all_ns: u64,
    ids: Vec<u32>,
}

/// The answer to a line, or an object with `error`.
pub(crate) fn answer(backend: &dyn Backend, line: &str) -> Value {
    measure(backend, line).unwrap_or_else(|error| json!({ "error": error }))
}

fn measure(backend: &dyn Backend, line: &str) -> Result<Value, String> {
    let hello = backend.hello();
    if let Some(why) = hello.unavailable {
        return Err(format!("unavailable: {why}"));
    }
    let short: Short = serde_json::from_str(line).map_err(|error| format!("not a request: {error}"))?;
    if short.iterations == 0 || short.max_tokens == 0 {
        return Err("iterations and max_tokens: at least 1".into());
    }
    let model = short.model.unwrap_or_else(default_model);
    let bytes = std::fs::read(&model).map_err(|error| format!("{}: {error}", model.display()))?;
    let gguf = Gguf::parse(&bytes).map_err(|error| format!("{}: {error}", model.display()))?;
    let tokenizer = Tokenizer::from_gguf(&gguf);
    let prompt = match (short.prompt, short.prompt_ids) {
        (None, Some(ids)) if !ids.is_empty() => ids,
        (Some(text), None) if !text.is_empty() => {
            let tokenizer = tokenizer.as_ref().map_err(|error| format!("the model's tokenizer: {error}"))?;
            let ids = tokenizer.encode_to_vec(&text, Special::Plain).map_err(|error| error.to_string())?;
            tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().chain(ids).collect()
        }
        _ => return Err("give either `prompt`, a text, or `prompt_ids`, a list, and not empty".into()),
    };
    let threads =
        short.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let context = prompt.len() + short.max_tokens;
    let load = Load { model: model.clone(), threads, context, ..Load::default() };
    let begun = now_ns();
    let mut runs = Vec::new();
    let mut load_ns = 0;
    let mut work = |run: &mut dyn FnMut() -> Result<Run, String>| -> Result<(), String> {
        load_ns = now_ns() - begun;
        for iteration in 0..short.warmup + short.iterations {
            let run = run()?;
            if iteration >= short.warmup {
                runs.push(run);
            }
        }
        Ok(())
    };
    let mut ran = Err("the engine gave no model".into());
    let max_tokens = short.max_tokens;
    backend
        .with_batched(&load, &mut |model| ran = work(&mut || alone_batched(model, &prompt, max_tokens)))
        .unwrap_or_else(|| {
        backend.with_model(&load, &mut |engine| ran = work(&mut || alone(engine, &prompt, max_tokens)))
    })?;
    ran?;
    if runs.iter().any(|run| run.ids != runs[0].ids) {
        return Err("two iterations gave different tokens".into());
    }
    let ms = |value: &dyn Fn(&Run) -> f64| distribution(runs.iter().map(value).collect());
    let further = (max_tokens - 1).max(1) as f64;
    let text =
        tokenizer.ok().and_then(|tokenizer| tokenizer.decode_to_string(&runs[0].ids, SpecialText::Show).ok());
    Ok(json!({
        "engine": hello.engine,
        "version": hello.version,
        "device": hello.device,
        "prompt_tokens": prompt.len(),
        "tokens": runs[0].ids.len(),
        "iterations": runs.len(),
        "warmup": short.warmup,
        "threads": threads,
        "load_ms": load_ns as f64 / 1e6,
        "latency_ms": ms(&|run| run.all_ns as f64 / 1e6),
        "ttft_ms": ms(&|run| run.first_ns as f64 / 1e6),
        "tpot_ms": if max_tokens > 1 { ms(&|run| (run.all_ns - run.first_ns) as f64 / 1e6 / further) } else { Value::Null },
        "tokens_per_s": ms(&|run| run.ids.len() as f64 / run.all_ns as f64 * 1e9),
        "prompt_tokens_per_s": ms(&|run| prompt.len() as f64 / run.first_ns as f64 * 1e9),
        "memory": { "peak_resident_bytes": memory().peak_rss },
        "model": { "file": model, "file_bytes": bytes.len() },
        "settings": hello.settings,
        "ids": runs[0].ids,
        "text": text,
    }))
}

fn default_model() -> PathBuf {
    match std::env::var_os("BARELM_MODEL").filter(|path| !path.is_empty()) {
        Some(path) => path.into(),
        None => cache::folder().join(cache::MODEL_FILE),
    }
}

/// A prompt through a serial engine.
fn alone(engine: &mut dyn Engine, prompt: &[u32], max_tokens: usize) -> Result<Run, String> {
    let begun = now_ns();
    engine.start(prompt)?;
    let mut ids = vec![engine.best()];
    let first_ns = now_ns() - begun;
    while ids.len() < max_tokens {
        engine.feed(ids[ids.len() - 1])?;
        ids.push(engine.best());
    }
    Ok(Run { first_ns, all_ns: now_ns() - begun, ids })
}

/// A prompt alone in an engine that batches.
fn alone_batched(model: &mut dyn Batched, prompt: &[u32], max_tokens: usize) -> Result<Run, String> {
    let begun = now_ns();
    model.submit(&Submit {
        id: 0,
        prompt_ids: prompt.into(),
        max_tokens,
        ignore_eos: true,
        stream: false,
    })?;
    let (mut ids, mut times, mut end) = (Vec::new(), Vec::new(), None);
    while end.is_none() {
        model.step(&mut |event| match event {
            Event::Started { .. } => {}
            Event::Token { token, t_ns, .. } => {
                ids.push(token);
                times.push(t_ns);
            }
            Event::Done { .. } => end = Some(Ok(())),
            Event::Failed { message, .. } => end = Some(Err(message)),
        })?;
    }
    end.expect("the loop waits for it")?;
    match (times.first(), times.last()) {
        (Some(first), Some(last)) => Ok(Run { first_ns: first - begun, all_ns: last - begun, ids }),
        _ => Err("the engine generated nothing".into()),
    }
}

/// What a set of samples says; it is not empty.
fn distribution(mut samples: Vec<f64>) -> Value {
    samples.sort_unstable_by(f64::total_cmp);
    let n = samples.len() as f64;
    // Between two samples a percentile is on the line that connects them.
    let percentile = |share: f64| {
        let at = share * (n - 1.0);
        let (below, above) = (samples[at.floor() as usize], samples[at.ceil() as usize]);
        below + (above - below) * (at - at.floor())
    };
    let mean = samples.iter().sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
    let stddev = (squares / (n - 1.0).max(1.0)).sqrt();
    json!({
        "min": samples[0], "max": samples[samples.len() - 1], "mean": mean, "median": percentile(0.5), "stddev": stddev,
        "cv": stddev / mean, "p90": percentile(0.9), "p99": percentile(0.99), "samples": samples.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_apart() {
        assert!(is_short(r#"{"prompt":"Hello","iterations":100}"#));
        assert!(is_short(r#"{"prompt_ids":[1]}"#));
        for line in [r#"{"type":"submit","prompt_ids":[1]}"#, "{}", "{", "[]", "7", r#"{"type":"quit"}"#] {
            assert!(!is_short(line), "{line}");
        }
    }

    #[test]
    fn a_distribution_describes_its_samples() {
        let value = distribution(vec![4.0, 2.0, 1.0, 3.0]);
        let number = |name: &str| value[name].as_f64().unwrap();
        assert_eq!((number("median"), number("mean"), number("min"), number("max")), (2.5, 2.5, 1.0, 4.0));
        assert!((number("p90") - 3.7).abs() < 1e-12 && (number("stddev") - 1.290_994_4).abs() < 1e-6);
        assert_eq!(distribution(vec![5.0])["stddev"], 0.0);
    }
}
