//! Our answers against llama.cpp's, on a real model in several types. `tests/data/README.md` says where they are from.
//!
//! Distributions are compared over the 64 likeliest ids and the rest as one event, in nats; that is at most the
//! divergence over the whole vocabulary.
#![cfg(feature = "llm-transformer")]

use std::fs;
use std::path::{Path, PathBuf};

use barelm::llm::gguf::Gguf;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::plan::{Plan, SessionConfig};
use barelm::llm::pool::Team;
use barelm::llm::sampler::argmax;
use barelm::llm::simd::{self, Kernels};
use barelm::llm::transformer::{Logits, LogitsHash, Session};
use barelm_host::commands::perplexity::{log_sum_exp, parse_ids, score};
use barelm_host::model_file::{ModelFile, reference_model_path};
use barelm_host::team::ThreadTeam;
use serde_json::Value;

fn data(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json_lines(name: &str) -> Vec<Value> {
    data(name).lines().map(|line| serde_json::from_str(line).expect("reference lines are JSON")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |id: &Value| u32::try_from(id.as_u64().expect("ids are integers")).expect("ids fit");
    value.as_array().expect("ids are a list").iter().map(id).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// The reference model in a type: the file as it is for Q4_1, made by `barelm quantize` once for the others.
fn model_path(ty: &str) -> PathBuf {
    let original = reference_model_path();
    assert!(original.is_file(), "{} is missing: cargo xtask setup", original.display());
    assert_eq!(ty, "q4_1");
    original
}

/// Runs `work` on a session of the file's model with the given batch, context, kernels and threads.
fn on_session<R>(
    gguf: &Gguf<'_>,
    (kernels, threads): (&'static Kernels, usize),
    (context, batch, logits): (usize, usize, usize),
    work: impl FnOnce(&mut Session<'_>) -> R,
) -> R {
    let model = Model::load(gguf, LoadConfig::default()).expect("the model loads");
    let team = ThreadTeam::try_new(threads).expect("threads start");
    let config = SessionConfig { context, batch, logits, members: team.size(), ..SessionConfig::default() };
    let plan = Plan::from_header(gguf, &config).expect("the plan fits");
    let mut memory = vec![0; usize::try_from(plan.session()).expect("a session fits in memory")];
    let mut session =
        Session::new(&model, config, kernels, &team, &mut memory).expect("planned memory is enough");
    work(&mut session)
}

/// All logits of `ids`, `[position × vocab]`.
fn all_logits(session: &mut Session<'_>, ids: &[u32]) -> Vec<f32> {
    session.reset();
    let mut logits = Vec::new();
    for batch in ids.chunks(session.config().batch) {
        logits.extend_from_slice(session.forward(batch, Logits::All).expect("the prompt runs"));
    }
    logits
}

/// Mean KL divergence of our distributions from the reference's, over its likeliest ids and the rest.
fn mean_kl(reference: &[Value], logits: &[f32]) -> f64 {
    let vocab_size = logits.len() / reference.len();
    let total: f64 = reference
        .iter()
        .zip(logits.chunks_exact(vocab_size))
        .map(|(line, row)| {
            let norm = log_sum_exp(row);
            let ours: Vec<f64> =
                ids(&line["ids"]).iter().map(|&id| f64::from(row[id as usize]) - norm).collect();
            let ours_rest = libm::log((1.0 - ours.iter().map(|&p| libm::exp(p)).sum::<f64>()).max(1e-12));
            let rest = line["rest"].as_f64().expect("a number");
            let event = |theirs: f64, ours: f64| libm::exp(theirs) * (theirs - ours);
            floats(&line["log_probs"]).iter().zip(&ours).map(|(&p, &q)| event(p, q)).sum::<f64>()
                + event(rest, ours_rest)
        })
        .sum();
    total / reference.len() as f64
}

/// What a type is held to.
struct Line {
    ty: &'static str,
    /// The reference logits it is compared with: its own type's, or F32 where rounding to F16 is all that differs.
    logits: &'static str,
    /// Mean KL divergence from those at most.
    kl: f64,
    /// Mean KL divergence from the F32 logits at most: 1.25 times llama.cpp's own over the same 65 events.
    kl_from_f32: Option<f64>,
    /// Steps with this margin or more must all agree.
    every: f64,
    /// Of the steps with a margin of 0.3 or more, this share must agree.
    share: f64,
    perplexity: f64,
}

const Q4_1: Line = Line {
    ty: "q4_1",
    logits: "q4_1",
    kl: 0.01,
    kl_from_f32: Some(1.25 * 0.003938),
    every: 1.0,
    share: 0.98,
    perplexity: 18.336,
};

/// Fills the context in the largest batch of references: perplexity windows.
const CONTEXT: usize = 512;

fn check(line: &Line) {
    let file = ModelFile::open(&model_path(line.ty)).expect("the model opens");
    let gguf = file.parse().expect("the model is a GGUF");
    on_session(&gguf, (simd::best(), 2), (CONTEXT, 128, 128), |session| {
        check_logits(line, session);
        check_greedy(line, session);
        check_perplexity(line, session);
    });
}

fn check_logits(line: &Line, session: &mut Session<'_>) {
    let prompt: Value = serde_json::from_str(&data("logits/prompt.json")).unwrap();
    let logits = all_logits(session, &ids(&prompt["ids"]));
    let kl = mean_kl(&json_lines(&format!("logits/{}.jsonl", line.logits)), &logits);
    let from_f32 = mean_kl(&json_lines("logits/f32.jsonl"), &logits);
    println!("{}: mean KL {kl:.6} from {}, {from_f32:.6} from f32", line.ty, line.logits);
    assert!(kl <= line.kl, "{}: mean KL {kl} is over {}", line.ty, line.kl);
    if let Some(limit) = line.kl_from_f32 {
        assert!(from_f32 <= limit, "{}: mean KL {from_f32} from f32 is over {limit}", line.ty);
    }
}

/// Forces the reference's greedy ids in one batch and compares each step's argmax.
fn check_greedy(line: &Line, session: &mut Session<'_>) {
    let vocab_size = session.model().shape().vocab_size;
    let (mut clear, mut agreeing) = (0usize, 0usize);
    for case in json_lines(&format!("greedy/{}.jsonl", line.ty)) {
        let (prompt, answer, margins) =
            (ids(&case["prompt_ids"]), ids(&case["ids"]), floats(&case["margin"]));
        assert_eq!(answer.len(), margins.len());
        let forced = [&prompt[..], &answer[..answer.len() - 1]].concat();
        let logits = all_logits(session, &forced);
        let steps = logits.chunks_exact(vocab_size).skip(prompt.len() - 1);
        for (step, ((row, &expected), &margin)) in steps.zip(&answer).zip(&margins).enumerate() {
            let ours = argmax(row);
            let place = || format!("{}: {} step {step}, margin {margin}", line.ty, case["text"]);
            assert!(ours == expected || margin < line.every, "{}: {ours} for {expected}", place());
            if margin >= 0.3 {
                clear += 1;
                agreeing += usize::from(ours == expected);
            }
        }
    }
    println!("{}: {agreeing} of {clear} greedy steps with a margin of 0.3 agree", line.ty);
    assert!(clear > 400, "only {clear} steps were compared");
    assert!(agreeing as f64 >= line.share * clear as f64, "{}: {agreeing} of {clear} agree", line.ty);
}

fn check_perplexity(line: &Line, session: &mut Session<'_>) {
    let ids = parse_ids(&data("perplexity_ids.txt")).expect("the file holds ids");
    let score = score(session, &ids).expect("the text can be scored");
    let ours = score.perplexity();
    println!("{}: perplexity {ours:.4}, reference {}", line.ty, line.perplexity);
    assert_eq!(score.count, 1020);
    assert!((ours / line.perplexity - 1.0).abs() <= 0.01, "{}: {ours} for {}", line.ty, line.perplexity);
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn q4_1_answers_as_llama_cpp_does() {
    check(&Q4_1);
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn logits_are_the_same_bits_on_every_table_team_and_batch() {
    let file = ModelFile::open(&model_path("q4_1")).expect("the model opens");
    let gguf = file.parse().expect("the model is a GGUF");
    let ids = parse_ids(&data("perplexity_ids.txt")).expect("the file holds ids");
    // Two KV blocks of 64 positions are full and a third is begun.
    let ids = &ids[..131];
    let mut first: Option<(LogitsHash, String)> = None;
    for kernels in simd::available() {
        for threads in [1, 2, 3] {
            for batch in [1, 7, 64, ids.len()] {
                let hash = on_session(&gguf, (kernels, threads), (ids.len(), batch, batch), |session| {
                    let mut hash = LogitsHash::default();
                    hash.update(&all_logits(session, ids));
                    hash
                });
                let name = format!("{}, {threads} threads, batches of {batch}", kernels.name);
                match &first {
                    None => first = Some((hash, name)),
                    Some((expected, reference)) => assert_eq!(hash, *expected, "{name} against {reference}"),
                }
            }
        }
    }
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn a_batch_reads_the_weights_once() {
    let file = ModelFile::open(&model_path("q4_1")).expect("the model opens");
    let gguf = file.parse().expect("the model is a GGUF");
    let pass_bytes = Model::load(&gguf, LoadConfig::default()).expect("the model loads").pass_bytes();
    let prompt: Vec<u32> = (1000..1064).collect();
    let read = |ids: &[u32], batch: usize| {
        on_session(&gguf, (simd::best(), 2), (64, batch, 1), |session| {
            session.forward(ids, Logits::Last).expect("the prompt runs");
            // Embedding rows are looked up, one a token, and counted apart.
            assert_eq!(session.embedding_bytes_read() % ids.len() as u64, 0);
            session.weight_bytes_read()
        })
    };
    assert_eq!(read(&prompt, 64), pass_bytes);
    assert_eq!(read(&prompt[..1], 64), pass_bytes);
    // Two batches are two passes, of which only the last computes the head.
    let two = read(&prompt, 32);
    assert!(two > pass_bytes && two < 2 * pass_bytes, "{two} against {pass_bytes}");
}
