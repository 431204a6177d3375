//! The command line against bad input: a status, a message that says what to do, and never a panic.
#![cfg(feature = "llm-transformer")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn barelm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_barelm")).args(arguments).output().expect("the binary runs")
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

mod with_model {
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
    fn values_that_only_the_model_can_judge_are_refused() {
        let model = model();
        let long = "word ".repeat(9000);
        refused(&["run", &model, "-p", &long], 1, "context");
        refused(&["run", &model, "-p", "hello there", "--context", "2"], 1, "context");
        refused(&["run", &model, "-p", "x", "--temp", "-1"], 1, "temperature");
        refused(&["run", &model, "-p", "x", "--temp", "NaN"], 1, "temperature");
        refused(&["run", &model, "-p", "x", "--temp", "1", "--top-p", "0"], 1, "top-p");
        refused(&["run", &model, "-p", "x", "--kernels", "abacus"], 1, "scalar");
        refused(&["run", &model, "-p", "x", "--context", "4294967295"], 1, "short");
        refused(&["logits", &model, "--ids", "49152"], 1, "not in the vocabulary");
        refused(&["logits", &model, "--ids", "1", "--out", "/nowhere/out"], 1, "/nowhere/out");
        refused(&["perplexity", &model, "/nowhere/text"], 1, "/nowhere/text");
        let folder = tempfile::tempdir().unwrap();
        refused(
            &["perplexity", &model, &written(folder.path(), "short", b"1 2 3")],
            1,
            "fewer than one window",
        );
        refused(&["perplexity", &model, &written(folder.path(), "bytes", b"\xff\xfe")], 1, "utf-8");
    }

    #[test]
    #[ignore = "needs the model: cargo xtask setup"]
    fn tokenize_reads_lines_and_names_the_bad_one() {
        let model = model();
        let run = |flags: &[&str], input: &[u8]| {
            let mut child = Command::new(env!("CARGO_BIN_EXE_barelm"))
                .args(["tokenize", &model])
                .args(flags)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input).unwrap();
            let output = child.wait_with_output().unwrap();
            (
                output.status.code(),
                String::from_utf8(output.stdout).unwrap(),
                String::from_utf8(output.stderr).unwrap(),
            )
        };
        let (status, out, _) = run(&["--jsonl"], b"{\"text\":\"Once upon a time\"}\n{\"text\":\"\"}\n");
        assert_eq!((status, out.as_str()), (Some(0), "{\"ids\":[6403,1980,253,655]}\n{\"ids\":[]}\n"));
        let (status, out, _) = run(&[], b"Once upon a time");
        assert_eq!((status, out.as_str()), (Some(0), "{\"ids\":[6403,1980,253,655]}\n"));
        let (status, out, _) = run(&["--jsonl", "--special"], b"{\"text\":\"<|im_start|>\"}");
        assert_eq!((status, out.as_str()), (Some(0), "{\"ids\":[1]}\n"));
        for (flags, input) in [
            (&["--jsonl"][..], &b"{\"text\":\"a\"}\nnot json\n"[..]),
            (&["--jsonl"], b"{\"text\":\"a\"}\n{\"words\":\"b\"}\n"),
            (&[], b"a\n\xff\xfe\n"),
        ] {
            let (status, _, errors) = run(flags, input);
            assert_eq!(status, Some(1), "{errors}");
            assert!(errors.contains("line 2 of the input"), "{errors}");
        }
    }

    #[test]
    #[ignore = "needs the model: cargo xtask setup"]
    fn a_reader_that_leaves_early_is_no_error() {
        let mut child = Command::new(env!("CARGO_BIN_EXE_barelm"))
            .args(["inspect", &model()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}
