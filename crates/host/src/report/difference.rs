//! Two records side by side: what became faster, what slower, and what nobody can tell.

use crate::compare::record::{Interval, Summary};

use super::chart::short;
use super::contents::Record;
use super::page::{Cell, Page, Part, Section, Table, Tone};

/// Cases of both records, each with its output in tokens a second, and what is in one only.
pub fn page(before: &Record<'_>, after: &Record<'_>) -> Page {
    let key = |s: &Summary| (s.engine.clone(), s.model_sha256.clone(), format!("{:?}", s.case));
    let mut rows = Vec::new();
    let mut only = Vec::new();
    for new in after.summaries.iter().filter(|s| s.reason.is_none()) {
        let old = before.summaries.iter().find(|old| old.reason.is_none() && key(old) == key(new));
        let (Some(then), Some(now)) = (old.and_then(speed), speed(new)) else {
            only.push(format!("{}: only in the second", name(new)));
            continue;
        };
        let ratio = now.value / then.value;
        // Apart only where neither interval reaches into the other.
        let (tone, verdict) = if now.ci95.0 > then.ci95.1 {
            (Tone::Good, "faster")
        } else if now.ci95.1 < then.ci95.0 {
            (Tone::Bad, "slower")
        } else {
            (Tone::Plain, "within the intervals")
        };
        rows.push(vec![
            Cell::text(&new.engine),
            Cell::text(&new.model),
            Cell::number(new.case.threads as f64, new.case.threads.to_string()),
            Cell::text(new.case.scenario.name()),
            Cell::text(&new.label),
            written(then),
            written(now),
            Cell::number(ratio, short(ratio)).toned(tone),
            Cell::text(verdict).toned(tone),
        ]);
    }
    for old in before.summaries.iter().filter(|s| s.reason.is_none()) {
        if !after.summaries.iter().any(|new| new.reason.is_none() && key(old) == key(new)) {
            only.push(format!("{}: only in the first", name(old)));
        }
    }
    let count = |verdict: &str| rows.iter().filter(|row| row[8].text == verdict).count();
    let summary = format!(
        "Of {} cases in both records {} are faster in the second, {} slower, {} within their intervals.",
        rows.len(),
        count("faster"),
        count("slower"),
        count("within the intervals")
    );
    let mut warnings = Vec::new();
    for field in ["machine", "kernel", "platform"] {
        let (a, b) = (before.environment(field), after.environment(field));
        if a != b {
            warnings.push(format!("The records are of different machines: {field} is {a} and {b}."));
        }
    }
    let columns = [
        "engine",
        "model",
        "threads",
        "scenario",
        "case",
        "first, tokens/s",
        "second, tokens/s",
        "second / first",
        "",
    ];
    let table = Table { name: "Differences".into(), columns: columns.map(str::to_owned).to_vec(), rows };
    let mut sections = vec![Section { heading: "Cases in both".into(), parts: vec![Part::Table(table)] }];
    if !only.is_empty() {
        sections.push(Section { heading: "Cases in one".into(), parts: vec![Part::List(only)] });
    }
    let when =
        |record: &Record<'_>| format!("{} ({})", record.environment("date"), record.environment("commit"));
    Page {
        title: format!("From {} to {}", when(before), when(after)),
        warnings,
        summary: vec![summary],
        sections,
    }
}

fn speed(s: &Summary) -> Option<&Interval> {
    s.figures.get("output_tok_s")
}

fn written(found: &Interval) -> Cell {
    Cell::number(
        found.value,
        format!("{} ({} to {})", short(found.value), short(found.ci95.0), short(found.ci95.1)),
    )
}

fn name(s: &Summary) -> String {
    format!("{}, {}, {} threads, {}", s.engine, s.model, s.case.threads, s.label)
}
