//! Rows of a record: what was measured, on what, by what, with every sample.
//!
//! A record is a file of JSON lines in `benches/records/DATE-MACHINE/`. Rows are only ever appended; everything that a report
//! shows is computed from them by [`summary`](super::summary). `docs/llm/record.schema.json` describes every line, those of the
//! benchmark suite too, which have no `kind`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use barelm_protocol::{Batching, Hello};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// Version of the rows' fields. It grows when one changes its meaning.
pub const SCHEMA: u32 = 1;

/// A line of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Row {
    /// What was to be measured, on which machine. The first line.
    Run(Run),
    /// An engine: who it is, or why it is not measured.
    Engine(EngineRow),
    /// One engine with one case in one round.
    Visit(Visit),
    /// How far an engine's answers are from exact arithmetic.
    Quality(Quality),
    /// Whether generated tokens are those of the model.
    AnswerCheck(AnswerCheck),
    /// A single operation.
    Op(OpRow),
    /// An engine's figures of one case, from all rounds. At the end, and again after a resumed run: the last one counts.
    Summary(Summary),
}

/// A run of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When and by what: the fields of the benchmark suite's records.
    pub environment: Map<String, Value>,
    /// The command with its arguments.
    pub command: Vec<String>,
    /// Processors that the engines may use.
    pub affinity: Vec<usize>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// What the machine can do, measured with all threads: bytes read, 8-bit and f32 operations a second.
    pub limits: BTreeMap<String, f64>,
    /// Short cases, for a first look: not for publication.
    pub quick: bool,
    /// Rounds that were planned.
    pub rounds: usize,
    /// What was planned to take, in seconds.
    pub planned_s: f64,
    /// What a request may take for goodput, in milliseconds: to its first token, and per token behind it.
    pub goodput_limits_ms: (f64, f64),
    /// Engines that are no engines took part: tests. A report refuses such a record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fake: bool,
}

/// An engine of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineRow {
    /// Its name in this project: [`Known::name`](super::registry::Known::name), with `:LABEL` for a second form.
    pub name: String,
    /// What it says of itself; absent where it could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello: Option<Hello>,
    /// How it was started.
    pub command: Vec<String>,
    /// SHA-256 of its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_sha256: Option<String>,
    /// Why it was not measured: not built, with the command that builds it, or unable to run here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// The engine in a row that was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineId {
    /// As in [`EngineRow::name`].
    pub name: String,
    /// Its own name and version.
    pub version: String,
    /// What it computes on.
    pub device: String,
    /// How it treats several requests.
    pub batching: Batching,
    /// CPU features that its code uses: what it was built for.
    pub build: Vec<String>,
    /// Its settings: those of its greeting, and where that does not say them those that `engines.json` knows. `kernels` among them
    /// is the path its arithmetic takes; `kv_type`, `flash_attention` and `cuda_graphs` are read by [`Attending`](super::attending::Attending).
    pub settings: BTreeMap<String, String>,
    /// Why this build is slower than it could be: such a row gets no ratio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crippled: Option<String>,
}

/// The model in a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelId {
    /// File name without its ending.
    pub name: String,
    /// Of the file.
    pub sha256: String,
    /// Type of most of its weights, as GGUF names it.
    pub format: String,
    /// Weights of one class may be compared: `f32`, `16-bit`, `8-bit`, `6-bit`, `5-bit`, `4-bit`.
    pub class: String,
    /// Of the file.
    pub bytes: u64,
    /// Its weights.
    pub parameters: u64,
    /// Bytes of matrices that a token goes through.
    pub token_bytes: u64,
    /// Elements of matrices that a token goes through: two operations each.
    pub token_elements: u64,
}

/// The scenarios of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// One request at a time, prompts of several lengths.
    Single,
    /// Many requests in flight for minutes.
    Sustained,
    /// Numbers of requests in flight, or of arrivals a second.
    Concurrent,
    /// Memory and bandwidth over models and batches.
    Memory,
    /// Long prompts.
    LongContext,
}

impl Scenario {
    /// All, in their order.
    pub const ALL: [Self; 5] =
        [Self::Single, Self::Sustained, Self::Concurrent, Self::Memory, Self::LongContext];

    /// Its number, from 1.
    pub fn number(self) -> usize {
        self as usize + 1
    }

    /// As in records.
    pub fn name(self) -> &'static str {
        ["single", "sustained", "concurrent", "memory", "long_context"][self as usize]
    }

    /// The one with this number or name.
    pub fn find(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|scenario| scenario.name() == word || scenario.number().to_string() == word)
    }
}

/// How requests arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// So many are always in flight: the next is sent when one is done.
    #[default]
    Closed,
    /// At random, so many a second on average, whatever the engine does. Times count from the intended arrival.
    Poisson {
        /// Requests a second.
        per_s: f64,
    },
}

/// What is asked for: cases with the same fields are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Of which it is a part.
    pub scenario: Scenario,
    /// Ids of each prompt.
    pub prompt_tokens: usize,
    /// Tokens of each answer.
    pub output_tokens: usize,
    /// Requests in flight at most.
    pub in_flight: usize,
    /// How they arrive.
    pub arrival: Arrival,
    /// Positions that the engine has room for in each sequence.
    pub context: usize,
    /// Threads of the engine.
    pub threads: usize,
}

impl Case {
    /// For tables: `prompt 50`, `16 in flight`, `4/s`, `context 4096`.
    pub fn label(&self) -> String {
        let arrival = match self.arrival {
            Arrival::Closed => format!("{} in flight", self.in_flight),
            Arrival::Poisson { per_s } => format!("{per_s}/s"),
        };
        match self.scenario {
            Scenario::Single => format!("prompt {}", self.prompt_tokens),
            Scenario::LongContext => format!("context {}", self.context),
            Scenario::Sustained | Scenario::Concurrent | Scenario::Memory => arrival,
        }
    }
}

/// How a visit ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has samples, and nothing was wrong with them.
    #[default]
    Measured,
    /// The engine failed or its answers are wrong: its samples do not count.
    Failed,
    /// The engine says that it cannot do this case; out of memory is one reason.
    Refused,
    /// Whoever measured was stopped; the samples until then count.
    Interrupted,
}

/// One engine with one case in one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Visit {
    /// From 0. A repeated round has the number of the one it stands for, and a higher [`Visit::attempt`].
    pub round: usize,
    /// From 0.
    pub attempt: usize,
    /// Its place in the round's order.
    pub place: usize,
    /// The engine.
    pub engine: EngineId,
    /// The model.
    pub model: ModelId,
    /// What was asked for.
    pub case: Case,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, where it is not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why the round does not count: others used the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contended: Option<String>,
    /// From the request to the model being there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_ns: Option<u64>,
    /// Time to the first token of the first request behind the load, which is not among the samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_request_ns: Option<u64>,
    /// Every request of the steady state, in the order they were sent.
    pub requests: Vec<Sample>,
    /// What each prompt was answered with: all requests of a prompt were, unless [`Visit::varied`] says otherwise.
    pub answers: Vec<Answer>,
    /// Requests whose ids differ from the first of the same prompt.
    #[serde(default)]
    pub varied: usize,
    /// Nanoseconds from the first request being sent to the last one's end.
    pub elapsed_ns: u64,
    /// Median deviation of the engine's clock from ours, as a share of a request's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_deviation: Option<f64>,
    /// Processors, memory, energy.
    pub telemetry: Telemetry,
}

impl Visit {
    /// Whether it has samples that nothing is wrong with.
    pub fn measured(&self) -> bool {
        matches!(self.outcome, Outcome::Measured | Outcome::Interrupted) && !self.requests.is_empty()
    }

    /// Whether they count: nobody else used the machine.
    pub fn counts(&self) -> bool {
        self.measured() && self.contended.is_none()
    }
}

/// One request. Times are nanoseconds from the visit's first sending.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its prompt's place in [`Visit::answers`].
    pub prompt: usize,
    /// When it should have been sent; waiting for the engine counts from here.
    pub intended_ns: u64,
    /// When it was sent.
    pub sent_ns: u64,
    /// When its tokens were chosen: the first, and then the time between each and the one before.
    pub token_ns: Vec<u64>,
    /// When its answer was complete by our clock.
    pub done_ns: u64,
    /// Of the time before the first token: waiting inside the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_ns: Option<u64>,
}

impl Sample {
    /// From the intended arrival to the first token.
    pub fn ttft_ns(&self) -> Option<f64> {
        Some(self.token_ns.first()?.saturating_sub(self.intended_ns) as f64)
    }

    /// Per token behind the first; absent where there is none.
    pub fn tpot_ns(&self) -> Option<f64> {
        let further = self.token_ns.get(1..).filter(|further| !further.is_empty())?;
        Some(further.iter().sum::<u64>() as f64 / further.len() as f64)
    }

    /// Between two tokens.
    pub fn itl_ns(&self) -> impl Iterator<Item = f64> + '_ {
        self.token_ns.iter().skip(1).map(|&ns| ns as f64)
    }

    /// From the intended arrival to the last token.
    pub fn e2e_ns(&self) -> Option<f64> {
        let last: u64 = self.token_ns.iter().sum();
        (!self.token_ns.is_empty()).then(|| last.saturating_sub(self.intended_ns) as f64)
    }
}

/// A prompt's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Seed of the prompt's ids ([`random_ids`](crate::prompt::random_ids)).
    pub seed: u64,
    /// The generated ids.
    pub ids: Vec<u32>,
}

/// What the system says of a visit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Telemetry {
    /// Processor time of the engine, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<f64>,
    /// Processor time of whoever measures, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harness_cpu_s: Option<f64>,
    /// Largest resident memory of the engine, mapped files included, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss: Option<u64>,
    /// Seconds from the start and resident bytes then.
    pub rss: Vec<(f64, u64)>,
    /// Energy of the processor packages, in joules; why there is none is in [`Telemetry::missing`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_j: Option<f64>,
    /// Samples of the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device: Vec<DeviceSample>,
    /// What could not be read, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missing: BTreeMap<String, String>,
}

/// A device at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceSample {
    /// Seconds from the start.
    pub t_s: f64,
    /// Share of the time in which any kernel ran, as the driver counts it, from 0 to 1.
    pub utilization: f64,
    /// Bytes in use.
    pub memory: u64,
    /// Degrees Celsius.
    pub temperature: f64,
    /// Watts.
    pub power_w: f64,
    /// Joules since the driver was loaded; 0 where it does not count.
    pub energy_j: f64,
}

/// How far an engine's answers are from exact arithmetic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// The engine.
    pub engine: EngineId,
    /// The model.
    pub model: ModelId,
    /// Of the text whose continuation was judged.
    pub ids: Vec<u32>,
    /// Mean Kullback-Leibler divergence from F32 arithmetic on the same file's weights, in nats: the lower bound that the
    /// tokens named by the engine give. Absent where it gives no logits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// The same at each position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kl_samples: Vec<f64>,
    /// Tokens where the engine chose another than F32 arithmetic though the margin was clear, of how many with a clear
    /// margin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1_wrong: Option<(usize, usize)>,
    /// Mean divergence of the file's weights, in F32 arithmetic, from those of the file it was made from; absent where that
    /// is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization_kl: Option<f64>,
    /// Why there is no figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// Why the engine computes another model: all its rows with this one have then failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<String>,
}

/// Generated tokens, held against exact arithmetic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerCheck {
    /// The engine's [`EngineId::name`].
    pub engine: String,
    /// Of the model's file.
    pub model_sha256: String,
    /// What was asked for.
    pub case: Case,
    /// Seed of the prompt.
    pub seed: u64,
    /// The generated ids.
    pub ids: Vec<u32>,
    /// By how many nats each is less likely than the likeliest, given those before it.
    pub gaps: Vec<f64>,
    /// Why the row has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<String>,
}

impl AnswerCheck {
    /// Judges the ids by their gaps, whose mean may be so large.
    pub fn set(&mut self, gaps: Vec<f64>, most: f64) {
        let mean = gaps.iter().sum::<f64>() / gaps.len().max(1) as f64;
        // Not above the limit, so that what is no number is wrong.
        let right = mean <= most;
        self.wrong =
            (!right).then(|| format!("wrong answer: its tokens are {mean:.2} nats from the likeliest"));
        self.gaps = gaps.into_iter().map(|gap| gap.min(1e3)).collect();
    }
}

/// A single operation of an engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpRow {
    /// The engine.
    pub engine: EngineId,
    /// As in `docs/llm/PROTOCOL.md`.
    pub name: String,
    /// Sizes that are not the defaults.
    pub params: BTreeMap<String, Value>,
    /// Whether the answer was right; a wrong one is a failure however fast it is.
    pub outcome: Outcome,
    /// Why there is no figure: not expressible, or wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Nanoseconds of a call.
    pub samples_ns: Vec<f64>,
}

/// What a set of samples says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "names of statistics")]
pub struct Distribution {
    pub samples: usize,
    pub mean: f64,
    pub median: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub min: f64,
    pub max: f64,
    pub sd: f64,
    /// Standard deviation as a share of the mean.
    pub cv: f64,
    /// Interval (95 %) of the mean of the rounds' medians: Student's t over rounds, and no narrower than a bootstrap within them.
    pub ci95: (f64, f64),
}

/// A figure with its interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The figure.
    pub value: f64,
    /// Interval (95 %): Student's t over rounds, and no narrower than a bootstrap within them.
    pub ci95: (f64, f64),
}

/// An engine's figures of one case, from all rounds that count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The engine's [`EngineId::name`].
    pub engine: String,
    /// Its own name and version.
    pub version: String,
    /// What it computes on.
    pub device: String,
    /// How it treats several requests.
    pub batching: Batching,
    /// The model's name.
    pub model: String,
    /// Of the file.
    pub model_sha256: String,
    /// Weights of one class may be compared.
    pub class: String,
    /// The case.
    pub case: Case,
    /// [`Case::label`].
    pub label: String,
    /// Why there are no figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Rounds that count, of those run.
    pub rounds: (usize, usize),
    /// No round was undisturbed: the figures are those of rounds in which others used the machine, and there are no ratios.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disturbed: bool,
    /// No other number of threads gives this engine more tokens a second in the case.
    pub best: bool,
    /// Distributions by name: `ttft_ms`, `tpot_ms`, `itl_ms`, `e2e_ms`, `queued_ms`, `load_ms`, `first_request_ms`.
    pub distributions: BTreeMap<String, Distribution>,
    /// Figures by name: `output_tok_s`, `requests_per_hour`, `goodput_per_s`, `peak_rss`, `rss_slope_per_min`, `cpu_share`,
    /// `read_gb_s`, `mbu`, `mfu`, `joules_per_token`, and on a device `device_utilization`, `peak_device`.
    pub figures: BTreeMap<String, Interval>,
    /// How many times as fast ours is with as many threads, by name: `ttft`, `tpot`, `e2e`, `throughput`. Only with the same
    /// file, and not of crippled builds.
    pub ours_times: BTreeMap<String, Interval>,
    /// The same of both at their best numbers of threads, where this is this engine's.
    pub ours_times_best: BTreeMap<String, Interval>,
    /// Fewer samples than wanted, rounds that were dropped, answers that varied: what a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// A record's file, open for more rows.
pub struct Writer {
    path: PathBuf,
    file: std::fs::File,
}

impl Writer {
    /// Opens the file at `path` to append to, and creates it and its folder where they are not there.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let refused = |error: std::io::Error| Failure::because(path.display(), error);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(refused)?;
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(refused)?;
        Ok(Writer { path: path.to_owned(), file })
    }

    /// Appends a row, which is then in the file whatever happens to this process.
    pub fn write(&mut self, row: &Row) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(row).expect("rows are JSON");
        line.push(b'\n');
        self.file.write_all(&line).map_err(|error| Failure::because(self.path.display(), error))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads the rows of a file. A last line that was cut off, as by a power failure, is left out.
pub fn read(path: &Path) -> Result<Vec<Row>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::because(path.display(), error))?;
    parse(&text).map_err(|why| Failure::because(path.display(), why))
}

/// [`read`] of a text.
pub fn parse(text: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str::<Row>(line) {
            Ok(row) => rows.push(row),
            Err(_) if at + 1 == text.lines().count() && !text.ends_with('\n') => {}
            Err(error) => return Err(format!("line {}: {error}", at + 1)),
        }
    }
    match rows.first() {
        Some(Row::Run(run)) if run.schema == SCHEMA => Ok(rows),
        Some(Row::Run(run)) => Err(format!("a record of schema {}, not {SCHEMA}", run.schema)),
        _ => Err("the first line is no `run`: this is no record of a comparison".into()),
    }
}

/// The last figures that a record carries for the same engine, model and case.
fn carried<'r>(rows: &'r [Row], of: &Summary) -> Option<&'r Summary> {
    rows.iter().rev().find_map(|row| match row {
        Row::Summary(summary) => summary.is_of(of).then_some(summary),
        _ => None,
    })
}

/// Where the figures that a record carries are not these, which were computed from its samples.
pub fn differing(rows: &[Row], computed: &[Summary]) -> Vec<String> {
    let mut differing = Vec::new();
    for summary in computed {
        if let Some(carried) = carried(rows, summary).filter(|carried| *carried != summary) {
            let fields = carried.fields_unlike(summary).join(", ");
            differing.push(format!(
                "{}: the record's figures are not those of its samples ({fields})",
                summary.title()
            ));
        }
    }
    for row in rows {
        if let Row::Summary(summary) = row
            && !computed.iter().any(|computed| computed.is_of(summary))
        {
            differing.push(format!("{}: figures without samples", summary.title()));
        }
    }
    differing
}

/// The figures that the record does not have, or has otherwise.
pub fn stale<'s>(rows: &[Row], computed: &'s [Summary]) -> Vec<&'s Summary> {
    computed.iter().filter(|summary| carried(rows, summary) != Some(summary)).collect()
}

/// What a record has samples of and no figures, as after an interruption.
pub fn without_figures(rows: &[Row], computed: &[Summary]) -> Vec<String> {
    let without = computed.iter().filter(|summary| carried(rows, summary).is_none());
    without.map(|summary| format!("{}: the record has samples and no figures", summary.title())).collect()
}

impl Summary {
    /// Whether both are figures of the same engine, model and case.
    pub fn is_of(&self, other: &Self) -> bool {
        (&self.engine, &self.model_sha256, &self.case) == (&other.engine, &other.model_sha256, &other.case)
    }

    /// For messages: engine, model, threads and case.
    pub fn title(&self) -> String {
        format!("{} with {}, {} threads, {}", self.engine, self.model, self.case.threads, self.label)
    }

    /// Names of the fields in which two differ.
    fn fields_unlike(&self, other: &Self) -> Vec<String> {
        let json = |summary: &Self| serde_json::to_value(summary).expect("rows are JSON");
        let (ours, other) = (json(self), json(other));
        let fields = other.as_object().expect("a summary is an object");
        fields.keys().filter(|name| ours[name.as_str()] != other[name.as_str()]).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
