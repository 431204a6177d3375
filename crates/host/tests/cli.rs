//! The command line, with good input and with bad: a status, a message that says what to do, and never a panic. The model
//! is the small one in the repository where nothing depends on which.
#![cfg(feature = "llm-transformer")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The small model, which has 2,048 tokens, 512 positions and no chat template.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../kernel/assets/tiny.gguf");
const TINY_VOCABULARY: usize = 2048;

fn barelm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_barelm")).args(arguments).output().expect("the binary runs")
}

/// Standard output of a command that succeeds.
fn answered(arguments: &[&str]) -> String {
    let output = barelm(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("answers are text")
}

/// Asserts the status and that standard error holds `part`; returns standard error.
fn refused(arguments: &[&str], status: i32, part: &str) -> String {
    let output = barelm(arguments);
    let errors = String::from_utf8(output.stderr).expect("messages are text");
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {errors}");
    assert!(errors.contains(part), "{arguments:?}: no {part:?} in {errors}");
    assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    errors
}

/// One line of every command that opens a model.
fn every_command(model: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["run", model, "-p", "hello"],
        vec!["inspect", model],
        vec!["tokenize", model],
        vec!["logits", model, "--ids", "1,2"],
        vec!["perplexity", model, "/dev/null"],
        vec!["quantize", model, "/nowhere/out.gguf", "--type", "q8_0"],
        vec!["bench", model],
    ]
}

fn written(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_missing_model_names_the_way_to_get_one() {
    for command in every_command("/nowhere/model.gguf") {
        let errors = refused(&command, 1, "cargo xtask setup");
        assert!(errors.contains("/nowhere/model.gguf"), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn what_is_not_a_model_is_refused_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0u32..4096).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut huge_counts = b"GGUF".to_vec();
    huge_counts.extend(3u32.to_le_bytes());
    huge_counts.extend([0xff; 16]);
    let cases = [
        (folder.path().to_str().unwrap().to_owned(), "directory"),
        ("/dev/null".to_owned(), "not a regular file"),
        (written(folder.path(), "empty.gguf", b""), "empty"),
        (written(folder.path(), "noise.gguf", &noise), "GGUF"),
        (written(folder.path(), "preamble.gguf", b"GGUF\x03\0\0\0"), "too early"),
        (written(folder.path(), "counts.gguf", &huge_counts), "entries"),
    ];
    for (model, part) in &cases {
        for command in every_command(model) {
            refused(&command, 1, part);
        }
    }
}

#[test]
fn wrong_flags_are_usage_errors() {
    for arguments in [
        &["run", "m.gguf"][..],
        &["run", "m.gguf", "-p", "x", "--threads", "0"],
        &["run", "m.gguf", "-p", "x", "--threads", "many"],
        &["run", "m.gguf", "-p", "x", "--batch", "0"],
        &["run", "m.gguf", "-p", "x", "--context", "0"],
        &["run", "m.gguf", "-p", "x", "--window", "0"],
        &["run", "m.gguf", "-p", "x", "-n", "-3"],
        &["run", "m.gguf", "-p", "x", "--temp", "warm"],
        &["run", "m.gguf", "-p", "x", "--raw", "--system", "y"],
        &["logits", "m.gguf"],
        &["logits", "m.gguf", "--ids", "1,-2"],
        &["logits", "m.gguf", "--ids", "99999999999"],
        &["inspect"],
        &["inspect", "m.gguf", "--ctx", "0"],
        &["logits", "m.gguf", "--ids", ""],
        &["logits", "m.gguf", "--ids", "1,,2"],
        &["quantize", "m.gguf", "out.gguf"],
        &["quantize", "m.gguf", "out.gguf", "--type", "q4_k"],
        &["quantize", "m.gguf", "--type", "q4_0"],
        &["bench", "--threads", "0"],
        &["sing"],
        &["--loud"],
        &[],
    ] {
        let output = barelm(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains("--help"), "{arguments:?}: {errors}");
    }
}

#[test]
fn an_empty_prompt_is_refused_before_the_model_is_opened() {
    refused(&["run", "/nowhere/model.gguf", "-p", ""], 1, "the prompt is empty");
}

#[test]
fn help_and_version_succeed_on_standard_output() {
    for flag in ["--help", "--version"] {
        let output = barelm(&[flag]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("barelm"), "{flag}");
    }
}

/// Runs with `input` on standard input: status, output, errors.
fn fed(arguments: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_barelm"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("it is piped").write_all(input).expect("the input is read");
    let output = child.wait_with_output().expect("the command ends");
    let text = |bytes| String::from_utf8(bytes).expect("what is printed is text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn run_prints_the_text_and_says_how_fast_it_was() {
    let (status, text, errors) = fed(&["run", TINY, "-p", "Once upon", "--raw", "-n", "20"], b"");
    assert_eq!(status, Some(0), "{errors}");
    assert!(text.ends_with('\n') && text.trim().len() > 20, "{text:?}");
    assert!(errors.starts_with("length reached: prompt 3 tokens, "), "{errors}");
    assert_eq!(errors.matches(" tok/s").count(), 2, "{errors}");
}

#[test]
fn how_it_is_computed_does_not_change_the_text() {
    let run = |flags: &[&str]| {
        let basic = ["run", TINY, "-p", "It is a truth", "--raw", "-n", "40", "--ignore-stop"];
        answered(&[&basic[..], flags].concat())
    };
    let drawn =
        ["--temp", "1.2", "--top-k", "100", "--top-p", "0.98", "--repeat-penalty", "1.1", "--seed", "5"];
    for sampling in [&[][..], &drawn] {
        let text = run(sampling);
        for flags in [
            ["--threads", "1"],
            ["--threads", "3"],
            ["--batch", "1"],
            ["--kernels", "scalar"],
            ["--ctx", "512"],
            ["--window", "500"],
        ] {
            assert_eq!(run(&[sampling, &flags].concat()), text, "{flags:?}");
        }
    }
    assert_ne!(run(&drawn), run(&[&drawn[..8], &["--seed", "6"]].concat()));
}

#[test]
fn a_full_context_ends_the_text_and_a_window_does_not() {
    let run = |flags: &[&str]| {
        let basic = ["run", TINY, "-p", "It is a truth", "--raw", "--ignore-stop"];
        let (status, _, errors) = fed(&[&basic[..], flags].concat(), b"");
        assert_eq!(status, Some(0), "{errors}");
        errors
    };
    assert!(run(&["-n", "30", "--ctx", "20"]).contains("context full"));
    assert!(run(&["-n", "700", "--window", "64"]).contains("length reached"));
    let longer = run(&["-n", "3", "--ctx", "513"]);
    assert!(longer.contains("trained on 512 positions"), "{longer}");
}

#[test]
fn inspect_shows_metadata_tensors_and_memory() {
    let shown = answered(&["inspect", TINY]);
    for part in [
        "GGUF version 3",
        "llama.context_length = 512",
        "tokenizer.ggml.tokens = 2048 x string",
        "token_embd.weight",
        "192 x 2048",
        "2048 ids",
        "memory to run it",
    ] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    let columns = |text: &str| -> Vec<u64> {
        text.lines().last().expect("a line").split_whitespace().map_while(|word| word.parse().ok()).collect()
    };
    let (own, longer) = (columns(&shown), columns(&answered(&["inspect", TINY, "--context", "1024"])));
    assert_eq!((own[0], longer[0]), (512, 1024));
    // Positions, weights, keys and values, scratch, packed, total: keys and values double (f16, both, 4 layers of 2 heads of
    // 32), the rest stays.
    assert_eq!((own[2], longer[2]), (512 * 2 * 2 * 4 * 2 * 32, 1024 * 2 * 2 * 4 * 2 * 32));
    assert_eq!((own[1], &own[3..5]), (longer[1], &longer[3..5]));
    assert_eq!(longer[5], longer[1..5].iter().sum::<u64>());
    assert!(answered(&["inspect", TINY, "--context", "4294967295"]).contains("too much here"));
}

#[test]
fn values_that_only_the_model_can_judge_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let long = "word ".repeat(3000);
    let run = |flags: &[&str], part| {
        refused(&[&["run", TINY, "--raw"], flags].concat(), 1, part);
    };
    run(&["-p", &long], "context");
    run(&["-p", "hello there", "--context", "2"], "context");
    run(&["-p", "x", "--temp", "-1"], "temperature");
    run(&["-p", "x", "--temp", "NaN"], "temperature");
    run(&["-p", "x", "--temp", "inf"], "temperature");
    run(&["-p", "x", "--temp", "1", "--top-p", "0"], "top-p");
    run(&["-p", "x", "--temp", "1", "--min-p", "2"], "min-p");
    run(&["-p", "x", "--repeat-penalty", "0"], "repetition penalty");
    run(&["-p", "x", "--kernels", "abacus"], "scalar");
    run(&["-p", "x", "--context", "4294967295"], "short");
    run(&["-p", "x", "--window", "4294967295"], "short");
    refused(&["run", TINY, "-p", "x"], 1, "--raw");
    refused(&["logits", TINY, "--ids", "1,2048"], 1, "not in the vocabulary");
    refused(&["perplexity", TINY, "/nowhere/text"], 1, "cannot read /nowhere/text");
    refused(&["perplexity", TINY, folder.path().to_str().unwrap()], 1, "cannot read");
    refused(&["perplexity", TINY, &written(folder.path(), "short", b"1 2 3")], 1, "fewer than one window");
    refused(&["perplexity", TINY, &written(folder.path(), "bytes", b"\xff\xfe")], 1, "UTF-8");
    let strange = "9999 ".repeat(512);
    refused(
        &["perplexity", TINY, &written(folder.path(), "ids", strange.as_bytes())],
        1,
        "not in the vocabulary",
    );
    refused(&["bench", TINY, "--filter", "no such case"], 1, "no such case");
    refused(&["bench", TINY, "--json", "/nowhere/records"], 1, "/nowhere/records");
}

#[test]
fn perplexity_is_the_same_of_a_text_and_of_its_ids() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read(TINY.replace("tiny.gguf", "tiny.excerpt.txt")).unwrap();
    // One line, so that the tokenizer's lines are the text; two windows and a rest.
    let text = String::from_utf8(text).unwrap().replace(['\r', '\n'], " ");
    let text: String = text.chars().take(5000).collect();
    let (_, lines, _) = fed(&["tokenize", TINY], text.as_bytes());
    let ids = lines.trim().trim_start_matches("{\"ids\":[").trim_end_matches("]}").replace(',', " ");
    let of_text = answered(&["perplexity", TINY, &written(folder.path(), "text", text.as_bytes())]);
    let of_ids = answered(&["perplexity", TINY, &written(folder.path(), "ids", ids.as_bytes())]);
    // Only of a text is it known how many bytes were predicted.
    let bits = of_text.strip_prefix(of_ids.trim_end()).expect("the same figures, and one more");
    assert!(bits.ends_with(" bits per byte of theirs\n"), "{bits}");
    let perplexity: f64 = of_ids.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((2.0..200.0).contains(&perplexity), "{of_ids}");
}

#[test]
fn logits_writes_every_position_and_prints_their_hash() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), "logits", b"something older and longer".repeat(9999).as_slice());
    let printed = answered(&["logits", TINY, "--ids", "1,2,3", "--out", &path]);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 3 * TINY_VOCABULARY * 4);
    let (logits, _) = bytes.as_chunks::<4>();
    let logits: Vec<f32> = logits.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert!(logits.iter().all(|logit| logit.is_finite()));
    let hash = barelm::llm::transformer::logits_hash(&logits);
    assert!(printed.contains(&hash.to_string()), "{hash} is not in {printed}");
    assert_eq!(printed, answered(&["logits", TINY, "--ids", "1,2,3"]), "with a file and without");
}

#[test]
fn quantize_makes_files_that_the_other_commands_read() {
    let folder = tempfile::tempdir().unwrap();
    for (name, ty) in [("q4_0", "Q4_0"), ("Q4_1", "Q4_1"), ("q5_1", "Q5_1"), ("bf16", "BF16"), ("f32", "F32")]
    {
        for pure in [&[][..], &["--pure"]] {
            // The second time it replaces the first.
            let path = folder.path().join("made.gguf");
            let path = path.to_str().unwrap();
            let report = answered(&[&["quantize", TINY, path, "--type", name], pure].concat());
            assert!(report.contains("tensors converted"), "{report}");
            let head = if pure.is_empty() && ty.starts_with('Q') { "Q8_0" } else { ty };
            let shown = answered(&["inspect", path]);
            let line =
                |tensor: &str| shown.lines().find(|line| line.contains(tensor)).expect("a tensor").to_owned();
            assert!(line("token_embd.weight").contains(head), "{}", line("token_embd.weight"));
            assert!(line("blk.3.attn_q.weight").contains(ty), "{}", line("blk.3.attn_q.weight"));
            answered(&["run", path, "-p", "Once upon", "--raw", "-n", "3"]);
        }
    }
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["made.gguf"], "nothing else is left");
}

#[test]
fn files_that_cannot_be_written_are_named_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let copy = written(folder.path(), "model.gguf", &fs::read(TINY).unwrap());
    let here = folder.path().to_str().unwrap();
    let kept = written(folder.path(), "kept", b"old");
    for (path, part) in [
        ("/nowhere/out", "cannot write /nowhere/out"),
        ("/proc/out", "cannot write /proc/out"),
        ("/dev/full", "make room"),
        (here, "directory"),
        (&copy, "is the input"),
    ] {
        refused(&["quantize", &copy, path, "--type", "f16"], 1, part);
        refused(&["logits", &copy, "--ids", "1", "--out", path], 1, part);
        refused(&["bench", &copy, "--filter", "rms_norm", "--iterations", "2", "--json", path], 1, part);
    }
    refused(&["logits", &copy, "--ids", "99999", "--out", &kept], 1, "not in the vocabulary");
    assert_eq!(fs::read(&kept).unwrap(), b"old");
    assert!(fs::read(&copy).unwrap() == fs::read(TINY).unwrap());
    assert!(!fs::metadata("/dev/full").unwrap().is_file());
}

#[test]
fn a_full_disk_under_standard_output_is_an_error() {
    for arguments in [
        &["inspect", TINY][..],
        &["run", TINY, "-p", "Once upon", "--raw", "-n", "3"],
        &["logits", TINY, "--ids", "1"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_barelm")).args(arguments).stdout(full).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(errors.contains("cannot write the output"), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    for arguments in [
        &["inspect", TINY][..],
        &["run", TINY, "-p", "Once upon", "--raw", "--window", "64", "--ignore-stop", "-n", "1000000000"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_barelm"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reader = child.stdout.take().unwrap();
        reader.read_exact(&mut [0; 8]).unwrap();
        drop(reader);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[test]
fn tokenize_names_the_bad_line() {
    for (flags, input) in [
        (&["--jsonl"][..], &b"{\"text\":\"a\"}\nnot json\n"[..]),
        (&["--jsonl"], b"{\"text\":\"a\"}\n{\"words\":\"b\"}\n"),
        (&["--jsonl"], b"{\"text\":\"a\"}\n{\"text\":7}\n"),
        (&["--jsonl"], b"{\"text\":\"a\"}\n\n"),
        (&[], b"a\n\xff\xfe\n"),
    ] {
        let (status, out, errors) = fed(&[&["tokenize", TINY], flags].concat(), input);
        assert_eq!(status, Some(1), "{errors}");
        assert_eq!(out.lines().count(), 1, "the good line before it is answered");
        assert!(errors.contains("line 2 of the input"), "{errors}");
    }
    assert_eq!(fed(&["tokenize", TINY], b"").1, "");
}

mod with_the_reference_model {
    use super::*;

    fn model() -> String {
        let path = barelm_host::model_file::reference_model_path();
        assert!(path.is_file(), "{} is missing: cargo xtask setup", path.display());
        path.to_str().unwrap().to_owned()
    }

    #[test]
    #[ignore = "needs the model: cargo xtask setup"]
    fn truncated_and_damaged_models_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = fs::read(model()).unwrap();
        for length in [24, 1000, 1_000_000, bytes.len() / 2, bytes.len() - 1] {
            let cut = written(folder.path(), "cut.gguf", &bytes[..length]);
            for command in every_command(&cut) {
                refused(&command, 1, "cut.gguf");
            }
        }
        let mut damaged = bytes;
        damaged[4] = 9;
        refused(&["inspect", &written(folder.path(), "version.gguf", &damaged)], 1, "version 9");
    }

    #[test]
    #[ignore = "needs the model: cargo xtask setup"]
    fn prompts_longer_than_the_context_are_refused() {
        refused(&["run", &model(), "-p", &"word ".repeat(9000)], 1, "context");
    }

    #[test]
    #[ignore = "needs the model: cargo xtask setup"]
    fn run_answers_in_the_model_s_template() {
        let model = model();
        let run = |flags: &[&str]| {
            let basic = ["run", &model, "-p", "What is the capital of France?", "-n", "20"];
            answered(&[&basic[..], flags].concat())
        };
        let answer = run(&["--system", "You answer in one short sentence."]);
        assert!(answer.contains("Paris"), "{answer}");
        assert_ne!(answer, run(&["--raw"]));
    }

    #[test]
    #[ignore = "needs the model: cargo xtask setup"]
    fn tokenize_reads_lines() {
        let model = model();
        let run = |flags: &[&str], input: &[u8]| {
            let (status, out, errors) = fed(&[&["tokenize", &model], flags].concat(), input);
            assert_eq!(status, Some(0), "{errors}");
            out
        };
        let out = run(&["--jsonl"], b"{\"text\":\"Once upon a time\"}\n{\"text\":\"\"}\n");
        assert_eq!(out, "{\"ids\":[6403,1980,253,655]}\n{\"ids\":[]}\n");
        assert_eq!(run(&[], b"Once upon a time"), "{\"ids\":[6403,1980,253,655]}\n");
        assert_eq!(run(&["--jsonl", "--special"], b"{\"text\":\"<|im_start|>\"}"), "{\"ids\":[1]}\n");
    }
}

#[test]
fn the_doctor_finds_a_broken_model_and_a_broken_engine() {
    let folder = tempfile::tempdir().unwrap();
    let doctor = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_barelm"));
        command.arg("doctor").args(arguments);
        command.env("BARELM_CACHE", folder.path()).env("BARELM_ENGINES", folder.path()).output().unwrap()
    };
    written(folder.path(), "SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF and no more");
    let engine = written(folder.path(), "garbage.sh", b"#!/bin/sh\necho garbage\n");
    // Copied by a process of its own: what is open for writing here would be so in the children that other tests start
    // at that moment, and a file that anybody writes to cannot be run.
    let mut install = Command::new("install");
    install.args(["-m", "755", &engine]).arg(folder.path().join("candle-bench"));
    assert!(install.status().unwrap().success());
    let output = doctor(&["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let checks: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect();
    let verdict = |of: &str| checks.iter().find(|check| check["of"] == of).expect(of)["verdict"].clone();
    assert_eq!((verdict("model"), verdict("candle")), ("fault".into(), "fault".into()), "{text}");
    assert_eq!(verdict("kernels"), "fine");
    let output = doctor(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("FAULT") && text.contains("remove the file"), "{text}");
}
