//! Contenders for the same work, measured in turns.
//!
//! In each round every contender is sampled once, in an order that changes, and so is the limit. So a machine whose speed drifts
//! drifts for all of them, and ratios and shares are taken within rounds. What cannot run is a row that says why.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use barelm::llm::benchmarks::stats::Stats;
use barelm::llm::benchmarks::{CaseResult, ClockKind, CounterSample, Failure, Measurement, Work, record};
use barelm::llm::operations::{Function, Operations};
use barelm::llm::pool::Team;
use barelm::llm::shared::Shared;

/// One call's seconds, from calls for about as long as is asked for.
pub type Sampler<'a> = Box<dyn FnMut(Duration) -> Result<f64, String> + 'a>;

/// Who takes part.
pub struct Contender<'a> {
    /// Its name.
    pub name: String,
    /// What is absent says why, and how to get it.
    pub sampler: Result<Sampler<'a>, String>,
}

impl<'a> Contender<'a> {
    /// A contender in this process.
    pub fn new(name: &str, run: impl FnMut() + 'a) -> Self {
        Contender { name: name.to_owned(), sampler: Ok(timed(run)) }
    }

    /// A contender that is not here.
    pub fn absent(name: &str, why: impl Into<String>) -> Self {
        Contender { name: name.to_owned(), sampler: Err(why.into()) }
    }
}

/// Samples the mean time of as many calls as fill the duration, or of one where it is zero.
pub fn timed<'a>(mut run: impl FnMut() + 'a) -> Sampler<'a> {
    let mut calls = 0usize;
    Box::new(move |time| {
        if time.is_zero() {
            let start = Instant::now();
            run();
            return Ok(start.elapsed().as_secs_f64());
        }
        if calls == 0 {
            // The first call is warm-up; the second says how many fit.
            run();
            let start = Instant::now();
            run();
            let one = start.elapsed().as_secs_f64().max(1e-9);
            calls = ((time.as_secs_f64() / one) as usize).clamp(1, 1_000_000);
        }
        let start = Instant::now();
        for _ in 0..calls {
            run();
        }
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    })
}

/// What a share is taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Floating-point operations.
    Flops,
    /// Bytes moved.
    Bytes,
}

/// The same work for everyone.
#[derive(Clone, Debug)]
pub struct Task {
    /// Bench and case: the name in records.
    pub name: String,
    /// Floating-point operations of a call, or 0.
    pub flops: u64,
    /// Bytes that a call reads and writes at least, or 0.
    pub bytes: u64,
    /// Elements of the result where they are what is counted, or 0.
    pub elements: u64,
    /// Threads that contenders may use.
    pub threads: usize,
    /// What the source of the case expected, in words; may be empty.
    pub expected: String,
}

/// How much to measure, and where records go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Samples of each contender.
    pub rounds: usize,
    /// Length of a sample.
    pub sample: Duration,
    /// Only tasks whose name contains this.
    pub filter: Option<String>,
    /// A file that records are appended to.
    pub records: Option<PathBuf>,
    /// Cargo runs benches as tests with this: everything once.
    pub test: bool,
}

impl Settings {
    /// From the program's arguments: `[FILTER] [--rounds N] [--sample-ms N] [--records FILE]`.
    ///
    /// # Errors
    /// For a person.
    pub fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut settings = Settings {
            rounds: 15,
            sample: Duration::from_millis(10),
            filter: None,
            records: None,
            test: false,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            let number = |text: String| {
                text.parse::<u32>()
                    .ok()
                    .filter(|&n| n > 0)
                    .ok_or(format!("`{text}`: a number from 1 is wanted"))
            };
            match argument.as_str() {
                "--bench" => {}
                "--test" => settings.test = true,
                "--rounds" => settings.rounds = number(value()?)? as usize,
                "--sample-ms" => settings.sample = Duration::from_millis(number(value()?)?.into()),
                "--records" => settings.records = Some(value()?.into()),
                filter if !filter.starts_with('-') => settings.filter = Some(filter.to_owned()),
                other => {
                    return Err(format!(
                        "`{other}`: only [FILTER] --rounds N, --sample-ms N and --records FILE are known"
                    ));
                }
            }
        }
        if settings.test {
            (settings.rounds, settings.sample) = (1, Duration::ZERO);
        }
        Ok(settings)
    }

    /// From this program's arguments; ends it where they are wrong.
    pub fn from_env() -> Self {
        Self::from_arguments(std::env::args().skip(1)).unwrap_or_else(|error| {
            eprintln!("{error}");
            std::process::exit(2);
        })
    }

    /// Whether the filter lets a task through.
    pub fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }
}

/// What a contender did.
struct Outcome {
    name: String,
    /// Seconds of a call in each round, or why there are none.
    seconds: Result<Vec<f64>, String>,
}

/// Measures a task's contenders in turns, prints a table and writes records. The first contender is ours: ratios are how many
/// times the others' time ours takes less. `limit` samples what the machine can do, per second.
///
/// # Panics
/// Where records cannot be written: a run of minutes without them is lost.
pub fn run(
    settings: &Settings,
    task: &Task,
    contenders: Vec<Contender<'_>>,
    mut limit: Option<(&str, Of, &mut dyn FnMut() -> f64)>,
) {
    if !settings.wants(&task.name) {
        return;
    }
    let mut limits = Vec::new();
    let (mut names, mut samplers) = (Vec::new(), Vec::new());
    for contender in contenders {
        names.push(contender.name);
        samplers.push(contender.sampler.map(|sampler| (sampler, Vec::new())));
    }
    for round in 0..settings.rounds {
        if let Some((_, _, limit)) = &mut limit {
            limits.push(limit());
        }
        for turn in 0..samplers.len() {
            let at = (round + turn) % samplers.len();
            let sampled = match &mut samplers[at] {
                Ok((sampler, times)) => sampler(settings.sample).map(|seconds| times.push(seconds)),
                Err(_) => continue,
            };
            if let Err(why) = sampled {
                samplers[at] = Err(why);
            }
        }
    }
    let outcomes: Vec<Outcome> = names
        .into_iter()
        .zip(samplers)
        .map(|(name, result)| Outcome { name, seconds: result.map(|(_, times)| times) })
        .collect();
    let limit = limit.map(|(name, of, _)| (name, of, &limits[..]));
    print(task, &outcomes, limit);
    if let Some(path) = &settings.records {
        let mut text = String::new();
        write_records(task, &outcomes, limit, &mut text);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("records are written");
    }
}

/// Median with its interval.
fn interval(mut values: Vec<f64>, digits: usize) -> String {
    match Stats::from_samples(&mut values) {
        Some(s) => {
            format!("{:.digits$} [{:.digits$}, {:.digits$}]", s.median, s.median_low, s.median_high)
        }
        None => "none".to_owned(),
    }
}

fn work_per_second(task: &Task, of: Of, seconds: f64) -> f64 {
    (match of {
        Of::Flops => task.flops,
        Of::Bytes => task.bytes,
    }) as f64
        / seconds
}

fn print(task: &Task, outcomes: &[Outcome], limit: Option<(&str, Of, &[f64])>) {
    println!("\n### {}, {} thread{}", task.name, task.threads, if task.threads == 1 { "" } else { "s" });
    if !task.expected.is_empty() {
        println!("Expected: {}", task.expected);
    }
    if let Some((name, of, rates)) = limit {
        let unit = if of == Of::Flops { "GFLOP/s" } else { "GB/s" };
        println!("Limit: {name}, {} {unit}", interval(rates.iter().map(|rate| rate / 1e9).collect(), 1));
    }
    println!();
    let mut head = vec!["contender", "ms"];
    if task.flops > 0 {
        head.push("GFLOP/s");
    }
    if task.elements > 0 {
        head.push("GElements/s");
    }
    if task.bytes > 0 {
        head.push("GB/s");
    }
    if limit.is_some() {
        head.push("share of the limit, %");
    }
    head.push("ours is so many times as fast");
    println!("| {} |", head.join(" | "));
    println!("|---|{}", "---:|".repeat(head.len() - 1));
    let ours = outcomes.first().and_then(|first| first.seconds.as_ref().ok());
    for (at, outcome) in outcomes.iter().enumerate() {
        let seconds = match &outcome.seconds {
            Ok(seconds) => seconds,
            Err(why) => {
                println!("| {} | not here: {why} |{}", outcome.name, " |".repeat(head.len() - 2));
                continue;
            }
        };
        let rate = |work: u64| interval(seconds.iter().map(|s| work as f64 / s / 1e9).collect(), 2);
        let mut cells = vec![outcome.name.clone(), interval(seconds.iter().map(|s| s * 1e3).collect(), 3)];
        for work in [task.flops, task.elements, task.bytes] {
            if work > 0 {
                cells.push(rate(work));
            }
        }
        if let Some((_, of, rates)) = limit {
            let shares =
                seconds.iter().zip(rates).map(|(&s, rate)| 100.0 * work_per_second(task, of, s) / rate);
            cells.push(interval(shares.collect(), 1));
        }
        cells.push(match ours {
            Some(ours) if at > 0 => {
                interval(seconds.iter().zip(ours).map(|(theirs, ours)| theirs / ours).collect(), 3)
            }
            _ => String::new(),
        });
        println!("| {} |", cells.join(" | "));
    }
}

fn write_records(task: &Task, outcomes: &[Outcome], limit: Option<(&str, Of, &[f64])>, text: &mut String) {
    let environment = barelm_host::environment::describe(None);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let run = record::Run {
        clock: ClockKind::Wall,
        ticks_per_second: 1e9,
        cores: task.threads,
        environment: &environment,
    };
    for outcome in outcomes {
        let written = match &outcome.seconds {
            Ok(seconds) => {
                let mut ns: Vec<f64> = seconds.iter().map(|seconds| seconds * 1e9).collect();
                let Some(stats) = Stats::from_samples(&mut ns) else { continue };
                let detail = limit.map_or(String::new(), |(name, of, rates)| {
                    let mut rates = rates.to_vec();
                    rates.sort_by(f64::total_cmp);
                    let unit = if of == Of::Flops { "GFLOP/s" } else { "GB/s" };
                    format!("limit {:.1} {unit}: {name}", rates[rates.len() / 2] / 1e9)
                });
                let result = CaseResult {
                    name: task.name.clone(),
                    unit: "call".into(),
                    kernels: outcome.name.clone().into(),
                    detail,
                    measurement: Measurement {
                        stats,
                        calls: 1,
                        exact_calls: 1,
                        work: Work { units: 1.0, tokens: 0, bytes: task.bytes, flops: task.flops },
                        counters: CounterSample::none("contenders take turns in one process"),
                        emulated: false,
                        boxed: false,
                    },
                };
                record::write_result(text, &run, &result)
            }
            Err(why) => {
                let name = format!("{}/{}", task.name, outcome.name);
                record::write_failure(text, &run, &Failure { name, kernels: "none", reason: why.clone() })
            }
        };
        written.expect("a string takes everything");
    }
}

/// Bytes a second, read and written, of the fastest of a few copies of `x` by `team`: the C library's, and ours.
pub fn copy_rate(operations: &Operations, team: &dyn Team, x: &[f32], out: &mut [f32]) -> f64 {
    let mut least = f64::INFINITY;
    let mut time = |run: &mut dyn FnMut()| {
        for _ in 0..3 {
            let start = Instant::now();
            run();
            least = least.min(start.elapsed().as_secs_f64());
        }
    };
    time(&mut || operations.map(team, Function::Identity, x, out).expect("lengths agree"));
    let shared = Shared::new(out);
    time(&mut || {
        team.run(&|member| {
            let copy = |(): &mut (), pages: std::ops::Range<usize>| {
                let piece = pages.start * 1024..(pages.end * 1024).min(x.len());
                // SAFETY: what members claim does not overlap.
                unsafe { shared.write(piece.clone()) }.copy_from_slice(&x[piece]);
            };
            member.step(x.len().div_ceil(1024), || (), copy);
        });
    });
    8.0 * x.len() as f64 / least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Result<Settings, String> {
        Settings::from_arguments(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_read_and_wrong_ones_refused() {
        let settings = arguments("--bench matmul --rounds 3 --sample-ms 20 --records out.jsonl").unwrap();
        assert_eq!((settings.rounds, settings.sample), (3, Duration::from_millis(20)));
        assert!(settings.wants("x/matmul 3") && !settings.wants("x/attention"));
        assert_eq!(settings.records.unwrap().to_str(), Some("out.jsonl"));
        for (text, part) in [("--rounds", "needs a value"), ("--rounds 0", "from 1"), ("--fast", "only")] {
            assert!(arguments(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn records_of_contenders_read_back_and_absent_ones_are_failures() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let settings =
            Settings { records: Some(path.clone()), ..arguments("--rounds 4 --sample-ms 1").unwrap() };
        let task = Task {
            name: "bench/case".into(),
            flops: 10,
            bytes: 20,
            elements: 0,
            threads: 1,
            expected: String::new(),
        };
        let mut broken = 0;
        let contenders = vec![
            Contender::new("ours", || std::thread::sleep(Duration::from_micros(50))),
            Contender::absent("theirs", "install it"),
            Contender {
                name: "breaks".into(),
                sampler: Ok(Box::new(|_| {
                    broken += 1;
                    if broken < 3 { Ok(1.0) } else { Err("broke".into()) }
                })),
            },
        ];
        run(&settings, &task, contenders, Some(("nothing", Of::Flops, &mut || 1e9)));
        let text = std::fs::read_to_string(&path).unwrap();
        let records = barelm_host::records::parse(&text).unwrap();
        assert_eq!(records.len(), 1);
        let result = &records[0].result;
        assert_eq!((result.name.as_str(), &*result.kernels), ("bench/case", "ours"));
        assert_eq!((result.measurement.stats.samples, result.measurement.work.flops), (4, 10));
        assert!(result.measurement.stats.min >= 50_000.0);
        assert_eq!(result.detail, "limit 1.0 GFLOP/s: nothing");
        assert!(text.contains("bench/case/theirs") && text.contains("install it"), "{text}");
        assert!(text.contains("bench/case/breaks") && text.contains("\"reason\":\"broke\""), "{text}");
    }
}
