//! Reports of records whose samples are known.
#![cfg(feature = "llm-transformer")]

use barelm_host::compare::record::{
    Arrival, Case, EngineId, EngineRow, ModelId, Outcome, Quality, Row, Run, Sample, Scenario, Visit,
};
use barelm_host::compare::summary::summarize;
use barelm_host::report::contents::{Record, page, verify};
use barelm_host::report::cost::Prices;
use barelm_host::report::difference;
use barelm_protocol::Hello;

const MS: u64 = 1_000_000;

fn run() -> Row {
    let environment = serde_json::json!({
        "machine": "a <machine>", "platform": "p", "kernel": "k", "date": "2026-11-21T00:00:00Z", "commit": "abc",
        "build": "release", "version": "1", "toolchain": "rustc"
    });
    Row::Run(Run {
        schema: 1,
        environment: environment.as_object().unwrap().clone(),
        command: vec!["barelm".into(), "compare".into()],
        affinity: vec![0],
        memory: None,
        limits: [("read_bytes_s", 1e9), ("int8_ops_s", 1e12), ("f32_ops_s", 1e11)]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        quick: true,
        rounds: 3,
        planned_s: 1.0,
        goodput_limits_ms: (1000.0, 100.0),
        fake: false,
    })
}

fn engine(name: &str) -> EngineId {
    // The other one is as in records of adapters that did not say it yet.
    let ours = (name == "barelm").then(|| ("kv_type".to_owned(), "f16".to_owned()));
    EngineId {
        name: name.into(),
        version: "1".into(),
        device: "cpu".into(),
        settings: ours.into_iter().collect(),
        ..EngineId::default()
    }
}

fn model() -> ModelId {
    ModelId {
        name: "m".into(),
        sha256: "00".into(),
        format: "Q8_0".into(),
        class: "8-bit".into(),
        bytes: 1_000_000,
        parameters: 1_000_000,
        token_bytes: 1_000_000,
        token_elements: 1_000_000,
    }
}

/// Rounds of one engine whose requests take `ttft` ms to the first of five tokens and `tpot` ms for each further one.
fn visits(name: &str, scenario: Scenario, in_flight: usize, ttft: u64, tpot: u64) -> Vec<Row> {
    let visit = |round: usize| {
        // A little apart, so that intervals are not points.
        let sample = |i: u64| Sample {
            prompt: 0,
            intended_ns: i * 100 * MS,
            sent_ns: i * 100 * MS,
            token_ns: std::iter::once(i * 100 * MS + ttft * MS + i * 1000)
                .chain(std::iter::repeat_n(tpot * MS + i * 1000, 4))
                .collect(),
            done_ns: i * 100 * MS + (ttft + 4 * tpot) * MS,
            queued_ns: None,
        };
        Visit {
            round,
            attempt: 0,
            place: 0,
            engine: engine(name),
            model: model(),
            case: Case {
                scenario,
                prompt_tokens: 50,
                output_tokens: 5,
                in_flight,
                arrival: Arrival::Closed,
                context: 64,
                threads: 1,
            },
            outcome: Outcome::Measured,
            reason: None,
            contended: None,
            load_ns: Some(MS),
            first_request_ns: Some(MS),
            requests: (0..40).map(sample).collect(),
            answers: Vec::new(),
            varied: 0,
            elapsed_ns: 40 * (ttft + 4 * tpot) * MS,
            clock_deviation: Some(0.001),
            telemetry: Default::default(),
        }
    };
    (0..3).map(|round| Row::Visit(visit(round))).collect()
}

/// Ours with these times, and another engine with 10 and 2 ms.
fn rows(ttft: u64, tpot: u64) -> Vec<Row> {
    let known = |name: &str, missing: Option<&str>| {
        Row::Engine(EngineRow {
            name: name.into(),
            hello: None,
            command: vec![name.into()],
            program_sha256: None,
            missing: missing.map(str::to_owned),
        })
    };
    let mut rows =
        vec![run(), known("barelm", None), known("other", None), known("absent", Some("not built"))];
    for in_flight in [10, 100] {
        rows.extend(visits("barelm", Scenario::Concurrent, in_flight, ttft, tpot));
    }
    rows.extend(visits("barelm", Scenario::Single, 1, ttft, tpot));
    rows.extend(visits("other", Scenario::Single, 1, 10, 2));
    rows.push(Row::Quality(Quality {
        engine: engine("barelm"),
        model: model(),
        ids: vec![1],
        kl: Some(0.005),
        kl_samples: vec![0.005],
        top1_wrong: Some((0, 7)),
        quantization_kl: None,
        missing: None,
        wrong: None,
    }));
    let summaries: Vec<Row> = summarize(&rows).into_iter().map(Row::Summary).collect();
    rows.extend(summaries);
    rows
}

#[test]
fn losses_come_first() {
    let behind = rows(20, 1);
    let record = Record::new(&behind).unwrap();
    let page = page(&record, &Prices::default());
    let first = &page.summary[0];
    assert!(
        first.starts_with("BareLM is behind in 3 of 4 ratios") && first.contains("first token 0.5 times"),
        "{first}"
    );
    assert!(page.summary[2].contains("not measured: absent"), "{}", page.summary[2]);
    assert_eq!(page.sections[0].heading, "Where BareLM is behind");
    assert!(page.warnings[0].contains("not for publication"));

    let ahead = rows(5, 1);
    let page = self::page(&Record::new(&ahead).unwrap(), &Prices::default());
    assert!(page.summary[0].contains("behind in none of 4"), "{}", page.summary[0]);
    assert!(page.summary[1].contains("ahead in 4 of 4"), "{}", page.summary[1]);
}

#[test]
fn a_page_stands_alone_and_shows_every_part() {
    let rows = rows(5, 1);
    let page = page(&Record::new(&rows).unwrap(), &Prices::default());
    let html = page.html();
    for part in [
        "a &lt;machine&gt;",
        "Single requests",
        "Roofline",
        "Predictions beside measurements",
        "Success criteria",
        "Cost",
        "not built",
        "<svg",
        "0.005",
        "barelm compare",
    ] {
        assert!(html.contains(part), "{part}");
    }
    for address in ["http://", "https://", " src=", "@import"] {
        assert!(!html.replace("http://www.w3.org/2000/svg", "").contains(address), "{address}");
    }
    assert!(!html.contains("NaN"));
    // Ten times the requests, no more tokens: scaling is not met, and said.
    assert!(
        page.markdown().contains("output grows with requests in flight | barelm, m | 1 times the tokens")
    );
    assert!(page.csv().iter().any(|(name, text)| name == "single-requests.csv" && text.lines().count() == 3));
}

#[test]
fn each_engine_has_the_type_of_its_cache_beside_its_figures() {
    let mut rows = rows(5, 1);
    for row in &mut rows {
        if let Row::Engine(row) = row
            && row.missing.is_none()
        {
            row.hello = Some(Hello { device: "cpu".into(), ..Hello::default() });
        }
    }
    let page = page(&Record::new(&rows).unwrap(), &Prices::default());
    let (html, markdown, csv) = (page.html(), page.markdown(), page.csv());
    assert!(html.contains("KV type</button>") && html.contains("<td class=\"\">f16</td>"));
    assert!(markdown.contains("| barelm | m | 8-bit | 1 (best) | f16 |"), "{markdown}");
    assert!(markdown.contains("| other | m | 8-bit | 1 (best) | unknown |"));
    assert!(markdown.contains("| barelm | cpu | f16 | unknown | not applicable on a CPU |"));
    let table = |name: &str| &csv.iter().find(|(file, _)| file == name).unwrap().1;
    assert!(table("single-requests.csv").starts_with("engine,model,class,threads,KV type,"));
    assert!(
        table("cache-and-attention.csv")
            .contains("\r\nother,cpu,unknown,unknown,not applicable on a CPU\r\n")
    );

    let printed = barelm_host::compare::show::table(&rows, &summarize(&rows));
    let line = |engine: &str| printed.lines().find(|line| line.contains(&format!(" {engine} "))).unwrap();
    assert!(printed.lines().next().unwrap().contains("kv type"));
    assert!(line("barelm").contains(" f16 ") && line("other").contains(" unknown "), "{printed}");
}

#[test]
fn figures_are_computed_again_from_the_samples() {
    let good = rows(5, 1);
    assert_eq!(verify(&good), [] as [String; 0]);
    // A record survives being written.
    let text: String = good.iter().map(|row| serde_json::to_string(row).unwrap() + "\n").collect();
    let read = barelm_host::compare::record::parse(&text).unwrap();
    assert_eq!(verify(&read), [] as [String; 0]);

    let mut better = good.clone();
    for row in &mut better {
        if let Row::Summary(summary) = row {
            summary.figures.get_mut("output_tok_s").unwrap().value *= 1.01;
        }
    }
    let found = verify(&better);
    assert_eq!(found.len(), 4);
    assert!(found[0].contains("not those of its samples (figures)"), "{}", found[0]);

    let mut without = good.clone();
    without.retain(|row| !matches!(row, Row::Visit(visit) if visit.engine.name == "other"));
    assert!(verify(&without).iter().any(|what| what.contains("figures without samples")));
}

#[test]
fn fake_engines_get_no_report() {
    let mut rows = rows(5, 1);
    if let Row::Run(run) = &mut rows[0] {
        run.fake = true;
    }
    assert!(Record::new(&rows).err().unwrap().contains("fake"));
    assert!(Record::new(&rows[1..]).is_err());
}

#[test]
fn two_records_say_what_became_faster() {
    let (before, after) = (rows(5, 2), rows(5, 1));
    let [before, after] = [&before, &after].map(|rows| Record::new(rows).unwrap());
    let page = difference::page(&before, &after);
    assert!(
        page.summary[0].contains("Of 4 cases in both records 3 are faster in the second, 0 slower, 1 within"),
        "{}",
        page.summary[0]
    );
    let same = difference::page(&before, &before);
    assert!(same.summary[0].contains("0 are faster"), "{}", same.summary[0]);
}
