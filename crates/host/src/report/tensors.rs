//! The report of a record of the benchmark suite's lines: what the benches of tensor operations write with `--records`.
//!
//! Such a line holds statistics, not samples, so a ratio here is one of medians; the bench itself prints the median of ratios within
//! rounds, with its interval.

use serde_json::Value;

use super::chart::short;
use super::page::{Cell, Page, Part, Section, Table, Tone};

/// What contenders did in one case with so many threads.
struct Case<'v> {
    name: String,
    threads: u64,
    lines: Vec<&'v Value>,
}

/// The page of a record whose lines have no `kind`, as those of a comparison have; `None` of another.
///
/// # Errors
/// For a line that is none of the suite's.
pub fn page(text: &str) -> Result<Option<Page>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let values: Vec<Value> = lines
        .map(|(at, line)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", at + 1)))
        .collect::<Result<_, _>>()?;
    if values.first().is_none_or(|first| first.get("kind").is_some()) {
        return Ok(None);
    }
    let mut cases: Vec<Case<'_>> = Vec::new();
    for (at, value) in values.iter().enumerate() {
        let (Some(name), Some(threads)) = (value["case"].as_str(), value["cores"].as_u64()) else {
            return Err(format!("record {}: no line of the benchmark suite", at + 1));
        };
        // What is absent is named after its case.
        let name = if missing(value) { name.rsplit_once('/').map_or(name, |(case, _)| case) } else { name };
        match cases.iter_mut().find(|case| case.name == name && case.threads == threads) {
            Some(case) => case.lines.push(value),
            None => cases.push(Case { name: name.to_owned(), threads, lines: vec![value] }),
        }
    }
    let environment = |field: &str| values[0]["environment"][field].as_str().unwrap_or("unknown");
    let mut warnings = Vec::new();
    if environment("build") != "release" {
        warnings.push(format!("Built with {}: speeds say nothing.", environment("build")));
    }
    if environment("commit").ends_with("+changes") {
        warnings.push("Measured with changes that were not committed.".into());
    }
    let about = "Medians with their intervals of 95 %, of contenders that took turns; the first of each table is what the others are compared with. \
                 The limit was measured in the same rounds.";
    Ok(Some(Page {
        title: format!("Tensor operations on {}, {}", environment("machine"), environment("date")),
        warnings,
        summary: vec![about.to_owned()],
        sections: cases.iter().map(section).collect(),
    }))
}

fn missing(value: &Value) -> bool {
    value["outcome"] != "measured"
}

/// Median, and the ends of its interval.
fn median(value: &Value) -> Option<[f64; 3]> {
    let ns = &value["ns_per_unit"];
    Some([ns["median"].as_f64()?, ns["median_ci95"][0].as_f64()?, ns["median_ci95"][1].as_f64()?])
}

fn section(case: &Case<'_>) -> Section {
    let ours = case.lines.iter().find(|line| !missing(line)).and_then(|line| median(line));
    let rows = case.lines.iter().map(|line| {
        let Some([middle, low, high]) = median(line).filter(|_| !missing(line)) else {
            let name =
                line["case"].as_str().and_then(|name| name.rsplit_once('/')).map_or("", |(_, name)| name);
            let why = line["reason"].as_str().unwrap_or("no reason given");
            let mut row = vec![Cell::text(name), Cell::missing(format!("not here: {why}"))];
            row.resize(5, Cell::text("—"));
            return row;
        };
        let work = |field: &str| line["work_per_call"][field].as_f64().unwrap_or(0.0);
        let (done, unit) =
            if work("flops") > 0.0 { (work("flops"), "GFLOP/s") } else { (work("bytes"), "GB/s") };
        let rate = done / middle;
        // `limit 261.3 GFLOP/s: …`
        let limit = line["detail"].as_str().and_then(|detail| detail.strip_prefix("limit "));
        let limit =
            limit.and_then(|detail| detail.split(' ').next()).and_then(|word| word.parse::<f64>().ok());
        let share = limit.map_or_else(
            || Cell::text("—"),
            |limit| Cell::number(rate / limit, format!("{:.0} %", 100.0 * rate / limit)),
        );
        let times = ours.map_or_else(Cell::default, |[ours, ours_low, ours_high]| {
            let tone = match () {
                () if low > ours_high => Tone::Good,
                () if high < ours_low => Tone::Bad,
                () => Tone::Plain,
            };
            Cell::number(middle / ours, format!("{:.2}", middle / ours)).toned(tone)
        });
        let [ms, ms_low, ms_high] = [middle, low, high].map(|ns| short(ns / 1e6));
        vec![
            Cell::text(line["kernels"].as_str().unwrap_or("unknown")),
            Cell::number(middle / 1e6, format!("{ms} ({ms_low} to {ms_high})")),
            Cell::number(rate, format!("{} {unit}", short(rate))),
            share,
            times,
        ]
    });
    let columns = ["contender", "ms a call", "rate", "share of the limit", "times as long as the first"];
    let threads = if case.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", case.threads) };
    let heading = format!("{}, {threads}", case.name);
    let columns = columns.map(str::to_owned).to_vec();
    let table = Table { name: heading.clone(), columns, rows: rows.collect() };
    Section { heading, parts: vec![Part::Table(table)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"case":"b/matmul 512","kernels":"ours","cores":1,"outcome":"measured","detail":"limit 200.0 GFLOP/s: fma","work_per_call":{"flops":1000,"bytes":0},"ns_per_unit":{"median":10,"median_ci95":[9,11]},"environment":{"build":"release","machine":"M","date":"D"}}
{"case":"b/matmul 512","kernels":"theirs","cores":1,"outcome":"measured","detail":"limit 200.0 GFLOP/s: fma","work_per_call":{"flops":1000,"bytes":0},"ns_per_unit":{"median":20,"median_ci95":[19,21]}}
{"case":"b/matmul 512/MKL","kernels":"none","cores":1,"outcome":"failed","reason":"install it"}
{"case":"b/matmul 512","kernels":"ours","cores":2,"outcome":"measured","detail":"","work_per_call":{"flops":0,"bytes":50},"ns_per_unit":{"median":10,"median_ci95":[9,11]}}
"#;

    #[test]
    fn contenders_of_a_case_share_a_table_and_absent_ones_say_why() {
        let page = page(LINES).unwrap().unwrap();
        assert_eq!((page.title.as_str(), page.warnings.len()), ("Tensor operations on M, D", 0));
        let text = page.markdown();
        for part in [
            "b/matmul 512, 1 thread",
            "b/matmul 512, 2 threads",
            "50 %",
            "2.00",
            "not here: install it",
            "GB/s",
        ] {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
        let Part::Table(table) = &page.sections[0].parts[0] else { panic!("a table") };
        assert_eq!(table.rows.len(), 3);
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()));
        assert_eq!(table.rows[1][4].tone, Tone::Good);
    }

    #[test]
    fn other_records_are_not_taken_and_broken_ones_are_refused() {
        assert_eq!(page("{\"kind\":\"run\"}\n"), Ok(None));
        assert_eq!(page(""), Ok(None));
        for text in ["{", "{\"case\":1}", "{\"case\":\"x\"}", "[]", "3"] {
            assert!(page(text).is_err(), "{text}");
        }
    }
}
