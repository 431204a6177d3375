//! A record as a table for people at a terminal.

use std::fmt::Write;

use super::attending::Attending;
use super::record::{Interval, Row, Summary};

/// The figures, our losses first, and what a reader must know.
pub fn table(rows: &[Row], summaries: &[Summary]) -> String {
    let mut out = String::new();
    let mut sorted: Vec<&Summary> = summaries.iter().collect();
    sorted.sort_by(|a, b| {
        let key = |s: &Summary| (s.case.scenario, s.model.clone(), s.case.threads, s.label.clone());
        key(a).cmp(&key(b)).then(speed(b).total_cmp(&speed(a)))
    });
    let header = [
        "scenario",
        "case",
        "model",
        "threads",
        "engine",
        "batching",
        "kv type",
        "tok/s",
        "ttft ms",
        "tpot ms",
        "p99 e2e ms",
        "peak MB",
        "ours is",
        "n",
    ];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for summary in &sorted {
        let head = vec![
            summary.case.scenario.name().to_owned(),
            summary.label.clone(),
            summary.model.clone(),
            summary.case.threads.to_string(),
            summary.engine.clone(),
            summary.batching.name().to_owned(),
            Attending::of(rows, &summary.engine).kv_type,
        ];
        let tail = match &summary.reason {
            Some(why) => vec![format!("— {why}")],
            None => {
                let median = |name: &str| {
                    let found = summary.distributions.get(name);
                    found.map_or("—".into(), |d| format!("{:.1}", d.median))
                };
                vec![
                    summary.figures.get("output_tok_s").map_or("—".into(), |i| {
                        let mark = if summary.disturbed { "~" } else { "" };
                        format!("{mark}{}", interval(i, 1))
                    }),
                    median("ttft_ms"),
                    median("tpot_ms"),
                    summary.distributions.get("e2e_ms").map_or("—".into(), |d| format!("{:.0}", d.p99)),
                    summary.figures.get("peak_rss").map_or("—".into(), |i| format!("{:.0}", i.value / 1e6)),
                    summary
                        .ours_times
                        .get("throughput")
                        .or(summary.ours_times.get("e2e"))
                        .map_or("—".into(), |i| format!("{}x", interval(i, 2))),
                    summary.distributions.get("e2e_ms").map_or(0, |d| d.samples).to_string(),
                ]
            }
        };
        lines.push([head, tail].concat());
    }
    let columns = header.len();
    let width = |column: usize| {
        let cells = lines.iter().filter(|line| line.len() == columns || column < 7);
        cells.filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            let pad = widths[column].saturating_sub(cell.chars().count());
            let _ = match column >= 7 && line.len() == columns {
                true => write!(out, "{}{cell}  ", " ".repeat(pad)),
                false => write!(out, "{cell}{}  ", " ".repeat(pad)),
            };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    let quality = rows.iter().filter_map(|row| match row {
        Row::Quality(quality) => Some(quality),
        _ => None,
    });
    for quality in quality {
        let _ = write!(out, "\n{} with {}: ", quality.engine.name, quality.model.name);
        let _ = match (&quality.wrong, quality.kl, quality.top1_wrong) {
            (Some(why), ..) => write!(out, "FAILED, {why}"),
            (_, Some(kl), Some((wrong, clear))) => {
                write!(out, "{kl:.5} nats from exact arithmetic, {wrong} of {clear} clear choices are others")
            }
            (_, None, Some((wrong, clear))) => {
                write!(out, "divergence not exposed, {wrong} of {clear} clear choices are others")
            }
            _ => write!(out, "{}", quality.missing.as_deref().unwrap_or("not judged")),
        };
    }
    out.push('\n');
    for summary in &sorted {
        for remark in &summary.remarks {
            let (engine, model, label) = (&summary.engine, &summary.model, &summary.label);
            let _ =
                write!(out, "\n{engine} with {model}, {label}, threads {}: {remark}", summary.case.threads);
        }
    }
    let missing = rows.iter().filter_map(|row| match row {
        Row::Engine(engine) => engine.missing.as_ref().map(|why| (&engine.name, why)),
        _ => None,
    });
    for (name, why) in missing {
        let _ = write!(out, "\nnot measured: {name}: {why}");
    }
    out.push('\n');
    out
}

fn speed(summary: &Summary) -> f64 {
    summary.figures.get("output_tok_s").map_or(0.0, |interval| interval.value)
}

/// `1.23 (1.20-1.25)`.
fn interval(interval: &Interval, digits: usize) -> String {
    let (low, high) = interval.ci95;
    format!("{:.digits$} ({low:.digits$}-{high:.digits$})", interval.value)
}
