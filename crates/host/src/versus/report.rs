//! What was measured, as a table for people, a table for documents, and records.

use std::fmt::Write;

use barelm_protocol::{Hello, Loaded, Stats};
use serde_json::{Value, json};

use super::slots::{Middle, Row, Slot};
use super::work::LimitKind;

/// Number of the records' format.
pub const SCHEMA: u32 = 1;

/// One engine with one model.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineRun {
    /// Its greeting.
    pub hello: Hello,
    /// Its answer to `load`.
    pub loaded: Loaded,
    /// Its memory at the end.
    pub stats: Stats,
    /// Its continuation of the text.
    pub ids: Vec<u32>,
}

/// All engines with one model and number of threads. The first engine is ours.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelRun {
    /// The file's name without its ending.
    pub model: String,
    /// Threads of each engine.
    pub threads: usize,
    /// Busy neighbors beside them.
    pub beside: usize,
    /// Bytes that a token reads.
    pub token_bytes: u64,
    /// The engines.
    pub engines: Vec<EngineRun>,
    /// What was measured, and against which limit.
    pub rows: Vec<(Row, LimitKind)>,
}

impl ModelRun {
    /// Whether an engine's ratios say something.
    fn fair(&self, engine: usize) -> bool {
        self.engines[engine].hello.crippled.is_none() && self.engines[0].hello.crippled.is_none()
    }

    /// Tokens from the first on that an engine has in common with ours.
    pub fn agreement(&self, engine: usize) -> usize {
        let pairs = self.engines[0].ids.iter().zip(&self.engines[engine].ids);
        pairs.take_while(|(ours, theirs)| ours == theirs).count()
    }

    /// Lines of the table.
    fn lines(&self) -> Vec<Vec<String>> {
        let lines = self.rows.iter().map(|(row, kind)| {
            let beside = match self.beside {
                0 => String::new(),
                neighbors => format!(" beside {neighbors} busy"),
            };
            let work = format!("{}{beside}", row.work.name());
            let mut cells = vec![self.model.clone(), self.threads.to_string(), work];
            for engine in 0..self.engines.len() {
                cells.push(
                    row.rate(engine).map_or("—".into(), |rate| interval(rate, rate_digits(rate.median))),
                );
            }
            for engine in 1..self.engines.len() {
                let ratio = row.ratio(0, engine).filter(|_| self.fair(engine));
                cells.push(ratio.map_or("—".into(), |ratio| interval(ratio, 2)));
            }
            for engine in 0..self.engines.len() {
                let share = row.share(engine);
                cells.push(share.map_or("—".into(), |share| format!("{:.0} %", share.median * 100.0)));
            }
            cells.push(row.limit().map_or("—".into(), |limit| limit_text(limit.median, *kind)));
            cells.push(format!("{} of {}", row.good().count(), row.slots.len()));
            cells
        });
        lines.collect()
    }

    /// What is not in the table: load, memory, agreement.
    pub fn remarks(&self) -> String {
        let mut text = format!("{}, threads {}:", self.model, self.threads);
        for (at, engine) in self.engines.iter().enumerate() {
            let peak =
                engine.stats.peak_rss.map_or("unknown".into(), |bytes| format!("{} MB", bytes / 1_000_000));
            let load = engine.loaded.load_ns as f64 / 1e9;
            let _ = write!(text, " {} loaded in {load:.2} s, peak memory {peak}", engine.hello.engine);
            if at > 0 {
                let (same, all) = (self.agreement(at), engine.ids.len());
                let _ = match same == all {
                    true => write!(text, ", the same {all} tokens as ours"),
                    false => write!(text, ", the same tokens as ours up to token {same} of {all}"),
                };
            }
            text.push(if at + 1 == self.engines.len() { '.' } else { ';' });
        }
        for (row, _) in &self.rows {
            let complaints = row.complaints();
            if !complaints.is_empty() {
                let _ = write!(text, " Dropped from {}: {}.", row.work.name(), complaints.join("; "));
            }
        }
        text
    }

    /// Records, one for each row; `environment` is the same in all.
    pub fn records(&self, environment: &Value) -> Vec<Value> {
        let records = self.rows.iter().map(|(row, kind)| {
            let engines: Vec<Value> = self
                .engines
                .iter()
                .enumerate()
                .map(|(at, engine)| {
                    json!({
                        "hello": engine.hello,
                        "load_ns": engine.loaded.load_ns,
                        "peak_rss": engine.stats.peak_rss,
                        "ids": engine.ids,
                        "tokens_s": row.rate(at).map(middle),
                        "share": row.share(at).map(middle),
                        "ratio": (at > 0).then(|| row.ratio(0, at).map(middle)),
                    })
                })
                .collect();
            json!({
                "schema": SCHEMA,
                "kind": "versus",
                "environment": environment,
                "model": self.model,
                "token_bytes": self.token_bytes,
                "threads": self.threads,
                "beside": self.beside,
                "work": row.work.name(),
                "limit": kind.name(),
                "engines": engines,
                "slots": row.slots.iter().map(slot).collect::<Vec<_>>(),
            })
        });
        records.collect()
    }
}

fn middle(middle: Middle) -> Value {
    json!({ "median": middle.median, "ci95": [middle.low, middle.high] })
}

fn slot(slot: &Slot) -> Value {
    json!({ "limits": slot.limits, "tokens_s": slot.rates, "shares": slot.shares, "bad": slot.bad })
}

fn rate_digits(rate: f64) -> usize {
    if rate < 100.0 { 1 } else { 0 }
}

fn interval(middle: Middle, digits: usize) -> String {
    let Middle { median, low, high } = middle;
    format!("{median:.digits$} [{low:.digits$}, {high:.digits$}]")
}

fn limit_text(limit: f64, kind: LimitKind) -> String {
    match kind {
        LimitKind::Read => format!("{:.1} GB/s", limit / 1e9),
        LimitKind::Int8 => format!("{:.0} Gop/s int8", limit / 1e9),
        LimitKind::F32 => format!("{:.0} GFLOP/s f32", limit / 1e9),
    }
}

/// The table's first line, for these engines.
fn head(engines: &[EngineRun]) -> Vec<String> {
    let names: Vec<_> = engines.iter().map(|engine| engine.hello.engine.as_str()).collect();
    let mut cells: Vec<String> = ["model", "threads", "work"].map(String::from).into();
    cells.extend(names.iter().map(|name| format!("{name}, tokens/s")));
    cells.extend(names.iter().skip(1).map(|name| format!("ratio to {name}")));
    cells.extend(names.iter().map(|name| format!("{name}, share of limit")));
    cells.extend(["limit", "good slots"].map(String::from));
    cells
}

/// Everything as a Markdown table, which a terminal shows well too: columns are padded.
pub fn table(runs: &[ModelRun]) -> String {
    let Some(first) = runs.first() else { return String::new() };
    let mut lines = vec![head(&first.engines)];
    lines.extend(runs.iter().flat_map(ModelRun::lines));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if at == 0 {
            widths.iter().for_each(|width| {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            });
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::versus::work::Work;

    fn run() -> ModelRun {
        let engine = |name: &str, ids: &[u32], crippled: Option<&str>| EngineRun {
            hello: Hello {
                engine: name.into(),
                version: "1".into(),
                crippled: crippled.map(String::from),
                ..Hello::default()
            },
            loaded: Loaded { load_ns: 1_500_000_000, vocab_size: 10 },
            stats: Stats { peak_rss: Some(123_456_789), ..Stats::default() },
            ids: ids.into(),
        };
        let slot = |limit: f64, rates: [f64; 2], bad: Option<&str>| Slot {
            limits: [limit, limit],
            rates: rates.into(),
            shares: rates.iter().map(|rate| rate * 1e8 / limit).collect(),
            bad: bad.map(String::from),
        };
        let slots = vec![slot(4e10, [300.0, 150.0], None), slot(1e9, [1.0, 150.0], Some("drift"))];
        ModelRun {
            model: "m".into(),
            threads: 2,
            beside: 0,
            token_bytes: 100_000_000,
            engines: vec![engine("barelm", &[1, 2, 3], None), engine("other", &[1, 2, 4], None)],
            rows: vec![(Row { work: Work::Decode(128), slots }, LimitKind::Read)],
        }
    }

    #[test]
    fn a_row_shows_rates_ratio_shares_and_limit() {
        let table = table(&[run()]);
        let lines: Vec<_> = table.lines().collect();
        let squeezed: String = lines[2].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            squeezed,
            "| m | 2 | decode 128 | 300 [300, 300] | 150 [150, 150] | 2.00 [2.00, 2.00] | 75 % | 38 % | 40.0 GB/s | 1 of 2 |"
        );
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{table}");
        assert!(lines[0].contains("ratio to other"));
    }

    #[test]
    fn a_crippled_engine_gets_no_ratio() {
        let mut run = run();
        run.engines[1].hello.crippled = Some("old".into());
        assert!(table(&[run]).lines().nth(2).unwrap().contains("| — "));
    }

    #[test]
    fn remarks_say_where_engines_part() {
        let remarks = run().remarks();
        assert!(remarks.contains("loaded in 1.50 s, peak memory 123 MB"), "{remarks}");
        assert!(remarks.contains("the same tokens as ours up to token 2 of 3."), "{remarks}");
        assert!(remarks.ends_with("Dropped from decode 128: drift."), "{remarks}");
    }

    #[test]
    fn records_hold_every_slot() {
        let record = &run().records(&json!({"machine": "m"}))[0];
        assert_eq!(record["slots"].as_array().unwrap().len(), 2);
        assert_eq!(record["slots"][1]["bad"], "drift");
        assert_eq!(record["engines"][1]["ratio"]["median"], 2.0);
        assert_eq!(record["engines"][0]["ratio"], Value::Null);
        assert_eq!(record["environment"]["machine"], "m");
    }
}
