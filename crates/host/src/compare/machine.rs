//! The machine of a comparison: what it can do, and how its records are called.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::environment;
use crate::failure::Failure;
use crate::limits::{ReadBuffer, f32_rate, int8_rate};
use crate::team::ThreadTeam;

/// How long a limit is measured at a time, and how often; the best counts.
const TIME: Duration = Duration::from_millis(40);
/// See [`TIME`].
const TIMES: usize = 5;

/// What the machine can do with so many threads: bytes read from memory, operations of 8-bit and of f32 products, a second.
pub fn limits(threads: usize) -> Result<BTreeMap<String, f64>, Failure> {
    let team = ThreadTeam::try_new(threads).map_err(|error| Failure::Message(error.to_string()))?;
    let buffer = ReadBuffer::try_new()?;
    let best = |measure: &dyn Fn() -> f64| (0..TIMES).map(|_| measure()).fold(0.0, f64::max);
    Ok(BTreeMap::from([
        ("read_bytes_s".to_owned(), best(&|| buffer.read_rate(&team, TIME))),
        ("int8_ops_s".to_owned(), best(&|| int8_rate(&team, TIME).1)),
        ("f32_ops_s".to_owned(), best(&|| f32_rate(&team, TIME).1)),
    ]))
}

/// Processors that this process, and so every engine, may run on.
pub fn affinity() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        return (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
    }
    Vec::new()
}

/// Bytes of memory.
pub fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `benches/records/DATE-MACHINE`, or `records/DATE-MACHINE` outside of this project's sources.
pub fn record_folder() -> PathBuf {
    let environment = environment::object(None);
    let text =
        |name: &str| environment.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let date: String = text("date").chars().take(10).collect();
    let root = if Path::new("benches/Cargo.toml").is_file() { "benches/records" } else { "records" };
    Path::new(root).join(format!("{date}-{}", slug(&text("machine"))))
}

/// Letters and digits of a name, with single dashes between.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_plain_names() {
        assert_eq!(slug("AMD EPYC 9B14 (x86) @ 2.6GHz"), "amd-epyc-9b14-x86-2-6ghz");
        let folder = record_folder();
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("20") && name.len() > 11, "{name}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_machine_is_known() {
        assert!(!affinity().is_empty() && memory() > Some(1 << 28));
    }
}
