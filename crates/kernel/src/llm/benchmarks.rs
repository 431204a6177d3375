//! The benchmark suite: the same cases in `cargo bench`, in the kernel and in the comparison.
//!
//! Read in this order:
//! 1. [`clock`] is what a machine lends: ticks and event counters.
//! 2. [`case`](mod@case) is a case and how it is measured; [`stats`] describes its samples.
//! 3. [`micro`] holds the small cases.
//! 4. [`memory`] measures bandwidth, for speeds to be held against.
//! 5. [`end_to_end`] runs whole models: the caller's, and [`synthetic`] ones.
//! 6. [`targets`] are the lines results are held against; [`summary`] prints them, [`record`] stores them as JSON
//!    lines, [`regression`] compares two runs.
//!
//! A case states its work, checks its own answer (a wrong answer is a failure, not a fast result) and hides its
//! inputs from the optimizer. Where instructions are counted exactly, every iteration count is a constant.

pub mod case;
pub mod clock;
pub mod end_to_end;
pub mod memory;
pub mod micro;
pub mod record;
pub mod regression;
pub mod stats;
pub mod summary;
pub mod synthetic;
pub mod targets;

use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

pub use case::{Case, Effort, Measurement, Work, WrongAnswer, measure};
pub use clock::{Clock, ClockKind, Counter, CounterSample};
pub use regression::{Verdict, check_regression};
pub use stats::Stats;

pub use synthetic::ModelSize;

use super::model::Model;
use super::pool::Team;
use super::simd::{self, Kernels};
use super::tokenizer::Tokenizer;

/// How to run the suite.
#[derive(Clone, Copy, Debug)]
pub struct BenchmarkConfig<'a> {
    /// Calls of a case before its first sample.
    pub warmup_iterations: usize,
    /// Samples of a case.
    pub measurement_iterations: usize,
    /// Measure the vector kernels beside the scalar ones; without it only the scalar ones.
    pub use_simd: bool,
    /// Write every result to the log as soon as it is there.
    pub verbose: bool,
    /// Seconds for a micro-case, all its kernel tables together.
    pub micro_limit_s: f64,
    /// Passes of an end-to-end case before its first sample.
    pub end_to_end_warmup: usize,
    /// Samples of an end-to-end case, at least 3.
    pub end_to_end_iterations: usize,
    /// Seconds for an end-to-end case; three samples are taken however long they take.
    pub end_to_end_limit_s: f64,
    /// Tokens of the prompt of end-to-end cases, at least 2.
    pub prompt_tokens: usize,
    /// Bytes of each of the three arrays that memory bandwidth is measured on; well above the last cache's size.
    pub memory_bytes: usize,
    /// Synthetic models to run.
    pub synthetic: &'a [ModelSize],
    /// Run only the micro-cases: no whole models, no memory bandwidth.
    pub micro_only: bool,
    /// Run only cases whose name contains this.
    pub filter: Option<&'a str>,
    /// Retired instructions of cases, counted in another boot, for clocks without counters.
    ///
    /// The name is `case/table`, with table `none` where no table is involved; the number is the `instructions` of
    /// the record written under constant iteration counts: [`case::FIXED_SAMPLES`] samples of
    /// [`Measurement::exact_calls`].
    pub instruction_counts: &'a [(&'a str, u64)],
    /// Fields of the environment for the records: machine, toolchain, commit, model hash, date.
    pub environment: &'a [(&'a str, &'a str)],
}

impl Default for BenchmarkConfig<'_> {
    fn default() -> Self {
        Self {
            warmup_iterations: 100,
            measurement_iterations: 1000,
            use_simd: true,
            verbose: false,
            micro_limit_s: 2.0,
            end_to_end_warmup: 1,
            end_to_end_iterations: 30,
            end_to_end_limit_s: 5.0,
            prompt_tokens: 32,
            memory_bytes: 64 << 20,
            synthetic: &[ModelSize::Tiny, ModelSize::Small],
            micro_only: false,
            filter: None,
            instruction_counts: &[],
            environment: &[],
        }
    }
}

impl BenchmarkConfig<'_> {
    /// The same for an emulator, whose time is not judged: half the time limits, and end-to-end cases of 8 prompt
    /// tokens, 5 samples, no warm-up, 4 MiB.
    pub fn for_emulator(self) -> Self {
        Self {
            prompt_tokens: 8,
            micro_limit_s: self.micro_limit_s / 2.0,
            end_to_end_limit_s: self.end_to_end_limit_s / 2.0,
            end_to_end_warmup: 0,
            end_to_end_iterations: 5,
            memory_bytes: 4 << 20,
            ..self
        }
    }

    /// How a case that takes long is measured: one call a sample.
    fn end_to_end_effort(&self) -> Effort {
        Effort {
            warmup: self.end_to_end_warmup,
            samples: self.end_to_end_iterations.max(3),
            min_samples: 3,
            limit_s: self.end_to_end_limit_s,
            calls: Some(1),
        }
    }

    /// Whether the filter lets the case `name` through.
    pub fn wants(&self, name: &str) -> bool {
        self.filter.is_none_or(|filter| name.contains(filter))
    }
}

/// What the suite runs on: workers, kernels, and what the caller has loaded.
#[derive(Clone, Copy)]
pub struct Subject<'s> {
    team: &'s dyn Team,
    kernels: &'static Kernels,
    tokenizer: Option<(&'s str, &'s Tokenizer<'s>)>,
    model: Option<(&'s str, &'s Model<'s>)>,
}

impl<'s> Subject<'s> {
    /// A machine with `team`, and the best kernels it has.
    pub fn new(team: &'s dyn Team) -> Self {
        Self { team, kernels: simd::best(), tokenizer: None, model: None }
    }

    /// With these kernels instead of the best.
    pub fn with_kernels(self, kernels: &'static Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// Measures this tokenizer as well, as `tokenization/NAME`.
    pub fn with_tokenizer(self, name: &'s str, tokenizer: &'s Tokenizer<'s>) -> Self {
        Self { tokenizer: Some((name, tokenizer)), ..self }
    }

    /// Measures this model end to end, as `decode/NAME` and so on.
    pub fn with_model(self, name: &'s str, model: &'s Model<'s>) -> Self {
        Self { model: Some((name, model)), ..self }
    }
}

/// One measured case.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseResult {
    /// Its name; end-to-end cases add the model: `decode/tiny`.
    pub name: String,
    /// What a unit of its work is.
    pub unit: Cow<'static, str>,
    /// The kernel table that did the work, or `none`.
    pub kernels: Cow<'static, str>,
    /// What the name does not say: precision, prompt length, batch. May be empty.
    pub detail: String,
    /// Samples and what they say.
    pub measurement: Measurement,
}

/// A case without a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The case.
    pub name: String,
    /// The kernel table, or `none`.
    pub kernels: &'static str,
    /// Why, in words.
    pub reason: String,
}

/// What a run of the suite found.
#[derive(Clone, Debug)]
pub struct Results {
    /// Measured cases, in the order they ran.
    pub results: Vec<CaseResult>,
    /// Cases that failed.
    pub failures: Vec<Failure>,
    /// Lines to print below the whole-model results: what was run on what.
    pub notes: Vec<String>,
    /// The chosen kernel table.
    pub kernels: &'static str,
    /// Members of the team.
    pub cores: usize,
    /// Wall or emulated.
    pub clock: ClockKind,
    counted: Vec<(String, u64)>,
}

impl Results {
    /// The result of `case` with the kernel table `kernels`.
    pub fn find(&self, case: &str, kernels: &str) -> Option<&CaseResult> {
        self.results.iter().find(|r| r.name == case && r.kernels == kernels)
    }

    /// The result of `case` with the chosen table, or without any where none is involved.
    pub fn chosen(&self, case: &str) -> Option<&CaseResult> {
        self.find(case, self.kernels).or_else(|| self.find(case, "none"))
    }

    /// Retired instructions per unit of a result's work: counted in this run, or given from another.
    pub fn instructions_per_unit(&self, result: &CaseResult) -> Option<f64> {
        result.measurement.instructions_per_unit().or_else(|| {
            let (_, count) = self
                .counted
                .iter()
                .find(|(name, _)| name.rsplit_once('/') == Some((result.name.as_str(), &*result.kernels)))?;
            let m = &result.measurement;
            Some(*count as f64 / (m.exact_calls as f64 * case::FIXED_SAMPLES as f64 * m.work.units))
        })
    }
}

/// A run in progress: where results go.
struct Runner<'r, C: Clock + ?Sized> {
    config: &'r BenchmarkConfig<'r>,
    clock: &'r C,
    run: record::Run<'r>,
    records: &'r mut dyn fmt::Write,
    log: &'r mut dyn fmt::Write,
    results: Results,
}

impl<C: Clock + ?Sized> Runner<'_, C> {
    /// Measures `case` and keeps the result.
    fn measure(
        &mut self,
        name: &str,
        unit: &'static str,
        kernels: &'static str,
        effort: Effort,
        case: &mut dyn Case,
    ) {
        if let Some(measurement) = self.attempt(name, kernels, effort, case) {
            self.keep(name.to_string(), unit, kernels, String::new(), measurement);
        }
    }

    /// Measures `case`; a wrong answer becomes a failure.
    fn attempt(
        &mut self,
        name: &str,
        kernels: &'static str,
        effort: Effort,
        case: &mut dyn Case,
    ) -> Option<Measurement> {
        measure(self.clock, effort, case).map_err(|wrong| self.fail(name, kernels, wrong.to_string())).ok()
    }

    /// Records a result.
    fn keep(
        &mut self,
        name: String,
        unit: &'static str,
        kernels: &'static str,
        detail: String,
        measurement: Measurement,
    ) {
        if self.config.verbose {
            let s = &measurement.stats;
            let emulated = if measurement.emulated { " (emulated)" } else { "" };
            // Progress for a person; where the log takes nothing, the records and results still say it.
            let _ = writeln!(
                self.log,
                "  {name} ({kernels}): {:.1} ns per {unit}, {} samples{emulated}",
                s.median, s.samples
            );
        }
        let result = CaseResult { name, unit: unit.into(), kernels: kernels.into(), detail, measurement };
        if record::write_result(self.records, &self.run, &result).is_err() {
            self.fail(&result.name, kernels, "its record could not be written".to_string());
        }
        self.results.results.push(result);
    }

    fn fail(&mut self, name: &str, kernels: &'static str, reason: String) {
        let failure = Failure { name: name.to_string(), kernels, reason };
        // A sink that fails here has failed for the results too; the failure itself is in the summary.
        let _ = record::write_failure(self.records, &self.run, &failure);
        self.results.failures.push(failure);
    }
}

/// Runs the suite: records go to `records` line by line, progress (if verbose) to `log`.
pub fn run_benchmark_suite<C: Clock + ?Sized>(
    config: &BenchmarkConfig<'_>,
    clock: &C,
    subject: &Subject<'_>,
    records: &mut dyn fmt::Write,
    log: &mut dyn fmt::Write,
) -> Results {
    let cores = subject.team.size();
    let chosen = if config.use_simd { subject.kernels } else { simd::scalar() };
    let tables = [simd::scalar(), chosen];
    let tables = if chosen.name == "scalar" { &tables[..1] } else { &tables[..] };
    let results = Results {
        results: Vec::new(),
        failures: Vec::new(),
        notes: Vec::new(),
        kernels: chosen.name,
        cores,
        clock: clock.kind(),
        counted: config.instruction_counts.iter().map(|&(name, n)| (name.to_string(), n)).collect(),
    };
    let run = record::Run {
        clock: clock.kind(),
        ticks_per_second: clock.ticks_per_second(),
        cores,
        environment: config.environment,
    };
    let mut runner = Runner { config, clock, run, records, log, results };
    micro::run(&mut runner, subject, tables);
    if !config.micro_only {
        memory::run(&mut runner, subject);
        end_to_end::run(&mut runner, subject, chosen);
    }
    runner.results
}

#[cfg(test)]
mod tests;
