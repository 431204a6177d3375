//! Many requests at once on the host: `barelm batch`, and a scheduler that other threads talk to.
#![cfg(feature = "llm-transformer")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output};
use std::sync::mpsc;

use barelm::llm::generate::{Finish, GenerateConfig, generate};
use barelm::llm::plan::SchedulerConfig;
use barelm::llm::sampler::{Sampler, SamplerConfig};
use barelm::llm::scheduler::{Event, Request, SubmitError};
use barelm::llm::tokenizer::{Special, Tokenizer};
use barelm_host::commands::setup::{Needs, SessionArguments, with_scheduler, with_session};
use barelm_host::model_file::{ModelFile, reference_model_path};
use barelm_host::serving::{Answer, Command, serve, stop_ids};
use serde_json::Value;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/assets/tiny.gguf")
}

fn batch(arguments: &[&str]) -> Output {
    Process::new(env!("CARGO_BIN_EXE_barelm"))
        .arg("batch")
        .arg(tiny())
        .args(arguments)
        .output()
        .expect("the binary runs")
}

#[test]
fn batch_prints_a_row_for_each_count() {
    let output = batch(&["--sequences", "1,3", "-n", "12", "-r", "1"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Vec<&str>> =
        table.lines().skip(2).map(|row| row.split('|').map(str::trim).collect()).collect();
    assert_eq!(rows.iter().map(|row| row[1]).collect::<Vec<_>>(), ["1", "3"], "{table}");
    assert_eq!(rows[0][3], "1.00x", "{table}");
    for row in rows {
        assert!(row[2].parse::<f64>().unwrap() > 0.0, "{table}");
    }
}

#[test]
fn batch_as_json_holds_every_sample() {
    let output = batch(&["-s", "2", "-p", "90", "--chunk", "8", "-r", "2", "-n", "40", "-o", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["chunk"], &value["prompt"]), (&8.into(), &90.into()));
    let row = &value["rows"][0];
    assert_eq!(row["sequences"], 2);
    assert_eq!(row["decode_tokens_s_samples"].as_array().unwrap().len(), 2);
    // The second prompt is read while the first sequence generates.
    assert!(row["slowest_mixed_pass_ms"][0].as_f64().unwrap() > 0.0, "{row}");
    assert!(value["environment"]["machine"].is_string(), "{value}");
}

#[test]
fn batch_says_when_nothing_can_be_measured() {
    let output = batch(&["-s", "2", "-p", "200", "--chunk", "8", "-n", "12"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("ask for more tokens"));
}

const TEXTS: [&str; 5] = [
    "and it came to pass, that when the king heard it",
    "A truth, universally",
    "the",
    "In the beginning God created the heaven and the earth. And the earth was without form, and void;",
    "It is",
];

fn sampler(id: u64) -> SamplerConfig {
    let temperature = if id.is_multiple_of(2) { 0.0 } else { 0.8 };
    SamplerConfig { temperature, repetition_penalty: 1.1, seed: id, ..SamplerConfig::default() }
}

/// Texts submitted from another thread get the tokens that `generate` gives each alone.
fn served_as_alone(path: &Path, threads: u16, tokens: usize) {
    let file = ModelFile::open(path).expect("the model opens");
    let gguf = file.parse().expect("it is a GGUF file");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("it has a tokenizer");
    let prompts = TEXTS.map(|text| tokenizer.encode_to_vec(text, Special::Plain).expect("it is text"));
    let arguments = SessionArguments { threads: Some(threads), kernels: None, batch: Some(16) };
    let vocab_size = tokenizer.vocab_size();
    let needs = Needs { context: 512, window: None, logits: Some(1) };
    let alone = with_session(&file, &gguf, &arguments, needs, |session| {
        let mut run = |(id, prompt): (usize, &Vec<u32>)| {
            let mut sampler = Sampler::try_new(sampler(id as u64), vocab_size).expect("good settings");
            let limits = GenerateConfig { max_tokens: tokens, ignore_stop: false };
            let mut ids = Vec::new();
            session.reset();
            let generated = generate(session, &tokenizer, &mut sampler, prompt, limits, |step| {
                ids.push(step.id);
                ControlFlow::Continue(())
            });
            let generated = generated.expect("the context suffices");
            ids.truncate(generated.tokens);
            (ids, generated.finish)
        };
        Ok(prompts.iter().enumerate().map(&mut run).collect::<Vec<_>>())
    })
    .expect("a session runs");

    let config = SchedulerConfig { sequences: 3, positions: 512, batch: 16, chunk: 5, ..Default::default() };
    let stop = stop_ids(&tokenizer);
    let (commands, incoming) = mpsc::channel();
    let mut got: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let (mut ends, mut refused) = (BTreeMap::new(), Vec::new());
    std::thread::scope(|scope| {
        let prompts = &prompts;
        scope.spawn(move || {
            let request = |id: usize, prompt: &[u32]| {
                let (prompt, stop) = (prompt.to_vec(), stop.clone());
                let sampler = sampler(id as u64);
                Command::Submit(Request { id: id as u64, prompt, max_tokens: tokens, sampler, stop })
            };
            for (id, prompt) in prompts.iter().enumerate() {
                commands.send(request(id, prompt)).expect("somebody listens");
            }
            commands.send(request(90, &[])).expect("somebody listens");
            commands.send(request(91, &[1, 2, 3])).expect("somebody listens");
            commands.send(Command::Cancel(91)).expect("somebody listens");
            commands.send(Command::Cancel(92)).expect("somebody listens");
        });
        with_scheduler(&file, &gguf, &arguments, config, |scheduler| {
            serve(scheduler, &incoming, |answer| {
                match answer {
                    Answer::Event(Event::Token { id, token }) => got.entry(id).or_default().push(token),
                    Answer::Event(Event::Done(done)) => drop(ends.insert(done.id, done.finish)),
                    Answer::Refused { id, error } => refused.push((id, error)),
                }
                ControlFlow::Continue(())
            });
            Ok(())
        })
        .expect("a scheduler runs");
    });
    for (id, (ids, finish)) in alone.iter().enumerate() {
        assert_eq!((&got[&(id as u64)], ends[&(id as u64)]), (ids, Ok(*finish)), "`{}`", TEXTS[id]);
    }
    assert_eq!(refused, [(90, SubmitError::EmptyPrompt)]);
    assert_eq!(ends.len(), TEXTS.len() + 1);
    assert!(matches!(ends[&91], Ok(Finish::Cancelled | Finish::Length)));
}

#[test]
fn texts_from_another_thread_are_continued_as_if_alone() {
    for threads in [1, 2] {
        served_as_alone(&tiny(), threads, 60);
    }
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn texts_are_continued_by_the_real_model_as_if_alone() {
    for threads in [1, 2, 3] {
        served_as_alone(&reference_model_path(), threads, 40);
    }
}
