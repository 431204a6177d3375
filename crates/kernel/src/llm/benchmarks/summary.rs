//! The summary: at most 100 columns of plain ASCII, easy to read on a serial line.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use super::targets::{self, Target};
use super::{CaseResult, ClockKind, Results};

/// Columns of the summary at most.
pub const COLUMNS: usize = 100;

/// What a case is judged by, in nanoseconds per unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Judged {
    /// The median time.
    Time(f64),
    /// Instructions / 1e9: the time of a 1 GHz core that retires one instruction a cycle.
    Instructions(f64),
    /// Emulated, without instruction counts.
    Nothing,
}

impl Judged {
    /// The figure, if there is one.
    pub fn ns(self) -> Option<f64> {
        match self {
            Self::Time(ns) | Self::Instructions(ns) => Some(ns),
            Self::Nothing => None,
        }
    }
}

/// A result against its documented line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Below it.
    Pass,
    /// Not below it.
    Fail,
    /// There is a line, but nothing to hold against it: emulated, and no instructions were counted.
    NotJudged,
    /// The documents draw no line for this case.
    None,
}

impl Line {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::NotJudged => "not judged",
            Self::None => "-",
        }
    }
}

/// A number in six columns or fewer, with about three digits that mean something.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = self.0;
        let text = match x.abs() {
            a if a < 1e-6 => format!("{x:.0}"),
            a if a < 0.1 => format!("{x:.4}"),
            a if a < 10.0 => format!("{x:.3}"),
            a if a < 100.0 => format!("{x:.2}"),
            a if a < 1000.0 => format!("{x:.1}"),
            a if a < 1e6 => format!("{x:.0}"),
            _ => format!("{x:.2e}"),
        };
        f.pad(&text)
    }
}

/// A number, or a dash.
fn short(x: Option<f64>) -> String {
    x.map_or_else(|| "-".into(), |x| format!("{}", Short(x)))
}

/// Nanoseconds in microseconds, or a dash.
fn us(ns: Option<f64>) -> String {
    short(ns.map(|ns| ns / 1e3))
}

/// The documented pass line of a case in nanoseconds per unit.
fn documented_ns(case: &str) -> Option<f64> {
    targets::target(case).map_or_else(|| targets::whole_model_line(case), |target| target.documented_ns)
}

fn rule(out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "{:-<COLUMNS$}", "")
}

impl Results {
    /// What `result` is judged by in this run.
    pub fn judged(&self, result: &CaseResult) -> Judged {
        if !result.measurement.emulated {
            return Judged::Time(result.measurement.stats.median);
        }
        match self.instructions_per_unit(result) {
            Some(n) => Judged::Instructions(n), // 1 GHz, one instruction a cycle: a nanosecond each
            None => Judged::Nothing,
        }
    }

    /// `result` against its documented line.
    pub fn line(&self, result: &CaseResult) -> Line {
        match (documented_ns(&result.name), self.judged(result).ns()) {
            (None, _) => Line::None,
            (Some(_), None) => Line::NotJudged,
            (Some(line), Some(ns)) if ns < line => Line::Pass,
            _ => Line::Fail,
        }
    }

    /// Scalar over `result`, by what is judged; `None` if it is no vector table's.
    pub fn speed_up(&self, result: &CaseResult) -> Option<f64> {
        let scalar = self.find(&result.name, "scalar").filter(|scalar| scalar.kernels != result.kernels)?;
        Some(self.judged(scalar).ns()? / self.judged(result).ns()?)
    }

    /// Results that the summary shows: of the chosen table, or of none.
    fn shown(&self) -> impl Iterator<Item = &CaseResult> {
        self.results.iter().filter(|r| r.kernels == self.kernels || r.kernels == "none")
    }

    /// Those of a target.
    fn of(&self, target: &'static Target) -> impl Iterator<Item = &CaseResult> {
        self.shown().filter(move |r| targets::target(&r.name).is_some_and(|found| found.case == target.case))
    }

    /// Whether every case ran, gave the right answer, and no judged one missed its documented line.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.shown().all(|result| self.line(result) != Line::Fail)
    }

    /// Writes the summary: micro-cases against the documented lines, then against ours and the documented
    /// predictions, event counters, whole models, and what failed.
    pub fn print_summary(&self, out: &mut dyn Write) -> fmt::Result {
        rule(out)?;
        let (kernels, cores, clock) = (self.kernels, self.cores, self.clock.name());
        writeln!(out, "BareLM benchmarks: kernels {kernels}, {cores} core(s), {clock} clock")?;
        let micro: Vec<(&Target, &CaseResult)> =
            targets::TARGETS.iter().flat_map(|target| self.of(target).map(move |r| (target, r))).collect();
        if !micro.is_empty() {
            self.documented(out, &micro)?;
            self.ours(out, &micro)?;
            self.counters(out, &micro)?;
        }
        self.throughputs(out)?;
        rule(out)?;
        for failure in &self.failures {
            writeln!(out, "FAILED  {} ({}): {}", failure.name, failure.kernels, failure.reason)?;
        }
        self.verdict(out)
    }

    fn verdict(&self, out: &mut dyn Write) -> fmt::Result {
        let count = |line| self.shown().filter(|result| self.line(result) == line).count();
        let (met, missed, open) = (count(Line::Pass), count(Line::Fail), count(Line::NotJudged));
        if !self.passed() {
            let wrong = self.failures.len();
            return writeln!(
                out,
                "FAIL: {missed} documented line(s) missed, {wrong} case(s) without a result"
            );
        }
        if open == 0 {
            return writeln!(out, "PASS: {met} documented line(s) met, every answer right");
        }
        writeln!(
            out,
            "{met} documented line(s) met, {open} not judged: no instruction counts; every answer right"
        )
    }

    fn documented(&self, out: &mut dyn Write, micro: &[(&Target, &CaseResult)]) -> fmt::Result {
        let emulated = self.clock == ClockKind::Emulated;
        let beside = if emulated { "1GHz,IPC1" } else { "ci95 +-%" };
        rule(out)?;
        writeln!(
            out,
            "{:<22} {:>8} {beside:>9} {:<12} {:>8} {:<8} {:<10} {:>7} {:>7}",
            "micro-case", "time", "unit", "target", "weight", "line", "simd", "samples"
        )?;
        for (target, result) in micro {
            let stats = &result.measurement.stats;
            let (time, beside) = if emulated {
                ("emulated".into(), us(self.judged(result).ns()))
            } else {
                let half = (stats.median_high - stats.median_low) / 2.0 / stats.median * 100.0;
                (us(Some(stats.median)), format!("{half:.2}"))
            };
            let limit = target.documented_ns.map_or("-".into(), |ns| format!("< {}", ns / 1e3));
            let faster = self.speed_up(result).map_or("-".into(), |x| format!("{}x", Short(x)));
            writeln!(
                out,
                "{:<22.22} {time:>8} {beside:>9} us/{:<9} {limit:>8} {:<8} {:<10} {faster:>7} {:>7}",
                result.name,
                target.per,
                target.criticality.map_or("-", |c| c.name()),
                self.line(result).name(),
                stats.samples
            )?;
        }
        if emulated {
            writeln!(
                out,
                "1GHz,IPC1 = 1 GHz, IPC 1: retired instructions / 1e9. It is judged; emulated time is no time."
            )?;
            if micro.iter().any(|(_, result)| self.line(result) == Line::NotJudged) {
                writeln!(
                    out,
                    "not judged: no instruction counts (boot with `-icount shift=0` to count them)"
                )?;
            }
        }
        writeln!(
            out,
            "simd: scalar over {} time. Samples are fewer where a time limit ended them.",
            self.kernels
        )
    }

    fn ours(&self, out: &mut dyn Write, micro: &[(&Target, &CaseResult)]) -> fmt::Result {
        rule(out)?;
        writeln!(
            out,
            "{:<22} {:>9} {:>9} {:<4} {:>9} {:>9} {:>9} {:>9}",
            "us per unit", "judged", "our line", "met", "A53 pred.", "A72 pred.", "GFLOP/s", "GB/s"
        )?;
        for (target, result) in micro {
            let judged = self.judged(result).ns();
            let units = result.measurement.work.units;
            let rate = |work: u64| short(judged.filter(|_| work > 0).map(|ns| work as f64 / units / ns));
            writeln!(
                out,
                "{:<22.22} {:>9} {:>9} {:<4} {:>9} {:>9} {:>9} {:>9}",
                result.name,
                us(judged),
                us(Some(target.ours_ns)),
                judged.map_or("-", |ns| if ns < target.ours_ns { "yes" } else { "no" }),
                us(target.a53_ns),
                us(target.a72_ns),
                rate(result.measurement.work.flops),
                rate(result.measurement.work.bytes)
            )?;
        }
        writeln!(
            out,
            "pred.: predicted by the first requirements for a Cortex-A53 at 1 GHz and a Cortex-A72 at 2 GHz,"
        )?;
        writeln!(out, "never measured there. GB/s of small cases is cache bandwidth.")
    }

    /// Event counters per unit of work, and why those that are missing are.
    fn counters(&self, out: &mut dyn Write, micro: &[(&Target, &CaseResult)]) -> fmt::Result {
        rule(out)?;
        let counts = |result: &CaseResult| {
            let per_unit = 1.0 / result.measurement.total_units();
            let mut counts = result
                .measurement
                .counters
                .named()
                .map(|(_, count)| count.ok().map(|count| count as f64 * per_unit));
            counts[0] = self.instructions_per_unit(result);
            if result.measurement.emulated {
                counts[1] = None; // of no processor: see below the table
            }
            counts
        };
        if micro.iter().any(|(_, result)| counts(result).iter().any(Option::is_some)) {
            writeln!(
                out,
                "{:<22} {:>12} {:>12} {:>6} {:>13} {:>13}",
                "counted per unit", "instructions", "cycles", "IPC", "cache_refills", "branch_misses"
            )?;
            for (_, result) in micro {
                let [instructions, cycles, refills, misses] = counts(result);
                let ipc = instructions.zip(cycles.filter(|&c| c > 0.0)).map(|(i, c)| i / c);
                writeln!(
                    out,
                    "{:<22.22} {:>12} {:>12} {:>6} {:>13} {:>13}",
                    result.name,
                    short(instructions),
                    short(cycles),
                    short(ipc),
                    short(refills),
                    short(misses)
                )?;
            }
        }
        let mut reasons: Vec<(&str, String)> = Vec::new();
        for (at, (name, _)) in micro[0].1.measurement.counters.named().into_iter().enumerate() {
            if micro.iter().any(|(_, result)| counts(result)[at].is_some()) {
                continue;
            }
            let reason = match micro[0].1.measurement.counters.named()[at].1 {
                Err(reason) => reason,
                Ok(_) => "an emulator's cycles are its instructions once more",
            };
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, names)) => {
                    names.push_str(", ");
                    names.push_str(name);
                }
                None => reasons.push((reason, name.into())),
            }
        }
        reasons.iter().try_for_each(|(reason, names)| writeln!(out, "{names}: not available: {reason}"))
    }

    fn throughputs(&self, out: &mut dyn Write) -> fmt::Result {
        let mut large = self.shown().filter(|r| targets::target(&r.name).is_none()).peekable();
        if large.peek().is_none() {
            return Ok(());
        }
        rule(out)?;
        writeln!(
            out,
            "{:<26} {:>8} {:<8} {:>8} {:>6} {:<10} {:>5} {:>6} {:>7} {:>7}",
            "whole models and memory",
            "rate",
            "unit",
            "ms/unit",
            "target",
            "line",
            "pred.",
            "GB/s",
            "of read",
            "samples"
        )?;
        let read = self.find("memory_read", "none").map(|read| read.measurement.gbytes());
        for result in large {
            let m = &result.measurement;
            let ns = self.judged(result).ns();
            let bandwidth = (!m.emulated && m.work.bytes > 0).then(|| m.gbytes());
            let share = bandwidth.zip(read).map(|(ours, read)| format!("{:.0} %", ours / read * 100.0));
            writeln!(
                out,
                "{:<26.26} {:>8} {:<8} {:>8} {:>6} {:<10} {:>5} {:>6} {:>7} {:>7}",
                result.name,
                ns.map_or("emulated".into(), |ns| short(Some(1e9 / ns))),
                format!("{}/s", result.unit),
                short(ns.map(|ns| ns / 1e6)),
                documented_ns(&result.name).map_or("-".into(), |line| format!("<{}", line / 1e6)),
                self.line(result).name(),
                short(targets::predicted_rate(&result.name)),
                short(bandwidth),
                share.unwrap_or("-".into()),
                m.stats.samples
            )?;
        }
        if read.is_some() && self.clock == ClockKind::Wall {
            writeln!(
                out,
                "of read: bytes of weights a second, of what memory_read measured; above 100 % a cache held them."
            )?;
        }
        writeln!(out, "pred.: predicted rate on a Cortex-A with NEON at 1 GHz. target: ms per unit.")?;
        if self.results.iter().any(|r| r.name.starts_with("batched_decode")) {
            writeln!(out, "batched_decode: 8 positions of one sequence in one pass over the weights.")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "{note}"))
    }
}
