//! What a record says, arranged for a reader.
//!
//! [`Record`] is a record with its figures; [`page`] is the report, whose sections are in `requests` and `machine`.
//! Every figure comes from [`summarize`], which computes it from the samples; nothing is taken from the summaries that a
//! record carries. [`verify`] holds those to the same figures.

use crate::compare::attending::Attending;
use crate::compare::record::{
    EngineRow, Interval, OpRow, Quality, Row, Run, Scenario, Summary, Visit, differing, without_figures,
};
use crate::compare::summary::summarize;

use super::chart::short;
use super::cost::Prices;
use super::findings;
use super::page::{Cell, Page, Part, Section, Table, Tone};

mod machine;
mod requests;

/// A record, read once.
pub struct Record<'r> {
    /// What was to be measured, and where.
    pub run: &'r Run,
    /// All rows.
    pub rows: &'r [Row],
    /// The figures of every engine, model and case.
    pub summaries: Vec<Summary>,
}

impl<'r> Record<'r> {
    /// Takes a record's rows.
    ///
    /// # Errors
    /// A record of engines that are none, or without its first line.
    pub fn new(rows: &'r [Row]) -> Result<Self, String> {
        let Some(Row::Run(run)) = rows.first() else {
            return Err("the first line is no `run`: this is no record of a comparison".into());
        };
        if run.fake {
            return Err(
                "the record is of fake engines, which exist to test the comparison; there is no report of it"
                    .into(),
            );
        }
        Ok(Record { run, rows, summaries: summarize(rows) })
    }

    pub(super) fn visits(&self) -> impl Iterator<Item = &'r Visit> {
        self.rows.iter().filter_map(|row| match row {
            Row::Visit(visit) => Some(visit),
            _ => None,
        })
    }

    fn engines(&self) -> impl Iterator<Item = &'r EngineRow> {
        self.rows.iter().filter_map(|row| match row {
            Row::Engine(engine) => Some(engine),
            _ => None,
        })
    }

    pub(super) fn qualities(&self) -> impl Iterator<Item = &'r Quality> {
        self.rows.iter().filter_map(|row| match row {
            Row::Quality(quality) => Some(quality),
            _ => None,
        })
    }

    fn ops(&self) -> impl Iterator<Item = &'r OpRow> {
        self.rows.iter().filter_map(|row| match row {
            Row::Op(op) => Some(op),
            _ => None,
        })
    }

    /// A field of the machine and the build.
    pub(super) fn environment(&self, name: &str) -> &str {
        self.run.environment.get(name).and_then(|value| value.as_str()).unwrap_or("unknown")
    }

    /// Summaries of a scenario that have figures.
    pub(super) fn of(&self, scenario: Scenario) -> impl Iterator<Item = &Summary> {
        self.summaries.iter().filter(move |s| s.case.scenario == scenario && s.reason.is_none())
    }

    /// What to call an engine with a file in a chart: by the class of its weights, or by the file where the record has another
    /// of that class.
    pub(super) fn line(&self, engine: &str, class: &str, model: &str) -> String {
        let alone = self.summaries.iter().all(|s| s.class != class || s.model == model);
        format!("{engine} {}", if alone { class } else { model })
    }

    /// The number of an engine's color: its place among the engines of the record.
    pub(super) fn color(&self, engine: &str) -> usize {
        self.engines().position(|row| row.name == engine).unwrap_or(0)
    }
}

/// Figures that a record carries and that its samples do not give; empty for a record to be trusted.
pub fn verify(rows: &[Row]) -> Vec<String> {
    let computed = summarize(rows);
    let mut wrong = differing(rows, &computed);
    wrong.extend(without_figures(rows, &computed));
    wrong
}

/// The whole report.
pub fn page(record: &Record<'_>, prices: &Prices) -> Page {
    let mut warnings = Vec::new();
    if record.run.quick {
        warnings.push("A quick run, for a first look: not for publication.".into());
    }
    if record.environment("build") != "release" {
        warnings.push(format!("Built with {}: speeds say nothing.", record.environment("build")));
    }
    if record.environment("commit").ends_with("+changes") {
        warnings.push("Measured with changes that were not committed.".into());
    }
    let sections = vec![
        requests::losses(record),
        requests::ratios(record),
        requests::single(record),
        requests::load(record),
        requests::sustained(record),
        requests::memory(record),
        requests::long_context(record),
        machine::roofline(record),
        machine::quality(record),
        Section { heading: "Predictions beside measurements".into(), parts: findings::predictions(record) },
        Section { heading: "Success criteria of the documents".into(), parts: findings::criteria(record) },
        machine::costs(record, prices),
        machine::operations(record),
        machine::matrix(record),
        machine::method(record),
    ];
    Page {
        title: format!("Inference engines on {}, {}", record.environment("machine"), day(record)),
        warnings,
        summary: findings::sentences(record),
        sections: sections.into_iter().filter(|section| !section.parts.is_empty()).collect(),
    }
}

fn day<'r>(record: &'r Record<'_>) -> &'r str {
    record.environment("date").split('T').next().unwrap_or("unknown")
}

/// `12.3 (11.9 to 12.8)`, or a dash.
fn interval(interval: Option<&Interval>, scale: f64) -> Cell {
    match interval {
        None => Cell::text("—"),
        Some(found) => {
            let [value, low, high] = [found.value, found.ci95.0, found.ci95.1].map(|x| x * scale);
            Cell::number(value, format!("{} ({} to {})", short(value), short(low), short(high)))
        }
    }
}

fn percent(value: Option<f64>) -> Cell {
    value.map_or_else(|| Cell::text("—"), |value| Cell::number(value, format!("{:.0} %", value * 100.0)))
}

/// How many times as fast ours is; behind is said in red only where the interval leaves no doubt.
fn times(found: Option<&Interval>) -> Cell {
    let tone = match found {
        Some(found) if found.ci95.1 < 1.0 => Tone::Bad,
        Some(found) if found.ci95.0 > 1.0 => Tone::Good,
        _ => Tone::Plain,
    };
    interval(found, 1.0).toned(tone)
}

/// Engine, model, threads and what its cache holds: the first cells of most rows.
fn who(record: &Record<'_>, s: &Summary) -> Vec<Cell> {
    vec![
        Cell::text(&s.engine),
        Cell::text(&s.model),
        Cell::text(&s.class),
        Cell::number(
            s.case.threads as f64,
            format!("{}{}", s.case.threads, if s.best { " (best)" } else { "" }),
        ),
        Cell::text(Attending::of(record.rows, &s.engine).kv_type),
    ]
}

/// The columns of [`who`], the first by a name of its table, and those behind them.
fn headed<'a>(first: &'a str, further: &[&'a str]) -> Vec<&'a str> {
    [&[first, "model", "class", "threads", "KV type"], further].concat()
}

/// A distribution's middle and ends, in milliseconds.
fn spread(s: &Summary, name: &str) -> Cell {
    s.distributions.get(name).map_or_else(
        || Cell::text("—"),
        |d| Cell::number(d.median, format!("{} / {} / {}", short(d.median), short(d.p95), short(d.p99))),
    )
}

fn table(name: &str, columns: &[&str], rows: Vec<Vec<Cell>>) -> Option<Part> {
    let columns = columns.iter().map(|&column| column.to_owned()).collect();
    (!rows.is_empty()).then(|| Part::Table(Table { name: name.to_owned(), columns, rows }))
}
