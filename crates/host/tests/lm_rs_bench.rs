//! `lm-rs-bench` as a program: a request a line in, an answer a line out, and a failing status if one was bad.
#![cfg(feature = "llm-transformer")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What it answers to `requests`, and whether it ended well.
fn answers(requests: &str) -> (Vec<Value>, bool) {
    answers_with(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/assets/tiny.gguf"), requests)
}

/// The same with another model.
fn answers_with(model: &Path, requests: &str) -> (Vec<Value>, bool) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lm-rs-bench"))
        .arg("--model")
        .arg(model)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("piped").write_all(requests.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    (text.lines().map(|line| serde_json::from_str(line).expect(line)).collect(), output.status.success())
}

#[test]
fn the_short_form_is_measured() {
    let (answers, good) = answers(
        "{\"prompt\":\"She was\",\"iterations\":3,\"max_tokens\":8}\n\
         {\"prompt\":\"She was\",\"iterations\":2,\"max_tokens\":8,\"threads\":1,\"draft\":4}\n",
    );
    assert!(good && answers.len() == 2);
    let answer = &answers[0];
    assert_eq!((&answer["tokens"], &answer["iterations"]), (&8.into(), &3.into()));
    let median = |name: &str| answer[name]["median"].as_f64().expect(name);
    assert!(0.0 < median("ttft_ms") && median("ttft_ms") < median("latency_ms"));
    assert!(median("tokens_per_s") > 0.0);
    assert!(answer["memory"]["peak_resident_bytes"].as_u64() > answer["model"]["file_bytes"].as_u64());
    // Threads and guesses change nothing about the text.
    assert_eq!(answers[0]["ids"], answers[1]["ids"]);
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn no_more_memory_is_held_than_file_session_and_a_little() {
    let model = barelm_host::model_file::reference_model_path();
    for threads in [1, 2, 4] {
        let request = format!(r#"{{"prompt":"Hello","iterations":2,"max_tokens":64,"threads":{threads}}}"#);
        let (answers, good) = answers_with(&model, &(request + "\n"));
        assert!(good);
        let bytes = |part: &str, name: &str| answers[0][part][name].as_u64().expect(name);
        let allowed = bytes("model", "file_bytes") + bytes("memory", "session_bytes") + (24 << 20);
        let peak = bytes("memory", "peak_resident_bytes");
        // Packed weights are a second copy of the file; pages of the first are given back while they are made.
        assert!(peak <= allowed, "{threads} threads: {peak} bytes resident, {allowed} allowed");
        eprintln!("{threads} threads: {peak} bytes resident, {} below what is allowed", allowed - peak);
    }
}

#[test]
fn a_bad_request_is_answered_and_the_next_one_served() {
    let (answers, good) =
        answers("nonsense\n{\"prompt\":\"A\",\"max_tokens\":9999}\n{\"prompt\":\"A\",\"iterations\":1}\n");
    assert!(!good);
    assert!(answers[0]["error"].as_str().expect("an error").contains("not JSON"));
    assert!(answers[1]["error"].as_str().expect("an error").contains("do not fit"));
    assert_eq!(answers[2]["iterations"], 1);
}
