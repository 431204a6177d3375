//! The order of visits.

use super::*;

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
