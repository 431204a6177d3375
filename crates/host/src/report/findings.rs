//! What a record's figures come to: sentences, the documents' predictions, and their criteria of success.

use crate::compare::record::{Arrival, Interval, Row, Scenario, Summary};

use super::chart::short;
use super::contents::Record;
use super::page::{Cell, Part, Table, Tone};

/// What the documents expect of an engine, on a GPU of 24 GB with Llama 3.2 1B in Q8_0; lengths are not given there.
struct Prediction {
    /// Name in records; the first one that is there counts.
    engines: &'static [&'static str],
    /// As the documents call it.
    name: &'static str,
    /// Tokens a second.
    tokens_per_s: [f64; 2],
    /// Milliseconds an "inference".
    inference_ms: f64,
}

const PREDICTIONS: [Prediction; 5] = [
    Prediction {
        engines: &["pytorch"],
        name: "PyTorch, unoptimized",
        tokens_per_s: [30.0, 50.0],
        inference_ms: 300.0,
    },
    Prediction { engines: &["barelm"], name: "lm.rs", tokens_per_s: [50.0, 80.0], inference_ms: 100.0 },
    Prediction { engines: &["candle"], name: "candle", tokens_per_s: [100.0, 200.0], inference_ms: 50.0 },
    Prediction {
        engines: &["burn", "burn-cuda"],
        name: "burn",
        tokens_per_s: [200.0, 400.0],
        inference_ms: 30.0,
    },
    Prediction {
        engines: &["mistralrs-wheel", "mistralrs"],
        name: "mistral.rs",
        tokens_per_s: [150.0, 300.0],
        inference_ms: 40.0,
    },
];

/// One ratio to ours.
struct Ratio<'r> {
    summary: &'r Summary,
    name: &'r str,
    times: &'r Interval,
}

impl Ratio<'_> {
    fn said(&self) -> String {
        let s = self.summary;
        let what = match self.name {
            "ttft" => "time to the first token",
            "tpot" => "time per token",
            "e2e" => "time of a request",
            _ => "tokens a second",
        };
        format!(
            "{} with {}, {} threads, {}: {what} {} times as good ({} to {})",
            s.engine,
            s.model,
            s.case.threads,
            s.label,
            short(self.times.value),
            short(self.times.ci95.0),
            short(self.times.ci95.1)
        )
    }
}

/// Who wins where, our losses first.
pub fn sentences(record: &Record<'_>) -> Vec<String> {
    let ratios: Vec<Ratio<'_>> = record
        .summaries
        .iter()
        .flat_map(|summary| {
            summary.ours_times.iter().map(move |(name, times)| Ratio { summary, name, times })
        })
        .collect();
    let least = |ratios: &[&Ratio<'_>]| {
        ratios.iter().min_by(|a, b| a.times.value.total_cmp(&b.times.value)).map(|ratio| ratio.said())
    };
    let all: Vec<&Ratio<'_>> = ratios.iter().collect();
    let behind: Vec<&Ratio<'_>> = ratios.iter().filter(|ratio| ratio.times.ci95.1 < 1.0).collect();
    let ahead: Vec<&Ratio<'_>> = ratios.iter().filter(|ratio| ratio.times.ci95.0 > 1.0).collect();
    let first = match (least(&behind), least(&all)) {
        (Some(worst), _) => {
            format!("BareLM is behind in {} of {} ratios; the worst is to {worst}.", behind.len(), all.len())
        }
        (None, Some(nearest)) => {
            format!(
                "BareLM is behind in none of {} ratios with the whole interval; the nearest is to {nearest}.",
                all.len()
            )
        }
        (None, None) => "Nothing in this record can be compared with BareLM.".into(),
    };
    let most = ahead.iter().max_by(|a, b| a.times.value.total_cmp(&b.times.value));
    let second = match most {
        Some(most) => format!(
            "It is ahead in {} of {}, up to {}; {} are within their interval of equal.",
            ahead.len(),
            all.len(),
            most.said(),
            all.len() - ahead.len() - behind.len()
        ),
        None => "It is ahead in none.".into(),
    };
    if all.is_empty() {
        return vec![first, others(record)];
    }
    vec![first, second, others(record)]
}

/// What speed does not say: memory, quality, and who is not in the table.
fn others(record: &Record<'_>) -> String {
    let mut parts = Vec::new();
    let single = || record.of(Scenario::Single).filter(|s| s.case.in_flight == 1);
    let memory = single().filter_map(|s| Some((s.figures.get("peak_rss")?.value, s)));
    if let Some((bytes, s)) = memory.min_by(|a, b| a.0.total_cmp(&b.0)) {
        parts.push(format!("least memory takes {} with {} ({} MB)", s.engine, s.model, short(bytes / 1e6)));
    }
    let exact = record.qualities().filter_map(|q| Some((q.kl?, q)));
    if let Some((kl, q)) = exact.min_by(|a, b| a.0.total_cmp(&b.0)) {
        parts.push(format!(
            "nearest to F32 arithmetic is {} with {} ({} nats)",
            q.engine.name,
            q.model.name,
            short(kl)
        ));
    }
    let missing: Vec<&str> = record
        .rows
        .iter()
        .filter_map(|row| match row {
            Row::Engine(engine) if engine.missing.is_some() => Some(engine.name.as_str()),
            _ => None,
        })
        .collect();
    if !missing.is_empty() {
        parts.push(format!("not measured: {}", missing.join(", ")));
    }
    let mut said = parts.join("; ");
    if let Some(first) = said.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if said.is_empty() { "Memory and quality were not measured.".into() } else { said + "." }
}

/// An engine's fastest single requests: tokens a second, milliseconds a request, and in which row.
fn fastest<'r>(record: &'r Record<'_>, engines: &[&str]) -> Option<(f64, f64, &'r Summary)> {
    let rows = engines.iter().find_map(|engine| {
        let rows: Vec<_> = record.of(Scenario::Single).filter(|s| s.engine == *engine).collect();
        (!rows.is_empty()).then_some(rows)
    })?;
    let found = rows.into_iter().filter_map(|s| {
        Some((s.figures.get("output_tok_s")?.value, s.distributions.get("e2e_ms")?.median, s))
    });
    found.max_by(|a, b| a.0.total_cmp(&b.0))
}

/// The documents' expectations as what they are, beside what was found.
pub fn predictions(record: &Record<'_>) -> Vec<Part> {
    let rows = PREDICTIONS.iter().map(|prediction| {
        let [low, high] = prediction.tokens_per_s;
        let mut row = vec![
            Cell::text(prediction.name),
            Cell::number(low, format!("{low} to {high}")),
            Cell::number(prediction.inference_ms, short(prediction.inference_ms)),
        ];
        match fastest(record, prediction.engines) {
            Some((speed, ms, s)) => {
                let beside = match speed {
                    speed if speed < low => "below",
                    speed if speed > high => "above",
                    _ => "within",
                };
                row.extend([
                    Cell::number(speed, short(speed)),
                    Cell::number(ms, short(ms)),
                    Cell::text(beside),
                    Cell::text(format!("{}, {}, {} threads, {}", s.model, s.device, s.case.threads, s.label)),
                ]);
            }
            None => {
                row.extend([
                    Cell::missing("not measured"),
                    Cell::text("—"),
                    Cell::text("—"),
                    Cell::text("—"),
                ]);
            }
        }
        row
    });
    let columns = [
        "engine",
        "predicted, tokens/s",
        "predicted, ms an inference",
        "measured, tokens/s",
        "measured, ms a request",
        "against the prediction",
        "measured where",
    ];
    let about = "Predictions made before anything was measured, for Llama 3.2 1B in Q8_0 on a GPU with 24 GB, without lengths of prompt and answer; the documents' “lm.rs” is BareLM here. Other models and machines are other figures: the order is what can be compared.";
    vec![
        Part::Text(about.into()),
        Part::Table(Table {
            name: "Predictions".into(),
            columns: columns.map(str::to_owned).to_vec(),
            rows: rows.collect(),
        }),
    ]
}

fn verdict(met: bool) -> Cell {
    if met { Cell::text("met").toned(Tone::Good) } else { Cell::text("not met").toned(Tone::Bad) }
}

/// The criteria by which the documents would call the comparison a success, each as found.
pub fn criteria(record: &Record<'_>) -> Vec<Part> {
    let mut rows = Vec::new();
    let mut put = |criterion: &str, who: String, found: Cell, met: bool| {
        rows.push(vec![Cell::text(criterion), Cell::text(who), found, verdict(met)]);
    };
    let mut names: Vec<&str> = Vec::new();
    for s in record.summaries.iter().filter(|s| s.reason.is_none()) {
        if !names.contains(&s.engine.as_str()) {
            names.push(&s.engine);
        }
    }
    for engine in names {
        let of = |scenario| record.of(scenario).filter(move |s| s.engine == engine && s.best);
        let spreads: Vec<_> = of(Scenario::Single).filter_map(|s| s.distributions.get("e2e_ms")).collect();
        if let Some(worst) = spreads.iter().max_by(|a, b| a.cv.total_cmp(&b.cv)) {
            let found = Cell::number(worst.cv, format!("{:.1} % at most", worst.cv * 100.0));
            put("variation below 5 %", engine.into(), found, worst.cv < 0.05);
        }
        if let Some(fewest) = spreads.iter().map(|d| d.samples).min() {
            let found = Cell::number(fewest as f64, format!("{fewest} at least"));
            put("100 samples or more", engine.into(), found, fewest >= 100);
        }
        for s in of(Scenario::Sustained) {
            let (what, used) = match s.figures.get("device_utilization") {
                Some(device) => ("device", device.value),
                None => match s.figures.get("cpu_share") {
                    Some(cores) => ("cores", cores.value / s.case.threads as f64),
                    None => continue,
                },
            };
            let found = Cell::number(used, format!("{:.0} % of the {what}, {}", used * 100.0, s.label));
            put("more than 70 % in use under load", format!("{engine}, {}", s.model), found, used > 0.7);
        }
        scaling(&of(Scenario::Concurrent).collect::<Vec<_>>(), |model, found, met| {
            put("output grows with requests in flight", format!("{engine}, {model}"), found, met);
        });
    }
    // At least twice PyTorch, for engines in Rust.
    for s in record.of(Scenario::Single).filter(|s| s.best && !s.engine.contains("pytorch")) {
        let slow = record.of(Scenario::Single).find(|p| {
            p.engine == "pytorch"
                && p.best
                && p.model_sha256 == s.model_sha256
                && (p.case.prompt_tokens, p.case.output_tokens)
                    == (s.case.prompt_tokens, s.case.output_tokens)
        });
        let speed = |s: &Summary| s.figures.get("output_tok_s").map(|found| found.value);
        if let (Some(speed), Some(baseline)) = (speed(s), slow.and_then(speed)) {
            let times = speed / baseline;
            let found = Cell::number(times, format!("{} times", short(times)));
            put(
                "twice PyTorch or more",
                format!("{}, {}, {}", s.engine, s.model, s.label),
                found,
                times >= 2.0,
            );
        }
    }
    if rows.is_empty() {
        return Vec::new();
    }
    let columns = ["criterion", "of", "found", ""].map(str::to_owned).to_vec();
    let about = "Findings, not gates: a criterion that is not met says something about an engine or about this machine. PyTorch is compared with the same file, at the best number of threads of each.";
    vec![Part::Text(about.into()), Part::Table(Table { name: "Criteria".into(), columns, rows })]
}

/// Output with the most requests in flight beside that with the fewest, by model.
fn scaling(rows: &[&Summary], mut put: impl FnMut(&str, Cell, bool)) {
    let closed: Vec<_> = rows.iter().filter(|s| s.case.arrival == Arrival::Closed).collect();
    let mut models: Vec<&str> = closed.iter().map(|s| s.model.as_str()).collect();
    models.dedup();
    for model in models {
        let of = || closed.iter().filter(|s| s.model == model);
        let ends = (of().min_by_key(|s| s.case.in_flight), of().max_by_key(|s| s.case.in_flight));
        let (Some(few), Some(many)) = ends else { continue };
        let speed = |s: &Summary| s.figures.get("output_tok_s").map(|found| found.value);
        let (Some(slow), Some(fast)) = (speed(few), speed(many)) else { continue };
        if many.case.in_flight == few.case.in_flight {
            continue;
        }
        let times = fast / slow;
        let wanted = many.case.in_flight as f64 / few.case.in_flight as f64;
        let text = format!(
            "{} times the tokens with {} as with {}",
            short(times),
            many.case.in_flight,
            few.case.in_flight
        );
        put(model, Cell::number(times, text), times >= 0.9 * wanted);
    }
}
