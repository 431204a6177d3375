//! `barelm report`: a record as a page, or two side by side.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::compare::record::{self, Row, Scenario};
use crate::compare::summary::summarize;
use crate::failure::Failure;
use crate::output_file::OutputFile;
use crate::report::bars::{self, Bar};
use crate::report::contents::{Record, page, verify};
use crate::report::cost::Prices;
use crate::report::page::Page;
use crate::report::{difference, tensors};

/// Arguments of `barelm report`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The record, a file of JSON lines that `barelm compare` wrote, or a bench of tensor operations; with a second one of the former,
    /// what became faster and what slower.
    #[arg(required = true, num_args = 1..=2, value_name = "RECORD")]
    pub records: Vec<PathBuf>,
    /// Only compute every figure again from the samples, and fail where the record says another.
    #[arg(long, conflicts_with_all = ["html", "markdown", "csv", "svg"])]
    pub verify: bool,
    /// The page to write: one file that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// The text and the tables as Markdown; without any output it goes to standard output.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// A folder for the tables, a CSV file each.
    #[arg(long, value_name = "DIR")]
    pub csv: Option<PathBuf>,
    /// One picture: tokens a second of single requests.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Prices of machines, each with its source and date (TOML).
    #[arg(long, value_name = "FILE")]
    pub prices: Option<PathBuf>,
}

/// Writes what is asked for.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    if let [path] = &arguments.records[..] {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::because(path.display(), error))?;
        // What is wrong with a record of a comparison is said below.
        if let Some(page) = tensors::page(&text).or_else(|why| {
            let suite = text.lines().next().is_some_and(|line| line.contains("\"case\""));
            if suite { Err(Failure::because(path.display(), why)) } else { Ok(None) }
        })? {
            if arguments.verify || arguments.svg.is_some() {
                let why = "a record of a bench has no samples to verify or to draw".to_owned();
                return Err(Failure::because(path.display(), why));
            }
            return write_page(arguments, &page, out);
        }
    }
    let rows: Vec<Vec<Row>> =
        arguments.records.iter().map(|path| record::read(path)).collect::<Result<_, _>>()?;
    let mut records = Vec::new();
    for (path, rows) in arguments.records.iter().zip(&rows) {
        records.push(Record::new(rows).map_err(|why| Failure::because(path.display(), why))?);
    }
    if arguments.verify {
        return verified(arguments, &rows, out);
    }
    let prices = arguments.prices.as_deref().map_or_else(|| Ok(Prices::default()), Prices::read)?;
    let page = match &records[..] {
        [before, after] => difference::page(before, after),
        [only, ..] => page(only, &prices),
        [] => unreachable!("one record is required"),
    };
    if let Some(path) = &arguments.svg {
        let last = records.last().expect("one record is required");
        let svg = picture(last).ok_or_else(|| {
            Failure::Message("the record has no single requests, so there is nothing to draw".into())
        })?;
        write(path, &svg)?;
    }
    write_page(arguments, &page, out)
}

/// Writes a page in every form that is asked for; to `out` where none is.
fn write_page(arguments: &Arguments, page: &Page, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(path) = &arguments.html {
        write(path, &page.html())?;
    }
    if let Some(path) = &arguments.markdown {
        write(path, &page.markdown())?;
    }
    if let Some(folder) = &arguments.csv {
        std::fs::create_dir_all(folder).map_err(|error| Failure::because(folder.display(), error))?;
        for (name, text) in page.csv() {
            write(&folder.join(name), &text)?;
        }
    }
    if [&arguments.html, &arguments.markdown, &arguments.csv, &arguments.svg]
        .iter()
        .all(|path| path.is_none())
    {
        out.write_all(page.markdown().as_bytes())?;
    }
    Ok(())
}

fn verified(arguments: &Arguments, rows: &[Vec<Row>], out: &mut dyn Write) -> Result<(), Failure> {
    let mut wrong = 0;
    for (path, rows) in arguments.records.iter().zip(rows) {
        let found = verify(rows);
        for what in &found {
            writeln!(out, "{}: {what}", path.display())?;
        }
        if found.is_empty() {
            let count = summarize(rows).len();
            writeln!(out, "{}: {count} summaries, each as its samples give it", path.display())?;
        }
        wrong += found.len();
    }
    match wrong {
        0 => Ok(()),
        wrong => Err(Failure::Message(format!("{wrong} figures cannot be had from the samples"))),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let mut file = OutputFile::create(path, None)?;
    match file.write_all(text.as_bytes()) {
        Ok(()) => file.finish(),
        Err(error) => Err(file.failed(error)),
    }
}

/// Tokens a second of single requests, each engine with each file at its best number of threads; of several prompts the
/// longest.
fn picture(record: &Record<'_>) -> Option<String> {
    let single = || record.summaries.iter().filter(|s| s.case.scenario == Scenario::Single && s.best);
    let longest = single().map(|s| s.case.prompt_tokens).max()?;
    let mut engines: Vec<&str> = Vec::new();
    let bars = single().filter(|s| s.case.prompt_tokens == longest).filter_map(|s| {
        let color = engines.iter().position(|known| *known == s.engine).unwrap_or_else(|| {
            engines.push(&s.engine);
            engines.len() - 1
        });
        let speed = s.figures.get("output_tok_s")?;
        let range = Some([speed.ci95.0, speed.ci95.1]);
        Some(Bar { name: format!("{} {}", s.engine, s.class), value: speed.value, range, color })
    });
    let bars: Vec<Bar> = bars.collect();
    bars::svg(&format!("Tokens a second, one request of {longest} ids at a time"), "tokens/s", &bars)
}
