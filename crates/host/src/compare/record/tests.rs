//! Rows and their schema.

use super::*;
use serde_json::json;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../../../docs/llm/record.schema.json")).unwrap()
}

fn case() -> Value {
    json!({
        "scenario": "concurrent", "prompt_tokens": 50, "output_tokens": 64, "in_flight": 8,
        "arrival": {"poisson": {"per_s": 2.0}}, "context": 128, "threads": 2,
    })
}

fn engine() -> Value {
    json!({
        "name": "barelm", "version": "barelm 0.1.0", "device": "cpu", "batching": "continuous", "build": ["avx2"],
        "settings": {"kernels": "avx2"}, "crippled": "debug",
    })
}

fn model() -> Value {
    json!({
        "name": "m", "sha256": "0", "format": "Q8_0", "class": "8-bit", "bytes": 1, "parameters": 2, "token_bytes": 3,
        "token_elements": 4,
    })
}

/// A row of each kind with every field.
fn rows() -> Vec<Value> {
    let hello = serde_json::to_value(Hello::default()).unwrap();
    let telemetry = json!({
        "cpu_s": 1.0, "harness_cpu_s": 0.1, "peak_rss": 5, "rss": [[0.0, 4]], "package_j": 3.0,
        "device": [{"t_s": 0.0, "utilization": 0.5, "memory": 1, "temperature": 40.0, "power_w": 2.0, "energy_j": 9.0}],
        "missing": {"x": "y"},
    });
    let sample = json!({
        "prompt": 0, "intended_ns": 1, "sent_ns": 2, "token_ns": [10, 5, 5], "done_ns": 21, "queued_ns": 1,
    });
    let distribution = json!({
        "samples": 3, "mean": 1.0, "median": 1.0, "p90": 1.0, "p95": 1.0, "p99": 1.0, "min": 1.0, "max": 1.0,
        "sd": 0.5, "cv": 0.5, "ci95": [0.5, 1.5],
    });
    let interval = json!({"value": 1.0, "ci95": [0.5, 1.5]});
    vec![
        json!({
            "kind": "run", "schema": 1, "environment": {"machine": "m"}, "command": ["barelm"], "affinity": [0],
            "memory": 7, "limits": {"read_bytes_s": 1.0}, "quick": true, "rounds": 3, "planned_s": 9.0,
            "goodput_limits_ms": [1000.0, 100.0], "fake": true,
        }),
        json!({
            "kind": "engine", "name": "candle", "hello": hello, "command": ["c"], "program_sha256": "0", "missing": "why",
        }),
        json!({
            "kind": "quality", "engine": engine(), "model": model(), "ids": [1], "kl": 0.5, "kl_samples": [0.5],
            "top1_wrong": [0, 4], "quantization_kl": 0.5, "missing": "m", "wrong": "w",
        }),
        json!({
            "kind": "visit", "round": 0, "attempt": 0, "place": 1, "engine": engine(), "model": model(), "case": case(),
            "outcome": "measured", "reason": "r", "contended": "c", "load_ns": 1, "first_request_ns": 2,
            "requests": [sample], "answers": [{"seed": 1, "ids": [2]}], "varied": 0, "elapsed_ns": 21,
            "clock_deviation": 0.5, "telemetry": telemetry,
        }),
        json!({
            "kind": "answer_check", "engine": "barelm", "model_sha256": "0", "case": case(), "seed": 1, "ids": [2],
            "gaps": [0.5], "wrong": "w",
        }),
        json!({
            "kind": "op", "engine": engine(), "name": "matmul", "params": {"n": 3}, "outcome": "refused", "reason": "r",
            "samples_ns": [1.5],
        }),
        json!({
            "kind": "summary", "engine": "barelm", "version": "v", "device": "cpu", "batching": "serial", "model": "m",
            "model_sha256": "0", "class": "8-bit", "case": case(), "label": "2/s", "reason": "r", "rounds": [2, 3],
            "disturbed": true, "best": true, "distributions": {"ttft_ms": distribution},
            "figures": {"output_tok_s": interval}, "ours_times": {"ttft": interval},
            "ours_times_best": {"ttft": interval}, "remarks": ["m"],
        }),
    ]
}

/// Fields of `value` are those that the schema describes, and what can be left out is what it says.
fn described(value: &Value, schema: &Value, all: &Value, place: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(name) => &all["$defs"][name.strip_prefix("#/$defs/").unwrap()],
        None => schema,
    };
    match (value, schema["properties"].as_object()) {
        (Value::Object(fields), Some(properties)) => {
            let mut names: Vec<&String> = fields.keys().collect();
            let mut known: Vec<&String> = properties.keys().collect();
            names.sort_unstable();
            known.sort_unstable();
            assert_eq!(names, known, "{place}");
            for (name, field) in fields {
                described(field, &properties[name], all, &format!("{place}.{name}"));
            }
        }
        (Value::Object(fields), None) => {
            for (name, field) in fields {
                described(field, &schema["additionalProperties"], all, &format!("{place}.{name}"));
            }
        }
        (Value::Array(items), _) => {
            items.iter().for_each(|item| described(item, &schema["items"], all, &format!("{place}[]")));
        }
        _ => {}
    }
}

#[test]
fn the_schema_and_the_rows_have_the_same_fields() {
    let schema = schema();
    // The suite's own rows are the last.
    assert_eq!(schema["oneOf"].as_array().unwrap().len(), rows().len() + 1);
    for value in rows() {
        let kind = value["kind"].as_str().unwrap().to_owned();
        let row: Row = serde_json::from_value(value.clone()).unwrap_or_else(|why| panic!("{kind}: {why}"));
        assert_eq!(serde_json::to_value(&row).unwrap(), value, "{kind}");
        let definition = &schema["$defs"][&kind];
        described(&value, definition, &schema, &kind);
        for field in value.as_object().unwrap().keys() {
            let mut less = value.clone();
            less.as_object_mut().unwrap().remove(field);
            let read = serde_json::from_value::<Row>(less).is_ok();
            let required = definition["required"].as_array().unwrap().contains(&json!(field));
            assert_eq!(read, !required, "{kind} without {field}");
        }
    }
}

#[test]
fn a_record_begins_with_its_run_and_may_end_within_a_line() {
    let all: Vec<String> = rows().iter().map(Value::to_string).collect();
    let text = all.join("\n") + "\n";
    assert_eq!(parse(&text).unwrap().len(), rows().len());
    // The power failed.
    let cut = &text[..text.len() - 20];
    assert_eq!(parse(cut).unwrap().len(), rows().len() - 1);
    let middle = text.replacen("\"kind\":\"quality\"", "\"kind\":\"qality\"", 1);
    assert!(parse(&middle).unwrap_err().starts_with("line 3: "));
    assert!(parse(&all[1]).unwrap_err().contains("no `run`"));
    assert!(parse(&all[0].replace("\"schema\":1", "\"schema\":9")).unwrap_err().contains("schema 9"));
    assert!(parse("").is_err());
}

#[test]
fn times_of_a_request_count_from_when_it_should_have_been_sent() {
    let sample = Sample { intended_ns: 100, sent_ns: 300, token_ns: vec![500, 20, 40], ..Sample::default() };
    assert_eq!((sample.ttft_ns(), sample.tpot_ns(), sample.e2e_ns()), (Some(400.0), Some(30.0), Some(460.0)));
    assert_eq!(sample.itl_ns().collect::<Vec<_>>(), [20.0, 40.0]);
    let none = Sample::default();
    assert_eq!((none.ttft_ns(), none.tpot_ns(), none.e2e_ns()), (None, None, None));
}
