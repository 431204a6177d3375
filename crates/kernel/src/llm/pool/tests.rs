use super::*;
extern crate std;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

fn yields(_: u32) {
    thread::yield_now();
}

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % end
    }
}

/// Lends a board with `count` members to `work`; each helper does `late` before it begins to serve.
fn with_board(
    count: usize,
    late: impl Fn(usize) + Sync,
    work: impl FnOnce(&dyn Fn(&(dyn Fn(Member<'_>) + Sync))),
) {
    let (board, stop) = (Board::new(), AtomicBool::new(false));
    let waits = Waits { jobs: &yields, steps: &yields };
    thread::scope(|scope| {
        for index in 1..count {
            let (board, stop, waits, late) = (&board, &stop, &waits, &late);
            scope.spawn(move || {
                late(index);
                while catch_unwind(AssertUnwindSafe(|| board.serve(index, waits, stop))).is_err() {}
            });
        }
        let ended = catch_unwind(AssertUnwindSafe(|| work(&|job| board.run(count, &waits, job))));
        stop.store(true, Ordering::Release);
        ended.unwrap();
    });
}

/// A team of so many threads, all of which are there when a job begins.
pub(in crate::llm) struct Threads(pub usize);

impl Team for Threads {
    fn size(&self) -> usize {
        self.0
    }

    fn run(&self, job: &(dyn Fn(Member<'_>) + Sync)) {
        let here = AtomicUsize::new(0);
        with_board(
            self.0,
            |_| {},
            |run| {
                run(&|member| {
                    here.fetch_add(1, Ordering::Relaxed);
                    while here.load(Ordering::Relaxed) < self.0 {
                        thread::yield_now();
                    }
                    job(member);
                });
            },
        );
    }
}

/// Steps of different sizes, each of which needs all of the one before; some members fall asleep here and there.
fn chain(
    sizes: &[usize],
    sleeps: impl Fn(usize, usize, usize) -> Duration + Sync,
) -> impl Fn(Member<'_>) + Sync {
    let done: Vec<Vec<AtomicUsize>> =
        sizes.iter().map(|&units| (0..units).map(|_| AtomicUsize::new(0)).collect()).collect();
    let begun = AtomicUsize::new(0);
    let sleeping = move |member: usize, step: usize, unit: usize| {
        let time = sleeps(member, step, unit);
        if !time.is_zero() {
            thread::sleep(time);
        }
    };
    move |member| {
        for step in 0..done.len() {
            member.step(
                done[step].len(),
                || {
                    begun.fetch_max(step, Ordering::Relaxed);
                    // Relaxed: what makes it visible is to be the step's end.
                    step.checked_sub(1).map_or(0, |before| {
                        done[before].iter().map(|u| u.load(Ordering::Relaxed)).sum::<usize>()
                    })
                },
                |sum, units| {
                    let before = step.checked_sub(1).map_or(0, |before| done[before].len());
                    assert_eq!(*sum, before, "step {step} began before the end of the last");
                    assert_eq!(begun.load(Ordering::Relaxed), step, "another step is open");
                    for unit in units {
                        sleeping(member.index, step, unit);
                        assert_eq!(done[step][unit].fetch_add(1, Ordering::Relaxed), 0, "unit {unit} twice");
                    }
                    assert_eq!(begun.load(Ordering::Relaxed), step, "the step ended too early");
                },
            );
        }
        if member.index == 0 {
            member.meet();
            assert!(done.iter().flatten().all(|unit| unit.load(Ordering::Relaxed) == 1), "all units, once");
        }
    }
}

const SIZES: [usize; 12] = [1, 7, 0, 2, 64, 1, 1, 33, 3, 0, 100, 5];

#[test]
fn every_unit_is_done_once_and_steps_follow_each_other() {
    for count in 1..=5 {
        with_board(
            count,
            |_| {},
            |run| {
                for _ in 0..if cfg!(miri) { 2 } else { 200 } {
                    run(&chain(&SIZES, |_, _, _| Duration::ZERO));
                }
            },
        );
    }
}

#[test]
fn more_members_than_shares_and_more_units_than_a_word_holds() {
    let units = if cfg!(miri) { 70_000 } else { 1_000_000 };
    let count = if cfg!(miri) { 4 } else { 70 };
    with_board(
        count,
        |_| {},
        |run| {
            let sum = AtomicUsize::new(0);
            run(&|member| {
                member.step(
                    units,
                    || (),
                    |(), units| {
                        assert!(!units.is_empty());
                        sum.fetch_add(units.sum::<usize>(), Ordering::Relaxed);
                    },
                );
            });
            assert_eq!(sum.into_inner(), units * (units - 1) / 2);
        },
    );
}

#[test]
fn a_member_that_never_comes_is_not_missed() {
    let go = AtomicBool::new(false);
    let never = |index: usize| {
        while index == 2 && !go.load(Ordering::Relaxed) {
            thread::yield_now();
        }
    };
    with_board(3, never, |run| {
        run(&chain(&SIZES, |_, _, _| Duration::ZERO));
        go.store(true, Ordering::Relaxed);
        run(&chain(&SIZES, |_, _, _| Duration::ZERO));
    });
}

#[test]
fn members_that_fall_asleep_anywhere_do_no_harm() {
    for seed in 0..if cfg!(miri) { 1 } else { 30 } {
        let random = move |member: usize, step: usize, unit: usize| {
            let mut random = Random((seed * 1000 + member * 100 + step) as u64 * 1000 + unit as u64);
            // The first helper sleeps long and often, the others seldom.
            let odds = if member == 1 { 5 } else { 40 };
            Duration::from_micros(if random.below(odds) == 0 { random.below(300) as u64 } else { 0 })
        };
        let late = |index: usize| thread::sleep(Duration::from_micros(200 * index as u64));
        with_board(4, late, |run| {
            for _ in 0..5 {
                run(&chain(&SIZES, random));
            }
        });
    }
}

#[test]
fn a_slow_member_does_less() {
    if cfg!(miri) {
        return; // no time there
    }
    with_board(
        2,
        |_| {},
        |run| {
            // The job is long enough for the helper to come: 100 units of a millisecond. On the slow member one takes
            // as long as ten of the other's, by counting these: sleeps are as long as a busy machine makes them.
            let units = [const { AtomicUsize::new(0) }; 2];
            let begun = std::time::Instant::now();
            let ten_more = |slow: usize| units[0].load(Ordering::Relaxed) >= (10 * (slow + 1)).min(62);
            run(&|member| {
                member.step(
                    100,
                    || (),
                    |(), claimed| {
                        for _ in claimed {
                            thread::sleep(Duration::from_millis(1));
                            while member.index == 1
                                && !ten_more(units[1].load(Ordering::Relaxed))
                                && begun.elapsed() < Duration::from_secs(30)
                            {
                                thread::sleep(Duration::from_millis(1));
                            }
                            units[member.index].fetch_add(1, Ordering::Relaxed);
                        }
                    },
                );
            });
            let [fast, slow] = units.map(AtomicUsize::into_inner);
            assert_eq!(fast + slow, 100);
            // Half of its share, or none: it has no more claims than that before the other one helps.
            assert!(slow <= 38, "{fast} and {slow}");
        },
    );
}

#[test]
fn a_panic_ends_the_job_and_the_team_goes_on() {
    for who in [0, 1] {
        with_board(
            3,
            |_| {},
            |run| {
                let failed = catch_unwind(AssertUnwindSafe(|| {
                    let came = AtomicBool::new(false);
                    run(&|member| {
                        for step in 0..if cfg!(miri) { 8 } else { 1000 } {
                            member.step(
                                6,
                                || (),
                                |(), _| {
                                    came.fetch_or(member.index == who, Ordering::Relaxed);
                                    if member.index == who && step > 1 {
                                        std::panic::resume_unwind(std::boxed::Box::new("on purpose"));
                                    }
                                    // The others leave it something to do.
                                    while !came.load(Ordering::Relaxed) {
                                        thread::yield_now();
                                    }
                                    if member.index != who {
                                        thread::yield_now();
                                    }
                                },
                            );
                        }
                    });
                }));
                assert!(failed.is_err(), "member {who}");
                run(&chain(&SIZES, |_, _, _| Duration::ZERO));
            },
        );
    }
}

#[test]
fn a_job_inside_a_job_runs_alone() {
    let (board, inner) = (Board::new(), AtomicUsize::new(0));
    let waits = Waits { jobs: &yields, steps: &yields };
    board.run(2, &waits, &|_| {
        board.run(2, &waits, &|member| {
            assert_eq!(member.count, 1);
            inner.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(inner.into_inner(), 1);
}

#[test]
fn solo_does_everything_at_once() {
    let calls = AtomicUsize::new(0);
    Solo.run(&|member| {
        member.step(
            9,
            || 5,
            |begun, units| {
                assert_eq!((*begun, units), (5, 0..9));
                calls.fetch_add(1, Ordering::Relaxed);
            },
        );
        member.step(0, || unreachable!("no units"), |(), _| unreachable!("no units"));
        member.meet();
    });
    assert_eq!(calls.into_inner(), 1);
}
