//! Guessed tokens change the time a text takes, never the text: with the model of the image, greedy and sampled, with
//! the whole context and with a window.
#![cfg(feature = "llm-transformer")]

use std::ops::ControlFlow;
use std::path::Path;

use barelm::llm::draft::PromptLookup;
use barelm::llm::generate::{GenerateConfig, Generated, generate_with_draft};
use barelm::llm::gguf::Gguf;
use barelm::llm::kv_cache::Overflow;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::plan::{Plan, SessionConfig};
use barelm::llm::pool::Solo;
use barelm::llm::sampler::{Sampler, SamplerConfig};
use barelm::llm::simd;
use barelm::llm::tokenizer::{Special, Tokenizer};
use barelm::llm::transformer::Session;

const PROMPT: &str = "and it came to pass, that when the king heard it, and it came to pass, that when the";
const TOKENS: usize = 100;

/// Generates with up to `guesses` guessed tokens a pass.
fn run(guesses: usize, sampling: SamplerConfig, overflow: Overflow) -> (Vec<u32>, Generated) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/assets/tiny.gguf");
    let file = std::fs::read(path).expect("the tiny model is in the repository");
    let gguf = Gguf::parse(&file).expect("it is a GGUF file");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("it has a tokenizer");
    let model = Model::load(&gguf, LoadConfig::default()).expect("it is a Llama");
    let prompt = tokenizer.encode_to_vec(PROMPT, Special::Plain).expect("UTF-8");
    let config = SessionConfig {
        context: prompt.len() + TOKENS,
        batch: 16,
        logits: 1 + guesses,
        overflow,
        ..SessionConfig::default()
    };
    let plan = Plan::from_header(&gguf, &config).expect("it fits");
    let mut memory = vec![0; plan.session() as usize];
    let mut session = Session::new(&model, config, simd::best(), &Solo, &mut memory).expect("as planned");
    let mut sampler = Sampler::try_new(sampling, model.shape().vocab_size).expect("good settings");
    let mut lookup = PromptLookup::new(guesses, config.context);
    let config = GenerateConfig { max_tokens: TOKENS, ignore_stop: true };
    let mut ids = Vec::new();
    let generated =
        generate_with_draft(&mut session, &tokenizer, &mut sampler, &mut lookup, &prompt, config, |step| {
            ids.push(step.id);
            ControlFlow::Continue(())
        })
        .expect("the context suffices");
    assert_eq!(
        session.position(),
        prompt.len() + TOKENS - 1,
        "the last token is not yet part of the session"
    );
    ids.truncate(TOKENS);
    (ids, generated)
}

#[test]
fn guesses_never_change_the_text() {
    let greedy = SamplerConfig::default();
    let sampled = SamplerConfig { temperature: 0.7, seed: 11, ..greedy };
    let penalised = SamplerConfig { repetition_penalty: 1.3, ..sampled };
    let mut right = 0;
    for sampling in [greedy, sampled, penalised] {
        for overflow in [Overflow::Error, Overflow::Window(24)] {
            let (alone, plain) = run(0, sampling, overflow);
            assert_eq!((plain.tokens, plain.drafted), (TOKENS, 0));
            for guesses in [1, 3, 15] {
                let (ids, generated) = run(guesses, sampling, overflow);
                assert_eq!(ids, alone, "{guesses} guesses, {sampling:?}, {overflow:?}");
                assert!(generated.accepted <= generated.drafted);
                right += generated.accepted;
            }
        }
    }
    assert!(right > 0, "no guess was ever right: nothing was tested");
}
