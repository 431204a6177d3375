//! Memory bandwidth: what every speed that is bound by memory is held against.
//!
//! Bytes are counted as the program sees them: `memory_read` n, `memory_copy` 2 n, `memory_triad` 3 n. Lines that the
//! hardware reads before it overwrites them come on top.

use alloc::format;
use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use super::case::{Case, Work, WrongAnswer};
use super::clock::Clock;
use super::{Runner, Subject};
use crate::llm::pool::Team;
use crate::llm::shared::Shared;

/// Elements that a member's share is a multiple of: a page of u64.
const GRAIN: usize = 512;
/// The triad's factor.
const FACTOR: u64 = 3;

/// What is done to the arrays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Copy,
    Triad,
}

const KINDS: [(Kind, &str); 3] =
    [(Kind::Read, "memory_read"), (Kind::Copy, "memory_copy"), (Kind::Triad, "memory_triad")];

/// Measures the bandwidth of the whole team.
pub(super) fn run<C: Clock + ?Sized>(runner: &mut Runner<'_, C>, subject: &Subject<'_>) {
    let config = runner.config;
    if !KINDS.iter().any(|(_, name)| config.wants(name)) {
        return;
    }
    let len = (config.memory_bytes / 8).max(GRAIN);
    let Some([a, b, c]) = arrays(len) else {
        runner.fail("memory", "none", format!("three arrays of {} bytes are not free", len * 8));
        return;
    };
    let mut stream = Stream { team: subject.team, kind: Kind::Read, a, b, c, sum: 0 };
    for (kind, name) in KINDS {
        if !config.wants(name) {
            continue;
        }
        stream.kind = kind;
        if let Some(measurement) = runner.attempt(name, "none", config.end_to_end_effort(), &mut stream) {
            let detail = format!("arrays of {} bytes, {} members", len * 8, subject.team.size());
            runner.keep(name.into(), "GB", "none", detail, measurement);
        }
    }
}

/// Three arrays of `len`: the first empty-handed, the others with values that a formula gives.
fn arrays(len: usize) -> Option<[Vec<u64>; 3]> {
    let mut arrays = [Vec::new(), Vec::new(), Vec::new()];
    for (array, value) in
        arrays.iter_mut().zip([|_| u64::MAX, |i| i as u64, |i| 7 * i as u64 + 1] as [fn(usize) -> u64; 3])
    {
        array.try_reserve_exact(len).ok()?;
        array.extend((0..len).map(value));
    }
    Some(arrays)
}

/// `a = b`, `a = b + 3 c`, or the sum of `b`, by all members of the team.
struct Stream<'t> {
    team: &'t dyn Team,
    kind: Kind,
    a: Vec<u64>,
    b: Vec<u64>,
    c: Vec<u64>,
    sum: u64,
}

impl Case for Stream<'_> {
    fn name(&self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self.kind).expect("all kinds are listed").1
    }

    fn work(&self) -> Work {
        let arrays = match self.kind {
            Kind::Read => 1,
            Kind::Copy => 2,
            Kind::Triad => 3,
        };
        let bytes = arrays * 8 * self.a.len() as u64;
        Work { units: bytes as f64 / 1e9, tokens: 0, bytes, flops: 0 }
    }

    fn run(&mut self, calls: u64) {
        let (kind, len) = (self.kind, self.a.len());
        for _ in 0..calls {
            let sum = AtomicU64::new(0);
            let (b, c) = (black_box(&self.b), black_box(&self.c));
            let a = Shared::new(&mut self.a);
            self.team.run(&|member| {
                member.step(
                    len.div_ceil(GRAIN),
                    || (),
                    |(), units| {
                        let some = units.start * GRAIN..(units.end * GRAIN).min(len);
                        let (b, c) = (&b[some.clone()], &c[some.clone()]);
                        if kind == Kind::Read {
                            let part = b.iter().fold(0u64, |sum, &x| sum.wrapping_add(x));
                            sum.fetch_add(part, Ordering::Relaxed);
                            return;
                        }
                        // SAFETY: every piece is claimed by one member, and nobody reads `a` during the job.
                        let a = unsafe { a.write(some) };
                        if kind == Kind::Copy {
                            a.copy_from_slice(b);
                        } else {
                            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                                *a = b.wrapping_add(FACTOR.wrapping_mul(*c));
                            }
                        }
                    },
                );
            });
            self.sum = sum.into_inner();
            black_box(&self.a);
        }
    }

    fn check(&mut self) -> Result<(), WrongAnswer> {
        let n = self.a.len() as u64;
        if self.kind == Kind::Read {
            return WrongAnswer::check("the sum", (n * (n - 1) / 2) as f64, self.sum as f64, 0.0);
        }
        for (i, &found) in (0..n).zip(&self.a) {
            let expected = if self.kind == Kind::Copy { i } else { 22 * i + 3 };
            WrongAnswer::check("an element", expected as f64, found as f64, 0.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::pool::Solo;

    #[test]
    fn each_operation_is_checked_and_counted() {
        let [a, b, c] = arrays(1000).unwrap();
        let mut stream = Stream { team: &Solo, kind: Kind::Read, a, b, c, sum: 0 };
        for ((kind, _), bytes) in KINDS.into_iter().zip([8_000, 16_000, 24_000]) {
            stream.kind = kind;
            assert!(stream.check().is_err(), "nothing of this kind has run yet");
            stream.run(2);
            assert_eq!((stream.check(), stream.work().bytes), (Ok(()), bytes));
        }
        stream.a[999] += 1;
        assert!(stream.check().is_err());
    }
}
