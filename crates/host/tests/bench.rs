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
fn a_record_holds_what_it_is_told_but_not_instead_of_what_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    let told = |env: &[&str]| {
        let env: Vec<_> = env.iter().flat_map(|pair| ["--env", pair]).collect();
        bench(&[&["--filter", "dot_product", "--json", path.to_str().unwrap()][..], &env].concat())
    };
    // Whether the case is as fast as documented is the machine's affair.
    told(&["energy_mj_per_token:812.5", "energy_meter:a meter: one"]);
    let records = std::fs::read_to_string(&path).unwrap();
    assert!(!records.is_empty());
    for line in records.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["environment"]["energy_mj_per_token"], "812.5", "{line}");
        assert_eq!(record["environment"]["energy_meter"], "a meter: one", "{line}");
    }
    for (env, why) in [(":5", "a name, a colon"), ("energy", "a name, a colon"), ("machine:fast", "already")]
    {
        let output = told(&[env]);
        assert!(!output.status.success() && text(&output.stderr).contains(why), "{}", text(&output.stderr));
    }
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

/// The small model of the repository.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../kernel/assets/tiny.gguf");

fn speed(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barelm"));
    command.arg("bench").args(arguments).output().expect("the binary runs")
}

#[test]
fn guesses_are_measured_where_tokens_are_picked_by_chance() {
    let output = speed(&[
        TINY,
        "-p",
        "0",
        "-n",
        "24",
        "-r",
        "2",
        "-t",
        "2",
        "--draft",
        "4",
        "--temperature",
        "0.8",
        "-o",
        "json",
    ]);
    // It fails by itself if guesses change a text.
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).expect("one array");
    let drafted: Vec<_> = rows.iter().filter(|row| row["n_draft"] == "4" || row["n_draft"] == 4).collect();
    assert_eq!(drafted.len(), 2);
    for row in drafted {
        assert!(
            row["accepted"].as_u64() <= row["drafted"].as_u64() && row["speed_up"].as_f64() > Some(0.0),
            "{row}"
        );
    }
}

#[test]
fn speeds_stand_beside_the_limit_of_their_moment() {
    let output = speed(&[
        TINY, "-p", "8,3", "-n", "4", "-d", "0,16", "-r", "2", "-t", "1,2", "--batch", "8", "--draft", "3",
        "-o", "json",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).expect("one array");
    let tests: Vec<_> = rows.iter().map(|row| row["test"].as_str().unwrap()).collect();
    let of_one_team = [
        "pp8",
        "pp3",
        "tg4",
        "pp8 @ d16",
        "pp3 @ d16",
        "tg4 @ d16",
        "code tg4",
        "code tg4 draft 3",
        "prose tg4",
        "prose tg4 draft 3",
    ];
    assert_eq!(tests, [of_one_team, of_one_team].concat());
    for (index, row) in rows.iter().enumerate() {
        let number = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        assert_eq!(number("n_threads"), if index < of_one_team.len() { 1.0 } else { 2.0 }, "{row}");
        assert_eq!((number("n_batch"), row["samples_ts"].as_array().unwrap().len()), (8.0, 2), "{row}");
        assert!(number("q1_ts") > 0.0 && number("q1_ts") <= number("median_ts"), "{row}");
        assert!(number("median_ts") <= number("q3_ts"), "{row}");
        assert_eq!(number("model_n_params"), 1_672_896.0, "{row}");
        if number("n_draft") > 0.0 {
            assert!(number("accepted") <= number("drafted") && number("speed_up") > 0.0, "{row}");
            assert!(row["share_of_limit"].is_null(), "{row}");
        } else {
            let share = number("share_of_limit");
            assert!(share > 0.0 && number("limit_ts") > 0.0, "{row}");
        }
    }
    // Sixteen positions more to attend to; then matrices of the file but the embedding, which is the head too: two
    // operations a weight, the head for one token. A token of three sees two on the average, of eight 4.5.
    let of = |test: &str| rows.iter().find(|row| row["test"] == test).unwrap();
    let operations = |test: &str| of(test)["int8_ops_per_token"].as_f64().unwrap();
    let attention = (operations("pp8 @ d16") - operations("pp8")) / 16.0;
    let dim = 192.0;
    assert!(attention >= 4.0 * dim && attention % (4.0 * dim) == 0.0, "{attention}");
    let head = (operations("pp3") - operations("pp8") + 2.5 * attention) / (1.0 / 3.0 - 1.0 / 8.0);
    assert!((head / (2.0 * 2048.0 * dim) - 1.0).abs() < 1e-9, "{head}");
    // Sixteen positions more are so many more bytes of keys and values.
    let bytes = |test: &str| of(test)["bytes_per_token"].as_f64().unwrap();
    assert!(bytes("tg4 @ d16") > bytes("tg4"));
}

#[test]
fn speeds_are_tables_for_people_and_spreadsheets() {
    let table = text(&speed(&[TINY, "-p", "4", "-n", "0", "-r", "1", "-t", "1"]).stdout);
    let lines: Vec<_> = table.lines().collect();
    let cells = |line: &str| line.split('|').count();
    assert!(lines[0].starts_with("| model | size |"), "{table}");
    assert!(lines[2].contains("| pp4 |") && lines[2].ends_with("% |"), "{table}");
    assert!(lines[..3].iter().all(|line| cells(line) == cells(lines[0])), "{table}");
    assert!(lines[3].is_empty(), "one test, one row: {table}");
    let table = text(&speed(&[TINY, "-p", "0", "-n", "2", "-r", "1", "-o", "csv"]).stdout);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].contains(",test,") && lines[1].contains("\"tg2\""), "{table}");
    assert_eq!(lines[0].split(',').count(), lines[1].matches("\",\"").count() + 1, "{table}");
}

#[test]
fn a_profile_accounts_for_the_time_of_a_test() {
    for threads in ["1", "2"] {
        let output = speed(&[TINY, "-p", "40", "-n", "6", "-d", "5", "-r", "1", "-t", threads, "--profile"]);
        let table = text(&output.stdout);
        let tables: Vec<_> = table.split("| step |").skip(1).collect();
        assert_eq!(tables.len(), 2, "{table}{}", text(&output.stderr));
        for steps in tables {
            let rows: Vec<Vec<&str>> = steps
                .lines()
                .filter(|line| line.starts_with("| ") && line.contains('%'))
                .map(|line| line.split('|').map(str::trim).collect())
                .collect();
            let names: Vec<_> = rows.iter().map(|row| row[1]).collect();
            let expected = "embed;norm;q, k, v;attention;output;gate, up;down;head;wait;outside"
                .split(';')
                .collect::<Vec<_>>();
            assert_eq!(names, expected, "{steps}");
            let shares: f64 =
                rows.iter().map(|row| row[3].trim_end_matches(" %").parse::<f64>().unwrap()).sum();
            assert!((99.0..101.0).contains(&shares), "{shares} %: {steps}");
            assert!(rows[7][4].parse::<f64>().unwrap() > 0.0, "the head reads its matrix: {steps}");
        }
    }
}

#[test]
fn modes_are_not_mixed_up() {
    for (arguments, part) in [
        (&["-p", "8"][..], "which model"),
        (&[TINY, "-p", "0", "-n", "0"], "nothing to measure"),
        (&[TINY, "-p", "8", "--micro"], "cannot be used with"),
        (&["--filter", "norm", "-t", "1,2"], "add --speed"),
        (&[TINY, "-n", "8", "--kernels", "mmx"], "no kernels named `mmx`"),
        (&[TINY, "--draft", "99"], "99"),
        (&[TINY, "--draft", "3", "--temperature=-1"], "a number from 0 to 100"),
        (&[TINY, "--draft", "3", "--temperature", "NaN"], "a number from 0 to 100"),
        (&[TINY, "--temperature", "1"], "--draft"),
        (&[TINY, "--profile", "-o", "json"], "leave out -o"),
    ] {
        let output = speed(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(text(&output.stderr).contains(part), "{arguments:?}: {}", text(&output.stderr));
    }
}
