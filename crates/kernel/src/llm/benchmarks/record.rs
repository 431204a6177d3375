//! Records: one line of JSON per measured case, the same fields everywhere.
//!
//! A record is written once and never edited; reports and gates read it. What the suite cannot know (machine,
//! toolchain, commit, model hash, date) the caller supplies as the environment.

use core::fmt::{self, Write};

use super::clock::ClockKind;
use super::{CaseResult, Failure};

/// Version of the fields below. It grows when one changes its meaning.
pub const SCHEMA: u32 = 1;

/// What all records of a run have in common.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Wall or emulated.
    pub clock: ClockKind,
    /// Ticks in a second.
    pub ticks_per_second: f64,
    /// Members of the team.
    pub cores: usize,
    /// The caller's fields, in its order.
    pub environment: &'a [(&'a str, &'a str)],
}

/// Text as a JSON string, quotes included.
struct Json<'a>(&'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\u{0}'..='\u{1f}' => write!(f, "\\u{:04x}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// The fields every record opens with.
fn head(out: &mut dyn Write, run: &Run<'_>, case: &str, kernels: &str) -> fmt::Result {
    write!(
        out,
        "{{\"schema\":{SCHEMA},\"case\":{},\"kernels\":{},\"cores\":{},\"clock\":{},\"emulated\":{},\
         \"ticks_per_second\":{}",
        Json(case),
        Json(kernels),
        run.cores,
        Json(run.clock.name()),
        run.clock == ClockKind::Emulated,
        run.ticks_per_second
    )?;
    out.write_str(",\"environment\":{")?;
    for (i, (key, value)) in run.environment.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(out, "{comma}{}:{}", Json(key), Json(value))?;
    }
    out.write_char('}')
}

/// Writes the record of a measured case and a line feed.
pub fn write_result(out: &mut dyn Write, run: &Run<'_>, result: &CaseResult) -> fmt::Result {
    let m = &result.measurement;
    let s = &m.stats;
    head(out, run, &result.name, &result.kernels)?;
    write!(
        out,
        ",\"unit\":{},\"detail\":{},\"outcome\":\"measured\",\"work_per_call\":{{\"units\":{},\"tokens\":{},\"bytes\":{},\
         \"flops\":{}}},\"calls_per_sample\":{},\"samples\":{},\"time_boxed\":{}",
        Json(&result.unit),
        Json(&result.detail),
        m.work.units,
        m.work.tokens,
        m.work.bytes,
        m.work.flops,
        m.calls,
        s.samples,
        m.boxed
    )?;
    write!(
        out,
        ",\"ns_per_unit\":{{\"min\":{},\"max\":{},\"mean\":{},\"median\":{},\"stddev\":{},\"mad\":{},\
         \"p50\":{},\"p90\":{},\"p99\":{},\"p99.9\":{},\"cv\":{},\"median_ci95\":[{},{}],\
         \"mild_outliers\":{},\"severe_outliers\":{}}}",
        s.min,
        s.max,
        s.mean,
        s.median,
        s.stddev,
        s.mad,
        s.median,
        s.p90,
        s.p99,
        s.p999,
        s.cv,
        s.median_low,
        s.median_high,
        s.mild_outliers,
        s.severe_outliers
    )?;
    write!(
        out,
        ",\"units_per_second\":{},\"gflop_per_second\":{},\"gbyte_per_second\":{},\"counters\":{{",
        s.throughput(),
        m.gflops(),
        m.gbytes()
    )?;
    for (i, (name, counter)) in m.counters.named().into_iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        match counter {
            Ok(n) => write!(out, "{comma}\"{name}\":{n}")?,
            Err(reason) => {
                write!(out, "{comma}\"{name}\":{}", Json(&alloc::format!("not available: {reason}")))?
            }
        }
    }
    match (m.counters.instructions, m.counters.cycles) {
        (Ok(instructions), Ok(cycles)) if cycles > 0 => {
            write!(out, ",\"ipc\":{}", instructions as f64 / cycles as f64)?;
        }
        (Err(reason), _) | (_, Err(reason)) => {
            write!(out, ",\"ipc\":{}", Json(&alloc::format!("not available: {reason}")))?;
        }
        _ => out.write_str(",\"ipc\":\"not available: no cycles were counted\"")?,
    }
    out.write_str("}}\n")
}

/// Writes the record of a case that gave no result, and a line feed.
pub fn write_failure(out: &mut dyn Write, run: &Run<'_>, failure: &Failure) -> fmt::Result {
    head(out, run, &failure.name, failure.kernels)?;
    writeln!(out, ",\"outcome\":\"failed\",\"reason\":{}}}", Json(&failure.reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(Json("a\"b\\c\nd\u{e9}").to_string(), "\"a\\\"b\\\\c\\u000ad\u{e9}\"");
    }
}
