//! Engines that are built, on the real model: their greedy tokens are the references' wherever the model is sure.
//!
//! `BARELM_CONFORMANCE=NAME,NAME` (`cargo xtask engines agree NAME NAME`) looks at these only, and fails where one is not built.
#![cfg(feature = "llm-transformer")]

mod support;

use std::path::Path;

use barelm_host::compare::models::default_models;
use barelm_host::compare::registry::{folders, known};
use barelm_host::versus::engine::EngineProcess;
use barelm_protocol::Load;
use serde_json::Value;
use support::{ids, json_lines};

/// Tokens compared of each prompt.
const TOKENS: usize = 24;
/// Where the two likeliest are closer than this, another order of sums may prefer the other one (see `data/README.md`).
const UNSURE: f64 = 0.3;

/// Greedy tokens of one reference, with the model's margin at each.
fn compare(name: &str, case: &Value, theirs: &[u32]) -> usize {
    let right = ids(&case["ids"]);
    let Some(at) = (0..TOKENS).find(|&at| theirs[at] != right[at]) else { return TOKENS };
    let margin = case["margin"][at].as_f64().expect("a margin for each token");
    assert!(
        margin < UNSURE,
        "{name}: {:?}: token {at} is {}, not {}, at a margin of {margin}",
        case["text"],
        theirs[at],
        right[at]
    );
    // Behind it the texts are different ones.
    at
}

#[test]
#[ignore = "needs the model, and engines: cargo xtask setup, cargo xtask engines build"]
fn engines_in_f32_choose_the_tokens_of_the_references() {
    let ours = Path::new(env!("CARGO_BIN_EXE_lm-rs-bench"));
    let mut places = folders(ours.parent());
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release"));
    let model = default_models(&mut |line| eprintln!("{line}")).expect("the model");
    let model = model.into_iter().find(|path| path.to_string_lossy().contains("F32")).expect("one of them");
    let wanted = std::env::var("BARELM_CONFORMANCE").unwrap_or_default();
    let cases = json_lines("greedy/f32.jsonl");
    for known in known() {
        if !wanted.is_empty() && !wanted.split(',').any(|name| name == known.name) {
            continue;
        }
        let program = match known.is_ours() {
            true => Some(ours.to_path_buf()),
            false => known.installed(&places),
        };
        let Some(program) = program else {
            assert!(
                wanted.is_empty(),
                "engine {} is wanted but not built: {}",
                known.name,
                known.how_to_get()
            );
            eprintln!("left out: engine {} is not built: {}", known.name, known.how_to_get());
            continue;
        };
        let arguments: Vec<_> = known.arguments.iter().map(Into::into).collect();
        let mut engine = match EngineProcess::start(&program, &arguments) {
            Ok(engine) => engine,
            Err(why) if why.to_string().contains("cannot run here") => {
                eprintln!("left out: {why}");
                continue;
            }
            Err(why) => panic!("{}: {why}", known.name),
        };
        if !engine.hello().formats.iter().any(|format| format == "F32") {
            eprintln!("left out: engine {} has no F32", known.name);
            continue;
        }
        engine
            .load(Load { model: model.clone(), threads: 2, context: 512, ..Load::default() })
            .expect("it loads");
        let mut same = 0;
        for case in &cases {
            let answer = engine.submit(&ids(&case["prompt_ids"]), TOKENS).expect("an answer");
            same += compare(&known.name, case, &answer.done.ids);
        }
        println!("{}: {same} of {} tokens", known.name, cases.len() * TOKENS);
        assert!(same > cases.len() * TOKENS / 2, "{}: {same}", known.name);
    }
}
