//! The clock of every time stamp.

/// `CLOCK_MONOTONIC` in nanoseconds: the same clock in every process of a machine.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither is negative on this clock, and 64 bits last for 584 years.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_as_the_standard_library_sees_it() {
        let outer = std::time::Instant::now();
        let start = now_ns();
        let inner = std::time::Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let least = inner.elapsed().as_nanos();
        let ours = u128::from(now_ns() - start);
        let most = outer.elapsed().as_nanos();
        assert!((least..=most).contains(&ours), "{least} {ours} {most}");
    }
}
