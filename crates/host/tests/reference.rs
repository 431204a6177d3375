//! Our answers against llama.cpp's, on one real model in five types. `data/README.md` says where its answers are from.
//!
//! Distributions are compared over the 1,024 likeliest ids and the rest as one event, in nats: at most the divergence
//! over the whole vocabulary, and 94 % of it or more where that was measured.
#![cfg(feature = "llm-transformer")]

mod support;

use std::fmt;
use std::time::Instant;

use barelm::llm::gguf::Gguf;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::quant::GgmlType;
use barelm::llm::sampler::argmax;
use barelm::llm::simd;
use barelm::llm::tokenizer::{Special, Tokenizer};
use barelm::llm::transformer::{HASH_PROMPT, Logits, Session, hash_of_prompt};
use barelm_host::commands::perplexity::{log_sum_exp, parse_ids, score};
use barelm_host::quantize::quantize;
use serde_json::Value;
use support::session::{all_logits, expected_hash, on_session};
use support::{data, data_bytes, ids, json_lines, reference_model};

/// What a type is held to.
struct Line {
    name: &'static str,
    ty: GgmlType,
    /// The reference logits it is compared with: its own type's, or F32's where rounding to F16 is all that differs.
    logits: &'static str,
    /// Mean KL divergence from those at most.
    kl: f64,
    /// llama.cpp's own mean KL divergence from its F32 logits over the same events; ours is at most 1.25 times that.
    own_kl_from_f32: Option<f64>,
    /// Forced along the reference's ids, steps with this margin or more must all agree …
    every: f64,
    /// … and this share of the steps with a margin of 0.3 or more.
    share: f64,
    /// The reference's perplexity; ours is within 1 % of it.
    perplexity: f64,
}

const LINES: [Line; 5] = [
    Line {
        name: "q4_1",
        ty: GgmlType::Q4_1,
        logits: "q4_1",
        kl: 0.01,
        own_kl_from_f32: Some(0.004844),
        every: 1.0,
        share: 0.98,
        perplexity: 18.336,
    },
    Line {
        name: "q4_0",
        ty: GgmlType::Q4_0,
        logits: "q4_0",
        kl: 0.01,
        own_kl_from_f32: None,
        every: 1.0,
        share: 0.98,
        perplexity: 22.90,
    },
    Line {
        name: "q8_0",
        ty: GgmlType::Q8_0,
        logits: "q8_0",
        kl: 0.01,
        own_kl_from_f32: Some(0.006844),
        every: 1.0,
        share: 0.98,
        perplexity: 18.204,
    },
    Line {
        name: "f16",
        ty: GgmlType::F16,
        logits: "f32",
        kl: 1e-4,
        own_kl_from_f32: None,
        every: 0.05,
        share: 1.0,
        perplexity: 18.201,
    },
    Line {
        name: "f32",
        ty: GgmlType::F32,
        logits: "f32",
        kl: 1e-4,
        own_kl_from_f32: None,
        every: 0.05,
        share: 1.0,
        perplexity: 18.198,
    },
];

/// Positions of a session: a window of perplexity.
const CONTEXT: usize = 512;
/// Positions of a pass.
const BATCH: usize = 128;

/// A position's distribution: ids with their natural log-probabilities, the likeliest first, and that of all others.
struct Distribution {
    events: Vec<(u32, f64)>,
    rest: f64,
}

/// One file of `data/logits`: per position 1,024 pairs (id, log-probability) and a last one with the id -1.
fn distributions(name: &str) -> Vec<Distribution> {
    let bytes = data_bytes(&format!("logits/{name}.top"));
    let (pairs, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty());
    let pairs: Vec<_> = pairs
        .iter()
        .map(|pair| {
            let (id, log_probability) = pair.split_at(4);
            let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
            (word(id), f64::from(f32::from_bits(word(log_probability))))
        })
        .collect();
    pairs
        .split_inclusive(|&(id, _)| id == u32::MAX)
        .map(|events| {
            let ((_, rest), events) = events.split_last().expect("split pieces are not empty");
            assert_eq!(events.len(), 1024);
            Distribution { events: events.to_vec(), rest: *rest }
        })
        .collect()
}

/// Mean KL divergence of our distributions from the reference's.
fn mean_kl(reference: &[Distribution], logits: &[f32]) -> f64 {
    let rows = logits.chunks_exact(logits.len() / reference.len());
    let kl = |(theirs, row): (&Distribution, &[f32])| {
        let norm = log_sum_exp(row);
        let (mut sum, mut rest) = (0.0, 1.0);
        for &(id, log_probability) in &theirs.events {
            let ours = f64::from(row[id as usize]) - norm;
            sum += libm::exp(log_probability) * (log_probability - ours);
            rest -= libm::exp(ours);
        }
        sum + libm::exp(theirs.rest) * (theirs.rest - libm::log(f64::max(rest, 1e-12)))
    };
    reference.iter().zip(rows).map(kl).sum::<f64>() / reference.len() as f64
}

/// Greedy steps of the reference that ours were forced along.
#[derive(Clone, Copy, Default)]
struct Steps {
    all: usize,
    agreeing: usize,
    /// Those with a margin of 0.3 or more.
    clear: usize,
    clear_agreeing: usize,
    /// The largest margin of a step that differs.
    worst: f64,
}

/// What was measured on a type.
struct Figures {
    kl: f64,
    kl_from_f32: f64,
    steps: Steps,
    perplexity: f64,
    hash: u64,
}

impl Figures {
    fn measure(line: &Line, gguf: &Gguf<'_>) -> Self {
        let tokenizer = Tokenizer::from_gguf(gguf).expect("the model has a tokenizer");
        let hash_ids = tokenizer.encode_to_vec(HASH_PROMPT, Special::Plain).expect("the prompt encodes");
        let prompt: Value = serde_json::from_str(&data("logits/prompt.json")).expect("the prompt is JSON");
        on_session(gguf, (simd::best(), 2), (CONTEXT, BATCH, BATCH), |session| {
            let logits = all_logits(session, &ids(&prompt["ids"]));
            let text = parse_ids(&data("perplexity_ids.txt")).expect("the file holds ids");
            let score = score(session, &text).expect("the text can be scored");
            assert_eq!(score.count, 1020);
            Figures {
                kl: mean_kl(&distributions(line.logits), &logits),
                kl_from_f32: mean_kl(&distributions("f32"), &logits),
                steps: forced(line, session),
                perplexity: score.perplexity(),
                hash: hash_of_prompt(session, &hash_ids, BATCH).expect("the prompt runs").value(),
            }
        })
    }

    /// What is worse than `line` allows.
    fn faults(&self, line: &Line) -> Vec<String> {
        let steps = self.steps;
        let checks = [
            (self.kl <= line.kl, format!("mean KL {} is over {}", self.kl, line.kl)),
            (
                line.own_kl_from_f32.is_none_or(|own| self.kl_from_f32 <= 1.25 * own),
                format!("mean KL {} from f32 is over 1.25 x {:?}", self.kl_from_f32, line.own_kl_from_f32),
            ),
            (steps.worst < line.every, format!("a greedy step with a margin of {} differs", steps.worst)),
            (
                steps.clear_agreeing as f64 >= line.share * steps.clear as f64,
                format!("{} of {} clear greedy steps agree", steps.clear_agreeing, steps.clear),
            ),
            (
                (self.perplexity / line.perplexity - 1.0).abs() <= 0.01,
                format!("perplexity {} is not within 1 % of {}", self.perplexity, line.perplexity),
            ),
            (
                expected_hash(line.name) == Some(self.hash),
                format!("logits hash {:016x} is not that of data/logits_hash.tsv", self.hash),
            ),
        ];
        checks
            .into_iter()
            .filter(|(good, _)| !good)
            .map(|(_, fault)| format!("{}: {fault}", line.name))
            .collect()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Steps { all, agreeing, clear, clear_agreeing, worst } = self.steps;
        write!(
            f,
            "{:.6}  {:.6}  {clear_agreeing:>3} of {clear}  {agreeing:>3} of {all}  {worst:>5.3}  {:>8.4}  {:016x}",
            self.kl, self.kl_from_f32, self.perplexity, self.hash
        )
    }
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// Forces the reference's greedy ids in one batch and compares each step's argmax.
fn forced(line: &Line, session: &mut Session<'_>) -> Steps {
    let vocab_size = session.model().shape().vocab_size;
    let mut found = Steps::default();
    for case in json_lines(&format!("greedy/{}.jsonl", line.name)) {
        let (prompt, answer, margins) =
            (ids(&case["prompt_ids"]), ids(&case["ids"]), floats(&case["margin"]));
        assert_eq!(answer.len(), margins.len());
        let logits = all_logits(session, &[&prompt[..], &answer[..answer.len() - 1]].concat());
        let steps = logits.chunks_exact(vocab_size).skip(prompt.len() - 1);
        for ((row, &expected), &margin) in steps.zip(&answer).zip(&margins) {
            let (clear, agrees) = (margin >= 0.3, argmax(row) == expected);
            found.all += 1;
            found.agreeing += usize::from(agrees);
            found.clear += usize::from(clear);
            found.clear_agreeing += usize::from(clear && agrees);
            if !agrees {
                found.worst = found.worst.max(margin);
            }
        }
    }
    assert!(found.clear > 400, "only {} clear steps were compared", found.clear);
    found
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn every_type_answers_as_llama_cpp_does() {
    let file = reference_model();
    let original = file.parse().expect("the model is a GGUF");
    let mut faults = Vec::new();
    println!("type  KL(same)  KL(f32)   margin 0.3  all steps   worst  perplex.  logits hash       seconds");
    for line in &LINES {
        let start = Instant::now();
        let made;
        let figures = if line.ty == GgmlType::Q4_1 {
            Figures::measure(line, &original)
        } else {
            let mut bytes = Vec::new();
            quantize(&original, line.ty, false, &mut bytes, &mut |_, _| {}).expect("the type can be made");
            made = bytes;
            Figures::measure(line, &Gguf::parse(&made).expect("what we write, we can read"))
        };
        println!("{:<4}  {figures}  {:>7.1}", line.name, start.elapsed().as_secs_f64());
        faults.extend(figures.faults(line));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn a_batch_reads_the_weights_once() {
    let file = reference_model();
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
