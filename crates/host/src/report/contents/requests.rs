//! Sections about requests: ratios, one at a time, many, for long, long ones.

use crate::compare::record::{Arrival, Interval, Scenario, Summary, Visit};
use crate::report::chart::{Axis, Chart, Mark, Point, Series, add, short};
use crate::report::page::{Cell, Part, Section};

use super::{Record, headed, interval, percent, spread, table, times, who};

/// Where ours is behind, before anything else, be it by so little that it cannot be told from equal.
pub(super) fn losses(record: &Record<'_>) -> Section {
    let mut rows = Vec::new();
    for s in record.summaries.iter().filter(|s| s.reason.is_none()) {
        for (name, found) in s.ours_times.iter().filter(|(_, found)| found.value < 1.0) {
            let mut row = who(record, s);
            row.extend([
                Cell::text(s.case.scenario.name()),
                Cell::text(&s.label),
                Cell::text(name),
                times(Some(found)),
            ]);
            rows.push(row);
        }
    }
    rows.sort_by(|a, b| a[8].value.partial_cmp(&b[8].value).unwrap_or(std::cmp::Ordering::Equal));
    let compared = record.summaries.iter().any(|s| !s.ours_times.is_empty());
    let none = Part::Text(match compared {
        true => "In no case is another engine ahead of ours. What could not be compared is under “What was measured, and what was not”.".into(),
        false => "No case of this record can be compared: the reasons are under “What was measured, and what was not” and in the remarks.".into(),
    });
    let columns = headed("ahead of ours", &["scenario", "case", "by", "ours, times as fast"]);
    let parts = table("Where BareLM is behind", &columns, rows).unwrap_or(none);
    Section { heading: "Where BareLM is behind".into(), parts: vec![parts] }
}

pub(super) fn ratios(record: &Record<'_>) -> Section {
    let cell = |s: &Summary, name: &str| times(s.ours_times.get(name));
    let rows = record.summaries.iter().filter(|s| !s.ours_times.is_empty()).map(|s| {
        let mut row = who(record, s);
        row.extend([Cell::text(s.case.scenario.name()), Cell::text(&s.label)]);
        row.extend(["ttft", "tpot", "e2e", "throughput"].map(|name| cell(s, name)));
        row.push(times(s.ours_times_best.get("throughput")));
        row
    });
    let columns = headed(
        "engine",
        &[
            "scenario",
            "case",
            "first token",
            "per token",
            "end to end",
            "tokens/s",
            "tokens/s, each at its best threads",
        ],
    );
    let about = Part::Text(
        "How many times as fast ours is: same file, same threads, rounds in turns, with the 95 % interval. Above 1 ours is ahead.".into(),
    );
    let parts = table("Ratios to BareLM", &columns, rows.collect()).map(|table| vec![about, table]);
    Section { heading: "Ratios".into(), parts: parts.unwrap_or_default() }
}

pub(super) fn single(record: &Record<'_>) -> Section {
    let rows = record.of(Scenario::Single).map(|s| {
        let mut row = who(record, s);
        let figure = |name: &str| s.figures.get(name);
        row.extend([
            Cell::text(&s.label),
            spread(s, "ttft_ms"),
            spread(s, "tpot_ms"),
            spread(s, "e2e_ms"),
            percent(s.distributions.get("e2e_ms").map(|d| d.cv)),
            interval(figure("output_tok_s"), 1.0),
            interval(figure("read_gb_s"), 1.0),
            percent(figure("mbu").map(|found| found.value)),
            spread(s, "load_ms"),
            spread(s, "first_request_ms"),
        ]);
        row
    });
    let columns = headed(
        "engine",
        &[
            "case",
            "first token, ms (median / p95 / p99)",
            "per token, ms",
            "end to end, ms",
            "CV",
            "tokens/s",
            "weights read, GB/s",
            "share of bandwidth (MBU)",
            "load, ms",
            "first request, ms",
        ],
    );
    let mut parts: Vec<Part> = table("Single requests", &columns, rows.collect()).into_iter().collect();
    parts.extend(latencies(record).map(Part::Chart));
    Section { heading: "Single requests".into(), parts }
}

/// Distribution of whole requests, each engine at its best number of threads, for the first model and the longest prompt.
fn latencies(record: &Record<'_>) -> Option<Chart> {
    let first = record.of(Scenario::Single).next()?;
    let same = || record.of(Scenario::Single).filter(|s| s.model_sha256 == first.model_sha256 && s.best);
    let longest = same().map(|s| s.case.prompt_tokens).max()?;
    let series = same().filter(|s| s.case.prompt_tokens == longest).map(|s| {
        let of = |visit: &&Visit| {
            visit.engine.name == s.engine && visit.model.sha256 == s.model_sha256 && visit.case == s.case
        };
        // As the figures: disturbed rounds only where there is no other.
        let undisturbed = record.visits().filter(of).any(Visit::counts);
        let visits = record
            .visits()
            .filter(of)
            .filter(|visit| if undisturbed { visit.counts() } else { visit.measured() });
        let mut times: Vec<f64> = visits
            .flat_map(|visit| visit.requests.iter().filter_map(|sample| sample.e2e_ns()))
            .map(|ns| ns / 1e6)
            .collect();
        times.sort_by(f64::total_cmp);
        let count = times.len() as f64;
        let points = times.iter().zip(1..).map(|(&ms, rank)| Point::new(ms, f64::from(rank) / count));
        Series {
            name: s.engine.clone(),
            color: record.color(&s.engine),
            mark: Mark::Steps,
            points: points.collect(),
        }
    });
    Some(Chart {
        title: format!(
            "Share of requests done within a time: {}, prompts of {longest} ids, {} tokens of answer",
            first.model, first.case.output_tokens
        ),
        x: Axis::log("time of a request, ms"),
        y: Axis::linear("share of requests"),
        series: series.collect(),
    })
}

pub(super) fn load(record: &Record<'_>) -> Section {
    let rows = record.of(Scenario::Concurrent).map(|s| {
        let mut row = who(record, s);
        let figure = |name: &str| s.figures.get(name);
        row.extend([
            Cell::text(s.batching.name()),
            Cell::text(&s.label),
            interval(figure("output_tok_s"), 1.0),
            interval(figure("goodput_per_s"), 1.0),
            spread(s, "ttft_ms"),
            spread(s, "itl_ms"),
            spread(s, "queued_ms"),
            Cell::text(s.remarks.join("; ")),
        ]);
        row
    });
    let columns = headed(
        "engine",
        &[
            "batching",
            "case",
            "tokens/s",
            "good requests/s",
            "first token, ms (median / p95 / p99)",
            "between tokens, ms",
            "waiting in the engine, ms",
            "remarks",
        ],
    );
    let mut parts: Vec<Part> = Vec::new();
    let (first, per) = record.run.goodput_limits_ms;
    parts.extend(table("Many requests", &columns, rows.collect()));
    if !parts.is_empty() {
        parts.insert(
            0,
            Part::Text(format!(
                "A request is good if its first token comes within {first} ms of its intended arrival and the further ones within {per} ms each on average. Arrivals a second are random (Poisson), and time counts from when a request should have been sent. A serial engine computes one request after the other: its concurrency is a queue."
            )),
        );
    }
    for (title, y, figure, open) in [
        ("Output over requests in flight (closed loop)", "tokens a second", "output_tok_s", false),
        ("Good requests over arrivals (open loop)", "good requests a second", "goodput_per_s", true),
    ] {
        let at = |s: &Summary| {
            let x = match s.case.arrival {
                Arrival::Closed => (!open).then_some(s.case.in_flight as f64),
                Arrival::Poisson { per_s } => open.then_some(per_s),
            };
            Some((x?, *s.figures.get(figure)?))
        };
        let x = if open { "arrivals a second" } else { "requests in flight" };
        parts.extend(curves(record, title, Axis::log(x), y, Scenario::Concurrent, &at).map(Part::Chart));
    }
    Section { heading: "Many requests at once".into(), parts }
}

/// A figure over something, a line for each engine and file at its best number of threads; `at` gives place and value.
fn curves(
    record: &Record<'_>,
    title: &str,
    x: Axis,
    y: &str,
    scenario: Scenario,
    at: &dyn Fn(&Summary) -> Option<(f64, Interval)>,
) -> Option<Chart> {
    let mut series: Vec<Series> = Vec::new();
    for s in record.of(scenario).filter(|s| s.best) {
        let Some((x, found)) = at(s) else { continue };
        let point = Point {
            x,
            y: found.value,
            range: Some([found.ci95.0, found.ci95.1]),
            note: format!("{}, {} threads", s.model, s.case.threads),
        };
        let name = record.line(&s.engine, &s.class, &s.model);
        add(&mut series, name, record.color(&s.engine), Mark::Line, point);
    }
    for series in &mut series {
        series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    (!series.is_empty()).then(|| Chart { title: title.into(), x, y: Axis::linear(y), series })
}

pub(super) fn sustained(record: &Record<'_>) -> Section {
    let rows = record.of(Scenario::Sustained).map(|s| {
        let mut row = who(record, s);
        let figure = |name: &str| s.figures.get(name);
        row.extend([
            Cell::text(s.batching.name()),
            Cell::text(&s.label),
            interval(figure("output_tok_s"), 1.0),
            interval(figure("requests_per_hour"), 1.0),
            spread(s, "e2e_ms"),
            percent(figure("mfu").map(|found| found.value)),
            percent(figure("cpu_share").map(|found| found.value / s.case.threads as f64)),
            percent(figure("device_utilization").map(|found| found.value)),
            interval(figure("rss_slope_per_min"), 1e-6),
            interval(figure("joules_per_token"), 1.0),
        ]);
        row
    });
    let columns = headed(
        "engine",
        &[
            "batching",
            "case",
            "tokens/s",
            "requests an hour",
            "end to end, ms (median / p95 / p99)",
            "share of peak (MFU)",
            "share of its cores' time",
            "device busy",
            "memory's growth, MB a minute",
            "joules a token",
        ],
    );
    let parts = table("Sustained load", &columns, rows.collect()).into_iter().collect();
    Section { heading: "Sustained load".into(), parts }
}

pub(super) fn memory(record: &Record<'_>) -> Section {
    let bytes = |s: &Summary| {
        record
            .visits()
            .find(|visit| visit.model.sha256 == s.model_sha256)
            .map(|visit| visit.model.bytes as f64)
    };
    let rows =
        record.summaries.iter().filter(|s| s.reason.is_none() && s.figures.contains_key("peak_rss")).map(
            |s| {
                let mut row = who(record, s);
                let peak = s.figures.get("peak_rss");
                let file = bytes(s);
                row.extend([
                    Cell::text(s.case.scenario.name()),
                    Cell::text(&s.label),
                    interval(peak, 1e-6),
                    file.map_or_else(|| Cell::text("—"), |file| Cell::number(file, short(file / 1e6))),
                    match (peak, file) {
                        (Some(peak), Some(file)) => {
                            Cell::number(peak.value / file, format!("{:.2}", peak.value / file))
                        }
                        _ => Cell::text("—"),
                    },
                    interval(s.figures.get("peak_device"), 1e-6),
                ]);
                row
            },
        );
    let columns = headed(
        "engine",
        &["scenario", "case", "most memory, MB", "file, MB", "times the file", "device memory, MB"],
    );
    let parts = table("Memory", &columns, rows.collect()).into_iter().collect();
    Section { heading: "Memory".into(), parts }
}

pub(super) fn long_context(record: &Record<'_>) -> Section {
    let rows = record.summaries.iter().filter(|s| s.case.scenario == Scenario::LongContext).map(|s| {
        let mut row = who(record, s);
        row.push(Cell::number(s.case.context as f64, s.case.context.to_string()));
        match &s.reason {
            Some(why) => row.extend([Cell::missing(why), Cell::text("—"), Cell::text("—"), Cell::text("—")]),
            None => row.extend([
                spread(s, "ttft_ms"),
                interval(prompt_rate(s).as_ref(), 1.0),
                spread(s, "tpot_ms"),
                interval(s.figures.get("peak_rss"), 1e-6),
            ]),
        }
        row
    });
    let columns = headed(
        "engine",
        &[
            "context",
            "first token, ms (median / p95 / p99)",
            "prompt, tokens/s",
            "per token at the end, ms",
            "most memory, MB",
        ],
    );
    let mut parts: Vec<Part> = table("Long context", &columns, rows.collect()).into_iter().collect();
    let at = |s: &Summary| Some((s.case.context as f64, prompt_rate(s)?));
    let (x, y) = (Axis::log("context, positions"), "prompt, tokens a second");
    let chart = curves(record, "Speed of a prompt over its length", x, y, Scenario::LongContext, &at);
    parts.extend(chart.map(Part::Chart));
    Section { heading: "Long context".into(), parts }
}

/// Tokens of the prompt by the time to the first token.
pub(super) fn prompt_rate(s: &Summary) -> Option<Interval> {
    let ttft = s.distributions.get("ttft_ms")?;
    let rate = |ms: f64| s.case.prompt_tokens as f64 * 1e3 / ms;
    (ttft.median > 0.0)
        .then(|| Interval { value: rate(ttft.median), ci95: (rate(ttft.ci95.1), rate(ttft.ci95.0)) })
}
