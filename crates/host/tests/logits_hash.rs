//! One answer: the logits of a fixed prompt have the same bits on every kernel table, team and batch, on every
//! machine. `data/logits_hash.tsv` has the hash, one line per arithmetic version and type; the bare-metal image prints
//! the same.
#![cfg(feature = "llm-transformer")]

mod support;

use barelm::llm::simd;
use barelm::llm::tokenizer::{Special, Tokenizer};
use barelm::llm::transformer::{HASH_PROMPT, hash_of_prompt};
use support::reference_model;
use support::session::{expected_hash, on_session};

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn logits_are_the_same_bits_on_every_table_team_and_batch() {
    let file = reference_model();
    let gguf = file.parse().expect("the model is a GGUF");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("the model has a tokenizer");
    let ids = tokenizer.encode_to_vec(HASH_PROMPT, Special::Plain).expect("the prompt encodes");
    let whole = ids.len();
    // One block of 64 cached positions is full and another begun, and no batch divides the prompt.
    assert!(whole > 64 && !whole.is_multiple_of(64) && !whole.is_multiple_of(7), "{whole}");
    let expected =
        expected_hash("q4_1").expect("data/logits_hash.tsv has a line for this arithmetic version");
    // Every pair on the best table, and each team and batch once on the scalar one. Other machines are emulated where
    // this runs for every change: they take the scalar table once and each team and batch once.
    let paired = [(1, whole), (2, 1), (3, 7), (4, 64)];
    let every = (1..=4).flat_map(|threads| [1, 7, 64, whole].map(|batch| (threads, batch)));
    let native = cfg!(target_arch = "x86_64");
    let best: Vec<_> = if native { every.collect() } else { paired.to_vec() };
    let runs = simd::available().flat_map(|kernels| {
        let shapes =
            if kernels.name == simd::best().name { &best[..] } else { &paired[..if native { 4 } else { 1 }] };
        shapes.iter().map(move |&(threads, batch)| (kernels, threads, batch))
    });
    for (kernels, threads, batch) in runs {
        let hash = on_session(&gguf, (kernels, threads), (whole, batch, batch), |session| {
            hash_of_prompt(session, &ids, batch).expect("the prompt runs")
        });
        assert_eq!(
            hash.value(),
            expected,
            "{:016x} on {}, {threads} threads, batches of {batch}",
            hash.value(),
            kernels.name
        );
    }
    println!("logits hash {expected:016x}: {whole} positions, {} tables", simd::available().count());
}
