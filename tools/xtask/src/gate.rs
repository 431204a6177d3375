//! `cargo xtask bench`: the instructions of the suite's micro-cases and of whole boots, against a baseline, to the last
//! digit.
//!
//! Under `-icount shift=0` the emulated CPU retires the same number of instructions every time, on any machine. The
//! number depends on the compiler, on the image's features and on the emulated CPU, so these are the baseline's key.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::image::{self, Build};
use crate::qemu::{self, counting_boot, counts_of_boot};
use crate::toolchain::{BARE_METAL, Toolchain, version_field};
use crate::{Failure, figures, setup};

/// Instructions by `case/table`.
pub type Counts = BTreeMap<String, u64>;

/// How to run the gate.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// CPU to emulate.
    #[arg(long, default_value = qemu::DEFAULT_CPU)]
    cpu: String,
    /// Write what was counted as the new baseline of this compiler, target, features and CPU.
    #[arg(long)]
    update_instructions: bool,
    /// Let every case do one per cent more work, to see the gate fail.
    #[arg(long, conflicts_with = "update_instructions")]
    extra_work: bool,
}

/// What a baseline holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Release and commit of the compiler.
    pub rustc: String,
    /// Rust target of the image.
    pub target: String,
    /// Features of the image.
    pub features: String,
    /// Emulated CPU.
    pub cpu: String,
}

impl Key {
    /// The key of an image built now. Work added by a test feature is no part of it: it must be judged by the baseline
    /// without.
    pub fn current(cpu: &str) -> Result<Self, Failure> {
        let version = Toolchain::for_target(BARE_METAL)?.version()?;
        let field = |name| version_field(&version, name).unwrap_or("unknown");
        Ok(Self {
            rustc: format!("{} {}", field("release"), field("commit-hash")),
            target: BARE_METAL.to_string(),
            features: "boot,llm-transformer,simd".to_string(),
            cpu: cpu.to_string(),
        })
    }

    fn matches(&self, entry: &Value) -> bool {
        let field = |name: &str| entry[name].as_str().unwrap_or_default();
        field("rustc") == self.rustc
            && field("target") == self.target
            && field("features") == self.features
            && field("cpu") == self.cpu
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {}, {}, features {}, {}", self.rustc, self.target, self.features, self.cpu)
    }
}

/// Where the baselines are.
fn baseline_file() -> PathBuf {
    crate::root().join("benches/instructions.json")
}

/// The entries of the baseline file.
fn entries() -> Result<Vec<Value>, Failure> {
    let file = baseline_file();
    let told = |error: &dyn fmt::Display| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(&file).map_err(|error| told(&error))?;
    let whole: Value = serde_json::from_str(&text).map_err(|error| told(&error))?;
    whole["baselines"].as_array().cloned().ok_or_else(|| told(&"no list `baselines`"))
}

/// What a baseline is of: the micro-cases.
pub const CASES: &str = "instructions";
/// What a baseline is of: whole boots.
pub const BOOTS: &str = "boots";

/// The baseline of `key` for `part`, if there is one.
pub fn baseline(key: &Key, part: &str) -> Result<Option<Counts>, Failure> {
    let entries = entries()?;
    let part = entries.iter().find(|entry| key.matches(entry)).and_then(|entry| entry[part].as_object());
    Ok(part.map(|cases| {
        cases.iter().filter_map(|(case, count)| Some((case.clone(), count.as_u64()?))).collect()
    }))
}

/// Replaces or adds the baseline of `key` for `part`.
fn update(key: &Key, part: &str, counts: &Counts) -> Result<(), Failure> {
    let mut entries = entries()?;
    let place = entries.iter().position(|entry| key.matches(entry)).unwrap_or_else(|| {
        entries.push(json!({
            "rustc": key.rustc, "target": key.target, "features": key.features, "cpu": key.cpu,
        }));
        entries.len() - 1
    });
    entries[place][part] = json!(counts);
    let text =
        serde_json::to_string_pretty(&json!({ "baselines": entries })).expect("values are serializable");
    let file = baseline_file();
    std::fs::write(&file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))
}

/// What a comparison found: a line for each case that differs.
pub fn differences(baseline: &Counts, current: &Counts) -> Vec<String> {
    let mut lines = Vec::new();
    for (case, was) in baseline {
        match current.get(case) {
            Some(is) if is == was => {}
            Some(is) => {
                let percent = (*is as f64 / *was as f64 - 1.0) * 100.0;
                lines.push(format!("{case}: {is} instructions, baseline {was} ({percent:+.3} %)"));
            }
            None => lines.push(format!("{case}: not measured, baseline {was}")),
        }
    }
    for case in current.keys().filter(|case| !baseline.contains_key(*case)) {
        lines.push(format!("{case}: not in the baseline"));
    }
    lines
}

/// Whether every case of the baseline takes more instructions now.
pub fn grown(baseline: &Counts, current: &Counts) -> bool {
    baseline.iter().all(|(case, was)| current.get(case).is_some_and(|is| is > was))
}

/// Builds, boots and counts.
pub fn count(cpu: &str, extra_work: bool) -> Result<Counts, Failure> {
    let features = if extra_work { vec!["extra-work"] } else { Vec::new() };
    let image = image::build(&Build { features, ..Build::default() })?;
    let counts = counts_of_boot(&counting_boot(&image.raw, None, cpu, Duration::from_secs(600)))?;
    Ok(counts.into_iter().map(|(case, counted)| (case, counted.instructions)).collect())
}

/// Counts, and compares or updates.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    setup::provide(&setup::BOOTING)?;
    let key = Key::current(&arguments.cpu)?;
    let counts = count(&arguments.cpu, arguments.extra_work)?;
    // Boots choose their processors themselves, and have no work to add.
    let boots = if arguments.cpu == qemu::DEFAULT_CPU && !arguments.extra_work {
        figures::count()?
    } else {
        Counts::new()
    };
    for (case, instructions) in counts.iter().chain(&boots) {
        println!("{instructions:>12}  {case}");
    }
    if arguments.update_instructions {
        update(&key, CASES, &counts)?;
        if !boots.is_empty() {
            update(&key, BOOTS, &boots)?;
        }
        println!("baseline of {key} written to {}", baseline_file().display());
        return Ok(ExitCode::SUCCESS);
    }
    let Some(baseline_of_cases) = baseline(&key, CASES)? else {
        println!("no baseline for {key}; write one with: cargo xtask bench --update-instructions");
        return Ok(ExitCode::SUCCESS);
    };
    let mut differences = differences(&baseline_of_cases, &counts);
    if let (Some(baseline), false) = (baseline(&key, BOOTS)?, boots.is_empty()) {
        differences.extend(self::differences(&baseline, &boots));
    }
    if differences.is_empty() {
        println!("{} cases equal the baseline of {key}", counts.len() + boots.len());
        return Ok(ExitCode::SUCCESS);
    }
    differences.iter().for_each(|line| println!("{line}"));
    Err(format!(
        "{} of {} cases differ from the baseline; if that is meant: cargo xtask bench --update-instructions",
        differences.len(),
        counts.len() + boots.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs.iter().map(|(case, n)| (case.to_string(), *n)).collect()
    }

    #[test]
    fn one_instruction_more_or_less_is_a_difference() {
        let baseline = counts(&[("dot/neon", 1000), ("dot/scalar", 5000)]);
        assert_eq!(differences(&baseline, &baseline), [""; 0]);
        assert!(!grown(&baseline, &counts(&[("dot/neon", 1010), ("dot/scalar", 5000)])));
        assert!(grown(&baseline, &counts(&[("dot/neon", 1010), ("dot/scalar", 5001)])));
        for n in [999, 1001] {
            assert_eq!(differences(&baseline, &counts(&[("dot/neon", n), ("dot/scalar", 5000)])).len(), 1);
        }
        assert_eq!(
            differences(&baseline, &counts(&[("dot/neon", 1010), ("new/none", 1)])),
            [
                "dot/neon: 1010 instructions, baseline 1000 (+1.000 %)",
                "dot/scalar: not measured, baseline 5000",
                "new/none: not in the baseline"
            ]
        );
    }

    #[test]
    fn a_key_matches_only_when_all_of_it_does() {
        let key = Key {
            rustc: "1.2.3 abc".into(),
            target: BARE_METAL.into(),
            features: "boot".into(),
            cpu: "cortex-a72".into(),
        };
        let entry =
            json!({ "rustc": "1.2.3 abc", "target": BARE_METAL, "features": "boot", "cpu": "cortex-a72" });
        assert!(key.matches(&entry));
        for field in ["rustc", "target", "features", "cpu"] {
            let mut other = entry.clone();
            other[field] = json!("another");
            assert!(!key.matches(&other), "{field}");
        }
    }

    #[test]
    fn the_committed_baselines_are_well_formed() {
        for entry in entries().unwrap() {
            assert!(entry["rustc"].as_str().unwrap().contains(' '));
            let instructions = entry["instructions"].as_object().unwrap();
            assert!(!instructions.is_empty() && instructions.values().all(|n| n.as_u64().unwrap() > 0));
        }
    }
}
