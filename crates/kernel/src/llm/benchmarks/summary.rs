//! The summary: 80 columns of plain ASCII, easy to read on a serial line.

use core::fmt::{self, Write};

use super::targets::{TARGETS, Target};
use super::{CaseResult, Results};

/// What a micro-case is judged by, in nanoseconds per unit.
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

/// A number in six columns or fewer, with about three digits that mean something.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = self.0;
        let text = match x.abs() {
            a if a < 1e-6 => alloc::format!("{x:.0}"),
            a if a < 0.1 => alloc::format!("{x:.4}"),
            a if a < 10.0 => alloc::format!("{x:.3}"),
            a if a < 100.0 => alloc::format!("{x:.2}"),
            a if a < 1000.0 => alloc::format!("{x:.1}"),
            a if a < 1e6 => alloc::format!("{x:.0}"),
            _ => alloc::format!("{x:.2e}"),
        };
        f.pad(&text)
    }
}

fn pass(ok: bool) -> &'static str {
    if ok { "PASS" } else { "FAIL" }
}

/// Nanoseconds in microseconds, or a dash.
fn us(ns: Option<f64>) -> alloc::string::String {
    ns.map_or_else(|| "-".into(), |ns| alloc::format!("{}", Short(ns / 1e3)))
}

impl Results {
    /// What `target`'s case is judged by in this run: the chosen table's result.
    pub fn judged(&self, target: &Target) -> Option<Judged> {
        let result = self.chosen(target.case)?;
        Some(self.figure(result))
    }

    fn figure(&self, result: &CaseResult) -> Judged {
        let m = &result.measurement;
        if !m.emulated {
            return Judged::Time(m.stats.median);
        }
        match self.instructions_per_unit(result) {
            Some(n) => Judged::Instructions(n), // 1 GHz, one instruction a cycle: a nanosecond each
            None => Judged::Nothing,
        }
    }

    /// Scalar over chosen, by what is judged; `None` if there is no second table.
    pub fn speed_up(&self, target: &Target) -> Option<f64> {
        if !target.has_tables {
            return None;
        }
        let (chosen, scalar) = (self.chosen(target.case)?, self.find(target.case, "scalar")?);
        if chosen.kernels == scalar.kernels {
            return None;
        }
        Some(self.figure(scalar).ns()? / self.figure(chosen).ns()?)
    }

    /// Whether every case ran, gave the right answer, and no judged one missed its documented line.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
            && TARGETS.iter().all(|target| {
                let ns = self.judged(target).and_then(Judged::ns);
                ns.zip(target.documented_ns).is_none_or(|(ns, line)| ns < line)
            })
    }

    /// Writes the summary: micro-cases against the documented lines, then against ours and the documented
    /// predictions, then whole models, then what failed.
    pub fn print_summary(&self, out: &mut dyn Write) -> fmt::Result {
        let rule = "-".repeat(80);
        writeln!(out, "{rule}")?;
        writeln!(
            out,
            "BareLM benchmarks: kernels {}, {} core(s), {} clock",
            self.kernels,
            self.cores,
            self.clock.name()
        )?;
        let micro: alloc::vec::Vec<&Target> =
            TARGETS.iter().filter(|t| self.chosen(t.case).is_some()).collect();
        if !micro.is_empty() {
            self.documented(out, &micro, &rule)?;
            self.ours(out, &micro, &rule)?;
        }
        self.throughputs(out, &rule)?;
        for failure in &self.failures {
            writeln!(out, "FAILED  {} ({}): {}", failure.name, failure.kernels, failure.reason)?;
        }
        writeln!(out, "{rule}")?;
        let judged = micro.iter().filter(|t| {
            t.documented_ns.is_some() && self.judged(t).is_some_and(|judged| judged.ns().is_some())
        });
        let lines = judged.count();
        let with_line = micro.iter().filter(|t| t.documented_ns.is_some()).count();
        match (self.passed(), lines == with_line) {
            (true, true) => writeln!(out, "PASS: {lines} documented lines met, no wrong answer"),
            (true, false) => writeln!(
                out,
                "{} of {with_line} documented lines not judged, the rest met, no wrong answer",
                with_line - lines
            ),
            (false, _) => writeln!(out, "FAIL: see above"),
        }
    }

    fn documented(&self, out: &mut dyn Write, micro: &[&Target], rule: &str) -> fmt::Result {
        let emulated = self.clock == super::ClockKind::Emulated;
        let value = if emulated { "1GHz,IPC1" } else { "ci95 +-%" };
        writeln!(out, "{rule}")?;
        writeln!(
            out,
            "{:<12} {:>8} {value:>9} {:<12} {:>6} {:<8} {:<6} {:>6} {:>5}",
            "case", "time", "us per", "target", "weight", "line", "simd", "n"
        )?;
        for target in micro {
            let result = self.chosen(target.case).expect("only cases with results are listed");
            let stats = &result.measurement.stats;
            let judged = self.figure(result);
            let (time, value) = if emulated {
                ("emulated".into(), us(judged.ns()))
            } else {
                let half = (stats.median_high - stats.median_low) / 2.0 / stats.median * 100.0;
                (us(Some(stats.median)), alloc::format!("{half:.2}"))
            };
            let line = match (judged.ns(), target.documented_ns) {
                (Some(ns), Some(line)) => pass(ns < line),
                (None, Some(_)) => "n/j",
                (_, None) => "-",
            };
            let limit = target.documented_ns.map_or("-".into(), |ns| alloc::format!("<{}", ns / 1e3));
            let faster = self.speed_up(target).map_or("-".into(), |x| alloc::format!("{x:.2}x"));
            writeln!(
                out,
                "{:<12} {time:>8} {value:>9} {:<12} {limit:>6} {:<8} {line:<6} {faster:>6} {:>5}",
                target.case,
                target.per,
                target.criticality.map_or("-", |c| c.name()),
                stats.samples
            )?;
        }
        if emulated {
            writeln!(
                out,
                "1GHz,IPC1: retired instructions / 1e9, what is judged. Emulated time is no time."
            )?;
            if micro.iter().any(|t| self.judged(t) == Some(Judged::Nothing)) {
                writeln!(out, "n/j: not judged: no instruction counts; boot with --icount")?;
            }
        }
        Ok(())
    }

    fn ours(&self, out: &mut dyn Write, micro: &[&Target], rule: &str) -> fmt::Result {
        writeln!(out, "{rule}")?;
        writeln!(
            out,
            "{:<12} {:>9} {:>9} {:<6} {:>9} {:>9} {:>9} {:>9}",
            "us per unit", "judged", "our line", "met", "A53 pred.", "A72 pred.", "GFLOP/s", "GB/s"
        )?;
        for target in micro {
            let result = self.chosen(target.case).expect("only cases with results are listed");
            let judged = self.figure(result).ns();
            let m = &result.measurement;
            let rate = |work: u64| match judged {
                Some(ns) if work > 0 => alloc::format!("{}", Short(work as f64 / m.work.units / ns)),
                _ => "-".into(),
            };
            writeln!(
                out,
                "{:<12} {:>9} {:>9} {:<6} {:>9} {:>9} {:>9} {:>9}",
                target.case,
                us(judged),
                us(Some(target.ours_ns)),
                judged.map_or("n/j", |ns| if ns < target.ours_ns { "yes" } else { "no" }),
                us(target.a53_ns),
                us(target.a72_ns),
                rate(m.work.flops),
                rate(m.work.bytes)
            )?;
        }
        writeln!(out, "A53 (1 GHz), A72 (2 GHz): the source documents' predictions, not measurements.")
    }

    fn throughputs(&self, out: &mut dyn Write, rule: &str) -> fmt::Result {
        let is_micro = |r: &&CaseResult| super::targets::target(&r.name).is_none();
        if !self.results.iter().any(|r| is_micro(&r)) {
            return Ok(());
        }
        writeln!(out, "{rule}")?;
        writeln!(
            out,
            "{:<38} {:>9} {:<8} {:>9} {:>7} {:>4}",
            "whole models and memory", "unit/s", "unit", "ms/unit", "GB/s", "n"
        )?;
        for result in self.results.iter().filter(is_micro) {
            let m = &result.measurement;
            let (rate, ms, bandwidth) = if m.emulated {
                // A rate inside an emulator is no rate: give the figure for one core at 1 GHz, IPC 1, if counted.
                match self.figure(result).ns() {
                    Some(ns) => (us_rate(ns), us_ms(ns), "-".into()),
                    None => ("emulated".into(), us_ms(m.stats.median), "-".into()),
                }
            } else {
                let gb = if m.work.bytes > 0 { alloc::format!("{}", Short(m.gbytes())) } else { "-".into() };
                (us_rate(m.stats.median), us_ms(m.stats.median), gb)
            };
            writeln!(
                out,
                "{:<38.38} {rate:>9} {:<8} {ms:>9} {bandwidth:>7} {:>4}",
                result.name, result.unit, m.stats.samples
            )?;
        }
        for note in &self.notes {
            writeln!(out, "{note}")?;
        }
        Ok(())
    }
}

fn us_rate(ns: f64) -> alloc::string::String {
    alloc::format!("{}", Short(1e9 / ns))
}

fn us_ms(ns: f64) -> alloc::string::String {
    alloc::format!("{}", Short(ns / 1e6))
}
