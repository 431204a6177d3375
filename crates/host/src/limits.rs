//! What this machine can do at most, measured with the same threads as the model beside it: reading memory, 8-bit
//! products, f32 products.
//!
//! - [`ReadBuffer`] is larger than the last cache; [`ReadBuffer::read_rate`] sums it with full-width loads.
//! - [`int8_rate`] and [`f32_rate`] repeat the best instruction of this processor on registers only.
//! - [`Demand`] is what a model's tokens take of them, so how near a speed comes.
//!
//! Virtual machines drift within seconds, so a share is worth something only if limit and speed were measured next to
//! each other, and one above 1 says that the limit was measured at a worse moment: measure both again.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod demand;
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use barelm::llm::pool::Team;
use memmap2::MmapMut;

use crate::commands::setup::available_memory;
use crate::failure::Failure;
pub use demand::Demand;

#[cfg(target_arch = "aarch64")]
use aarch64 as machine;
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
use portable as machine;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

/// Bytes that a member's share of the buffer is a multiple of; what the loops over it may take at a time.
const GRAIN: usize = 4096;
/// The least that is read: four times the largest common last cache.
const LEAST: usize = 256 << 20;
/// Rounds of a register loop between two looks at the clock: a millisecond or more, so that starting a team is
/// little of it.
const ROUNDS: u64 = 1_000_000;

/// A loop over registers: its instruction and how many operations one round is. A multiplication and an addition are
/// two operations.
#[derive(Clone, Copy)]
struct RegisterLoop {
    instruction: &'static str,
    operations: u64,
    run: fn(rounds: u64) -> u64,
}

/// Memory to read, larger than the last cache, every page of its own.
pub struct ReadBuffer {
    memory: MmapMut,
}

impl ReadBuffer {
    /// Four times the last cache as the system tells it, at least 256 MiB.
    ///
    /// # Errors
    /// Where less than twice that is free.
    pub fn try_new() -> Result<Self, Failure> {
        let bytes = last_cache().map_or(LEAST, |cache| (4 * cache).max(LEAST)).next_multiple_of(GRAIN);
        if available_memory().is_some_and(|available| available < 2 * bytes as u64) {
            return Err(Failure::Message(format!("{bytes} bytes to measure reading are not free")));
        }
        let mut memory = MmapMut::map_anon(bytes)
            .map_err(|error| Failure::because("no memory to measure reading", error))?;
        // As the weights have them; a system without large pages measures with what it has.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        // Untouched pages would all be the same zeros, and come from the cache.
        memory.fill(1);
        Ok(ReadBuffer { memory })
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Bytes a second at which `team` reads the buffer: the median of as many passes as `time` allows, three at least.
    pub fn read_rate(&self, team: &dyn Team, time: Duration) -> f64 {
        let sum = machine::sum();
        let bytes = &self.memory[..];
        let total = AtomicU64::new(0);
        let rate = median_rate(time, bytes.len() as f64, &mut || {
            total.store(0, Ordering::Relaxed);
            team.run(&|member| {
                let read = |(): &mut (), units: Range<usize>| {
                    let part = sum(&black_box(bytes)[units.start * GRAIN..units.end * GRAIN]);
                    total.fetch_add(part, Ordering::Relaxed);
                };
                // The buffer is a whole number of grains.
                member.step(bytes.len() / GRAIN, || (), read);
            });
        });
        // Every eight bytes of ones are the same number: what was read is known.
        let expected = (bytes.len() as u64 / 8).wrapping_mul(u64::from_ne_bytes([1; 8]));
        assert_eq!(total.into_inner(), expected, "the buffer's sum");
        rate
    }
}

/// Name of the best instruction for sums of 8-bit products here, and its operations a second on all of `team`.
pub fn int8_rate(team: &dyn Team, time: Duration) -> (&'static str, f64) {
    register_rate(machine::int8(), team, time)
}

/// Name of the best fused f32 multiplication here, and its operations a second on all of `team`.
pub fn f32_rate(team: &dyn Team, time: Duration) -> (&'static str, f64) {
    register_rate(machine::f32(), team, time)
}

fn register_rate(looped: RegisterLoop, team: &dyn Team, time: Duration) -> (&'static str, f64) {
    let operations = (looped.operations * ROUNDS) as f64 * team.size() as f64;
    let rate = median_rate(time, operations, &mut || {
        team.run(&|member| {
            // A piece for each member; where one comes too late, another does two.
            member.step(
                team.size(),
                || (),
                |(), pieces| {
                    pieces.for_each(|_| {
                        black_box((looped.run)(ROUNDS));
                    });
                },
            );
        });
    });
    (looped.instruction, rate)
}

/// Median of `work` a second over calls of `run`, behind one to warm up: as many as fit in `time`, three at least.
fn median_rate(time: Duration, work: f64, run: &mut dyn FnMut()) -> f64 {
    run();
    let begun = Instant::now();
    let mut rates = Vec::with_capacity(1024);
    while rates.len() < 3 || (begun.elapsed() < time && rates.len() < rates.capacity()) {
        let start = Instant::now();
        run();
        rates.push(work / start.elapsed().as_secs_f64().max(1e-9));
    }
    rates.sort_unstable_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Bytes of the last cache, as Linux tells them; `None` where it does not.
fn last_cache() -> Option<usize> {
    let sizes = (0..8).filter_map(|index| {
        let text =
            std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()?;
        let text = text.trim();
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let unit = match unit {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            _ => return None,
        };
        digits.parse::<usize>().ok()?.checked_mul(unit)
    });
    sizes.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::ThreadTeam;
    use barelm::llm::pool::Solo;

    #[test]
    fn limits_are_measured_with_any_team() {
        let buffer = ReadBuffer::try_new().expect("memory to read");
        assert!(buffer.bytes() >= LEAST && buffer.bytes() >= 4 * last_cache().unwrap_or(0));
        let two = ThreadTeam::try_new(2).expect("two threads");
        let time = Duration::from_millis(1);
        for team in [&Solo as &dyn Team, &two] {
            // A tenth of what the slowest machine with such an instruction does, and more than any does.
            let rates = [
                (buffer.read_rate(team, time), 1e13),
                (int8_rate(team, time).1, 1e15),
                (f32_rate(team, time).1, 1e15),
            ];
            for (rate, most) in rates {
                assert!((1e7..most).contains(&rate), "{rates:?}");
            }
        }
    }

    #[test]
    fn register_loops_return_what_their_operations_add_up_to() {
        for rounds in [1, 7] {
            for looped in [machine::int8(), machine::f32()] {
                // All factors are 1, so each round adds one for two operations.
                assert_eq!((looped.run)(rounds) * 2, looped.operations * rounds, "{}", looped.instruction);
            }
        }
    }
}
