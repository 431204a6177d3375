//! A damaged model file through everything that reads it: header, tokenizer, template, plan, load and a pass. An error or an
//! answer, never a panic.
#![cfg(feature = "llm-transformer")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use barelm::llm::chat::{ChatTemplate, Role};
use barelm::llm::gguf::{Gguf, Value};
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::plan::{Plan, SessionConfig};
use barelm::llm::pool::Solo;
use barelm::llm::simd;
use barelm::llm::tokenizer::{Special, Tokenizer};
use barelm::llm::transformer::{Logits, Session};

/// What a small machine lends to a session.
const MEMORY: u64 = 64 << 20;

fn model() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny.gguf");
    std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs a file as far as it lets itself be run; what stopped it, in words.
fn run(file: &[u8]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| {
        let message = error.to_string();
        assert!(!message.is_empty());
        message
    };
    let gguf = Gguf::parse(file).map_err(|e| text(&e))?;
    // Each reader by itself: one that refuses must not keep the others from being tried.
    let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|e| text(&e));
    let template = ChatTemplate::from_gguf(&gguf).map_err(|e| text(&e));
    let prompt =
        template.map_or("A truth, universally".to_string(), |t| t.render(&[(Role::User, "A truth")]));
    let ids = tokenizer.as_ref().map(|tokenizer| {
        let ids = tokenizer.encode_to_vec(&prompt, Special::Parse).map_err(|e| text(&e))?;
        // Any id may be asked for, as generation does.
        for id in ids.iter().copied().chain([0, 1, 2047, 2048, u32::MAX]) {
            let _ = (tokenizer.token_bytes(id).map(Iterator::count), tokenizer.is_end_of_generation(id));
        }
        Ok::<_, String>(ids)
    });
    let model = Model::load(&gguf, LoadConfig::default()).map_err(|e| text(&e))?;
    let config = SessionConfig { batch: 8, ..SessionConfig::default() };
    let plan = Plan::from_header(&gguf, &config).map_err(|e| text(&e))?;
    plan.check(MEMORY).map_err(|e| text(&e))?;
    let mut memory = vec![0; plan.session() as usize];
    let mut session = Session::new(&model, config, simd::best(), &Solo, &mut memory).map_err(|e| text(&e))?;
    let ids = ids.map_or(Ok(vec![1, 2, 3]), |ids| ids)?;
    session.forward(&ids, Logits::Last).map_err(|e| text(&e))?;
    session.forward(&ids[..1], Logits::Last).map_err(|e| text(&e))?;
    tokenizer.map(|_| ())
}

/// As [`run`], and says of what file it is if it panics.
fn survive(file: &[u8], what: &str) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| run(file))).unwrap_or_else(|_| panic!("a panic with {what}"))
}

#[test]
fn the_file_itself_runs() {
    run(&model()).unwrap();
}

#[test]
fn every_number_of_the_metadata_at_its_extremes_gives_some_result() {
    let original = model();
    let gguf = Gguf::parse(&original).unwrap();
    let numbers = gguf.metadata().filter_map(|(key, value)| match value {
        Value::U32(_) | Value::I32(_) => Some((
            key,
            [0, 1, 2, 3, 7, 31, 33, 1 << 16, 1 << 31, u32::MAX - 1, u32::MAX].map(u32::to_le_bytes),
        )),
        Value::F32(_) => {
            let extremes = [
                0.0,
                -0.0,
                1e-45,
                1.0,
                -1.0,
                1e-30,
                1e30,
                f32::MAX,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::NAN,
            ];
            Some((key, extremes.map(f32::to_le_bytes)))
        }
        _ => None,
    });
    let (mut refused, mut accepted) = (0, 0);
    for (key, extremes) in numbers {
        // The key, the value's type, the value.
        let at =
            original.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len() + 4;
        for extreme in extremes {
            let mut file = original.clone();
            file[at..at + 4].copy_from_slice(&extreme);
            match survive(&file, &format!("{key} = {extreme:02x?}")) {
                Ok(()) => accepted += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 50 && accepted > 5, "{refused} refused, {accepted} accepted");
}

#[test]
fn damaged_bytes_anywhere_give_some_result() {
    let original = model();
    let header = Gguf::parse(&original).unwrap().header_bytes() as usize;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut refused, mut accepted) = (0, 0);
    for round in 0..2000 {
        let mut file = original.clone();
        for _ in 0..=random(3) {
            // Numbers are in the first bytes and in the last of the header; then come names of tokens, and weights.
            let at = match random(4) {
                0 => random(1500),
                1 => header - 1 - random(3000),
                2 => random(header),
                _ => header + random(file.len() - header),
            };
            match random(3) {
                0 => file[at] ^= 1 << random(8),
                1 => file[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)],
                _ => {
                    let end = file.len().min(at + 2);
                    // As a half: infinite, not a number, the largest.
                    file[at..end]
                        .copy_from_slice(&[[0x00, 0x7c], [0xff, 0xff], [0xff, 0x7b]][random(3)][..end - at]);
                }
            }
        }
        match survive(&file, &format!("the file of round {round}")) {
            Ok(()) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 300 && accepted > 300, "{refused} refused, {accepted} accepted");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let original = model();
    let header = Gguf::parse(&original).unwrap().header_bytes() as usize;
    let cuts =
        (0..header).step_by(97).chain((header..original.len()).step_by(49_999)).chain([original.len() - 1]);
    for len in cuts {
        survive(&original[..len], &format!("the first {len} bytes")).unwrap_err();
    }
}
