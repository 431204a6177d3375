//! The machine, as Linux describes it in its files, and as it measures.

use std::time::Duration;

use super::Check;
use crate::compare::{machine, telemetry};
use crate::environment;
use crate::team::default_threads;
use crate::versus::contention::Watch;

/// How long neighbors are watched.
const WATCHED: Duration = Duration::from_millis(500);
/// Memory below which the smaller models of a comparison do not fit (SmolLM2-135M in F32, twice).
const COMFORTABLE: u64 = 2 << 30;

/// All checks of the machine.
pub fn examine(tell: &mut dyn FnMut(Check)) {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    tell(cores(default_threads(), machine::affinity().len(), &file("/sys/fs/cgroup/cpu.max")));
    if let Some(check) = governor(file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").trim()) {
        tell(check);
    }
    tell(memory(crate::commands::setup::available_memory(), machine::memory()));
    tell(large_pages(&file("/sys/kernel/mm/transparent_hugepage/enabled")));
    let watch = Watch::begin(std::iter::empty());
    std::thread::sleep(WATCHED);
    tell(neighbors(watch.end()));
    tell(limits());
    tell(match telemetry::energy() {
        Ok(packages) => Check::fine("energy", format!("{packages} processor package(s) count their energy")),
        Err(why) => Check::note("energy", why, "none needed: records leave the energy out"),
    });
    tell(match telemetry::device() {
        Ok(name) => Check::fine("GPU", name),
        Err(why) => Check::note("GPU", why, "none needed: CUDA engines report themselves unavailable"),
    });
}

/// Processors that threads can run on, of those that this process was given, under a quota of its control group.
fn cores(usable: usize, given: usize, quota: &str) -> Check {
    let name = environment::processor();
    let found = format!("{usable} of {name}");
    let mut words = quota.split_whitespace().map(str::parse::<f64>);
    if let (Some(Ok(time)), Some(Ok(period))) = (words.next(), words.next())
        && time / period < given as f64
    {
        return Check::note(
            "processors",
            format!("{found}, for {:.1} of which there is time (cpu.max)", time / period),
            "measure with --threads of no more than that, or widen the control group",
        );
    }
    Check::fine("processors", found)
}

/// How frequencies are chosen; `None` where the system does not say, as in virtual machines.
fn governor(name: &str) -> Option<Check> {
    match name {
        "" => None,
        "performance" | "schedutil" => Some(Check::fine("frequency", format!("governor {name}"))),
        _ => Some(Check::note(
            "frequency",
            format!("governor {name}: the first moments of a measurement are slow"),
            "sudo cpupower frequency-set -g performance",
        )),
    }
}

fn memory(available: Option<u64>, all: Option<u64>) -> Check {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    match (available, all) {
        (Some(available), Some(all)) => {
            let found = format!("{:.1} of {:.1} GiB free", gib(available), gib(all));
            match available < COMFORTABLE {
                true => Check::note("memory", found, "close programs, or compare smaller models"),
                false => Check::fine("memory", found),
            }
        }
        _ => Check::note("memory", "the system does not say", "plans cannot be checked before loading"),
    }
}

/// What `transparent_hugepage/enabled` says; the choice stands in brackets.
fn large_pages(text: &str) -> Check {
    let chosen = text.split('[').nth(1).and_then(|rest| rest.split(']').next());
    match chosen {
        Some(chosen @ ("always" | "madvise")) => Check::fine("large pages", chosen),
        Some(other) => Check::note(
            "large pages",
            format!("{other}: weights are read through more page tables than need be"),
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        None => {
            Check::note("large pages", "this system has none", "none: reading weights is a little slower")
        }
    }
}

fn neighbors(others: Option<String>) -> Check {
    match others {
        None => Check::fine("neighbors", "nobody else uses the processors"),
        Some(what) => Check::note(
            "neighbors",
            what,
            "end other work before measuring: rounds with neighbors are repeated, then dropped",
        ),
    }
}

/// What it can do with all of its processors.
fn limits() -> Check {
    match machine::limits(default_threads()) {
        Ok(limits) => {
            let giga = |name: &str| limits.get(name).copied().unwrap_or_default() / 1e9;
            Check::fine(
                "limits",
                format!(
                    "reads {:.1} GB/s, {:.0} G operations/s of 8-bit products, {:.0} of f32",
                    giga("read_bytes_s"),
                    giga("int8_ops_s"),
                    giga("f32_ops_s")
                ),
            )
        }
        Err(why) => Check::note("limits", why.to_string(), "free memory: shares of the limits need it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_quota_below_the_cores_is_told() {
        assert_eq!(cores(2, 2, "max 100000\n").verdict, Verdict::Fine);
        assert_eq!(cores(2, 2, "").verdict, Verdict::Fine);
        assert_eq!(cores(2, 2, "200000 100000\n").verdict, Verdict::Fine);
        let tight = cores(4, 4, "150000 100000\n");
        assert_eq!(tight.verdict, Verdict::Note);
        assert!(tight.found.contains("1.5"), "{tight}");
    }

    #[test]
    fn settings_that_slow_down_come_with_a_command() {
        assert_eq!(governor(""), None);
        assert_eq!(governor("performance").unwrap().verdict, Verdict::Fine);
        assert!(governor("powersave").unwrap().remedy.contains("cpupower"));
        assert_eq!(large_pages("always [madvise] never\n").found, "madvise");
        assert!(large_pages("always madvise [never]\n").remedy.contains("tee"));
        assert_eq!(large_pages("").verdict, Verdict::Note);
        assert_eq!(memory(Some(1 << 30), Some(8 << 30)).verdict, Verdict::Note);
        assert!(memory(Some(6 << 30), Some(8 << 30)).found.contains("6.0 of 8.0 GiB"));
        assert_eq!(neighbors(Some("others used 40 % of the processors".into())).verdict, Verdict::Note);
    }

    #[test]
    fn every_check_of_this_machine_has_an_end() {
        let mut checks = Vec::new();
        examine(&mut |check| checks.push(check));
        for of in ["processors", "memory", "large pages", "neighbors", "limits", "energy", "GPU"] {
            let check = checks.iter().find(|check| check.of == of).expect(of);
            assert!(!check.found.is_empty() && check.verdict != Verdict::Fault, "{check}");
        }
    }
}
