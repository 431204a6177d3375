//! Records of earlier runs of the benchmark suite, and what a later run says beside them.

use std::fmt;
use std::path::Path;

use barelm::llm::benchmarks::stats::Stats;
use barelm::llm::benchmarks::{
    CaseResult, CounterSample, Measurement, Verdict, Work, check_regression, record,
};
use serde_json::Value;

use crate::failure::Failure;

/// One measured case, read back from its line.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What was measured.
    pub result: CaseResult,
    /// Under what: times under other conditions are not compared.
    pub conditions: Conditions,
    /// When, as the record says; empty where it does not.
    pub date: String,
    /// The commit, as the record says; empty where it does not.
    pub commit: String,
}

/// What must agree before two times are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    /// Processor and platform.
    pub machine: String,
    /// Release or with debug assertions.
    pub build: String,
    /// Members of the team.
    pub cores: u64,
    /// SHA-256 of the caller's model, for cases that run it.
    pub model: String,
}

/// Reads the records in `text`, one JSON object a line. Cases that failed have no result and are left out.
pub fn parse(text: &str) -> Result<Vec<Record>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let records = lines.map(|(at, line)| {
        let value = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", at + 1))?;
        parse_one(&value).map_err(|what| format!("line {}: {what}", at + 1))
    });
    records.filter_map(Result::transpose).collect()
}

/// Reads a file of records.
pub fn read(path: &Path) -> Result<Vec<Record>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::because(path.display(), error))?;
    parse(&text).map_err(|error| Failure::because(path.display(), error))
}

fn parse_one(value: &Value) -> Result<Option<Record>, String> {
    let schema = value["schema"].as_u64();
    if schema != Some(record::SCHEMA.into()) {
        return Err(format!("a record of schema {}, not {}", value["schema"], record::SCHEMA));
    }
    let text = |name: &str| value[name].as_str().ok_or(format!("no text `{name}`"));
    if text("outcome")? != "measured" {
        return Ok(None);
    }
    let within = |name: &'static str, group: &str, field: &str| {
        value[group][field].as_f64().ok_or(format!("no number `{name}`"))
    };
    let time = |field: &'static str| within(field, "ns_per_unit", field);
    let count = |field: &str| value[field].as_u64().ok_or(format!("no count `{field}`"));
    let work = |field: &str| value["work_per_call"][field].as_u64().ok_or(format!("no work `{field}`"));
    let end = |at: usize| value["ns_per_unit"]["median_ci95"][at].as_f64().ok_or("no interval of the median");
    let outliers = |field: &str| value["ns_per_unit"][field].as_u64().unwrap_or(0) as usize;
    let counter = |field: &str| value["counters"][field].as_u64().ok_or("not available in the record");
    let environment = |field: &str| value["environment"][field].as_str().unwrap_or_default().to_owned();
    let flag = |field: &str| value[field].as_bool().ok_or(format!("no truth value `{field}`"));
    let calls = count("calls_per_sample")?;
    let measurement = Measurement {
        stats: Stats {
            samples: count("samples")? as usize,
            min: time("min")?,
            max: time("max")?,
            mean: time("mean")?,
            median: time("median")?,
            stddev: time("stddev")?,
            mad: time("mad")?,
            p90: time("p90")?,
            p99: time("p99")?,
            p999: time("p99.9")?,
            cv: time("cv")?,
            median_low: end(0)?,
            median_high: end(1)?,
            mild_outliers: outliers("mild_outliers"),
            severe_outliers: outliers("severe_outliers"),
        },
        calls,
        exact_calls: calls,
        work: Work {
            units: within("units", "work_per_call", "units")?,
            tokens: work("tokens")?,
            bytes: work("bytes")?,
            flops: work("flops")?,
        },
        counters: CounterSample {
            instructions: counter("instructions"),
            cycles: counter("cycles"),
            cache_refills: counter("cache_refills"),
            branch_misses: counter("branch_misses"),
        },
        emulated: flag("emulated")?,
        boxed: flag("time_boxed")?,
    };
    let result = CaseResult {
        name: text("case")?.to_owned(),
        unit: text("unit")?.to_owned().into(),
        kernels: text("kernels")?.to_owned().into(),
        detail: text("detail")?.to_owned(),
        measurement,
    };
    let caller = result.name.split_once('/').is_some_and(|(_, model)| {
        barelm::llm::benchmarks::ModelSize::ALL.iter().all(|size| size.name() != model)
    });
    let conditions = Conditions {
        machine: format!("{} {}", environment("machine"), environment("platform")),
        build: environment("build"),
        cores: count("cores")?,
        model: if caller { environment("model_sha256") } else { String::new() },
    };
    Ok(Some(Record { result, conditions, date: environment("date"), commit: environment("commit") }))
}

/// A later run beside an earlier one.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Cases in both, under the same conditions.
    pub verdicts: Vec<(String, Verdict)>,
    /// Cases of the later run that have nothing to be compared with.
    pub without_baseline: Vec<String>,
}

/// Compares each of `current` with the last record of the same case, kernels and conditions in `baseline`.
pub fn compare(baseline: &[Record], current: &[Record]) -> Comparison {
    let mut comparison = Comparison::default();
    for new in current {
        let name = format!("{} ({})", new.result.name, new.result.kernels);
        let same = |old: &&Record| {
            (&old.result.name, &old.result.kernels, &old.conditions)
                == (&new.result.name, &new.result.kernels, &new.conditions)
        };
        match baseline.iter().rev().find(same) {
            Some(old) => comparison.verdicts.push((name, check_regression(&old.result, &new.result))),
            None => comparison.without_baseline.push(name),
        }
    }
    comparison
}

impl Comparison {
    /// Whether nothing is worse, and anything could be compared at all.
    pub fn passed(&self) -> bool {
        !self.verdicts.is_empty() && !self.verdicts.iter().any(|(_, verdict)| verdict.fails())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, verdict) in &self.verdicts {
            match verdict {
                Verdict::Same => {}
                Verdict::Slower { ratio } => writeln!(f, "SLOWER  {name}: {ratio:.2} times the time")?,
                Verdict::Faster { ratio } => writeln!(f, "faster  {name}: {ratio:.2} times the time")?,
                Verdict::Instructions { baseline, current } => {
                    writeln!(f, "CHANGED {name}: {current} instructions, before {baseline}")?;
                }
                Verdict::Incomparable(why) => writeln!(f, "UNEQUAL {name}: {why}")?,
            }
        }
        if !self.without_baseline.is_empty() {
            writeln!(f, "no baseline under these conditions: {}", self.without_baseline.join(", "))?;
        }
        let same = self.verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Same).count();
        let worse = self.verdicts.iter().filter(|(_, verdict)| verdict.fails()).count();
        let (all, verdict) = (self.verdicts.len(), if self.passed() { "PASS" } else { "FAIL" });
        writeln!(f, "{verdict}: {all} compared, {same} the same within noise, {worse} worse")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barelm::llm::benchmarks::{BenchmarkConfig, Subject, run_benchmark_suite};
    use barelm::llm::pool::Solo;

    /// Records and results of a short run.
    fn run() -> (String, Vec<CaseResult>) {
        let environment = [("machine", "m"), ("build", "b")];
        let config = BenchmarkConfig {
            warmup_iterations: 1,
            measurement_iterations: 20,
            prompt_tokens: 4,
            memory_bytes: 1 << 16,
            synthetic: &[barelm::llm::benchmarks::ModelSize::Tiny],
            end_to_end_iterations: 3,
            environment: &environment,
            ..BenchmarkConfig::default()
        };
        let (mut text, mut log) = (String::new(), String::new());
        let clock = crate::clock::SystemClock::new();
        let results = run_benchmark_suite(&config, &clock, &Subject::new(&Solo), &mut text, &mut log);
        (text, results.results)
    }

    #[test]
    fn records_read_back_as_the_results_they_were_written_from() {
        let (text, results) = run();
        let records = parse(&text).unwrap();
        assert_eq!(records.len(), results.len());
        for (record, result) in records.iter().zip(&results) {
            let (m, n) = (&record.result.measurement, &result.measurement);
            assert_eq!((&record.result.name, &record.result.unit), (&result.name, &result.unit));
            assert_eq!((&record.result.kernels, &record.result.detail), (&result.kernels, &result.detail));
            assert_eq!((m.calls, m.stats.samples), (n.calls, n.stats.samples));
            assert_eq!(
                (m.work.tokens, m.work.bytes, m.work.flops),
                (n.work.tokens, n.work.bytes, n.work.flops)
            );
            // serde_json reads decimals to within an ulp or two, not exactly.
            for (read, written) in [
                (m.work.units, n.work.units),
                (m.stats.min, n.stats.min),
                (m.stats.max, n.stats.max),
                (m.stats.mean, n.stats.mean),
                (m.stats.median, n.stats.median),
                (m.stats.stddev, n.stats.stddev),
                (m.stats.mad, n.stats.mad),
                (m.stats.p90, n.stats.p90),
                (m.stats.p99, n.stats.p99),
                (m.stats.p999, n.stats.p999),
                (m.stats.cv, n.stats.cv),
                (m.stats.median_low, n.stats.median_low),
                (m.stats.median_high, n.stats.median_high),
            ] {
                assert!((read - written).abs() <= 4.0 * f64::EPSILON * written.abs(), "{read} {written}");
            }
            assert_eq!((m.emulated, m.boxed), (n.emulated, n.boxed));
            assert_eq!(m.counters.instructions.ok(), n.counters.instructions.ok());
            assert_eq!(record.conditions.machine, "m ");
        }
    }

    #[test]
    fn every_line_has_every_documented_field() {
        let (text, _) = run();
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
            let mut documented = vec![
                "schema",
                "case",
                "kernels",
                "cores",
                "clock",
                "emulated",
                "ticks_per_second",
                "environment",
                "unit",
                "detail",
                "outcome",
                "work_per_call",
                "calls_per_sample",
                "samples",
                "time_boxed",
                "ns_per_unit",
                "units_per_second",
                "gflop_per_second",
                "gbyte_per_second",
                "counters",
            ];
            documented.sort_unstable();
            let mut sorted = keys.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, documented, "{line}");
            let inner = |name: &str| value[name].as_object().unwrap().len();
            assert_eq!(
                (inner("work_per_call"), inner("ns_per_unit"), inner("counters")),
                (4, 14, 5),
                "{line}"
            );
        }
    }

    #[test]
    fn a_record_equals_itself_and_a_slower_one_fails() {
        let (text, _) = run();
        let baseline = parse(&text).unwrap();
        let comparison = compare(&baseline, &baseline);
        assert!(comparison.passed(), "{comparison}");
        assert!(comparison.verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Same));

        let mut slower = baseline.clone();
        let stats = &mut slower[0].result.measurement.stats;
        *stats = stats.scaled(100.0);
        let comparison = compare(&baseline, &slower);
        assert!(!comparison.passed());
        assert!(comparison.to_string().contains("SLOWER  tokenization (none): 100.00 times"), "{comparison}");
        assert!(compare(&slower, &baseline).passed());

        slower[0].conditions.cores += 1;
        let comparison = compare(&baseline, &slower);
        assert!(comparison.passed());
        assert_eq!(comparison.without_baseline, ["tokenization (none)"]);
        assert!(!compare(&baseline, &slower[..1]).passed(), "nothing was compared");
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_line() {
        let (text, _) = run();
        let line = text.lines().next().unwrap();
        for (text, part) in [
            (format!("{line}\n{{"), "line 2: "),
            (line.replace("\"schema\":1", "\"schema\":99"), "line 1: a record of schema 99"),
            (line.replace("\"median\"", "\"middle\""), "line 1: no number `median`"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(part), "{error}");
        }
        assert_eq!(parse("\n"), Ok(Vec::new()));
        assert_eq!(parse("{\"schema\":1,\"outcome\":\"failed\",\"reason\":\"x\"}"), Ok(Vec::new()));
    }
}
