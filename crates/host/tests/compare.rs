//! `barelm compare` with engines that are none: known delays are found again, and every fault is.
#![cfg(all(feature = "llm-transformer", target_os = "linux"))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use barelm_host::compare::record::{self, Outcome, Row, Summary, Visit};
use barelm_host::compare::summary::summarize;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/assets/tiny.gguf")
}

/// The program of `examples/fake-engine.rs`, which is built with the tests.
fn fake() -> PathBuf {
    let programs = Path::new(env!("CARGO_BIN_EXE_barelm")).parent().expect("a folder");
    let fake = programs.join("examples/fake-engine");
    assert!(fake.is_file(), "{}: run all tests of the package, or `cargo build --examples`", fake.display());
    fake
}

struct Run {
    output: Output,
    rows: Vec<Row>,
    record: PathBuf,
    folder: tempfile::TempDir,
}

impl Run {
    fn visits(&self, engine: &str) -> Vec<&Visit> {
        let of = |row: &'_ Row| matches!(row, Row::Visit(visit) if visit.engine.name == engine);
        let visits = self.rows.iter().filter(|row| of(row));
        visits
            .map(|row| match row {
                Row::Visit(visit) => visit,
                _ => unreachable!("filtered before"),
            })
            .collect()
    }

    fn summary(&self, engine: &str) -> Summary {
        let found = summarize(&self.rows).into_iter().find(|summary| summary.engine == engine);
        found.unwrap_or_else(|| panic!("no {engine}: {}", String::from_utf8_lossy(&self.output.stderr)))
    }

    fn missing(&self, engine: &str) -> String {
        let why = |row: &Row| match row {
            Row::Engine(row) if row.name == engine => row.missing.clone(),
            _ => None,
        };
        self.rows.iter().find_map(why).unwrap_or_else(|| panic!("{engine} is there"))
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barelm"));
    command.arg("compare").args(arguments).arg("--out").arg(folder.join("record")).arg(tiny());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A short comparison with engines given as `NAME=MODE…`, and what `good` thinks of it. Times and clocks are looked at to a
/// percent: where it finds something wrong and others on this machine were at work meanwhile, the comparison is run again,
/// four times at most.
fn compare(fakes: &[&str], arguments: &[&str], good: &dyn Fn(&Run) -> Result<(), String>) -> Run {
    let mut run = compare_once(fakes, arguments);
    for _ in 0..4 {
        if good(&run).is_ok() || !disturbed(&run) {
            break;
        }
        run = compare_once(fakes, arguments);
    }
    run
}

/// Others were at work here, the second time too.
fn disturbed(run: &Run) -> bool {
    let again =
        |row: &Row| matches!(row, Row::Visit(visit) if visit.attempt > 0 && visit.contended.is_some());
    run.rows.iter().any(again)
}

/// These engines have figures.
fn measured(run: &Run, engines: &[&str]) -> Result<(), String> {
    match engines.iter().find_map(|engine| Some((engine, run.summary(engine).reason?))) {
        Some((engine, reason)) => Err(format!("{engine}: {reason}")),
        None => Ok(()),
    }
}

/// Held alone by the test that looks at times, by the others together.
static TIMES: RwLock<()> = RwLock::new(());

fn among_others() -> RwLockReadGuard<'static, ()> {
    TIMES.read().unwrap_or_else(PoisonError::into_inner)
}

/// See [`compare`].
fn compare_once(fakes: &[&str], arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("fake-engine");
    // By a process of its own: what is open for writing here would be so in the children that other tests start at that
    // moment, and a file that anybody writes to cannot be run.
    let copied = Command::new("cp").arg(fake()).arg(&program).status().expect("cp is there");
    assert!(copied.success());
    let fakes: Vec<String> = fakes
        .iter()
        .map(|fake_and_mode| {
            let (name, mode) = fake_and_mode.split_once('=').expect("NAME=MODE");
            format!("--engine={name}={} {mode}", program.display())
        })
        .collect();
    let mut all: Vec<&str> = vec![
        "--quick",
        "--scenarios",
        "1",
        "--threads",
        "1",
        "--fake",
        "--engines",
        "barelm",
        "--budget",
        "1s",
    ];
    all.extend(fakes.iter().map(String::as_str));
    all.extend(arguments);
    let output = command(folder.path(), &all).output().expect("it runs");
    let record = folder.path().join("record/compare.jsonl");
    let rows = record::read(&record).unwrap_or_else(|why| panic!("{why}: {output:?}"));
    Run { output, rows, record, folder }
}

#[test]
fn known_delays_are_recovered_within_a_percent() {
    let _alone = TIMES.write().unwrap_or_else(PoisonError::into_inner);
    let recovered = |run: &Run, late: f64| {
        // Ours is measured beside it.
        measured(run, &["slow", "barelm"])?;
        let slow = run.summary("slow");
        let delays =
            [("ttft_ms", 200.0), ("tpot_ms", 20.0), ("itl_ms", 20.0), ("e2e_ms", 200.0 + 63.0 * 20.0)];
        for (name, wanted) in delays {
            let median = slow.distributions[name].median;
            if !(-0.01..late).contains(&(median / wanted - 1.0)) {
                return Err(format!("{name}: {median}, not {wanted}"));
            }
        }
        // One request after the other, without a pause between.
        let rate = slow.figures["output_tok_s"].value;
        match (-0.01 - late..0.02).contains(&(rate / (64.0 / 1.46) - 1.0)) {
            true => Ok(()),
            false => Err(format!("{rate} tokens a second")),
        }
    };
    let run = compare(&["slow=delays 200 20"], &[], &|run| recovered(run, 0.01));
    // Where others never cease to work, the engine itself is late: what is found is then no shorter, and not much longer.
    let late = if disturbed(&run) { 0.25 } else { 0.01 };
    recovered(&run, late).unwrap_or_else(|why| panic!("{why}\n{:?}", run.output));
    assert!(run.output.status.success(), "{:?}", run.output);
    // Ours computed the same tokens.
    assert_eq!(run.visits("barelm")[0].answers[0].ids, run.visits("slow")[0].answers[0].ids);
    let Row::Run(header) = &run.rows[0] else { panic!("{:?}", run.rows[0]) };
    assert!(header.fake && header.quick, "the record is marked");
    for visit in run.visits("slow") {
        assert_eq!((visit.model.sha256.len(), visit.model.format.as_str()), (64, "Q8_0"));
        assert!(!visit.engine.build.is_empty() && visit.engine.settings.contains_key("kernels"));
        assert!(visit.first_request_ns > Some(190_000_000) && visit.load_ns.is_some(), "{visit:?}");
    }
    // Whoever measures sleeps meanwhile. Of all visits together: Linux counts in hundredths of a second.
    let sum = |part: &dyn Fn(&Visit) -> f64| run.visits("slow").into_iter().map(part).sum::<f64>();
    let harness_s = sum(&|visit| visit.telemetry.harness_cpu_s.expect("Linux tells"));
    let share = harness_s / sum(&|visit| visit.elapsed_ns as f64 / 1e9);
    assert!(share < 0.02, "{share}");
}

#[test]
fn every_fault_is_found_and_the_others_are_measured() {
    let faults = [
        ("wrong-answer", "wrong answer"),
        ("wrong-logits", "wrong"),
        ("wrong-clock", "wrong clock"),
        ("garbage", "no reply"),
        ("hang", "has said nothing for"),
        ("crash", "exit status: 139"),
        ("huge-output", "a line of more than"),
    ];
    let names: Vec<String> = faults.iter().map(|(mode, _)| format!("{mode}={mode}")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.extend(["late=slow-start", "unloadable=unloadable"]);
    let _others = among_others();
    let all_are_found = |run: &Run| {
        for (mode, part) in faults {
            let reason = run.summary(mode).reason.ok_or_else(|| format!("{mode} was measured"))?;
            if !reason.contains(part) {
                return Err(format!("{mode}: {reason}"));
            }
        }
        measured(run, &["barelm", "late"])
    };
    let arguments = ["--rounds", "1", "--patience", "20", "--engine=absent=/nonexistent/engine"];
    let run = compare(&names, &arguments, &all_are_found);
    all_are_found(&run).unwrap_or_else(|why| panic!("{why}\n{:?}", run.output));
    assert!(run.output.status.success(), "{:?}", run.output);
    for (mode, _) in faults {
        let summary = run.summary(mode);
        assert!(summary.figures.is_empty() && summary.ours_times.is_empty(), "{mode} has figures");
    }
    // What it said last is told.
    assert!(run.summary("crash").reason.expect("checked").contains("segmentation fault, so to say"));
    assert!(run.missing("absent").contains("/nonexistent/engine"), "{}", run.missing("absent"));
    let unloadable = run.missing("unloadable");
    assert!(unloadable.contains("unavailable") && unloadable.contains("libfake.so.1"), "{unloadable}");
    // Nobody is left behind: the programs were a copy of this run's own.
    let own = run.folder.path().join("fake-engine");
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let left: Vec<_> = processes
        .filter(|process| std::fs::read_link(process.path().join("exe")).is_ok_and(|program| program == own))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_record_shows_the_figures_of_its_samples_and_no_others() {
    let _others = among_others();
    let all_measured = |run: &Run| match summarize(&run.rows).into_iter().find_map(|s| s.reason) {
        Some(reason) => Err(reason),
        None => Ok(()),
    };
    let run = compare(&[], &["--self"], &all_measured);
    assert_eq!(all_measured(&run), Ok(()));
    assert!(run.output.status.success(), "{:?}", run.output);
    let show = |path: &Path| {
        Command::new(env!("CARGO_BIN_EXE_barelm"))
            .args(["compare", "--from"])
            .arg(path)
            .output()
            .expect("it runs")
    };
    let shown = show(&run.record);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success() && text.contains("are those of the record"), "{shown:?}");
    assert!(String::from_utf8_lossy(&run.output.stdout).contains(text.lines().nth(1).expect("a row")));
    // A figure that was changed by hand is found.
    let record = std::fs::read_to_string(&run.record).expect("it is there");
    let (samples, summaries) = record.split_once(r#"{"kind":"summary""#).expect("summaries are last");
    let forged = summaries.replacen(r#""mean":"#, r#""mean":1"#, 1);
    let path = run.record.with_file_name("forged.jsonl");
    std::fs::write(&path, format!(r#"{samples}{{"kind":"summary"{forged}"#)).expect("it can be written");
    let shown = show(&path);
    assert!(!shown.status.success(), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stderr).contains("differ"), "{shown:?}");
    // Figures are appended anew where they are not those of the samples, and nothing is overwritten.
    let forged = std::fs::read_to_string(&path).expect("it is there");
    let refreshed = Command::new(env!("CARGO_BIN_EXE_barelm"))
        .args(["compare", "--refresh", "--from"])
        .arg(&path)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&refreshed.stdout).into_owned();
    assert!(refreshed.status.success() && text.contains("1 of 2 figures were appended"), "{refreshed:?}");
    assert!(std::fs::read_to_string(&path).expect("it is there").starts_with(&forged));
    assert!(show(&path).status.success());
    // What is no record is refused.
    std::fs::write(&path, "{}\n").expect("it can be written");
    assert!(!show(&path).status.success());
}

#[test]
fn an_interrupt_keeps_what_was_measured_and_resume_goes_on() {
    let _others = among_others();
    let folder = tempfile::tempdir().expect("a folder");
    let slow = format!("--engine=slow={} delays 100 10", fake().display());
    let arguments = [
        "--quick",
        "--scenarios",
        "1",
        "--threads",
        "1",
        "--fake",
        "--engines",
        "barelm",
        "--rounds",
        "2",
        "--budget",
        "1s",
        &slow,
    ];
    let child = command(folder.path(), &arguments).spawn().expect("it starts");
    let path = folder.path().join("record/compare.jsonl");
    let visits = || {
        let rows = record::read(&path).unwrap_or_default();
        rows.iter().filter(|row| matches!(row, Row::Visit(_))).count()
    };
    let begun = std::time::Instant::now();
    while visits() < 1 && begun.elapsed().as_secs() < 120 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let status =
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(status.success());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let before = record::read(&path).expect("a record");
    // Where others were at work, clocks may have seemed wrong.
    let done = |visit: &Visit| {
        visit.measured() || visit.contended.is_some() && visit.outcome != Outcome::Interrupted
    };
    let kept = before.iter().any(|row| matches!(row, Row::Visit(visit) if done(visit)));
    assert!(kept, "{before:?}");
    // The same again is refused, so that nothing is overwritten.
    let again = command(folder.path(), &arguments).output().expect("it runs");
    assert!(
        !again.status.success() && String::from_utf8_lossy(&again.stderr).contains("--resume"),
        "{again:?}"
    );
    let resumed =
        command(folder.path(), &[&arguments[..], &["--resume"]].concat()).output().expect("it runs");
    assert!(resumed.status.success(), "{resumed:?}");
    let after = record::read(&path).expect("a record");
    assert_eq!(after[..before.len()], before[..], "rows are only appended");
    let rounds = |engine: &str| {
        let mut rounds: Vec<usize> = after
            .iter()
            .filter_map(|row| match row {
                Row::Visit(visit) if visit.engine.name == engine && done(visit) => Some(visit.round),
                _ => None,
            })
            .collect();
        rounds.sort_unstable();
        rounds.dedup();
        rounds
    };
    assert_eq!((rounds("barelm"), rounds("slow")), (vec![0, 1], vec![0, 1]));
}

#[test]
fn the_plan_is_shown_before_anything_is_measured() {
    let _others = among_others();
    let folder = tempfile::tempdir().expect("a folder");
    let plan = |arguments: &[&str]| {
        let output = command(folder.path(), &[&["--plan"], arguments].concat()).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let full = plan(&[]);
    assert!(full.contains("estimated time:"), "{full}");
    assert!(!folder.path().join("record").exists());
    let short = plan(&["--budget", "40m"]);
    assert!(short.contains("estimated time: 40 min") || short.contains("estimated time: 39 min"), "{short}");
    for wrong in [
        &["--scenarios", "9"][..],
        &["--engines", "fly"],
        &["--goodput", "1"],
        &["--resume"],
        &["--engine", "x"],
    ] {
        let output = command(folder.path(), wrong).output().expect("it runs");
        assert!(!output.status.success() && !output.stderr.is_empty(), "{wrong:?}: {output:?}");
    }
}
