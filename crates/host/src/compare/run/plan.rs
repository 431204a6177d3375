//! What a run will do, in which order, and how long it should take.

use barelm_protocol::Load;

use super::Engines;
use crate::compare::models::Subject;
use crate::compare::process::{EngineCommand, Patience};
use crate::compare::record::Scenario;
use crate::compare::scenario::{Effort, Planned};
use crate::compare::stats::shuffled;

/// What an engine's load costs besides its cases, in seconds: process, load, first requests.
const LOAD_S: f64 = 2.0;

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
pub(super) struct Step {
    pub(super) contender: usize,
    pub(super) subject: usize,
    pub(super) planned: Planned,
}

impl Plan {
    /// Groups of steps that one process of an engine runs, after one load: those of a round.
    pub(super) fn groups(&self, engines: impl Iterator<Item = usize>) -> Vec<Vec<Step>> {
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

    /// Why an engine is not asked for a case.
    pub(super) fn hole(&self, step: &Step, engines: &Engines) -> Option<String> {
        let (subject, case) = (&self.subjects[step.subject], &step.planned.case);
        let engine = &engines[&step.contender];
        if !engine.formats.contains(&subject.id.format) {
            let formats = engine.formats.join(" ");
            if formats.is_empty() {
                let why = "does not say the type of its weights: BARELM_OPENAI_FORMAT says it of a server";
                return Some(why.to_owned());
            }
            return Some(format!("computes {formats} as they are, not {}", subject.id.format));
        }
        (case.context > subject.positions).then(|| format!("the model has {} positions", subject.positions))
    }

    /// Seconds that all of it should take, with the engines that are there and the cases that they compute.
    pub fn estimate(&self, engines: &Engines) -> f64 {
        let each = |group: &Vec<Step>| {
            let steps = group.iter().filter(|step| self.hole(step, engines).is_none());
            let seconds: Vec<f64> = steps.map(|step| step.planned.seconds).collect();
            if seconds.is_empty() { 0.0 } else { seconds.iter().sum::<f64>() + LOAD_S }
        };
        let round: f64 = self.groups(engines.keys().copied()).iter().map(each).sum();
        let computes = |subject: &Subject| {
            engines.values().filter(|engine| engine.formats.contains(&subject.id.format)).count()
        };
        let judged: usize = self.subjects.iter().map(computes).sum();
        round * self.effort.rounds as f64 + judged as f64 * 2.0 * LOAD_S
    }

    /// The effort with which all of it takes at most so many seconds: shorter cases; where the shortest take too long, fewer of
    /// them ([`Effort::sparing`]); then fewer rounds, but not below `rounds`. The last of these where nothing is short enough.
    pub fn within(&self, seconds: f64, rounds: usize, engines: &Engines) -> Effort {
        let all = self.effort.clone();
        let sparing = Effort { sparing: true, ..all.clone() };
        let least = Effort { rounds: rounds.min(all.rounds), ..sparing.clone() };
        let at = |effort: &Effort, scale: f64| {
            let effort = Effort { scale, ..effort.clone() };
            Plan { effort, ..self.clone() }.estimate(engines)
        };
        let effort = [all, sparing].into_iter().find(|effort| at(effort, 0.0) <= seconds).unwrap_or(least);
        if at(&effort, 1.0) <= seconds {
            return Effort { scale: 1.0, ..effort };
        }
        // Cases have a shortest time, so that the estimate is no straight line.
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            if at(&effort, middle) <= seconds { low = middle } else { high = middle }
        }
        Effort { scale: low, ..effort }
    }
}

/// A round's order: what engines are compared in comes beside each other, in another order each round. Who is first there is
/// drawn too, and every second round turns the order of the one before around: whatever the place in it does to a figure
/// cancels over both.
pub(super) fn order(groups: &[Vec<Step>], seed: u64, round: usize) -> Vec<&[Step]> {
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
    pub(super) fn fits(&self, other: &Step) -> bool {
        self.contender == other.contender && self.same_work(other)
    }

    /// Whether both ask for the same load, of whichever engine.
    pub(super) fn same_work(&self, other: &Step) -> bool {
        let (a, b) = (&self.planned.case, &other.planned.case);
        self.subject == other.subject
            && a.threads == b.threads
            && a.scenario == b.scenario
            && (a.scenario == Scenario::Single || (a.context == b.context && a.in_flight == b.in_flight))
    }

    /// What all steps of a group need of a load.
    pub(super) fn load(group: &[Step], subject: &Subject, sequences: usize) -> Load {
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

#[cfg(test)]
mod tests;
