//! The order of visits, and what fits a time.

use super::*;
use crate::compare::record::EngineId;
use crate::compare::run::Known;

/// Groups of so many engines with two models, all scenarios of a first look.
fn groups(engines: usize) -> Vec<Vec<Step>> {
    let mut groups: Vec<Vec<Step>> = Vec::new();
    for contender in 0..engines {
        for subject in 0..2 {
            for scenario in Scenario::ALL {
                for planned in Effort::new(true).cases(scenario, 2, 2048) {
                    let step = Step { contender, subject, planned };
                    match groups.iter_mut().find(|group| step.fits(&group[0])) {
                        Some(group) => group.push(step),
                        None => groups.push(vec![step]),
                    }
                }
            }
        }
    }
    groups
}

/// Engines of each piece of work, in their order; by the place of the work among `groups`.
fn engines(order: &[&[Step]], engines: usize) -> Vec<(Step, Vec<usize>)> {
    let mut works: Vec<(Step, Vec<usize>)> = order
        .chunks(engines)
        .map(|work| {
            assert!(work.iter().all(|group| group[0].same_work(&work[0][0])), "{work:?}");
            (
                Step { contender: 0, ..work[0][0].clone() },
                work.iter().map(|group| group[0].contender).collect(),
            )
        })
        .collect();
    works.sort_by_key(|(step, _)| format!("{step:?}"));
    works
}

#[test]
fn engines_with_the_same_work_come_beside_each_other_and_turn_around_every_second_round() {
    for count in [2, 3, 6] {
        let groups = groups(count);
        let mut firsts = std::collections::BTreeSet::new();
        for pair in 0..8 {
            let [there, back] =
                [2 * pair, 2 * pair + 1].map(|round| engines(&order(&groups, 1, round), count));
            assert_eq!(there.len() * count, groups.len());
            for ((work, there), (same, back)) in there.iter().zip(&back) {
                assert_eq!(work, same);
                let mut sorted = there.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..count).collect::<Vec<_>>());
                assert_eq!(there.iter().rev().copied().collect::<Vec<_>>(), *back);
                firsts.insert(there[0]);
            }
        }
        assert_eq!(firsts.len(), count, "who begins is drawn");
    }
}

#[test]
fn the_same_seed_gives_the_same_order_and_rounds_differ_in_the_order_of_their_work() {
    let groups = groups(3);
    assert_eq!(order(&groups, 5, 2), order(&groups, 5, 2));
    assert_ne!(order(&groups, 5, 2), order(&groups, 6, 2));
    let first = |round| {
        let step = &order(&groups, 5, round)[0][0];
        (step.subject, step.planned.case.label())
    };
    assert!((1..8).any(|round| first(round) != first(0)));
}

/// The embedded model.
fn tiny() -> Subject {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../kernel/assets/tiny.gguf");
    Subject::open(path.as_ref()).expect("a model")
}

/// A plan of engines that compute one format each, with one model, and those engines.
fn plan(formats: &[&str]) -> (Plan, Engines) {
    let command = EngineCommand { program: "none".into(), arguments: Vec::new() };
    let contender = |at| Contender { name: format!("engine {at}"), command: command.clone() };
    let plan = Plan {
        contenders: (0..formats.len()).map(contender).collect(),
        subjects: vec![tiny()],
        scenarios: Scenario::ALL.to_vec(),
        threads: vec![1, 2],
        effort: Effort::new(false),
        patience: Patience::default(),
        operations: false,
        seed: 1,
    };
    let known =
        |format: &&str| Known { id: EngineId::default(), formats: vec![(*format).into()], max_in_flight: 1 };
    let engines = formats.iter().map(known).enumerate().collect();
    (plan, engines)
}

#[test]
fn a_budget_shortens_cases_then_drops_some_then_rounds() {
    let own = tiny().id.format;
    let (plan, engines) = plan(&[own.as_str(); 12]);
    let full = plan.estimate(&engines);
    let of = |effort: &Effort| Plan { effort: effort.clone(), ..plan.clone() }.estimate(&engines);
    assert_eq!(plan.within(full + 1.0, 3, &engines), plan.effort, "there is time for all of it");
    for share in [0.9, 0.5, 0.2] {
        let shorter = plan.within(full * share, 3, &engines);
        let is = of(&shorter) / full;
        assert!(
            !shorter.sparing && shorter.rounds == 4 && (share * 0.98..=share).contains(&is),
            "{shorter:?}: {is}"
        );
    }
    let least = |sparing, rounds| of(&Effort { sparing, rounds, scale: 0.0, ..plan.effort.clone() });
    let fewer = plan.within(least(true, 4) * 1.05, 3, &engines);
    assert!(fewer.sparing && fewer.rounds == 4 && of(&fewer) <= least(true, 4) * 1.05, "{fewer:?}");
    let rounds = plan.within(least(true, 3) * 1.05, 3, &engines);
    assert!(rounds.sparing && rounds.rounds == 3 && of(&rounds) <= least(true, 3) * 1.05, "{rounds:?}");
    let asked = plan.within(least(true, 3) * 1.05, 4, &engines);
    assert!(asked.sparing && asked.rounds == 4, "rounds that were asked for stay: {asked:?}");
    let none = plan.within(1.0, 3, &engines);
    assert!(none.sparing && none.rounds == 3 && of(&none) > 1.0 && none.scale < 1e-6, "{none:?}");
}

#[test]
fn time_is_planned_for_what_an_engine_computes() {
    let own = tiny().id.format;
    let (alone, one) = plan(&[own.as_str()]);
    let (beside, two) = plan(&[own.as_str(), "another"]);
    assert_eq!(alone.estimate(&one), beside.estimate(&two));
    assert_eq!(beside.estimate(&Engines::new()), 0.0);
}
