use super::*;
use crate::llm::pool::Solo;
use alloc::format;

extern crate std;

/// The test machine's time, called what the test wants.
struct Named {
    start: std::time::Instant,
    kind: ClockKind,
}

impl Clock for Named {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
    fn ticks_per_second(&self) -> f64 {
        1e9
    }
    fn kind(&self) -> ClockKind {
        self.kind
    }
    fn counters(&self) -> CounterSample {
        CounterSample::none("no counters in this test")
    }
    fn calibrates(&self) -> bool {
        true
    }
}

fn suite(kind: ClockKind, config: BenchmarkConfig<'_>) -> (Results, String, String) {
    suite_with(simd::best(), kind, config)
}

fn suite_with(
    kernels: &'static Kernels,
    kind: ClockKind,
    config: BenchmarkConfig<'_>,
) -> (Results, String, String) {
    let clock = Named { start: std::time::Instant::now(), kind };
    let (mut records, mut log, mut summary) = (String::new(), String::new(), String::new());
    let subject = Subject::new(&Solo).with_kernels(kernels);
    let results = run_benchmark_suite(&config, &clock, &subject, &mut records, &mut log);
    results.print_summary(&mut summary).unwrap();
    (results, records, summary)
}

fn quick() -> BenchmarkConfig<'static> {
    BenchmarkConfig {
        warmup_iterations: 2,
        measurement_iterations: 5,
        prompt_tokens: 5,
        memory_bytes: 1 << 16,
        synthetic: &[ModelSize::Tiny],
        ..BenchmarkConfig::default()
    }
}

#[test]
fn the_suite_measures_records_and_prints() {
    let config = BenchmarkConfig { environment: &[("machine", "a \"test\"")], ..quick() };
    let (results, records, summary) = suite(ClockKind::Wall, config);
    assert_eq!(results.failures, []);
    assert_eq!(records.lines().count(), results.results.len());
    for line in records.lines() {
        assert!(line.starts_with("{\"schema\":1,") && line.ends_with('}'), "{line}");
        assert!(line.contains("\"environment\":{\"machine\":\"a \\\"test\\\"\"}"), "{line}");
        assert!(line.contains("not available: no counters in this test"), "{line}");
    }
    for case in [
        "arena_alloc",
        "prefill/tiny",
        "first_token/tiny",
        "decode/tiny",
        "batched_decode/tiny",
        "memory_triad",
    ] {
        assert!(summary.contains(case), "no {case}: {summary}");
    }
    assert!(summary.is_ascii());
    for line in summary.lines() {
        assert!(line.len() <= summary::COLUMNS, "{} columns: {line}", line.len());
    }
}

#[test]
fn emulated_time_is_never_judged() {
    let (results, _, summary) = suite(ClockKind::Emulated, quick());
    assert!(results.passed());
    assert!(summary.contains("not judged: no instruction counts"), "{summary}");
    assert!(!summary.contains("PASS"), "{summary}");
    for line in summary.lines() {
        assert!(line.len() <= summary::COLUMNS, "{} columns: {line}", line.len());
    }
}

#[test]
fn counts_from_another_boot_are_judged() {
    let calls = case::FIXED_CALLS * case::FIXED_SAMPLES as u64;
    for (per_call, passes) in [(30, true), (1001, false)] {
        let counts = [("arena_alloc/none", per_call * calls)];
        let config = BenchmarkConfig { instruction_counts: &counts, ..quick() };
        let (results, _, summary) = suite(ClockKind::Emulated, config);
        assert_eq!(
            results.judged(results.chosen("arena_alloc").unwrap()),
            summary::Judged::Instructions(per_call as f64)
        );
        assert_eq!(results.passed(), passes, "{summary}");
    }
}

#[test]
fn a_filter_leaves_the_rest_out() {
    let (results, records, _) =
        suite(ClockKind::Wall, BenchmarkConfig { filter: Some("no such case"), ..quick() });
    assert!(results.results.is_empty() && records.is_empty());
}

#[test]
fn wrong_kernels_fail_every_case_that_uses_them() {
    let wrong = &simd::spoiled::TABLE;
    // Its times are not judged, so that no case is too slow on a busy machine.
    let (results, records, summary) = suite_with(wrong, ClockKind::Emulated, quick());
    let failed: Vec<&str> = results.failures.iter().map(|failure| failure.name.as_str()).collect();
    let with_tables = targets::TARGETS.iter().filter(|target| target.has_tables).map(|target| target.case);
    let whole = ["prefill/tiny", "decode/tiny", "batched_decode/tiny"];
    assert_eq!(failed, with_tables.chain(whole).collect::<Vec<_>>());
    assert!(!results.passed());
    for case in failed {
        let line = format!("FAILED  {case} (spoiled): wrong answer: ");
        assert!(summary.contains(&line), "no {line}: {summary}");
        let record = format!("\"case\":\"{case}\",\"kernels\":\"spoiled\"");
        let record = records.lines().find(|line| line.contains(&record)).expect(case);
        assert!(record.contains("\"outcome\":\"failed\",\"reason\":\"wrong answer: "), "{record}");
    }
    assert!(
        summary.ends_with("FAIL: 0 documented line(s) missed, 11 case(s) without a result\n"),
        "{summary}"
    );
}
