//! `barelm bench`: what it prints, what it records, and what it compares.
#![cfg(feature = "llm-transformer")]

use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barelm"));
    // Few samples: tests look at form and answers, not at speed.
    command.args(["bench", "--iterations", "5", "--warmup", "1", "--synthetic", "none"]).args(arguments);
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}

#[test]
fn summary_and_records_of_the_micro_cases() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    let path = path.to_str().unwrap();
    let output = bench(&["--micro", "--json", path]);
    let summary = text(&output.stdout);
    assert!(summary.lines().all(|line| line.len() <= 100), "{summary}");
    let cases = [
        "tokenization",
        "q4_0_dequant",
        "dot_product",
        "matvec_f32",
        "matvec_q4_0",
        "rms_norm",
        "layer_norm",
        "kv_append",
        "kv_read",
        "arena_alloc",
    ];
    for case in cases {
        assert!(summary.lines().any(|line| line.starts_with(case)), "no {case}: {summary}");
    }
    let records: Vec<Value> = std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    for case in cases {
        assert!(
            records.iter().any(|record| record["case"] == case && record["outcome"] == "measured"),
            "{case}"
        );
    }
    for record in &records {
        let field = |name: &str| record["environment"][name].as_str().unwrap_or_default().to_owned();
        assert!(field("toolchain").starts_with("rustc "), "{record}");
        for name in ["date", "machine", "platform", "commit", "build"] {
            assert!(!field(name).is_empty(), "no {name}: {record}");
        }
        assert_eq!(record["samples"], 5, "{record}");
    }
}

#[test]
fn a_filter_picks_cases_and_an_unknown_one_is_refused() {
    let output = bench(&["--filter", "norm"]);
    let summary = text(&output.stdout);
    assert!(summary.contains("rms_norm") && summary.contains("layer_norm"), "{summary}");
    assert!(!summary.contains("dot_product"), "{summary}");
    let output = bench(&["--filter", "no such case"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no case has a name with `no such case`"));
}

#[test]
fn two_files_of_records_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (old, new) = (path("old.jsonl"), path("new.jsonl"));
    bench(&["--filter", "dot_product", "--json", &old]);
    let same = bench(&["--baseline", &old, "--current", &old]);
    assert!(same.status.success(), "{}", text(&same.stdout));
    assert!(text(&same.stdout).contains("the same within noise, 0 worse"));

    let line = std::fs::read_to_string(&old).unwrap();
    let mut slower: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    for field in ["median", "min", "max", "mean"] {
        slower["ns_per_unit"][field] = 1e9.into();
    }
    slower["ns_per_unit"]["median_ci95"] = vec![1e9, 1e9].into();
    std::fs::write(&new, slower.to_string()).unwrap();
    let worse = bench(&["--baseline", &old, "--current", &new]);
    assert_eq!(worse.status.code(), Some(1));
    assert!(text(&worse.stdout).contains("SLOWER  dot_product (scalar)"), "{}", text(&worse.stdout));

    std::fs::write(&new, "not a record").unwrap();
    let refused = bench(&["--baseline", &new, "--filter", "dot_product"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("new.jsonl: line 1: "), "{}", text(&refused.stderr));
}
