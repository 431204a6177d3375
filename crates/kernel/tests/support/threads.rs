//! Threads as a team, punctual or late.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use barelm::llm::pool::{Board, Member, Team, Waits};

/// A team of so many threads, which come when they want.
pub struct Threads {
    count: usize,
    late: bool,
    /// Times that somebody was late; changes what happens next.
    times: AtomicUsize,
}

impl Threads {
    /// All are there before a job begins.
    pub fn punctual(count: usize) -> Self {
        Threads { count, late: false, times: AtomicUsize::new(0) }
    }

    /// Helpers come at some time during the job or when it is over, and sleep wherever they wait.
    #[allow(dead_code, reason = "not every test file needs them")]
    pub fn late(count: usize) -> Self {
        Threads { late: true, ..Self::punctual(count) }
    }

    fn sleep(&self) {
        let nth = self.times.fetch_add(1, Ordering::Relaxed) as u64;
        std::thread::sleep(Duration::from_micros(nth * nth * 37 % 400));
    }
}

impl Team for Threads {
    fn size(&self) -> usize {
        self.count
    }

    fn run(&self, job: &(dyn Fn(Member<'_>) + Sync)) {
        let (board, stop, here) = (Board::new(), AtomicBool::new(false), AtomicUsize::new(0));
        let yields = |_: u32| std::thread::yield_now();
        let sleeps = |_: u32| self.sleep();
        let punctual = |member: Member<'_>| {
            here.fetch_add(1, Ordering::Relaxed);
            while here.load(Ordering::Relaxed) < self.count {
                std::thread::yield_now();
            }
            job(member);
        };
        let late = |member: Member<'_>| {
            if member.index > 0 {
                self.sleep();
            }
            job(member);
        };
        let job: &(dyn Fn(Member<'_>) + Sync) = if self.late { &late } else { &punctual };
        std::thread::scope(|scope| {
            for index in 1..self.count {
                let (board, stop) = (&board, &stop);
                let (sleeps, yields) = (&sleeps, &yields);
                scope.spawn(move || {
                    let steps: &dyn barelm::llm::pool::Wait = if self.late { sleeps } else { yields };
                    board.serve(index, &Waits { jobs: yields, steps }, stop);
                });
            }
            board.run(self.count, &Waits { jobs: &yields, steps: &yields }, job);
            stop.store(true, Ordering::Release);
        });
    }
}
