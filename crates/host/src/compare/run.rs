//! A run: engines take turns, in another order each round, one in memory at a time, and every row is written at once.
//!
//! - `greeting`: who is there.
//! - `plan`: which cases, in which order, within how much time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use barelm_protocol::{Op, Reply, Request};

use super::models::Subject;
use super::ops::{NAMES, reference};
use super::process::{Process, Trouble, unexpected};
use super::quality::{self, Said};
use super::record::{AnswerCheck, Arrival, Case, EngineId, OpRow, Outcome, Row, Telemetry, Visit, Writer};
use super::telemetry::{Sampler, trees};
use super::visit::{Measured, prompt, visit};
use crate::failure::Failure;
use crate::versus::contention::Watch;

mod greeting;
mod plan;

pub use greeting::{Engines, Known, greet};
pub use plan::{Contender, Plan};
use plan::{Step, order};

/// Times a round that others disturbed is run again.
const ATTEMPTS: usize = 2;
/// An open loop is saturated where less than this share of what arrives is answered in its time.
const KEEPS_UP: f64 = 0.9;

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
    engines: Engines,
}

impl<'r> Runner<'r> {
    /// A runner of the engines that [`greet`] found, whose record has these rows already.
    pub fn new(
        plan: &'r Plan,
        engines: Engines,
        writer: &'r mut Writer,
        rows: Vec<Row>,
        stop: &'r AtomicBool,
        progress: &'r mut dyn FnMut(&str),
    ) -> Self {
        Runner { plan, writer, rows, stop, progress, engines }
    }

    fn write(&mut self, row: Row) -> Result<(), Failure> {
        self.writer.write(&row)?;
        self.rows.push(row);
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
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
            reason: self.plan.hole(step, &self.engines),
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
        let processes = process.processes();
        let watched = trees(&processes);
        let sampler = Sampler::begin(processes, &row.engine.device);
        let watch = Watch::begin(watched.into_iter());
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
