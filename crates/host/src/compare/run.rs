//! A run: engines take turns, in another order each round, one in memory at a time, and every row is written at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use barelm_protocol::{Load, Op, Reply, Request};

use super::attending::completed;
use super::models::Subject;
use super::ops::{NAMES, reference};
use super::process::{EngineCommand, Patience, Process, Trouble, file_sha256, unexpected};
use super::quality::{self, Said};
use super::record::{
    AnswerCheck, Arrival, Case, EngineId, EngineRow, OpRow, Outcome, Row, Scenario, Telemetry, Visit, Writer,
};
use super::registry;
use super::scenario::{Effort, Planned};
use super::stats::shuffled;
use super::telemetry::{Sampler, tree};
use super::visit::{Measured, prompt, visit};
use crate::failure::Failure;
use crate::versus::contention::Watch;

/// Times a round that others disturbed is run again.
const ATTEMPTS: usize = 2;
/// An open loop is saturated where less than this share of what arrives is answered in its time.
const KEEPS_UP: f64 = 0.9;

/// An engine that takes part.
#[derive(Clone, Debug, PartialEq)]
pub struct Contender {
    /// Its name in records.
    pub name: String,
    /// Its program.
    pub command: EngineCommand,
}

/// What to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Who takes part; ours first.
    pub contenders: Vec<Contender>,
    /// With what.
    pub subjects: Vec<Subject>,
    /// Of which scenarios.
    pub scenarios: Vec<Scenario>,
    /// Numbers of threads; the largest is that of every scenario, others of single requests only.
    pub threads: Vec<usize>,
    /// How thoroughly.
    pub effort: Effort,
    /// How long an engine may take.
    pub patience: Patience,
    /// Single operations too.
    pub operations: bool,
    /// Of the order of the engines in each round.
    pub seed: u64,
}

/// A visit that is planned.
#[derive(Clone, Debug, PartialEq)]
struct Step {
    contender: usize,
    subject: usize,
    planned: Planned,
}

/// What an engine's load costs besides its cases, in seconds: process, load, first requests.
const LOAD_S: f64 = 2.0;

impl Plan {
    /// Groups of steps that one process of an engine runs, after one load: those of a round.
    fn groups(&self, engines: impl Iterator<Item = usize> + Clone) -> Vec<Vec<Step>> {
        let mut groups: Vec<Vec<Step>> = Vec::new();
        let most = self.threads.iter().copied().max().unwrap_or(1);
        for contender in engines {
            for (subject, about) in self.subjects.iter().enumerate() {
                for &threads in &self.threads {
                    for &scenario in &self.scenarios {
                        if threads != most && scenario != Scenario::Single {
                            continue;
                        }
                        for planned in self.effort.cases(scenario, threads, about.positions) {
                            let step = Step { contender, subject, planned };
                            match groups.iter_mut().find(|group| step.fits(&group[0])) {
                                Some(group) => group.push(step),
                                None => groups.push(vec![step]),
                            }
                        }
                    }
                }
            }
        }
        groups
    }
}

/// A round's order: what engines are compared in comes beside each other, in another order each round. Who is first there is
/// drawn too, and every second round turns the order of the one before around: whatever the place in it does to a figure
/// cancels over both.
fn order(groups: &[Vec<Step>], seed: u64, round: usize) -> Vec<&[Step]> {
    let mut works: Vec<Vec<&[Step]>> = Vec::new();
    for group in groups {
        match works.iter_mut().find(|work| group[0].same_work(&work[0][0])) {
            Some(work) => work.push(group),
            None => works.push(vec![group]),
        }
    }
    let drawn = |of: usize| seed.wrapping_add(of as u64);
    let mut order = Vec::new();
    for at in shuffled(drawn(round), works.len()) {
        let work = &works[at];
        let mut engines = shuffled(drawn(1_000_000 * (at + 1) + round / 2), work.len());
        if round % 2 == 1 {
            engines.reverse();
        }
        order.extend(engines.into_iter().map(|engine| work[engine]));
    }
    order
}

impl Step {
    /// Whether one process can run both: the same load, and the same reading of its largest memory.
    fn fits(&self, other: &Step) -> bool {
        self.contender == other.contender && self.same_work(other)
    }

    /// Whether both ask for the same load, of whichever engine.
    fn same_work(&self, other: &Step) -> bool {
        let (a, b) = (&self.planned.case, &other.planned.case);
        self.subject == other.subject
            && a.threads == b.threads
            && a.scenario == b.scenario
            && (a.scenario == Scenario::Single || (a.context == b.context && a.in_flight == b.in_flight))
    }

    /// What all steps of a group need of a load.
    fn load(group: &[Step], subject: &Subject, sequences: usize) -> Load {
        let context = group.iter().map(|step| step.planned.case.context).max().unwrap_or(64);
        Load {
            model: subject.path.clone(),
            threads: group[0].planned.case.threads,
            context,
            max_sequences: (sequences > 1).then_some(sequences),
            ..Load::default()
        }
    }
}

/// What is known of an engine that can run.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    id: EngineId,
    formats: Vec<String>,
    max_in_flight: usize,
}

/// The comparison while it runs.
pub struct Runner<'r> {
    /// What to measure.
    pub plan: &'r Plan,
    /// Where rows go.
    pub writer: &'r mut Writer,
    /// Rows so far: of an earlier run that is resumed, and of this one.
    pub rows: Vec<Row>,
    /// Set to end the run; what was measured is kept.
    pub stop: &'r AtomicBool,
    /// Told what happens.
    pub progress: &'r mut dyn FnMut(&str),
    engines: BTreeMap<usize, Known>,
}

impl<'r> Runner<'r> {
    /// A runner whose record has these rows already.
    pub fn new(
        plan: &'r Plan,
        writer: &'r mut Writer,
        rows: Vec<Row>,
        stop: &'r AtomicBool,
        progress: &'r mut dyn FnMut(&str),
    ) -> Self {
        Runner { plan, writer, rows, stop, progress, engines: BTreeMap::new() }
    }

    fn write(&mut self, row: Row) -> Result<(), Failure> {
        self.writer.write(&row)?;
        self.rows.push(row);
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Greets every engine, and writes who is there.
    ///
    /// # Errors
    /// Those of writing.
    pub fn meet(&mut self) -> Result<(), Failure> {
        for at in 0..self.plan.contenders.len() {
            let contender = &self.plan.contenders[at];
            let (name, command) = (contender.name.clone(), contender.command.clone());
            (self.progress)(&format!("{name}: greeting"));
            let mut row = EngineRow {
                name: name.clone(),
                hello: None,
                command: command.words(),
                program_sha256: file_sha256(&command.program).ok(),
                missing: None,
            };
            match Process::start(&command, self.plan.patience) {
                Ok(process) => {
                    let hello = process.hello().clone();
                    let known = Known {
                        id: EngineId {
                            name,
                            version: format!("{} {}", hello.engine, hello.version),
                            device: hello.device.clone(),
                            batching: hello.batching,
                            build: hello.compiled.clone(),
                            settings: completed(
                                &hello.settings,
                                &registry::Known::settings_of(&command.program),
                            ),
                            crippled: hello.crippled.clone(),
                        },
                        formats: hello.formats.clone(),
                        max_in_flight: hello.max_in_flight,
                    };
                    self.engines.insert(at, known);
                    row.hello = Some(hello);
                }
                Err(trouble) => row.missing = Some(trouble.to_string()),
            }
            self.write(Row::Engine(row))?;
        }
        Ok(())
    }

    /// Seconds that a plan should take, if every engine can do every case.
    pub fn estimate_for(plan: &Plan) -> f64 {
        let groups = plan.groups(0..plan.contenders.len());
        let fits = |step: &&Step| step.planned.case.context <= plan.subjects[step.subject].positions;
        let each = |group: &Vec<Step>| {
            let steps: Vec<f64> = group.iter().filter(fits).map(|step| step.planned.seconds).collect();
            if steps.is_empty() { 0.0 } else { steps.iter().sum::<f64>() + LOAD_S }
        };
        let judged = plan.contenders.len() * plan.subjects.len();
        groups.iter().map(each).sum::<f64>() * plan.effort.rounds as f64 + judged as f64 * 2.0 * LOAD_S
    }

    /// What to multiply the times of a plan's cases with, so that it takes so many seconds; at most 1.
    pub fn scale_for(plan: &Plan, seconds: f64) -> f64 {
        let at = |scale: f64| {
            let effort = Effort { scale, ..plan.effort.clone() };
            Self::estimate_for(&Plan { effort, ..plan.clone() })
        };
        if at(1.0) <= seconds {
            return 1.0;
        }
        // Cases have a shortest time, so that the estimate is no straight line.
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            if at(middle) <= seconds { low = middle } else { high = middle }
        }
        low
    }

    /// Why an engine is not asked for a case.
    fn hole(&self, step: &Step) -> Option<String> {
        let (subject, case) = (&self.plan.subjects[step.subject], &step.planned.case);
        let engine = &self.engines[&step.contender];
        if !engine.formats.contains(&subject.id.format) {
            let formats = engine.formats.join(" ");
            return Some(format!("computes {formats} as they are, not {}", subject.id.format));
        }
        (case.context > subject.positions).then(|| format!("the model has {} positions", subject.positions))
    }

    /// Looks how exactly every engine computes every model, before anything is timed.
    ///
    /// # Errors
    /// Those of writing.
    pub fn judge(&mut self) -> Result<(), Failure> {
        let threads = self.plan.threads.iter().copied().max().unwrap_or(1);
        for subject in &self.plan.subjects {
            let mut said: Vec<(EngineId, Result<Said, String>)> = Vec::new();
            for (&at, known) in &self.engines {
                let done = self.rows.iter().any(|row| {
                    matches!(row, Row::Quality(q) if q.engine.name == known.id.name && q.model.sha256 == subject.id.sha256)
                });
                if done || self.stopped() || !known.formats.contains(&subject.id.format) {
                    continue;
                }
                (self.progress)(&format!("{}: predictions of {}", known.id.name, subject.id.name));
                let command = &self.plan.contenders[at].command;
                let asked = Process::start(command, self.plan.patience).and_then(|mut process| {
                    let loaded = process.load(quality::load(subject, threads))?;
                    same_vocabulary(loaded.vocab_size, subject)?;
                    quality::ask(&mut process, subject)
                });
                said.push((known.id.clone(), asked.map_err(|trouble| trouble.to_string())));
            }
            if said.is_empty() {
                continue;
            }
            (self.progress)(&format!("exact arithmetic of {}", subject.id.name));
            let original = quality::original(&self.plan.subjects, subject);
            for quality in quality::judge(subject, original, threads, &said, &mut []) {
                self.writer.write(&Row::Quality(quality.clone()))?;
                self.rows.push(Row::Quality(quality));
            }
        }
        Ok(())
    }

    /// All rounds.
    ///
    /// # Errors
    /// Those of writing. Trouble with an engine is a row.
    pub fn rounds(&mut self) -> Result<(), Failure> {
        let groups = self.plan.groups(self.engines.keys().copied());
        for round in 0..self.plan.effort.rounds {
            for (place, group) in order(&groups, self.plan.seed, round).into_iter().enumerate() {
                if self.stopped() {
                    return Ok(());
                }
                self.group(group, round, place)?;
            }
        }
        Ok(())
    }

    /// Whether the record has a visit already, so that a resumed run need not repeat it.
    fn has(&self, step: &Step, round: usize) -> bool {
        let (name, subject) = (&self.engines[&step.contender].id.name, &self.plan.subjects[step.subject]);
        self.rows.iter().any(|row| match row {
            Row::Visit(visit) => {
                visit.round == round
                    && visit.engine.name == *name
                    && visit.model.sha256 == subject.id.sha256
                    && visit.case == step.planned.case
                    && visit.outcome != Outcome::Interrupted
                    && (visit.contended.is_none() || visit.attempt + 1 >= ATTEMPTS)
            }
            _ => false,
        })
    }

    /// Whether the engine could not keep up with fewer arrivals in an earlier visit of this round.
    fn saturated(&self, step: &Step, round: usize) -> Option<f64> {
        let Arrival::Poisson { per_s } = step.planned.case.arrival else { return None };
        let (name, subject) = (&self.engines[&step.contender].id.name, &self.plan.subjects[step.subject]);
        self.rows.iter().find_map(|row| {
            let Row::Visit(visit) = row else { return None };
            let Arrival::Poisson { per_s: before } = visit.case.arrival else { return None };
            let same = visit.round == round
                && visit.engine.name == *name
                && visit.model.sha256 == subject.id.sha256
                && before < per_s;
            let last = visit.requests.iter().map(|sample| sample.intended_ns).max()? as f64;
            let keeps_up = last.max(1.0) / (visit.elapsed_ns.max(1) as f64) >= KEEPS_UP;
            (same && visit.counts() && !keeps_up).then_some(before)
        })
    }

    /// One engine with all cases that one process of it can run.
    fn group(&mut self, group: &[Step], round: usize, place: usize) -> Result<(), Failure> {
        let mut todo: Vec<&Step> = group.iter().filter(|step| !self.has(step, round)).collect();
        for attempt in 0..ATTEMPTS {
            let mut again = Vec::new();
            let mut process: Option<(Process, Loads)> = None;
            for &step in &todo {
                if self.stopped() {
                    return Ok(());
                }
                let row = self.step(step, group, &mut process, (round, attempt, place));
                // A wrong clock may be a disturbed one; other failures are the engine's, whoever else worked.
                let clock = row.reason.as_ref().is_some_and(|why| why.contains("wrong clock"));
                if row.contended.is_some() && (row.measured() || clock) {
                    again.push(step);
                }
                self.write(Row::Visit(row))?;
            }
            todo = again;
        }
        Ok(())
    }

    /// One visit.
    fn step(
        &mut self,
        step: &Step,
        group: &[Step],
        running: &mut Option<(Process, Loads)>,
        (round, attempt, place): (usize, usize, usize),
    ) -> Visit {
        let subject = &self.plan.subjects[step.subject];
        let known = &self.engines[&step.contender];
        let mut row = Visit {
            round,
            attempt,
            place,
            engine: known.id.clone(),
            model: subject.id.clone(),
            case: step.planned.case.clone(),
            outcome: Outcome::Refused,
            reason: self.hole(step),
            contended: None,
            load_ns: None,
            first_request_ns: None,
            requests: Vec::new(),
            answers: Vec::new(),
            varied: 0,
            elapsed_ns: 0,
            clock_deviation: None,
            telemetry: Telemetry::default(),
        };
        if row.reason.is_some() {
            return row;
        }
        if let Some(before) = self.saturated(step, round) {
            row.reason = Some(format!("did not keep up with {before} requests a second"));
            return row;
        }
        (self.progress)(&format!(
            "round {} of {}: {} with {}, {}, {}",
            round + 1,
            self.plan.effort.rounds,
            known.id.name,
            subject.id.name,
            step.planned.case.scenario.name(),
            step.planned.case.label(),
        ));
        if running.is_none() {
            let sequences = step.planned.case.in_flight.min(known.max_in_flight);
            let started = Process::start(&self.plan.contenders[step.contender].command, self.plan.patience)
                .and_then(|mut process| {
                    let load = process.load(Step::load(group, subject, sequences))?;
                    same_vocabulary(load.vocab_size, subject)?;
                    Ok((process, Loads { ns: Some(load.load_ns) }))
                });
            match started {
                Ok(started) => *running = Some(started),
                Err(trouble) => {
                    fail(&mut row, &trouble);
                    return row;
                }
            }
        }
        let (process, loads) = running.as_mut().expect("started above");
        row.load_ns = loads.ns.take();
        let sampler = Sampler::begin(process.id(), &row.engine.device);
        let watch = Watch::begin(tree(process.id()).into_iter());
        let (measured, result) =
            visit(process, &step.planned.case, subject.vocab_size, step.planned.until, self.stop);
        row.contended = watch.end();
        row.telemetry = sampler.end();
        let Measured {
            first_request_ns,
            requests,
            answers,
            varied,
            elapsed_ns,
            clock_deviation,
            interrupted,
        } = measured;
        row.first_request_ns = first_request_ns;
        row.requests = requests;
        row.answers = answers.into_iter().filter(|answer| !answer.ids.is_empty()).collect();
        row.varied = varied;
        row.elapsed_ns = elapsed_ns;
        row.clock_deviation = Some(clock_deviation);
        row.outcome = if interrupted { Outcome::Interrupted } else { Outcome::Measured };
        if let Err(trouble) = result {
            fail(&mut row, &trouble);
            *running = None;
        }
        if interrupted {
            *running = None;
        }
        row
    }

    /// Times the single operations that each engine can express.
    ///
    /// # Errors
    /// Those of writing.
    pub fn operations(&mut self) -> Result<(), Failure> {
        if !self.plan.operations {
            return Ok(());
        }
        let known: Vec<(usize, Known)> =
            self.engines.iter().map(|(&at, known)| (at, known.clone())).collect();
        for (at, known) in known {
            let done =
                self.rows.iter().any(|row| matches!(row, Row::Op(op) if op.engine.name == known.id.name));
            if done || self.stopped() {
                continue;
            }
            (self.progress)(&format!("{}: operations", known.id.name));
            let Ok(mut process) = Process::start(&self.plan.contenders[at].command, self.plan.patience)
            else {
                continue;
            };
            for (id, name) in NAMES.into_iter().enumerate() {
                let min_ns = if self.plan.effort.quick { 20_000_000 } else { 200_000_000 };
                let op = Op { id: id as u64, name: name.to_owned(), params: BTreeMap::new(), min_ns };
                let (outcome, reason, samples_ns) = match process
                    .ask(&Request::Op(op.clone()), self.plan.patience.answer)
                {
                    Ok(Reply::Op(times)) => match reference(&op) {
                        Ok(right) if right.agrees(times.check) => (Outcome::Measured, None, times.samples_ns),
                        Ok(right) => {
                            let (is, should) = (times.check, right.check);
                            (
                                Outcome::Failed,
                                Some(format!("wrong answer: {is}, not {should}")),
                                times.samples_ns,
                            )
                        }
                        Err(why) => (Outcome::Failed, Some(why), times.samples_ns),
                    },
                    Ok(Reply::NotExpressible { reason, .. }) => (Outcome::Refused, Some(reason), Vec::new()),
                    Ok(other) => (Outcome::Failed, Some(unexpected("op", &other).to_string()), Vec::new()),
                    Err(trouble) => (Outcome::Failed, Some(trouble.to_string()), Vec::new()),
                };
                let failed = outcome == Outcome::Failed && samples_ns.is_empty();
                let engine = known.id.clone();
                let name = name.to_owned();
                let row = OpRow { engine, name, params: BTreeMap::new(), outcome, reason, samples_ns };
                self.write(Row::Op(row))?;
                if failed {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Holds generated tokens of every engine and case against exact arithmetic: those of the first prompt, of the first round.
    ///
    /// # Errors
    /// Those of writing.
    pub fn check_answers(&mut self) -> Result<(), Failure> {
        for subject in &self.plan.subjects {
            let mut checks: Vec<(AnswerCheck, Vec<u32>)> = Vec::new();
            for row in &self.rows {
                let Row::Visit(visit) = row else { continue };
                let Some(answer) = visit.answers.first() else { continue };
                let known = |check: &AnswerCheck| {
                    check.engine == visit.engine.name
                        && check.model_sha256 == visit.model.sha256
                        && check.case == visit.case
                };
                let before =
                    self.rows.iter().any(|row| matches!(row, Row::AnswerCheck(check) if known(check)));
                if visit.model.sha256 != subject.id.sha256
                    || before
                    || checks.iter().any(|(check, _)| known(check))
                {
                    continue;
                }
                let check = AnswerCheck {
                    engine: visit.engine.name.clone(),
                    model_sha256: visit.model.sha256.clone(),
                    case: visit.case.clone(),
                    seed: answer.seed,
                    ids: answer.ids.clone(),
                    gaps: Vec::new(),
                    wrong: None,
                };
                let (_, ids) = prompt(&Case { ..visit.case.clone() }, subject.vocab_size, 0);
                checks.push((check, ids));
            }
            if checks.is_empty() {
                continue;
            }
            (self.progress)(&format!("checks {} answers of {}", checks.len(), subject.id.name));
            let threads = self.plan.threads.iter().copied().max().unwrap_or(1);
            // The same ids need not be computed twice.
            let mut unique: Vec<(AnswerCheck, Vec<u32>)> = Vec::new();
            for (check, ids) in &checks {
                if !unique.iter().any(|(other, prompt)| prompt == ids && other.ids == check.ids) {
                    unique.push((check.clone(), ids.clone()));
                }
            }
            quality::judge(subject, None, threads, &[], &mut unique);
            for (mut check, ids) in checks {
                let found = unique.iter().find(|(other, prompt)| *prompt == ids && other.ids == check.ids);
                if let Some((judged, _)) = found {
                    check.gaps.clone_from(&judged.gaps);
                    check.wrong.clone_from(&judged.wrong);
                }
                self.write(Row::AnswerCheck(check))?;
            }
        }
        Ok(())
    }
}

/// What a load took, for the first visit behind it.
struct Loads {
    ns: Option<u64>,
}

fn same_vocabulary(found: usize, subject: &Subject) -> Result<(), Trouble> {
    match found == subject.vocab_size {
        true => Ok(()),
        false => {
            Err(Trouble::Failed(format!("{found} ids in its vocabulary, {} in the file", subject.vocab_size)))
        }
    }
}

fn fail(row: &mut Visit, trouble: &Trouble) {
    row.outcome = match trouble {
        Trouble::Refused(_) => Outcome::Refused,
        Trouble::Unavailable(_) | Trouble::Failed(_) => Outcome::Failed,
    };
    row.reason = Some(trouble.to_string());
}

#[cfg(test)]
mod tests;
