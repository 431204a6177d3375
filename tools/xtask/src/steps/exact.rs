//! The instruction gate, and the proof that it fails when work is added; the figures of whole boots.

use std::time::Duration;

use super::{BOOTING, Run, Step, Verdict, boots, in_ci};
use crate::guest::{Boot, Console};
use crate::image::{self, Build};
use crate::setup::Need;
use crate::{Failure, figures, gate, qemu};

/// All steps.
pub fn steps() -> Vec<Step> {
    vec![
        Step::new("instruction gate", &BOOTING, |_| judge().unwrap_or_else(Verdict::Failed)),
        Step::new("instruction gate with 1 % more work", &BOOTING, |_| sees_more_work().into()),
        Step::new("figures of boots", &[&BOOTING[..], &[Need::Model]].concat(), |_| {
            judge_boots().unwrap_or_else(Verdict::Failed)
        }),
        Step::new("size of the image", &BOOTING, |run| size(run).into()),
        Step::new("small image", &BOOTING, |run| small(run).into()),
    ]
}

/// Compares counts with the baseline.
fn judge() -> Result<Verdict, Failure> {
    let key = gate::Key::current(qemu::DEFAULT_CPU)?;
    let Some(baseline) = gate::baseline(&key, gate::CASES)? else {
        let why = format!("no baseline for {key}; write one with: cargo xtask bench --update-instructions");
        return Ok(if in_ci() { Verdict::Failed(why) } else { Verdict::Skipped(why) });
    };
    let differences = gate::differences(&baseline, &gate::count(qemu::DEFAULT_CPU, false)?);
    differences.iter().for_each(|line| println!("{line}"));
    println!("{} of {} cases differ from the baseline of {key}", differences.len(), baseline.len());
    if differences.is_empty() {
        return Ok(Verdict::Passed);
    }
    Ok(Verdict::Failed(format!(
        "{} cases differ from the baseline; if that is meant: cargo xtask bench --update-instructions",
        differences.len()
    )))
}

/// Compares whole boots with the baseline.
fn judge_boots() -> Result<Verdict, Failure> {
    let key = gate::Key::current(qemu::DEFAULT_CPU)?;
    let Some(baseline) = gate::baseline(&key, gate::BOOTS)? else {
        let why = format!("no boots for {key}; write them with: cargo xtask bench --update-instructions");
        return Ok(if in_ci() { Verdict::Failed(why) } else { Verdict::Skipped(why) });
    };
    let figures = figures::count()?;
    figures.iter().for_each(|(name, figure)| println!("{figure:>12}  {name}"));
    let differences = gate::differences(&baseline, &figures);
    match differences.is_empty() {
        true => Ok(Verdict::Passed),
        false => Ok(Verdict::Failed(format!(
            "{}; if that is meant: cargo xtask bench --update-instructions",
            differences.join("; ")
        ))),
    }
}

/// The image without its model is no larger than what is stated.
fn size(run: &Run) -> Result<(), Failure> {
    let image = run.image()?;
    let bytes = figures::image_bytes(image)?;
    println!("{} bytes with the small model, {bytes} without", image.bytes);
    match bytes <= figures::MOST_IMAGE_BYTES {
        true => Ok(()),
        false => Err(format!("{bytes} bytes without the model, {} at most", figures::MOST_IMAGE_BYTES)),
    }
}

/// The image of NEON kernels and no benchmarks is as small as the goal says, and computes the same bits.
fn small(run: &Run) -> Result<(), Failure> {
    let image = image::build(&Build { small: true, ..Build::default() })?;
    let bytes = figures::image_bytes(&image)?;
    println!("{} bytes with the small model, {bytes} without", image.bytes);
    if bytes > figures::MOST_SMALL_BYTES {
        return Err(format!("{bytes} bytes without the model, {} at most", figures::MOST_SMALL_BYTES));
    }
    let boot = Boot {
        kernel: image.raw,
        initrd: Some(crate::root().join("crates/kernel/assets/tiny.gguf")),
        words: "raw=1 tokens=4 hash=1".to_string(),
        cores: 2,
        memory: "512M".to_string(),
        limit: Duration::from_secs(300),
        ..Boot::default()
    };
    let outcome = boot.run(Console::Kept)?;
    let texts = ["kernels: neon", "built without the benchmark suite", "generated: 4 tokens"];
    let compared = match texts.iter().find(|text| !outcome.text.contains(**text)) {
        _ if outcome.status != Some(0) => Err("wanted exit status 0".to_string()),
        Some(text) => Err(format!("`{text}` was not printed")),
        None => boots::same_hash(&outcome, boot.initrd, run),
    };
    compared.map_err(|why| format!("{why}; {}\n{}", outcome.ending(), outcome.last_lines(10)))
}

/// Adds work to every case: against counts of today without it, the gate must find each of them, and find it larger.
fn sees_more_work() -> Result<(), Failure> {
    let plain = gate::count(qemu::DEFAULT_CPU, false)?;
    let more = gate::count(qemu::DEFAULT_CPU, true)?;
    let differences = gate::differences(&plain, &more);
    differences.iter().for_each(|line| println!("{line}"));
    if differences.len() == plain.len() && gate::grown(&plain, &more) {
        return Ok(());
    }
    Err(format!(
        "1 % more work was added to {} cases, and {} were found to differ",
        plain.len(),
        differences.len()
    ))
}
