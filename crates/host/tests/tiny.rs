//! The small model in the repository, the one that the bare-metal image embeds: it predicts unseen text better than an
//! n-gram, and says word for word what another implementation says from the same file.
//!
//! `tools/train-tiny` made the files. The n-grams were counted on the training text, which is not in the repository; their
//! figures on the committed excerpt are in `tiny.json`, beside the greedy ids that the Python code computed in floating
//! point from the dequantized weights.
#![cfg(feature = "llm-transformer")]

use std::path::{Path, PathBuf};

use barelm::llm::gguf::Gguf;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::plan::{Plan, SessionConfig};
use barelm::llm::pool::Solo;
use barelm::llm::sampler::argmax;
use barelm::llm::simd::{self, Kernels};
use barelm::llm::tokenizer::{Special, SpecialText, Tokenizer};
use barelm::llm::transformer::{Logits, Session};
use barelm_host::commands::perplexity::log_probability;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Positions of a window, as in `tools/train-tiny/expect.py`.
const WINDOW: usize = 512;
/// How far from the floating-point figure 8-bit activations may take us, in bits per byte. The weights are the same; an
/// activation is off by at most 1/254 of its block's largest, up or down as it happens, so that nearly all of it cancels
/// over the 13,353 ids of the excerpt (0.0001 is what is seen). A wrong position, norm or head order costs tenths.
const ROUNDING: f64 = 0.002;

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/assets").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    let path = asset(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn expected() -> Value {
    serde_json::from_slice(&bytes("tiny.json")).expect("tiny.json is JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("a list of ids")
}

fn with_session<R>(kernels: &'static Kernels, work: impl FnOnce(&mut Session<'_>, &Tokenizer<'_>) -> R) -> R {
    let file = bytes("tiny.gguf");
    let gguf = Gguf::parse(&file).expect("the file is a GGUF");
    let model = Model::load(&gguf, LoadConfig::default()).expect("the model loads");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("the tokenizer loads");
    let config = SessionConfig { context: WINDOW, batch: 64, logits: 64, ..SessionConfig::default() };
    let plan = Plan::from_header(&gguf, &config).expect("the plan fits");
    let mut memory = vec![0; usize::try_from(plan.session()).expect("a small session")];
    let mut session =
        Session::new(&model, config, kernels, &Solo, &mut memory).expect("planned memory is enough");
    work(&mut session, &tokenizer)
}

/// Negative log-likelihood of the last `scored` of `window`'s ids, in bits.
fn bits(session: &mut Session<'_>, window: &[u32], scored: usize) -> f64 {
    session.reset();
    let vocab_size = session.model().shape().vocab_size;
    let (mut position, mut bits) = (0, 0.0);
    for inputs in window[..window.len() - 1].chunks(64) {
        let logits = session.forward(inputs, Logits::All).expect("the window runs");
        for row in logits.chunks_exact(vocab_size) {
            position += 1;
            if position >= window.len() - scored {
                bits -= log_probability(row, window[position] as usize) / core::f64::consts::LN_2;
            }
        }
    }
    bits
}

/// Bits per byte of a whole text, every id predicted once: the first window opens with the end-of-text id in place of a
/// context, each later one advances by half a window and only its new half counts.
fn bits_per_byte(session: &mut Session<'_>, tokenizer: &Tokenizer<'_>, text: &str) -> f64 {
    let mut sequence = vec![tokenizer.eos().expect("the file names one")];
    sequence.extend(tokenizer.encode_to_vec(text, Special::Plain).expect("any text encodes"));
    let first = sequence.len().min(WINDOW);
    let (mut total, mut done) = (bits(session, &sequence[..first], first - 1), first);
    while done < sequence.len() {
        let end = sequence.len().min(done + WINDOW / 2);
        total += bits(session, &sequence[done - WINDOW / 2..end], end - done);
        done = end;
    }
    total / text.len() as f64
}

fn greedy(session: &mut Session<'_>, prompt: &[u32], count: usize) -> Vec<u32> {
    session.reset();
    let mut next = argmax(session.forward(prompt, Logits::Last).expect("the prompt runs"));
    let mut out = vec![next];
    while out.len() < count {
        next = argmax(session.forward(&[next], Logits::Last).expect("a step runs"));
        out.push(next);
    }
    out
}

fn text_of(tokenizer: &Tokenizer<'_>, ids: &[u32]) -> String {
    tokenizer.decode_to_string(ids, SpecialText::Show).expect("known ids")
}

#[test]
fn the_files_are_those_the_figures_are_about() {
    let expected = expected();
    for (name, key) in [("tiny.gguf", "model_sha256"), ("tiny.excerpt.txt", "excerpt_sha256")] {
        let hash: String = Sha256::digest(bytes(name)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(expected[key], hash, "{name}");
    }
    assert!(bytes("tiny.gguf").len() <= 3 << 20);
}

#[test]
fn unseen_text_is_predicted_better_than_by_n_grams() {
    let text = String::from_utf8(bytes("tiny.excerpt.txt")).expect("the excerpt is text");
    let figures = &expected()["excerpt_bits_per_byte"];
    let figure = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("no figure for {name}"));
    let ours = with_session(simd::best(), |session, tokenizer| bits_per_byte(session, tokenizer, &text));
    println!("{ours:.4} bits per byte; {figures}");
    assert!((ours - figure("model_in_floating_point")).abs() < ROUNDING, "{ours} against {figures}");
    for rival in ["kneser_ney_byte_trigram", "kneser_ney_byte_order_3_markov", "kneser_ney_token_trigram"] {
        assert!(ours < figure(rival), "{ours} against {rival}");
    }
}

#[test]
fn greedy_text_is_that_of_the_training_code_on_every_instruction_set() {
    let expected = expected();
    let answers = expected["greedy"].as_array().expect("a list");
    assert!(!answers.is_empty());
    for kernels in simd::available() {
        with_session(kernels, |session, tokenizer| {
            for answer in answers {
                let prompt = answer["prompt"].as_str().expect("a text");
                let prompt_ids = tokenizer.encode_to_vec(prompt, Special::Plain).expect("the prompt encodes");
                assert_eq!(prompt_ids, ids(&answer["prompt_ids"]), "{prompt}");
                let wanted = ids(&answer["ids"]);
                let ours = greedy(session, &prompt_ids, wanted.len());
                assert_eq!(ours, wanted, "{prompt} with {}", kernels.name);
                assert_eq!(text_of(tokenizer, &ours), answer["text"], "{prompt}");
            }
        });
    }
}

#[test]
fn excerpt_encodes_into_as_many_ids_as_in_training() {
    let file = bytes("tiny.gguf");
    let gguf = Gguf::parse(&file).expect("the file is a GGUF");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("the tokenizer loads");
    let text = String::from_utf8(bytes("tiny.excerpt.txt")).expect("the excerpt is text");
    let encoded = tokenizer.encode_to_vec(&text, Special::Plain).expect("any text encodes");
    assert_eq!(Some(encoded.len() as u64), expected()["excerpt_ids"].as_u64());
    assert_eq!(text_of(&tokenizer, &encoded), text);
}
