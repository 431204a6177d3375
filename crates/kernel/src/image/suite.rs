//! The benchmark suite on the console: summary for a person, records for a program.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use super::model::Loaded;
use super::options::{Options, Suite};
use crate::console;
use crate::console_line as line;
use crate::llm::benchmarks::{BenchmarkConfig, Clock, Results, Subject, run_benchmark_suite};
use crate::llm::pool::Team;
use crate::llm::simd::Kernels;

/// Runs what the command line asks for and prints the summary. The answer is whether every case gave a right answer.
pub fn run(
    options: &Options<'_>,
    filter: Option<&str>,
    loaded: Option<&Loaded>,
    kernels: &'static Kernels,
    team: &dyn Team,
    clock: &dyn Clock,
) -> Result<bool, String> {
    line!("benchmarks: each line is a case, with the median of its samples");
    let mut records = Records { print: options.json, inside: false };
    let results = measure(options, filter, loaded, kernels, team, clock, true, &mut records, &mut Console);
    if results.results.is_empty() && results.failures.is_empty() {
        let filter = filter.unwrap_or_default();
        return Err(alloc::format!("no benchmark case has a name with `{filter}` in it"));
    }
    // The console takes everything.
    let _ = results.print_summary(&mut Console);
    // A missed line is a figure, told in the summary; a wrong answer is an error.
    Ok(results.failures.is_empty())
}

/// Runs the cases and gives the results.
#[expect(clippy::too_many_arguments, reason = "what a suite needs, from three commands")]
pub fn measure(
    options: &Options<'_>,
    filter: Option<&str>,
    loaded: Option<&Loaded>,
    kernels: &'static Kernels,
    team: &dyn Team,
    clock: &dyn Clock,
    verbose: bool,
    records: &mut dyn Write,
    log: &mut dyn Write,
) -> Results {
    let environment: Vec<(&str, &str)> =
        options.environment.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let config = BenchmarkConfig {
        filter,
        instruction_counts: &options.counts,
        environment: &environment,
        verbose,
        micro_only: options.suite == Suite::Micro,
        ..BenchmarkConfig::default().for_emulator()
    };
    let mut subject = Subject::new(team).with_kernels(kernels);
    if let Some(loaded) = loaded {
        subject =
            subject.with_tokenizer(&loaded.name, &loaded.tokenizer).with_model(&loaded.name, &loaded.model);
    }
    run_benchmark_suite(&config, clock, &subject, records, log)
}

/// The console as a sink. Nothing is written to it while a case is measured.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        console::print(format_args!("{text}"));
        Ok(())
    }
}

/// Records on the console, each behind a mark that programs look for.
struct Records {
    print: bool,
    /// Whether the line has begun.
    inside: bool,
}

impl Write for Records {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !self.print {
            return Ok(());
        }
        for part in text.split_inclusive('\n') {
            if !self.inside {
                console::print(format_args!("@record "));
            }
            console::print(format_args!("{part}"));
            self.inside = !part.ends_with('\n');
        }
        Ok(())
    }
}
