//! How many members are best, found out by running.
//!
//! Bits do not depend on it, so it may change from job to job. With the cores to themselves all members run, and
//! nothing is tried: two looks at the clock a job are the whole price. A member beside a busy neighbor, though, stands
//! still for milliseconds with work in its hands, and the others sleep until it goes on. When a tenth of the time is
//! lost that way, jobs run with half of the members for a while, and the faster of the two stays. Fewer than all try
//! more again: soon, and the longer in vain the less often.
//!
//! Jobs are compared with jobs of about the same work: a prompt, whose steps are long, may want all members where
//! single tokens want one.

use std::time::{Duration, Instant};

/// Jobs are looked at together until they have taken so long, and are as many.
const WINDOW: Duration = Duration::from_millis(12);
const JOBS: u32 = 4;
/// The share of the time that members may stand still before fewer are tried.
const STALLED: f64 = 0.1;
/// A trial's first job that falls behind what is known by so much ends it.
const HOPELESS: f64 = 0.7;
/// How much faster more members have to be.
const WORTH: f64 = 1.03;
/// How long after a trial in vain the next may follow: the first, and the longest.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// Finds out how many members are best.
pub(super) struct Crew {
    most: usize,
    /// By the logarithm of the work.
    kinds: [Option<Kind>; 64],
    /// Members of the last job.
    last: usize,
}

/// Jobs of about the same work.
#[derive(Clone, Copy)]
struct Kind {
    members: usize,
    /// More than `members`, and not better when they were last tried.
    not_better: usize,
    window: Window,
    /// Work a second of the last full window.
    rate: Option<f64>,
    /// Members that are being tried, and how they do.
    trial: Option<(usize, Window)>,
    /// When another trial may begin, and how long the pause was.
    next: Instant,
    pause: Duration,
}

/// Some jobs in a row.
#[derive(Clone, Copy, Default)]
struct Window {
    jobs: u32,
    work: u64,
    time: Duration,
    stalled: Duration,
}

impl Window {
    fn add(&mut self, work: u64, time: Duration, stalled: Duration) {
        *self = Window {
            jobs: self.jobs + 1,
            work: self.work.saturating_add(work),
            time: self.time + time,
            stalled: self.stalled + stalled,
        };
    }

    fn is_full(&self) -> bool {
        self.jobs >= JOBS && self.time >= WINDOW
    }

    fn rate(&self) -> f64 {
        self.work as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl Crew {
    /// For a team in which `most` can take part at a time.
    pub fn new(most: usize) -> Self {
        Crew { most, kinds: [None; 64], last: most }
    }

    /// How many members the next job, of so much work, is to have.
    pub fn members(&mut self, work: u64, now: Instant) -> usize {
        let (most, last) = (self.most, self.last);
        // Unknown work is begun with what was right just before.
        let kind = self.kinds[index(work)].get_or_insert_with(|| Kind::new(last, most, now));
        self.last = kind.trial.map_or(kind.members, |(members, _)| members);
        self.last
    }

    /// Books that job, which began at `start`, and the time that members stood still in it, each counted.
    pub fn ran(&mut self, work: u64, start: Instant, time: Duration, stalled: Duration) {
        if let Some(kind) = &mut self.kinds[index(work)] {
            kind.ran(self.most, work, start + time, time, stalled);
        }
    }
}

fn index(work: u64) -> usize {
    work.max(1).ilog2() as usize
}

impl Kind {
    fn new(members: usize, most: usize, now: Instant) -> Self {
        Kind {
            members,
            not_better: most + 1,
            window: Window::default(),
            rate: None,
            trial: None,
            next: now,
            pause: PAUSE[0],
        }
    }

    fn ran(&mut self, most: usize, work: u64, now: Instant, time: Duration, stalled: Duration) {
        if let Some((members, mut window)) = self.trial {
            window.add(work, time, stalled);
            self.trial = Some((members, window));
            // A trial begins behind a full window.
            let known = self.rate.unwrap_or(0.0);
            let hopeless = window.rate() < known * HOPELESS;
            if hopeless || window.is_full() {
                let worth = if members > self.members { known * WORTH } else { known };
                self.end_trial(members, window.rate() > worth, most, now);
            }
            return;
        }
        self.window.add(work, time, stalled);
        if !self.window.is_full() {
            return;
        }
        let Window { time, stalled, .. } = self.window;
        self.rate = Some(self.window.rate());
        self.window = Window::default();
        if now < self.next {
            return;
        }
        if self.members > 1 && stalled > time.mul_f64(STALLED) {
            self.trial = Some((self.members / 2, Window::default()));
        } else if self.members < most {
            // Half of the way to what was not better, and in the end that again.
            let members = (self.members + self.not_better).div_ceil(2).min(most);
            self.trial = Some((members, Window::default()));
        }
    }

    fn end_trial(&mut self, members: usize, better: bool, most: usize, now: Instant) {
        self.trial = None;
        if better {
            // What was not better than fewer may be better than this, some time.
            self.not_better = if members < self.members {
                self.members
            } else if members < self.not_better {
                self.not_better
            } else {
                most + 1
            };
            self.members = members;
            self.rate = None;
            self.pause = PAUSE[0];
        } else {
            if members > self.members {
                self.not_better = members;
            }
            self.pause = (self.pause * 2).min(PAUSE[1]);
        }
        self.next = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which a job takes what `time` says of its members and the moment, with the time stood still.
    struct Machine<F> {
        crew: Crew,
        start: Instant,
        now: Duration,
        time: F,
    }

    impl<F: Fn(usize, Duration) -> (Duration, Duration)> Machine<F> {
        fn new(most: usize, time: F) -> Self {
            Machine { crew: Crew::new(most), start: Instant::now(), now: Duration::ZERO, time }
        }

        /// Runs jobs of `work` for so long: jobs with each number of members, and how many that were.
        fn run(&mut self, work: u64, lasting: Duration) -> [u32; 17] {
            let (mut jobs, end) = ([0; 17], self.now + lasting);
            while self.now < end {
                let members = self.crew.members(work, self.start + self.now);
                let (time, stalled) = (self.time)(members, self.now);
                self.crew.ran(work, self.start + self.now, time, stalled);
                self.now += time;
                jobs[members] += 1;
            }
            jobs
        }
    }

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn with_the_cores_to_themselves_all_members_run_always() {
        for most in [2, 3, 16] {
            let mut machine = Machine::new(most, |members, _| (16 * MS / members as u32, MS / 100));
            let jobs = machine.run(1000, 10 * SECOND);
            assert_eq!(jobs.iter().sum::<u32>(), jobs[most]);
        }
    }

    #[test]
    fn beside_a_neighbor_one_runs_and_when_it_leaves_all_do() {
        let busy = |members: usize, now: Duration| match members {
            _ if now > 10 * SECOND => (2 * MS / members as u32, Duration::ZERO),
            1 => (2 * MS, Duration::ZERO),
            _ => (9 * MS, 7 * MS),
        };
        let mut machine = Machine::new(2, busy);
        let learning = machine.run(1000, SECOND);
        assert!(learning[1] > 400, "{learning:?}");
        let knowing = machine.run(1000, 9 * SECOND);
        // Less than 1 % of the time for trials.
        assert!(knowing[2] * 9 < 90, "{knowing:?}");
        machine.run(1000, 3 * SECOND);
        let alone = machine.run(1000, SECOND);
        assert_eq!(alone[1], 0, "{alone:?}");
    }

    #[test]
    fn one_neighbor_among_many_cores_costs_one_member() {
        // The sixteenth finds no core of its own.
        let busy = |members: usize, _: Duration| match members {
            16 => (8 * MS, 60 * MS),
            members => (16 * MS / members as u32, Duration::ZERO),
        };
        let mut machine = Machine::new(16, busy);
        machine.run(1000, 3 * SECOND);
        let jobs = machine.run(1000, 2 * SECOND);
        assert!(jobs[15] * 100 > 98 * jobs.iter().sum::<u32>(), "{jobs:?}");
    }

    #[test]
    fn stalls_that_fewer_members_do_not_help_are_borne() {
        // All members stand still half of the time, as where the whole machine is interrupted.
        let mut machine = Machine::new(4, |members, _| (16 * MS / members as u32, 2 * MS));
        let jobs = machine.run(1000, 10 * SECOND);
        assert!(jobs[4] * 100 > 95 * jobs.iter().sum::<u32>(), "{jobs:?}");
    }

    #[test]
    fn kinds_of_work_find_their_own_number() {
        let busy = |members: usize, now: Duration| {
            // Even milliseconds: single tokens; odd ones: prompts. The time of a job never changes that.
            if now.as_millis().is_multiple_of(2) && members > 1 {
                (8 * MS, 6 * MS)
            } else {
                (2 * MS, Duration::ZERO)
            }
        };
        let mut tokens = Machine::new(2, busy);
        tokens.run(1000, SECOND);
        assert!(tokens.run(1000, SECOND)[1] > 480);
        tokens.now += MS;
        // Begun with one, as it was right for tokens; two are as good here, not better.
        let time = |members: usize, _: Duration| (30 * MS / members as u32, Duration::ZERO);
        let mut prompts = Machine { crew: tokens.crew, start: tokens.start, now: tokens.now, time };
        prompts.run(1_000_000, SECOND);
        assert_eq!(prompts.run(1_000_000, SECOND)[1], 0);
    }
}
