//! `barelm bench` in its two modes: the benchmark suite of the library, with the system's clock and threads, and the
//! speed of one model as peers' tools measure it (`speed`, which prints through `table`).

mod profile;
mod prompts;
mod speed;
mod table;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use barelm::llm::benchmarks::{BenchmarkConfig, ModelSize, Subject, run_benchmark_suite};
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::tokenizer::Tokenizer;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::setup::SessionArguments;
use crate::clock::SystemClock;
use crate::environment;
use crate::failure::Failure;
use crate::model_file::ModelFile;
use crate::output_file::OutputFile;
use crate::records::{self, Record};

/// Arguments of `barelm bench`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A GGUF file: measured besides the suite's synthetic models, or alone with `--speed`.
    pub model: Option<PathBuf>,
    /// Threads to compute with (default: all cores); several numbers with commas for the speed.
    #[arg(long, short, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Vec<u16>,
    /// Instruction set to compute with; the suite compares it with the scalar kernels (default: the best one here).
    #[arg(long, value_name = "NAME")]
    pub kernels: Option<String>,
    /// The suite's own options.
    #[command(flatten)]
    pub suite: SuiteArguments,
    /// The options of the speed.
    #[command(flatten)]
    pub speed: speed::SpeedArguments,
}

/// Options that belong to the suite.
#[derive(Args, Debug)]
#[group(id = "suite", multiple = true)]
#[command(next_help_heading = "Suite")]
pub struct SuiteArguments {
    /// Run only the cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Write a record of each case to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// What the record cannot know by itself, as the image's word `env=`: `energy_mj_per_token:812` and `energy_meter:NAME`,
    /// say.
    #[arg(long, value_name = "KEY:VALUE", requires = "json", value_parser = environment::given)]
    pub env: Vec<(String, String)>,
    /// Compare with the records in this file; a case that is slower beyond noise fails the command.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Compare the records in this file with the baseline, and run nothing.
    #[arg(long, value_name = "FILE", requires = "baseline", conflicts_with_all = ["model", "filter", "json"])]
    pub current: Option<PathBuf>,
    /// Run only the small cases: no whole models, no memory bandwidth.
    #[arg(long)]
    pub micro: bool,
    /// Calls of a case before its first sample.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub warmup: usize,
    /// Samples of a case, as far as its time allows.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: u32,
    /// Measure only the scalar kernels.
    #[arg(long, conflicts_with = "kernels")]
    pub no_simd: bool,
    /// Seeded models without meaning to measure, separated by commas.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_value = "tiny,small", value_parser = size_parser())]
    pub synthetic: Vec<Option<ModelSize>>,
    /// Tokens of the prompt of whole-model cases.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(2..=1024))]
    pub prompt_tokens: u16,
    /// Write every result to standard error as soon as it is there.
    #[arg(long, short)]
    pub verbose: bool,
}

fn size_parser() -> impl TypedValueParser<Value = Option<ModelSize>> {
    let names = ModelSize::ALL.into_iter().map(ModelSize::name).chain(["none"]);
    PossibleValuesParser::new(names).map(|name| ModelSize::ALL.into_iter().find(|size| size.name() == name))
}

/// Runs the suite, or measures the speed.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    if arguments.speed.wanted() {
        let model =
            arguments.model.as_deref().ok_or("the speed of which model? name a GGUF file".to_owned())?;
        return speed::run(model, &arguments.threads, arguments.kernels.as_deref(), &arguments.speed, out);
    }
    match arguments.threads[..] {
        [] => suite(arguments, None, out),
        [threads] => suite(arguments, Some(threads), out),
        _ => Err(Failure::Message("the suite takes one number of threads; add --speed for several".into())),
    }
}

/// Runs the suite and prints its summary; wrong answers and missed lines fail the command.
fn suite(arguments: &Arguments, threads: Option<u16>, out: &mut dyn Write) -> Result<(), Failure> {
    let options = &arguments.suite;
    let baseline = options.baseline.as_deref().map(records::read).transpose()?;
    if let (Some(baseline), Some(current)) = (&baseline, &options.current) {
        return compare(baseline, &records::read(current)?, out);
    }
    // The clock first: its counters cover only threads that start after it.
    let clock = SystemClock::new();
    let session = SessionArguments { threads, kernels: arguments.kernels.clone(), batch: None };
    let kernels = session.kernels()?;
    let team = session.team()?;
    let file = arguments.model.as_deref().map(ModelFile::open).transpose()?;
    let gguf = file.as_ref().map(ModelFile::parse).transpose()?;
    let refused = |error: &dyn fmt::Display| match &arguments.model {
        Some(path) => Failure::because(path.display(), error),
        None => Failure::Message(error.to_string()),
    };
    let tokenizer = gguf.as_ref().map(Tokenizer::from_gguf).transpose().map_err(|error| refused(&error))?;
    let model = gguf.as_ref().map(|gguf| Model::load(gguf, LoadConfig::default())).transpose();
    let model = model.map_err(|error| refused(&error))?;
    let name = arguments.model.as_ref().and_then(|path| path.file_stem()).unwrap_or_default();
    let name = name.to_string_lossy();

    let mut subject = Subject::new(&team).with_kernels(kernels);
    if let Some(tokenizer) = &tokenizer {
        subject = subject.with_tokenizer(&name, tokenizer);
    }
    if let Some(model) = &model {
        subject = subject.with_model(&name, model);
    }
    let environment = environment::with_given(environment::describe(file.as_ref()), &options.env)?;
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let synthetic: Vec<_> = options.synthetic.iter().copied().flatten().collect();
    let config = BenchmarkConfig {
        warmup_iterations: options.warmup,
        measurement_iterations: options.iterations as usize,
        use_simd: !options.no_simd,
        verbose: options.verbose,
        prompt_tokens: options.prompt_tokens.into(),
        synthetic: &synthetic,
        micro_only: options.micro,
        filter: options.filter.as_deref(),
        environment: &environment,
        ..BenchmarkConfig::default()
    };
    // Before the long work, so that a path that cannot be written does not cost it.
    let create = |path| OutputFile::create(path, arguments.model.as_deref());
    let json = options.json.as_deref().map(create).transpose()?;
    let mut written = String::new();
    let mut log = Stderr;
    let results = run_benchmark_suite(&config, &clock, &subject, &mut written, &mut log);
    if results.results.is_empty() && results.failures.is_empty() {
        let filter = options.filter.as_deref().unwrap_or_default();
        return Err(Failure::Message(format!("no case has a name with `{filter}` in it")));
    }
    if let Some(mut json) = json {
        json.write_all(written.as_bytes()).map_err(|error| json.failed(error))?;
        json.finish()?;
    }
    let mut summary = String::new();
    results
        .print_summary(&mut summary)
        .map_err(|_| Failure::Message("the summary cannot be written".into()))?;
    out.write_all(summary.as_bytes())?;
    if let Some(baseline) = &baseline {
        compare(baseline, &records::parse(&written)?, out)?;
    }
    if results.passed() { Ok(()) } else { Err(Failure::Message("the suite failed: see the summary".into())) }
}

/// Prints `current` beside `baseline`; what is worse is a failure.
fn compare(baseline: &[Record], current: &[Record], out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(last) = baseline.last() {
        let commit = if last.commit.is_empty() { "unknown" } else { &last.commit };
        writeln!(
            out,
            "compared with {} records, the last of {}, commit {commit}:",
            baseline.len(),
            last.date
        )?;
    }
    let comparison = records::compare(baseline, current);
    write!(out, "{comparison}")?;
    if comparison.passed() {
        Ok(())
    } else {
        Err(Failure::Message("worse than the baseline, or nothing to compare".into()))
    }
}

/// Standard error as a text sink. What cannot be written there is lost: it is progress, not a result.
struct Stderr;

impl fmt::Write for Stderr {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let _ = std::io::stderr().write_all(text.as_bytes());
        Ok(())
    }
}
