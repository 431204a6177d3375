//! What this process says of its memory.

use crate::message::Stats;

/// Resident memory now and at most, file pages that are mapped included; `None` where the system does not say.
pub fn memory() -> Stats {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    Stats { rss: field(&text, "VmRSS:"), peak_rss: field(&text, "VmHWM:"), ..Stats::default() }
}

/// Bytes of a line such as `VmRSS:    1234 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kilobytes_become_bytes() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t      12 kB\n";
        assert_eq!((field(text, "VmHWM:"), field(text, "VmRSS:")), (Some(2 << 20), Some(12 << 10)));
        assert_eq!(field(text, "VmSwap:"), None);
    }
}
