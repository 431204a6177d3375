//! `cargo xtask test`: everything CI runs, step by step, each with a verdict and its time.
//!
//! 1. [`host`] is formatting, lints, documentation and tests on this machine.
//! 2. [`emulated`] runs the tests of the NEON kernels under user-mode emulation, and small pieces under Miri.
//! 3. [`boots`] boots the image as a table of cases says.
//! 4. [`faults`] raises faults in boots of their own and reads the reports.
//! 5. [`boards`] boots it on other machines, at every exception level, with real boards' device trees.
//! 6. [`shell`] types at the image's shell.
//! 7. [`example`] boots another kernel that takes the library.
//! 8. [`exact`] is the instruction gate, and the proof that it fails when it must.
//!
//! A step that cannot run here is skipped, says why and is counted.

mod boards;
mod boots;
mod emulated;
mod exact;
mod example;
mod faults;
mod host;
mod shell;

use std::cell::OnceCell;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::Args;

use crate::image::{self, Build, Image};
use crate::packages::Tool;
use crate::setup::{self, Need};
use crate::toolchain::{BARE_METAL, Toolchain};
use crate::{Failure, disk, model};

/// Which steps.
#[derive(Args, Clone, Debug, Default)]
pub struct Arguments {
    /// Run only steps whose name contains one of these (and what they need).
    names: Vec<String>,
    /// List the steps.
    #[arg(long)]
    list: bool,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

impl From<Result<(), Failure>> for Verdict {
    fn from(result: Result<(), Failure>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(why) => Self::Failed(why),
        }
    }
}

/// One step.
struct Step {
    name: String,
    /// What it needs beside Rust; a step is skipped where that is missing.
    needs: Vec<Need>,
    run: Box<dyn Fn(&mut Run) -> Verdict>,
}

impl Step {
    fn new(name: impl Into<String>, needs: &[Need], run: impl Fn(&mut Run) -> Verdict + 'static) -> Self {
        Self { name: name.into(), needs: needs.to_vec(), run: Box::new(run) }
    }
}

/// Counts of steps and of the tests in them.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// What steps share: the counts, and things built once.
#[derive(Default)]
struct Run {
    tally: Tally,
    image: OnceCell<Result<Image, Failure>>,
    barelm: OnceCell<Result<PathBuf, Failure>>,
}

impl Run {
    /// The image, built when first asked for.
    fn image(&self) -> Result<&Image, Failure> {
        self.image.get_or_init(|| image::build(&Build::default())).as_ref().map_err(Clone::clone)
    }

    /// The host's command line, built when first asked for.
    fn barelm(&self) -> Result<&PathBuf, Failure> {
        let build = || {
            let mut cargo = Toolchain::current().cargo();
            cargo.args(["build", "--quiet", "--release", "-p", "barelm-host", "--bin", "barelm"]);
            crate::process::run(&mut cargo)?;
            Ok(crate::target_folder().join("release/barelm"))
        };
        self.barelm.get_or_init(build).as_ref().map_err(Clone::clone)
    }

    /// Runs a command that may be a test run: its output goes through, and the results it reports are counted.
    fn counted(&mut self, command: &mut Command) -> Result<(), Failure> {
        self.read_through(command).map(|_| ())
    }

    /// Like [`Run::counted`], and gives the output.
    fn read_through(&mut self, command: &mut Command) -> Result<String, Failure> {
        let shown = crate::process::shown(command);
        println!("{shown}");
        let mut child =
            command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{shown}: {error}"))?;
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut text = String::new();
        for line in output.split(b'\n') {
            let line = line.map_err(|error| format!("{shown}: {error}"))?;
            let line = String::from_utf8_lossy(&line);
            count(&line, &mut self.tally);
            println!("{line}");
            text.push_str(&line);
            text.push('\n');
        }
        let status = child.wait().map_err(|error| format!("{shown}: {error}"))?;
        if status.success() { Ok(text) } else { Err(format!("{shown}: {status}")) }
    }
}

/// All steps, in the order they run.
fn all() -> Vec<Step> {
    let mut steps = vec![Step::new("disk space", &[], |_| room()), Step::new("setup", &[], |_| set_up())];
    steps.extend(host::steps());
    steps.extend(emulated::steps());
    steps.extend(boots::steps());
    steps.extend(faults::steps());
    steps.extend(boards::steps());
    steps.extend(shell::steps());
    steps.extend(example::steps());
    steps.extend(exact::steps());
    steps
}

/// Runs the steps, whatever fails, and says how it went.
pub fn run(arguments: &Arguments) -> ExitCode {
    let chosen = |step: &Step| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| step.name.contains(name.as_str()))
    };
    let steps: Vec<_> = all().into_iter().filter(chosen).collect();
    if arguments.list {
        steps.iter().for_each(|step| println!("{}", step.name));
        return ExitCode::SUCCESS;
    }
    if steps.is_empty() {
        eprintln!("no step has such a name: see cargo xtask test --list");
        return ExitCode::FAILURE;
    }
    let mut run = Run::default();
    let mut remarks = Vec::new();
    for step in &steps {
        println!("==> {}", step.name);
        // Messages of the step's programs go to another stream: keep the order.
        let _ = std::io::stdout().flush();
        let started = Instant::now();
        let verdict = match step.needs.iter().find_map(missing) {
            Some(why) => Verdict::Skipped(why),
            None => (step.run)(&mut run),
        };
        let elapsed = started.elapsed().as_secs_f64();
        let verdict = match verdict {
            Verdict::Failed(why) => Verdict::Failed(why + &disk::remark()),
            other => other,
        };
        let (word, counter, why) = match &verdict {
            Verdict::Passed => ("PASS", &mut run.tally.passed, None),
            Verdict::Failed(why) => ("FAIL", &mut run.tally.failed, Some(why)),
            Verdict::Skipped(why) => ("SKIP", &mut run.tally.skipped, Some(why)),
        };
        *counter += 1;
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        println!("<== {}: {word} in {elapsed:.1} s{why}", step.name);
        if verdict != Verdict::Passed {
            let first = why.lines().next().unwrap_or_default();
            remarks.push(format!("{word} {}{first}", step.name));
        }
    }
    remarks.iter().for_each(|remark| println!("{remark}"));
    println!("{} passed, {} failed, {} skipped", run.tally.passed, run.tally.failed, run.tally.skipped);
    if run.tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether this is a run of continuous integration, where nothing may be missing.
fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// What a run may write is an estimate: too little room is said, and the run goes on.
fn room() -> Verdict {
    disk::room_for_a_whole_run().map_or_else(Verdict::Skipped, |()| Verdict::Passed)
}

/// Gets what is missing. On a person's machine what cannot be got is named, and the steps that need it are skipped.
fn set_up() -> Verdict {
    let failures: Vec<_> =
        setup::EVERYTHING.iter().filter_map(|need| setup::provide(&[*need]).err()).collect();
    match failures.is_empty() {
        true => Verdict::Passed,
        false if in_ci() => Verdict::Failed(failures.join("\n")),
        false => Verdict::Skipped(failures.join("\n")),
    }
}

/// Why `need` is not met, if it is not.
fn missing(need: &Need) -> Option<String> {
    match need {
        Need::Tool(tool) if !tool.present() => Some(format!("{} is missing", tool.name())),
        Need::Target(target) => Toolchain::for_target(target).err(),
        Need::Model if !model::cached() => Some("the model is missing: cargo xtask setup".to_string()),
        Need::DeviceTrees if !crate::device_trees::present() => {
            Some("the boards' device trees are missing: cargo xtask setup".to_string())
        }
        Need::Tool(_) | Need::Model | Need::DeviceTrees => None,
    }
}

/// What every boot needs.
const BOOTING: [Need; 2] = [Need::Target(BARE_METAL), Need::Tool(Tool::QemuSystem)];

/// Adds the counts of a line such as `test result: ok. 7 passed; 0 failed; 1 ignored; …`.
fn count(line: &str, tally: &mut Tally) {
    let Some(counts) = line.strip_prefix("test result: ").and_then(|line| line.split_once(". ")) else {
        return;
    };
    for part in counts.1.split("; ") {
        let Some((number, what)) = part.split_once(' ') else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        match what {
            "passed" => tally.passed += number,
            "failed" => tally.failed += number,
            "ignored" => tally.skipped += number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted() {
        let mut tally = Tally::default();
        count(
            "test result: FAILED. 7 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            &mut tally,
        );
        count("running 3 tests", &mut tally);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (7, 2, 1));
    }

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let mut names: Vec<_> = all().into_iter().map(|step| step.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn results_of_test_runs_are_counted_and_failures_fail() {
        let mut run = Run::default();
        let script = "echo 'test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured'; exit 1";
        let failure = run.counted(Command::new("sh").args(["-c", script])).unwrap_err();
        assert!(failure.contains("exit status: 1"), "{failure}");
        assert_eq!((run.tally.passed, run.tally.failed, run.tally.skipped), (5, 0, 2));
    }
}
