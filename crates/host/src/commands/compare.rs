//! `barelm compare`: the engines people choose between, on this machine, with numbers to trust.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;

use crate::compare::models::{Subject, default_models};
use crate::compare::process::{EngineCommand, Patience};
use crate::compare::record::{self, EngineRow, Row, Run, SCHEMA, Scenario, Writer};
use crate::compare::registry::{Known, folders, known};
use crate::compare::run::{Contender, Engines, Plan, Runner, greet};
use crate::compare::scenario::Effort;
use crate::compare::show::table;
use crate::compare::summary::summarize;
use crate::compare::{found, machine};
use crate::environment;
use crate::failure::Failure;
use crate::team::default_threads;

/// What a first look may take if nothing else is said. Slow engines need more than their share, and load for longer than is planned: 8
/// minutes planned became 16 with six engines; 13 became 26 with seven, one of them built twice.
const QUICK_BUDGET: Duration = Duration::from_secs(8 * 60);

/// Rounds that a budget leaves at least, unless --rounds says more or fewer.
const LEAST_ROUNDS: usize = 3;

/// Arguments of `barelm compare`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// GGUF files (default: SmolLM2-135M as Q8_0 and F32, made in the cache from the model of `cargo xtask setup`).
    pub models: Vec<PathBuf>,
    /// Short cases for a first look, 20 s each; its record is marked as not for publication.
    #[arg(long)]
    pub quick: bool,
    /// Engines to measure beside ours, by name (default: all that are built).
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub engines: Vec<String>,
    /// One more engine: NAME=PROGRAM with its arguments behind blanks, which speaks docs/llm/PROTOCOL.md.
    #[arg(long, value_name = "NAME=PROGRAM")]
    pub engine: Vec<String>,
    /// Measure ours against itself: the ratio's interval should contain 1.
    #[arg(long = "self")]
    pub itself: bool,
    /// Scenarios by number or name: 1 single, 2 sustained, 3 concurrent, 4 memory, 5 long_context (default: all).
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    pub scenarios: Vec<String>,
    /// Numbers of threads for single requests; all else takes the largest (default: the number of cores, and without --quick 1, 2, 4, … too).
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Vec<u16>,
    /// Rounds, each with the engines in another order; every second one turns the order around (default: 4, with --quick 3).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// Requests that a case should have over all rounds.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Shorten the cases so that all of it takes about this long, and where that is not enough measure fewer of them, in three
    /// rounds: 30m, 2h, 90s (default of --quick: 8m).
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub budget: Option<Duration>,
    /// Length of a sustained case in a round (default: 5m): 60s, 5m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub sustained: Option<Duration>,
    /// Limits of a good request, in milliseconds: to its first token, and per token behind it.
    #[arg(long, value_name = "TTFT,TPOT", value_delimiter = ',', default_value = "1000,100")]
    pub goodput: Vec<f64>,
    /// Folder of the record (default: benches/records/DATE-MACHINE).
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the record in --out, leaving out what it has.
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// Measure nothing: show this record, its figures computed anew from its samples.
    #[arg(long, value_name = "RECORD", conflicts_with_all = ["quick", "engines", "engine", "itself", "resume"])]
    pub from: Option<PathBuf>,
    /// With --from: append the figures as this version computes them from the samples, where the record has others.
    #[arg(long, requires = "from")]
    pub refresh: bool,
    /// How long an engine may say nothing while it has a request, in seconds.
    #[arg(long, value_name = "S", default_value_t = 300)]
    pub patience: u64,
    /// Seed of the order of engines.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print what would be measured and how long it would take, and measure nothing.
    #[arg(long)]
    pub plan: bool,
    /// Engines of tests take part: the record is marked, and no report accepts it.
    #[arg(long, hide = true)]
    pub fake: bool,
}

/// `30m`, `2h`, `90s`, `90`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1.0),
        Some((at, 'm')) => (&text[..at], 60.0),
        Some((at, 'h')) => (&text[..at], 3600.0),
        _ => (text, 1.0),
    };
    let seconds = number.parse::<f64>().ok().filter(|n| *n > 0.0 && *n < 1e7);
    seconds
        .map(|n| Duration::from_secs_f64(n * unit))
        .ok_or_else(|| "a time such as 30m, 2h or 90s is wanted".into())
}

/// Measures, records and shows.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(path) = &arguments.from {
        return replay(path, arguments.refresh, out);
    }
    let bar = std::io::stderr().is_terminal();
    let mut progress = |what: &str| match bar {
        true => eprint!("\r\x1b[K{what}"),
        false => eprintln!("{what}"),
    };
    let [ttft, tpot] = arguments.goodput[..] else {
        return Err(Failure::Message("--goodput: two numbers are wanted, such as 1000,100".into()));
    };
    let (mut plan, missing) = plan(arguments, &mut progress)?;
    let stop = stop_flag();
    let (path, mut rows) = record_so_far(arguments)?;
    let (engines, greeted) = greet(&plan, &mut progress);
    let full = plan.estimate(&engines);
    let budget = arguments.budget.or(arguments.quick.then_some(QUICK_BUDGET));
    if let Some(budget) = budget {
        let rounds = if arguments.rounds.is_some() { plan.effort.rounds } else { LEAST_ROUNDS };
        plan.effort = plan.within(budget.as_secs_f64(), rounds, &engines);
    }
    let planned_s = plan.estimate(&engines);
    print_plan(&plan, &engines, missing.iter().chain(&greeted), (full, planned_s), budget);
    if arguments.plan {
        return Ok(());
    }
    let limits = machine::limits(plan.threads.iter().copied().max().unwrap_or(1))?;
    let mut writer = Writer::open(&path)?;
    let header = Row::Run(Run {
        schema: SCHEMA,
        environment: environment::object(None),
        command: std::env::args().collect(),
        affinity: machine::affinity(),
        memory: machine::memory(),
        limits,
        quick: arguments.quick,
        rounds: plan.effort.rounds,
        planned_s,
        goodput_limits_ms: (ttft, tpot),
        fake: arguments.fake,
    });
    if rows.is_empty() {
        writer.write(&header)?;
        rows.push(header);
        for row in missing {
            writer.write(&Row::Engine(row.clone()))?;
            rows.push(Row::Engine(row));
        }
    }
    for row in greeted {
        writer.write(&Row::Engine(row.clone()))?;
        rows.push(Row::Engine(row));
    }
    let rows = {
        let mut runner = Runner::new(&plan, engines, &mut writer, rows, &stop, &mut progress);
        runner.judge()?;
        runner.rounds()?;
        runner.check_answers()?;
        runner.operations()?;
        runner.rows
    };
    if bar {
        eprint!("\r\x1b[K");
    }
    let summaries = summarize(&rows);
    for summary in &summaries {
        writer.write(&Row::Summary(summary.clone()))?;
    }
    write!(out, "{}", table(&rows, &summaries))?;
    writeln!(out, "\nrecord: {}", writer.path().display())?;
    if arguments.quick {
        writeln!(out, "a first look (--quick): not for publication")?;
    }
    if stop.load(Ordering::Relaxed) {
        writeln!(out, "stopped; `--resume` goes on with it")?;
    }
    Ok(())
}

/// What the arguments ask for in full, and rows for engines that are missing.
fn plan(arguments: &Arguments, progress: &mut dyn FnMut(&str)) -> Result<(Plan, Vec<EngineRow>), Failure> {
    let (contenders, missing) = contenders(arguments)?;
    let scenarios = scenarios(&arguments.scenarios)?;
    let paths = match arguments.models.is_empty() {
        true => default_models(progress)?,
        false => arguments.models.clone(),
    };
    let subjects = paths.iter().map(|path| Subject::open(path)).collect::<Result<Vec<_>, _>>()?;
    let mut effort = Effort::new(arguments.quick);
    effort.rounds = arguments.rounds.map_or(effort.rounds, usize::from);
    effort.samples = arguments.samples as usize;
    if let Some(time) = arguments.sustained {
        effort.sustained_s = time.as_secs_f64();
    }
    let (answer, usual) = (Duration::from_secs(arguments.patience), Patience::default());
    let patience =
        Patience { answer, greeting: usual.greeting.min(answer), load: usual.load.min(answer * 2) };
    let plan = Plan {
        contenders,
        subjects,
        scenarios,
        threads: threads(arguments),
        effort,
        patience,
        operations: arguments.scenarios.is_empty(),
        seed: arguments.seed,
    };
    Ok((plan, missing))
}

/// Set by Ctrl-C, after which what was measured is kept.
fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    // A second handler in the same process, as in tests, is refused; the first one then stays.
    let _ = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping: what was measured is kept; once more to end at once");
    });
    stop
}

/// Where the record is, and with `--resume` what it holds; one that is there is not overwritten.
fn record_so_far(arguments: &Arguments) -> Result<(PathBuf, Vec<Row>), Failure> {
    let folder = arguments.out.clone().unwrap_or_else(machine::record_folder);
    let path = folder.join("compare.jsonl");
    let rows = match (arguments.resume, path.is_file()) {
        (true, true) => record::read(&path)?,
        (true, false) => return Err(Failure::Message(format!("{}: nothing to resume", path.display()))),
        (false, true) if !arguments.plan => {
            return Err(Failure::Message(format!(
                "{} is there already: give another --out, or --resume",
                path.display()
            )));
        }
        (false, _) => Vec::new(),
    };
    Ok((path, rows))
}

/// Shows a record, and says whether the figures in it are those of its samples; with `refresh` it appends those.
fn replay(path: &Path, refresh: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let path = if path.is_dir() { path.join("compare.jsonl") } else { path.to_owned() };
    let rows = record::read(&path)?;
    let summaries = summarize(&rows);
    write!(out, "{}", table(&rows, &summaries))?;
    if refresh {
        let stale = record::stale(&rows, &summaries);
        let mut writer = Writer::open(&path)?;
        for summary in &stale {
            writer.write(&Row::Summary((*summary).clone()))?;
        }
        writeln!(out, "\n{} of {} figures were appended; the others stand", stale.len(), summaries.len())?;
        return Ok(());
    }
    let differing = record::differing(&rows, &summaries);
    match differing.is_empty() {
        true => {
            writeln!(out, "\n{} figures were computed anew, and are those of the record", summaries.len())?
        }
        false => {
            return Err(Failure::Message(format!(
                "{}: figures differ from those of the samples: {}; where the method has changed since, `--from {0} --refresh` appends them anew",
                path.display(),
                differing.join("; ")
            )));
        }
    }
    Ok(())
}

fn scenarios(words: &[String]) -> Result<Vec<Scenario>, Failure> {
    if words.is_empty() {
        return Ok(Scenario::ALL.to_vec());
    }
    let find = |word: &String| {
        let names: Vec<String> = Scenario::ALL
            .iter()
            .map(|scenario| format!("{} {}", scenario.number(), scenario.name()))
            .collect();
        Scenario::find(word)
            .ok_or_else(|| Failure::Message(format!("no scenario `{word}`; there are {}", names.join(", "))))
    };
    words.iter().map(find).collect()
}

fn threads(arguments: &Arguments) -> Vec<usize> {
    let mut threads: Vec<usize> = match (arguments.threads.is_empty(), arguments.quick) {
        (false, _) => arguments.threads.iter().map(|&count| count.into()).collect(),
        (true, true) => vec![default_threads()],
        (true, false) => {
            let most = default_threads();
            (0..).map(|power| 1 << power).take_while(|&count| count < most).chain([most]).collect()
        }
    };
    threads.sort_unstable();
    threads.dedup();
    threads
}

/// Who takes part, and rows for those that do not, with what would change that.
fn contenders(arguments: &Arguments) -> Result<(Vec<Contender>, Vec<EngineRow>), Failure> {
    let here = std::env::current_exe().map_err(|error| Failure::because("this program's file", error))?;
    let places = folders(here.parent());
    for name in &arguments.engines {
        if Known::find(name).is_none() {
            let names: Vec<_> = known().iter().map(|known| known.name.as_str()).collect();
            return Err(Failure::Message(format!("no engine `{name}`; there are {}", names.join(", "))));
        }
    }
    let mut contenders = Vec::new();
    let mut missing = Vec::new();
    for known in known() {
        let asked = arguments.engines.is_empty() || arguments.engines.contains(&known.name);
        if !(known.is_ours() || asked && !arguments.itself) {
            continue;
        }
        let left_out = |why| EngineRow {
            name: known.name.clone(),
            hello: None,
            command: Vec::new(),
            program_sha256: None,
            missing: Some(why),
        };
        let other = known.row_of.filter(|_| arguments.engines.is_empty()).and_then(Known::find);
        if let Some(other) = other.filter(|other| other.installed(&places).is_some()) {
            missing.push(left_out(format!(
                "{} stands for it: --engines {} measures it",
                other.name, known.name
            )));
            continue;
        }
        let arguments: Vec<_> = known.arguments.iter().map(Into::into).collect();
        match known.installed(&places) {
            Some(program) => {
                let command = EngineCommand { program, arguments };
                contenders.push(Contender { name: known.name.clone(), command });
            }
            None if known.is_ours() => {
                return Err(Failure::Message(format!(
                    "our engine {} is not beside this program: {}",
                    known.program, known.build
                )));
            }
            None => missing.push(left_out(format!("not built: {}", known.how_to_get()))),
        }
    }
    if arguments.itself {
        let ours = contenders[0].clone();
        contenders.push(Contender { name: "barelm:again".into(), ..ours });
    }
    for line in &arguments.engine {
        let wrong = || Failure::Message(format!("--engine {line}: NAME=PROGRAM is wanted"));
        let (name, command) = line.split_once('=').ok_or_else(wrong)?;
        let mut words = command.split_whitespace();
        let program = words.next().filter(|_| !name.is_empty()).ok_or_else(wrong)?;
        let command = EngineCommand { program: program.into(), arguments: words.map(Into::into).collect() };
        contenders.push(Contender { name: name.to_owned(), command });
    }
    Ok((contenders, missing))
}

/// What will happen, on standard error: before anything is measured.
fn print_plan<'r>(
    plan: &Plan,
    engines: &Engines,
    missing: impl Iterator<Item = &'r EngineRow>,
    (full, planned): (f64, f64),
    budget: Option<Duration>,
) {
    let names: Vec<_> = engines.values().map(|engine| engine.id.name.as_str()).collect();
    let models: Vec<_> = plan.subjects.iter().map(|subject| subject.id.name.as_str()).collect();
    eprintln!("engines: {}; models: {}; threads: {:?}", names.join(", "), models.join(", "), plan.threads);
    for (row, why) in missing.filter_map(|row| Some((row, row.missing.as_deref()?))) {
        eprintln!("missing: {}: {why}", row.name);
    }
    for line in found::elsewhere() {
        eprintln!("{line}");
    }
    let minutes =
        |seconds: f64| format!("{:.0} min {:02.0} s", (seconds / 60.0).floor(), (seconds % 60.0).floor());
    eprintln!("estimated time: {}", minutes(planned));
    if let Some(seconds) = budget.map(|budget| budget.as_secs_f64()).filter(|&seconds| full > seconds) {
        let share = (plan.effort.scale * 100.0).round();
        let shortened = if share >= 1.0 { format!("{share} %") } else { "their shortest".into() };
        let (full, budget) = (minutes(full), minutes(seconds));
        eprintln!("in full it would be {full}; to fit {budget} cases are shortened to {shortened}");
        if plan.effort.sparing {
            let most = plan.threads.iter().copied().max().unwrap_or(1);
            let cases =
                plan.scenarios.iter().flat_map(|&scenario| plan.effort.cases(scenario, most, usize::MAX));
            let kept: Vec<_> = cases
                .map(|planned| format!("{} {}", planned.case.scenario.name(), planned.case.label()))
                .collect();
            eprintln!("and only these are measured, in {} rounds: {}", plan.effort.rounds, kept.join(", "));
        }
        if planned > seconds * 1.05 {
            eprintln!(
                "loads and the shortest cases alone take longer than that: fewer engines, models or scenarios would"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_scenarios_are_read() {
        let seconds = |text: &str| duration(text).map(|time| time.as_secs_f64());
        assert_eq!(seconds("30m"), Ok(1800.0));
        assert_eq!(seconds("2h"), Ok(7200.0));
        assert_eq!(seconds("90s"), Ok(90.0));
        assert_eq!(seconds("1.5"), Ok(1.5));
        for text in ["", "m", "-3m", "0s", "3d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        let all = scenarios(&[]).unwrap();
        assert_eq!(all.len(), 5);
        assert_eq!(
            scenarios(&["1".into(), "long_context".into()]).unwrap(),
            [Scenario::Single, Scenario::LongContext]
        );
        assert!(scenarios(&["6".into()]).unwrap_err().to_string().contains("5 long_context"));
    }
}
