//! The five scenarios with the parameters of their document, and what they take.

use super::record::{Arrival, Case, Scenario};
use super::visit::Until;

/// How thoroughly to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Effort {
    /// Short cases for a first look.
    pub quick: bool,
    /// One or two cases of each scenario instead of all, to fit a budget.
    pub sparing: bool,
    /// Rounds.
    pub rounds: usize,
    /// Requests of a case over all rounds that are wanted.
    pub samples: usize,
    /// What every time is multiplied with, to fit a budget.
    pub scale: f64,
    /// Seconds of a case of the sustained scenario.
    pub sustained_s: f64,
}

/// A case and when a visit of it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// What is asked for.
    pub case: Case,
    /// When it ends.
    pub until: Until,
    /// What it should take, in seconds.
    pub seconds: f64,
}

/// What a visit takes at least, in seconds, if it is not for a first look. A budget that leaves less drops cases instead.
const SHORTEST_S: f64 = 4.0;
/// Tokens of an answer, and of one behind a long prompt.
const OUTPUT: usize = 64;
/// See [`OUTPUT`].
const LONG_OUTPUT: usize = 32;
/// Arrivals a second of the open loop. Every engine gets the same; one that is saturated at a rate is not asked for more.
const RATES: [f64; 5] = [0.5, 1.0, 2.0, 4.0, 8.0];

impl Effort {
    /// As the document asks for it, or a first look. In an even number of rounds each engine comes as often before another as behind
    /// it, and 97.5 % of Student's t lie below 3.2 with four of them; a first look makes do with three, and 4.3.
    pub fn new(quick: bool) -> Self {
        Effort {
            quick,
            sparing: false,
            rounds: if quick { 3 } else { 4 },
            samples: 100,
            scale: 1.0,
            sustained_s: 300.0,
        }
    }

    /// The cases of a scenario, for a model with room for so many positions.
    pub fn cases(&self, scenario: Scenario, threads: usize, most_positions: usize) -> Vec<Planned> {
        let case = |prompt_tokens: usize, output_tokens: usize, in_flight: usize| Case {
            scenario,
            prompt_tokens,
            output_tokens,
            in_flight,
            arrival: Arrival::Closed,
            context: (prompt_tokens + output_tokens).next_multiple_of(64),
            threads,
        };
        let quick = self.quick;
        let pick = |full: &[usize], sparing: &[usize], first: &[usize]| match (quick, self.sparing) {
            (true, _) => first.to_vec(),
            (false, true) => sparing.to_vec(),
            (false, false) => full.to_vec(),
        };
        // Of a quick case 20 s are shared by the rounds.
        let short_s = 20.0 / self.rounds as f64;
        match scenario {
            Scenario::Single => {
                let prompts = pick(&[10, 50, 200], &[50], &[50]);
                let cases = prompts.into_iter().map(|prompt| case(prompt, OUTPUT, 1));
                cases.map(|case| self.plan(case, if quick { short_s } else { 60.0 }, true)).collect()
            }
            Scenario::Sustained => {
                let counts = pick(&[32, 64], &[32], &[]);
                let cases = counts.into_iter().map(|count| case(50, OUTPUT, count));
                cases.map(|case| self.plan(case, self.sustained_s, false)).collect()
            }
            Scenario::Concurrent => {
                let counts = pick(&[10, 20, 50, 100], &[10], &[8]);
                let closed = counts.into_iter().map(|count| case(50, OUTPUT, count));
                let rates = if quick || self.sparing { &RATES[1..2] } else { &RATES[..] };
                let open = rates.iter().map(|&per_s| Case {
                    arrival: Arrival::Poisson { per_s },
                    ..case(50, OUTPUT, if quick { 8 } else { 100 })
                });
                closed
                    .chain(open)
                    .map(|case| self.plan(case, if quick { short_s } else { 60.0 }, false))
                    .collect()
            }
            Scenario::Memory => {
                let counts = pick(&[1, 8, 32], &[8], &[]);
                let cases = counts.into_iter().map(|count| case(50, OUTPUT, count));
                cases.map(|case| self.plan(case, 20.0, false)).collect()
            }
            Scenario::LongContext => {
                let contexts = pick(&[1024, 4096, 8192], &[1024], &[1024]);
                let fits = contexts.into_iter().filter(|&context| context <= most_positions || !quick);
                let cases =
                    fits.map(|context| Case { context, ..case(context - LONG_OUTPUT, LONG_OUTPUT, 1) });
                cases.map(|case| self.plan(case, if quick { short_s } else { 60.0 }, false)).collect()
            }
        }
    }

    /// A visit of about so many seconds; `enough` ends it as soon as it has its share of the samples.
    fn plan(&self, case: Case, seconds: f64, enough: bool) -> Planned {
        let seconds = (seconds * self.scale).max(if self.quick { 1.0 } else { SHORTEST_S.min(seconds) });
        let share = self.samples.div_ceil(self.rounds);
        let requests = if enough { share } else { usize::MAX };
        let until = Until { time_ns: (seconds * 1e9) as u64, requests, at_least: case.in_flight.min(2) };
        Planned { case, until, seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_parameters_are_the_default() {
        let effort = Effort::new(false);
        let labels = |scenario| -> Vec<String> {
            effort.cases(scenario, 2, 131_072).iter().map(|planned| planned.case.label()).collect()
        };
        assert_eq!(labels(Scenario::Single), ["prompt 10", "prompt 50", "prompt 200"]);
        assert_eq!(labels(Scenario::Sustained), ["32 in flight", "64 in flight"]);
        assert_eq!(
            labels(Scenario::Concurrent)[..4],
            ["10 in flight", "20 in flight", "50 in flight", "100 in flight"]
        );
        assert_eq!(labels(Scenario::Concurrent)[4..], ["0.5/s", "1/s", "2/s", "4/s", "8/s"]);
        assert_eq!(labels(Scenario::LongContext), ["context 1024", "context 4096", "context 8192"]);
        let long = &effort.cases(Scenario::LongContext, 2, 131_072)[1];
        assert_eq!((long.case.prompt_tokens, long.case.output_tokens), (4096 - 32, 32));
        let single = &effort.cases(Scenario::Single, 2, 2048)[0];
        assert_eq!((single.case.output_tokens, single.until.requests * effort.rounds >= 100), (64, true));
        assert_eq!(effort.cases(Scenario::Sustained, 2, 2048)[0].seconds, 300.0);
        let sparing = Effort { sparing: true, ..effort.clone() };
        for scenario in Scenario::ALL {
            let (all, some) = (effort.cases(scenario, 2, 131_072), sparing.cases(scenario, 2, 131_072));
            assert!(!some.is_empty() && some.len() < all.len(), "{scenario:?}");
            assert!(
                some.iter().all(|planned| all.iter().any(|full| full.case == planned.case)),
                "{scenario:?}"
            );
        }
        let shorter = Effort { sustained_s: 60.0, ..effort };
        assert_eq!(shorter.cases(Scenario::Sustained, 2, 2048)[0].seconds, 60.0);
    }

    #[test]
    fn a_first_look_takes_20_seconds_a_case() {
        let effort = Effort::new(true);
        for scenario in Scenario::ALL {
            for planned in effort.cases(scenario, 2, 2048) {
                assert!(planned.seconds * effort.rounds as f64 <= 20.1, "{planned:?}");
            }
        }
        let shorter = Effort { scale: 0.5, ..effort.clone() };
        assert!(
            shorter.cases(Scenario::Single, 2, 2048)[0].seconds
                < effort.cases(Scenario::Single, 2, 2048)[0].seconds
        );
    }
}
