//! Cases of the suite with every event that this processor counts, a few at a time.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;

use super::events::{self, EVENTS, Event, VECTORS};
use super::model::Loaded;
use super::options::Options;
use super::suite;
use crate::arch::aarch64::pmu;
use crate::console_line as line;
use crate::llm::benchmarks::{Clock, ClockKind, CounterSample};
use crate::llm::pool::Team;
use crate::llm::simd::Kernels;

/// A clock that also counts `events` in every sample. All iteration counts are constants, so that the cases do the same
/// in every run.
struct Counting<'c> {
    clock: &'c dyn Clock,
    events: &'c [u16],
    sums: [Cell<u64>; pmu::MOST],
}

impl Clock for Counting<'_> {
    fn now(&self) -> u64 {
        self.clock.now()
    }

    fn ticks_per_second(&self) -> f64 {
        self.clock.ticks_per_second()
    }

    fn kind(&self) -> ClockKind {
        self.clock.kind()
    }

    fn counters(&self) -> CounterSample {
        self.clock.counters()
    }

    fn calibrates(&self) -> bool {
        false
    }

    fn undisturbed(&self, body: &mut dyn FnMut()) {
        let mut counted = [0; pmu::MOST];
        self.clock.undisturbed(&mut || counted = pmu::count(self.events, body));
        for (sum, new) in self.sums.iter().zip(counted) {
            sum.set(sum.get() + new);
        }
    }
}

/// Nobody reads the suite's own lines: it runs once for every few events.
struct Nowhere;

impl fmt::Write for Nowhere {
    fn write_str(&mut self, _: &str) -> fmt::Result {
        Ok(())
    }
}

/// Runs the micro-cases with `filter` in their name and prints what was counted in their samples.
pub fn run(
    options: &Options<'_>,
    filter: Option<&str>,
    loaded: &Loaded,
    kernels: &'static Kernels,
    team: &dyn Team,
    clock: &dyn Clock,
) -> Result<(), String> {
    let ids = pmu::announced();
    let (known, absent): (Vec<Event>, Vec<Event>) =
        EVENTS.iter().partition(|event| events::announced(ids, event.number));
    line!(
        "{} counters; {} of {} events are announced (PMCEID {:#x} {:#x})",
        pmu::counters(),
        known.len(),
        EVENTS.len(),
        ids[0],
        ids[1]
    );
    if pmu::room() == 0 {
        return Err(format!("{} counters are too few: the suite's own take three", pmu::counters()));
    }
    let names = case_names(options, filter, loaded, kernels, team, clock)?;
    for name in names {
        line!("case {name}, all its tables and samples together:");
        let mut counted = Vec::new();
        // The share of vector instructions is asked for where instructions are speculated: no register announces it.
        let vectors = known.iter().any(|event| event.number == 0x1b).then_some(VECTORS);
        let wanted: Vec<Event> = known.iter().copied().chain(vectors).collect();
        for group in wanted.chunks(pmu::room()) {
            let numbers: Vec<u16> = group.iter().map(|event| event.number).collect();
            let counting = Counting { clock, events: &numbers, sums: Default::default() };
            let (records, log) = (&mut Nowhere, &mut Nowhere);
            suite::measure(options, Some(&name), Some(loaded), kernels, team, &counting, false, records, log);
            counted.extend(group.iter().copied().zip(counting.sums.iter().map(Cell::get)));
        }
        print(&counted);
    }
    let absent: Vec<_> = absent.iter().map(|event| event.name).collect();
    line!(
        "not counted by this processor: {}",
        if absent.is_empty() { "nothing".into() } else { absent.join(", ") }
    );
    if clock.kind() == ClockKind::Emulated {
        line!("emulated: cycles are a clock's, and an event that is announced may never be counted");
    }
    Ok(())
}

/// The cases that the filter lets through.
fn case_names(
    options: &Options<'_>,
    filter: Option<&str>,
    loaded: &Loaded,
    kernels: &'static Kernels,
    team: &dyn Team,
    clock: &dyn Clock,
) -> Result<Vec<String>, String> {
    let counting = Counting { clock, events: &[], sums: Default::default() };
    let (records, log) = (&mut Nowhere, &mut Nowhere);
    let results =
        suite::measure(options, filter, Some(loaded), kernels, team, &counting, false, records, log);
    let mut names = Vec::new();
    for result in &results.results {
        let name = result.name.clone();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match names.is_empty() {
        true => Err(format!("no micro-case has a name with `{}` in it", filter.unwrap_or_default())),
        false => Ok(names),
    }
}

/// A line for each event, with what can be computed of them.
fn print(counted: &[(Event, u64)]) {
    let of = |number: u16| {
        counted
            .iter()
            .find(|(event, _)| event.number == number)
            .map(|(_, count)| *count)
            .filter(|&count| count > 0)
    };
    let instructions = of(events::INSTRUCTIONS);
    for (event, count) in counted {
        let beside = match (event.number, instructions) {
            (_, Some(all)) if event.number != events::INSTRUCTIONS => {
                format!("{:10.4} per instruction", *count as f64 / all as f64)
            }
            _ => String::new(),
        };
        line!("  {count:>16}  {:32}{beside}", event.name);
    }
    if let (Some(instructions), Some(cycles)) = (instructions, of(events::CYCLES)) {
        line!("  {:16.3}  instructions a cycle", instructions as f64 / cycles as f64);
    }
    if let (Some(vectors), Some(all)) = (of(VECTORS.number), of(0x1b)) {
        line!("  {:15.1}%  of instructions are vector ones", vectors as f64 * 100.0 / all as f64);
    }
}
