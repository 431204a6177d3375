//! Sections about the machine and the method: limits, quality, cost, operations, what was measured and how.

use std::collections::BTreeMap;

use crate::compare::attending::Attending;
use crate::compare::record::{DeviceSample, OpRow, Outcome, Scenario};
use crate::compare::stats::distribution;
use crate::report::chart::{Axis, Chart, Mark, Point, Series, add, short};
use crate::report::cost::{self, Prices};
use crate::report::page::{Cell, Part, Section, Tone};

use super::requests::prompt_rate;
use super::{Record, table};

/// Operations a second over operations a byte: which ceiling an engine is under, and how near.
pub(super) fn roofline(record: &Record<'_>) -> Section {
    let limit = |name: &str| record.run.limits.get(name).copied();
    let mut series: Vec<Series> = Vec::new();
    let mut put = |name: String, color: usize, point: Point| add(&mut series, name, color, Mark::Dots, point);
    for s in record.of(Scenario::Single).filter(|s| s.best && s.device == "cpu") {
        let Some(model) =
            record.visits().find(|visit| visit.model.sha256 == s.model_sha256).map(|v| &v.model)
        else {
            continue;
        };
        let ops = 2.0 * model.token_elements as f64;
        let bytes = (model.token_bytes as f64).max(1.0);
        let name = record.line(&s.engine, &s.class, &s.model);
        if let Some(tpot) = s.distributions.get("tpot_ms") {
            let point = Point::new(ops / bytes, ops * 1e3 / tpot.median);
            put(
                name.clone(),
                record.color(&s.engine),
                Point { note: format!("{}, answer", s.model), ..point },
            );
        }
        if let Some(found) = prompt_rate(s) {
            let point = Point::new(ops * s.case.prompt_tokens as f64 / bytes, ops * found.value);
            let note = format!("{}, prompt of {}", s.model, s.case.prompt_tokens);
            put(name, record.color(&s.engine), Point { note, ..point });
        }
    }
    if series.is_empty() {
        return Section::default();
    }
    let right = series.iter().flat_map(|s| &s.points).map(|p| p.x).fold(1.0, f64::max) * 2.0;
    for (name, color, peak) in [("8-bit peak", 6, "int8_ops_s"), ("f32 peak", 7, "f32_ops_s")] {
        if let (Some(read), Some(peak)) = (limit("read_bytes_s"), limit(peak)) {
            let points =
                [0.3, peak / read, right.max(peak / read)].map(|x| Point::new(x, (x * read).min(peak)));
            series.push(Series { name: name.into(), color, mark: Mark::Limit, points: points.to_vec() });
        }
    }
    let chart = Chart {
        title: "Roofline: matrix operations a second over operations per byte of weights, under the bandwidth and the peaks measured in this run".into(),
        x: Axis::log("operations per byte of weights"),
        y: Axis::log("operations a second"),
        series,
    };
    let about = Part::Text(
        "Prompts count every weight once, as if the whole prompt were one pass; attention is not counted. A point above the slope has its weights in the cache.".into(),
    );
    Section { heading: "Roofline".into(), parts: vec![about, Part::Chart(chart)] }
}

pub(super) fn quality(record: &Record<'_>) -> Section {
    let rows = record.qualities().map(|q| {
        let number =
            |value: Option<f64>| value.map_or_else(|| Cell::text("—"), |v| Cell::number(v, short(v)));
        let mut row = vec![Cell::text(&q.engine.name), Cell::text(&q.model.name), Cell::text(&q.model.class)];
        row.push(match (&q.missing, q.kl) {
            _ if q.wrong.is_some() => Cell::text(q.wrong.clone().unwrap_or_default()).toned(Tone::Bad),
            (Some(why), None) => Cell::missing(why),
            (_, kl) => number(kl),
        });
        row.push(match q.top1_wrong {
            Some((wrong, of)) => {
                let tone = if wrong > 0 { Tone::Bad } else { Tone::Plain };
                Cell::number(wrong as f64, format!("{wrong} of {of}")).toned(tone)
            }
            None => Cell::text("—"),
        });
        row.push(number(q.quantization_kl));
        row
    });
    let columns = [
        "engine",
        "model",
        "class",
        "divergence from F32 arithmetic, nats",
        "other token though the margin is clear",
        "lost by the file's quantization, nats",
    ];
    let mut parts: Vec<Part> = table("Quality", &columns, rows.collect()).into_iter().collect();
    let mut series: Vec<Series> = Vec::new();
    for q in record.qualities() {
        let single = record
            .of(Scenario::Single)
            .find(|s| s.best && s.engine == q.engine.name && s.model_sha256 == q.model.sha256);
        let (Some(s), Some(kl)) = (single, q.kl) else { continue };
        let Some(speed) = s.figures.get("output_tok_s") else { continue };
        let memory = s.figures.get("peak_rss").map(|rss| format!(", {} MB", short(rss.value / 1e6)));
        let note = format!("{}{}", s.model, memory.unwrap_or_default());
        let point = Point { x: speed.value, y: kl.max(1e-9), range: None, note };
        let name = record.line(&s.engine, &s.class, &s.model);
        add(&mut series, name, record.color(&s.engine), Mark::Dots, point);
    }
    if !series.is_empty() {
        parts.push(Part::Chart(Chart {
            title: "Quality against speed: lower and further right is better; memory is in each dot's note"
                .into(),
            x: Axis::log("tokens a second, single request"),
            y: Axis::log("divergence from F32 arithmetic, nats"),
            series,
        }));
    }
    Section { heading: "Quality".into(), parts }
}

pub(super) fn costs(record: &Record<'_>, prices: &Prices) -> Section {
    let mut speeds: Vec<(String, f64)> = Vec::new();
    let many = |scenario| record.of(scenario).filter(|s| s.best);
    let best = many(Scenario::Sustained).chain(many(Scenario::Concurrent)).chain(many(Scenario::Single));
    for s in best {
        let Some(speed) = s.figures.get("output_tok_s") else { continue };
        let name = format!("{} ({})", record.line(&s.engine, &s.class, &s.model), s.device);
        match speeds.iter_mut().find(|(known, _)| *known == name) {
            Some((_, most)) => *most = most.max(speed.value),
            None => speeds.push((name, speed.value)),
        }
    }
    if speeds.is_empty() {
        return Section::default();
    }
    let machine = record.environment("machine");
    let price = prices.of(machine);
    let said = match price {
        Some(price) => format!(
            "An hour of `{machine}` is taken as {} {} ({}, {}).",
            price.per_hour, price.currency, price.source, price.date
        ),
        None => format!(
            "No price of `{machine}` is given, so cost is drawn over the price of an hour. Put yours, with source and date, into a file for --prices."
        ),
    };
    let rows = speeds.iter().map(|(name, speed)| {
        let cost = match price {
            Some(price) => {
                let cost = cost::per_million(price.per_hour, *speed);
                Cell::number(cost, format!("{} {}", short(cost), price.currency))
            }
            None => Cell::text("—"),
        };
        let hour = cost::per_million(1.0, *speed);
        vec![Cell::text(name), Cell::number(*speed, short(*speed)), Cell::number(hour, short(hour)), cost]
    });
    let columns = [
        "engine",
        "tokens/s, most in any case",
        "a million tokens at 1 an hour",
        "a million tokens at the price",
    ];
    let mut parts = vec![Part::Text(said)];
    parts.extend(table("Cost", &columns, rows.collect()));
    parts.push(Part::Chart(cost::chart(&speeds)));
    let fastest = |device: &str| {
        let of = speeds.iter().filter(|(name, _)| name.ends_with(&format!("({device})")));
        of.map(|(_, speed)| *speed)
            .fold(None, |most: Option<f64>, speed| Some(most.map_or(speed, |m| m.max(speed))))
    };
    parts.push(Part::Text(match (fastest("cpu"), fastest("cuda")) {
        (Some(cpu), Some(cuda)) => format!(
            "Break-even: the fastest engine on the GPU gives {} times the tokens of the fastest on the CPU, so it costs as much a token where its hour costs {0} times as much.",
            short(cost::break_even(cpu, cuda))
        ),
        _ => "Break-even of CPU and GPU: this record has only one of them.".into(),
    }));
    Section { heading: "Cost".into(), parts }
}

pub(super) fn operations(record: &Record<'_>) -> Section {
    let mut names: Vec<(String, String)> = Vec::new();
    let mut engines: Vec<&str> = Vec::new();
    let params = |op: &OpRow| {
        let words = op.params.iter().map(|(name, value)| format!("{name}={value}"));
        words.collect::<Vec<_>>().join(" ")
    };
    for op in record.ops() {
        let key = (op.name.clone(), params(op));
        if !names.contains(&key) {
            names.push(key);
        }
        if !engines.contains(&op.engine.name.as_str()) {
            engines.push(&op.engine.name);
        }
    }
    let rows = names.iter().map(|(name, with)| {
        let mut row = vec![Cell::text(name), Cell::text(with)];
        row.extend(engines.iter().map(|engine| {
            let found =
                record.ops().find(|op| op.engine.name == *engine && op.name == *name && params(op) == *with);
            match found {
                None => Cell::text("—"),
                Some(op) if op.outcome != Outcome::Measured => {
                    let why = op.reason.clone().unwrap_or_default();
                    let tone = if op.outcome == Outcome::Failed { Tone::Bad } else { Tone::Missing };
                    Cell::missing(why).toned(tone)
                }
                Some(op) => match distribution(std::slice::from_ref(&op.samples_ns)) {
                    Some(d) => Cell::number(d.median, short(d.median)),
                    None => Cell::text("—"),
                },
            }
        }));
        row
    });
    let columns: Vec<&str> = ["operation", "sizes"].into_iter().chain(engines.iter().copied()).collect();
    let mut parts: Vec<Part> =
        table("Operations, ns a call (medians)", &columns, rows.collect()).into_iter().collect();
    if !parts.is_empty() {
        parts.insert(0, Part::Text("The benchmark suite's own cases, as each engine expresses them; a wrong answer is a failure however fast it is.".into()));
    }
    Section { heading: "Single operations".into(), parts }
}

/// Every engine with every model: what is there, and why not.
pub(super) fn matrix(record: &Record<'_>) -> Section {
    let mut models: Vec<(&str, &str)> = Vec::new();
    for s in &record.summaries {
        if !models.iter().any(|(hash, _)| *hash == s.model_sha256) {
            models.push((&s.model_sha256, &s.model));
        }
    }
    let rows = record.engines().map(|engine| {
        let hello = engine.hello.as_ref();
        let mut row = vec![
            Cell::text(&engine.name),
            Cell::text(hello.map_or("—".into(), |hello| format!("{} {}", hello.engine, hello.version))),
            Cell::text(hello.map_or("—", |hello| hello.device.as_str())),
        ];
        row.extend(models.iter().map(|(hash, _)| {
            if let Some(why) = &engine.missing {
                return Cell::missing(why);
            }
            let of =
                || record.summaries.iter().filter(|s| s.engine == engine.name && s.model_sha256 == *hash);
            let measured = of().filter(|s| s.reason.is_none()).count();
            match (measured, of().count()) {
                (_, 0) => Cell::missing("not asked for"),
                (0, _) => Cell::missing(of().find_map(|s| s.reason.clone()).unwrap_or_default()),
                (measured, all) if measured == all => Cell::text(format!("{all} cases")),
                (measured, all) => {
                    let why = of().find_map(|s| s.reason.clone()).unwrap_or_default();
                    Cell::text(format!("{measured} of {all} cases; {why}"))
                }
            }
        }));
        row
    });
    let columns: Vec<&str> =
        ["engine", "version", "device"].into_iter().chain(models.iter().map(|(_, name)| *name)).collect();
    let parts = table("What was measured, and what was not", &columns, rows.collect()).into_iter().collect();
    Section { heading: "What was measured, and what was not".into(), parts }
}

pub(super) fn method(record: &Record<'_>) -> Section {
    let run = record.run;
    let mut facts = vec![
        format!(
            "Machine: {}, {}, kernel {}",
            record.environment("machine"),
            record.environment("platform"),
            record.environment("kernel")
        ),
        format!(
            "BareLM {} at {}, {}",
            record.environment("version"),
            record.environment("commit"),
            record.environment("toolchain")
        ),
        format!("Date: {}", record.environment("date")),
        format!(
            "{} rounds, engines in a new random order in each, one resident at a time; processors {:?}",
            run.rounds, run.affinity
        ),
    ];
    for (name, value) in &run.limits {
        facts.push(format!("Measured limit {name}: {}", short(*value)));
    }
    let devices: Vec<&DeviceSample> = record.visits().flat_map(|visit| &visit.telemetry.device).collect();
    if !devices.is_empty() {
        facts.push(format!("{} samples of the device", devices.len()));
    }
    let harness = record.summaries.iter().filter_map(|s| s.figures.get("harness_cpu_share")).map(|f| f.value);
    if let Some(most) =
        harness.fold(None, |most: Option<f64>, share| Some(most.map_or(share, |m| m.max(share))))
    {
        facts.push(format!("Whoever measured used {:.2} % of a processor at most", most * 100.0));
    }
    let clocks = record.visits().filter_map(|visit| visit.clock_deviation);
    if let Some(most) = clocks.fold(None, |most: Option<f64>, d| Some(most.map_or(d, |m: f64| m.max(d)))) {
        facts.push(format!("Engines' clocks differ from the measuring one by {:.3} % at most", most * 100.0));
    }
    let mut missing: BTreeMap<&str, &str> = BTreeMap::new();
    for visit in record.visits() {
        missing.extend(visit.telemetry.missing.iter().map(|(name, why)| (name.as_str(), why.as_str())));
    }
    facts.extend(missing.iter().map(|(name, why)| format!("Not read: {name} ({why})")));
    let mut parts = vec![Part::List(facts), Part::Code(run.command.join(" "))];
    let rows = record.engines().filter_map(|engine| {
        let hello = engine.hello.as_ref()?;
        let settings = hello.settings.iter().map(|(name, value)| format!("{name}={value}"));
        Some(vec![
            Cell::text(&engine.name),
            Cell::text(&hello.version),
            Cell::text(hello.compiled.join(" ")),
            Cell::text(settings.collect::<Vec<_>>().join(" ")),
            Cell::text(hello.crippled.clone().unwrap_or_default()),
            Cell::text(engine.program_sha256.as_deref().map_or("—", |hash| &hash[..hash.len().min(12)])),
        ])
    });
    let attending = record.engines().filter(|engine| engine.hello.is_some()).map(|engine| {
        let Attending { device, kv_type, flash_attention, cuda_graphs } =
            Attending::of(record.rows, &engine.name);
        [engine.name.clone(), device, kv_type, flash_attention, cuda_graphs].map(Cell::text).into()
    });
    let words = ["engine", "device", "KV type", "flash attention", "CUDA graphs"];
    parts.extend(table("Cache and attention", &words, attending.collect()));
    let columns = ["engine", "version", "built for", "settings", "crippled", "program (SHA-256)"];
    parts.extend(table("Engines", &columns, rows.collect()));
    let mut remarks: Vec<String> = record
        .summaries
        .iter()
        .flat_map(|s| {
            s.remarks.iter().map(move |remark| format!("{}, {}, {}: {remark}", s.engine, s.model, s.label))
        })
        .collect();
    remarks.dedup();
    if !remarks.is_empty() {
        parts.push(Part::Text("Remarks on rows:".into()));
        parts.push(Part::List(remarks));
    }
    Section { heading: "Method and machine".into(), parts }
}
