//! The instruction gate, and the proof that it fails when work is added.

use super::{BOOTING, Step, Verdict, in_ci};
use crate::{Failure, gate, qemu};

/// Both steps.
pub fn steps() -> Vec<Step> {
    vec![
        Step::new("instruction gate", &BOOTING, |_| judge(false).unwrap_or_else(Verdict::Failed)),
        Step::new("instruction gate with 1 % more work", &BOOTING, |_| {
            judge(true).unwrap_or_else(Verdict::Failed)
        }),
    ]
}

/// Compares counts with the baseline. With extra work every case must differ, by about as much as was added.
fn judge(extra_work: bool) -> Result<Verdict, Failure> {
    let key = gate::Key::current(qemu::DEFAULT_CPU)?;
    let Some(baseline) = gate::baseline(&key)? else {
        let why = format!("no baseline for {key}; write one with: cargo xtask bench --update-instructions");
        return Ok(if in_ci() { Verdict::Failed(why) } else { Verdict::Skipped(why) });
    };
    let counts = gate::count(qemu::DEFAULT_CPU, extra_work)?;
    let differences = gate::differences(&baseline, &counts);
    differences.iter().for_each(|line| println!("{line}"));
    println!("{} of {} cases differ from the baseline of {key}", differences.len(), baseline.len());
    Ok(match (extra_work, differences.len()) {
        (false, 0) => Verdict::Passed,
        (false, count) => Verdict::Failed(format!(
            "{count} cases differ from the baseline; if that is meant: cargo xtask bench --update-instructions"
        )),
        (true, count) if count == baseline.len() && gate::grown(&baseline, &counts) => Verdict::Passed,
        (true, count) => Verdict::Failed(format!(
            "1 % more work was added to {} cases, and {count} were found to differ",
            baseline.len()
        )),
    })
}
