//! Whether others used the processors during a measurement, as Linux counts it.

use std::fs::read_to_string;
use std::time::Instant;

/// Ticks of the system's accounting in a second: the same on every Linux.
pub const TICKS: f64 = 100.0;
/// The share of all processors that others may use, for what always runs.
const TOLERATED: f64 = 0.03;
/// Rounding of the accounts, in ticks.
const ROUNDING: f64 = 4.0;

/// Accounts at one moment.
pub struct Watch {
    start: Instant,
    /// Busy ticks of all processors, stolen ones included; `None` where the system does not tell.
    busy: Option<u64>,
    /// Ticks of the processes that measure.
    own: u64,
    processes: Vec<u32>,
}

impl Watch {
    /// Begins to watch everybody but this process and `engines`.
    pub fn begin(engines: impl Iterator<Item = u32>) -> Self {
        let processes: Vec<u32> = engines.chain([std::process::id()]).collect();
        Watch { start: Instant::now(), busy: busy(), own: own(&processes), processes }
    }

    /// Why the measurement does not count; `None` if the processors were ours.
    pub fn end(self) -> Option<String> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let all = self.start.elapsed().as_secs_f64() * TICKS * cores as f64;
        let busy = busy()?.saturating_sub(self.busy?);
        let own = own(&self.processes).saturating_sub(self.own);
        judge(all, busy as f64 - own as f64)
    }
}

/// Of `all` ticks, `others` were used by others.
fn judge(all: f64, others: f64) -> Option<String> {
    (others > TOLERATED * all + ROUNDING)
        .then(|| format!("others used {:.0} % of the processors", others / all * 100.0))
}

fn busy() -> Option<u64> {
    busy_in(&read_to_string("/proc/stat").ok()?)
}

/// Busy ticks in `/proc/stat`: user, nice, system, interrupts and stolen time, not idle and waiting.
fn busy_in(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6, 7];
    (fields.len() >= 8).then(|| busy.iter().map(|&at| fields[at]).sum())
}

fn own(processes: &[u32]) -> u64 {
    processes.iter().filter_map(|&process| ticks(process)).sum()
}

/// Ticks that a process has computed, user and system; `None` where there is no such process, or no such account.
pub fn ticks(process: u32) -> Option<u64> {
    ticks_in(&read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// Ticks of a process in its `stat`: those of all its threads. Its name, in parentheses, may hold anything.
fn ticks_in(text: &str) -> Option<u64> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read() {
        let text = "cpu  10 20 30 4000 500 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(busy_in(text), Some(10 + 20 + 30 + 6 + 7 + 8));
        assert_eq!(busy_in("cpu  1 2\n"), None);
        let text = "77 (a ) b) S 1 77 77 0 -1 4194304 100 0 0 0 12 34 0 0 20 0 3 0 100 1000 10\n";
        assert_eq!(ticks_in(text), Some(46));
    }

    #[test]
    fn a_neighbour_is_found_and_rounding_is_not() {
        assert_eq!(judge(200.0, 9.0), None);
        assert_eq!(judge(200.0, -3.0), None);
        assert_eq!(judge(200.0, 100.0).as_deref(), Some("others used 50 % of the processors"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn our_own_work_is_ours() {
        let own = || own(&[std::process::id()]);
        let before = own();
        let start = Instant::now();
        let mut sum = 0u64;
        while own() == before && start.elapsed().as_secs() < 60 {
            sum = (0..1_000_000).fold(sum, |sum, x| std::hint::black_box(sum + x));
        }
        assert!(own() > before && busy().is_some());
    }
}
