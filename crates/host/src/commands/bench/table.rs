//! Speeds as a table in Markdown, as JSON or as CSV.

use std::io::Write;

use barelm::llm::benchmarks::stats::percentile;
use barelm::llm::gguf::Gguf;
use barelm::llm::transformer::Session;
use serde_json::{Value, json};

use super::speed::Format;
use crate::environment;
use crate::failure::Failure;
use crate::model_file::ModelFile;

/// One repetition of a test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// What was reached.
    pub tokens_s: f64,
    /// What the machine reached just before: bytes or operations a second.
    pub rate: f64,
    /// Tokens a second that `rate` would allow.
    pub limit: Option<f64>,
}

/// One test with all its repetitions.
#[derive(Clone, Debug)]
pub(super) struct Row {
    threads: usize,
    batch: usize,
    kernels: &'static str,
    test: String,
    depth: usize,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens generated.
    pub tokens: usize,
    /// Bytes a generated token reads at least.
    pub bytes: Option<f64>,
    /// Operations of a prompt's token on quantized and on float matrices.
    pub operations: Option<[f64; 2]>,
    /// The instruction that products' limit was measured with.
    pub instruction: Option<&'static str>,
    /// Tokens guessed at most in a pass.
    pub draft: usize,
    /// Tokens guessed in all repetitions, and those that were right.
    pub guessed: Option<(usize, usize)>,
    /// Speed over that without guesses.
    pub speed_up: Option<f64>,
    samples: Vec<Sample>,
}

impl Row {
    pub(super) fn new(session: &Session<'_>, repetitions: usize, test: String, depth: usize) -> Self {
        Row {
            threads: session.config().members,
            batch: session.config().batch,
            kernels: session.kernels().name,
            test: if depth == 0 { test } else { format!("{test} @ d{depth}") },
            depth,
            prompt: 0,
            tokens: 0,
            bytes: None,
            operations: None,
            instruction: None,
            draft: 0,
            guessed: None,
            speed_up: None,
            samples: Vec::with_capacity(repetitions),
        }
    }

    /// Keeps a repetition, except the first, which warms up.
    pub(super) fn take(&mut self, repetition: usize, sample: Sample) {
        if repetition > 0 {
            self.samples.push(sample);
        }
    }

    /// The middle of the speeds.
    pub(super) fn median(&self) -> f64 {
        self.quartiles(|sample| Some(sample.tokens_s))[1]
    }

    /// First quartile, median and third quartile of a figure, interpolated; NaN where there is none.
    fn quartiles(&self, figure: impl Fn(&Sample) -> Option<f64>) -> [f64; 3] {
        let mut figures: Vec<_> = self.samples.iter().filter_map(figure).collect();
        figures.sort_unstable_by(f64::total_cmp);
        if figures.is_empty() {
            return [f64::NAN; 3];
        }
        [25.0, 50.0, 75.0].map(|p| percentile(&figures, p))
    }

    fn share(&self) -> Option<f64> {
        let share = self.quartiles(|sample| Some(sample.tokens_s / sample.limit?))[1];
        share.is_finite().then_some(share)
    }

    fn rate(&self) -> f64 {
        self.quartiles(|sample| Some(sample.rate))[1]
    }

    /// The limit as a person reads it.
    fn shown_limit(&self) -> String {
        let (rate, limit) = (self.rate(), self.quartiles(|sample| sample.limit)[1]);
        if !limit.is_finite() {
            return "-".into();
        }
        let unit = if self.bytes.is_some() { "GB/s" } else { "Gop/s" };
        format!("{limit:.0} ({:.*} {unit})", usize::from(rate < 1e11), rate / 1e9)
    }

    fn shown_test(&self) -> String {
        match (self.guessed, self.speed_up) {
            (Some((drafted, accepted)), Some(speed_up)) => {
                format!("{}: {accepted} of {drafted} right, {speed_up:.2}x", self.test)
            }
            _ => self.test.clone(),
        }
    }

    /// Names and values, llama-bench's where it has the same.
    fn fields(&self) -> Vec<(&'static str, Value)> {
        let [q1, median, q3] = self.quartiles(|sample| Some(sample.tokens_s));
        let speeds: Vec<_> = self.samples.iter().map(|sample| sample.tokens_s).collect();
        let mean = speeds.iter().sum::<f64>() / speeds.len() as f64;
        let squares: f64 = speeds.iter().map(|speed| (speed - mean) * (speed - mean)).sum();
        let stddev = (squares / (speeds.len().max(2) - 1) as f64).sqrt();
        let [int8, float] = self.operations.map_or([None; 2], |operations| operations.map(Some));
        vec![
            ("test", json!(self.test)),
            ("kernels", json!(self.kernels)),
            ("n_threads", json!(self.threads)),
            ("n_batch", json!(self.batch)),
            ("n_prompt", json!(self.prompt)),
            ("n_gen", json!(self.tokens)),
            ("n_depth", json!(self.depth)),
            ("n_draft", json!(self.draft)),
            ("median_ts", json!(median)),
            ("q1_ts", json!(q1)),
            ("q3_ts", json!(q3)),
            ("avg_ts", json!(mean)),
            ("stddev_ts", json!(stddev)),
            ("limit_ts", json!(self.share().map(|_| self.quartiles(|sample| sample.limit)[1]))),
            ("share_of_limit", json!(self.share())),
            ("read_bytes_s", json!(self.bytes.map(|_| self.rate()))),
            ("peak_ops_s", json!(self.operations.map(|_| self.rate()))),
            ("peak_instruction", json!(self.instruction)),
            ("bytes_per_token", json!(self.bytes)),
            ("int8_ops_per_token", json!(int8)),
            ("f32_ops_per_token", json!(float)),
            ("drafted", json!(self.guessed.map(|(drafted, _)| drafted))),
            ("accepted", json!(self.guessed.map(|(_, accepted)| accepted))),
            ("speed_up", json!(self.speed_up)),
            ("samples_ts", json!(speeds)),
        ]
    }
}

/// What is printed, row by row.
pub(super) struct Table {
    format: Format,
    rows: usize,
    model: String,
    size: u64,
    parameters: u64,
    /// In front of every object and line; empty for Markdown.
    environment: Vec<(String, String)>,
}

impl Table {
    pub(super) fn new(format: Format, file: &ModelFile, gguf: &Gguf<'_>) -> Self {
        Table {
            format,
            rows: 0,
            model: file.path().file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            size: gguf.tensors().map(|tensor| tensor.size_bytes).sum(),
            parameters: gguf.tensors().map(|tensor| tensor.dims.iter().product::<u64>()).sum(),
            environment: match format {
                Format::Md => Vec::new(),
                _ => environment::describe(Some(file)),
            },
        }
    }

    pub(super) fn begin(&self, out: &mut dyn Write) -> Result<(), Failure> {
        match self.format {
            Format::Md => {
                writeln!(
                    out,
                    "| model | size | params | kernels | threads | test | t/s | quartiles | limit t/s | share |\n\
                     |---|---:|---:|---|---:|---|---:|---:|---:|---:|"
                )?;
                out.flush()?;
            }
            Format::Json => write!(out, "[")?,
            Format::Csv => (),
        }
        Ok(())
    }

    pub(super) fn row(&mut self, row: &Row, out: &mut dyn Write) -> Result<(), Failure> {
        match self.format {
            Format::Md => {
                let [q1, median, q3] = row.quartiles(|sample| Some(sample.tokens_s));
                writeln!(
                    out,
                    "| {} | {:.1} MiB | {:.1} M | {} | {} | {} | {median:.1} | {q1:.1} to {q3:.1} | {} | {} |",
                    self.model,
                    self.size as f64 / (1 << 20) as f64,
                    self.parameters as f64 / 1e6,
                    row.kernels,
                    row.threads,
                    row.shown_test(),
                    row.shown_limit(),
                    row.share().map_or_else(|| "-".into(), |share| format!("{:.0} %", 100.0 * share)),
                )?;
            }
            Format::Json => {
                let separator = if self.rows == 0 { "\n" } else { ",\n" };
                let object: serde_json::Map<_, _> =
                    self.fields(row).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                write!(out, "{separator}{}", Value::Object(object))?;
            }
            Format::Csv => {
                let fields = self.fields(row);
                let line = |texts: Vec<String>| texts.join(",");
                if self.rows == 0 {
                    writeln!(out, "{}", line(fields.iter().map(|(name, _)| (*name).to_owned()).collect()))?;
                }
                writeln!(out, "{}", line(fields.into_iter().map(|(_, value)| csv(&value)).collect()))?;
            }
        }
        self.rows += 1;
        // A row may be a minute's work, and the next one may be interrupted.
        Ok(out.flush()?)
    }

    pub(super) fn end(&self, out: &mut dyn Write) -> Result<(), Failure> {
        match self.format {
            Format::Md => writeln!(
                out,
                "\nSpeeds are medians. Limit: memory's bandwidth (tg) or the peak of products (pp), measured before each \
                 repetition with as many threads."
            )?,
            Format::Json => writeln!(out, "\n]")?,
            Format::Csv => (),
        }
        Ok(())
    }

    fn fields<'t>(&'t self, row: &Row) -> Vec<(&'t str, Value)> {
        let environment = self.environment.iter().map(|(name, value)| (name.as_str(), json!(value)));
        let model =
            [("model_size", json!(self.size)), ("model_n_params", json!(self.parameters))].into_iter();
        environment.chain(model).chain(row.fields()).collect()
    }
}

/// A value as a cell: numbers in quotation marks too, as llama-bench has them, nothing for null, lists with blanks.
fn csv(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace('"', "\"\""),
        Value::Array(values) => values.iter().map(Value::to_string).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    format!("\"{text}\"")
}
