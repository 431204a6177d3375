//! What the system says of an engine while it is measured: processor time, memory, energy.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::record::{DeviceSample, Telemetry};
use crate::versus::contention;

mod device;

use device::Device;

/// Between two looks. Each costs well under a millisecond.
const PERIOD: Duration = Duration::from_millis(500);

/// What the thread has seen: resident memory and the device, and why there is none.
type Seen = (Vec<(f64, u64)>, Vec<DeviceSample>, Option<String>);

/// A thread that looks at an engine's processes and those they started.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
    processes: Vec<u32>,
    cpu: Option<f64>,
    own_cpu: Option<f64>,
    energy: Energy,
    before: Option<f64>,
}

impl Sampler {
    /// Begins to look at processes that compute on `cpu` or `cuda`.
    pub fn begin(processes: Vec<u32>, device: &str) -> Self {
        let device = Device::open(device);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let begun = Instant::now();
        let roots = processes.clone();
        let thread = std::thread::spawn(move || {
            let (mut memory, mut samples) = (Vec::new(), Vec::new());
            // Once at least, however short the measurement or late this thread.
            loop {
                let t_s = begun.elapsed().as_secs_f64();
                memory.extend(rss(&roots).map(|bytes| (t_s, bytes)));
                samples.extend(device.sample(t_s));
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::park_timeout(PERIOD);
            }
            (memory, samples, device.missing().map(str::to_owned))
        });
        let energy = Energy::open();
        let before = energy.joules();
        let own_cpu = cpu_s(std::process::id());
        let cpu = trees_cpu_s(&processes);
        Sampler { stop, thread, processes, cpu, own_cpu, energy, before }
    }

    /// Ends, and says what was seen.
    pub fn end(self) -> Telemetry {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        let (rss, device, no_device) = self.thread.join().unwrap_or_default();
        let mut missing = BTreeMap::new();
        if let Some(why) = no_device {
            missing.insert("device".to_owned(), why);
        }
        let between = |before: Option<f64>, after: Option<f64>| Some((after? - before?).max(0.0));
        let package_j = match &self.energy {
            Energy::Packages(_) => {
                let after = self.energy.joules();
                if after < self.before {
                    missing.insert("package_j".to_owned(), "a counter of energy began again".to_owned());
                }
                between(self.before, after).filter(|_| after >= self.before)
            }
            Energy::Missing(why) => {
                missing.insert("package_j".to_owned(), why.clone());
                None
            }
        };
        let peaks = self.processes.iter().filter_map(|&id| status_bytes(id, "VmHWM:"));
        Telemetry {
            cpu_s: between(self.cpu, trees_cpu_s(&self.processes)),
            harness_cpu_s: between(self.own_cpu, cpu_s(std::process::id())),
            peak_rss: peaks.max().max(rss.iter().map(|(_, bytes)| *bytes).max()),
            rss,
            package_j,
            device,
            missing,
        }
    }
}

/// Name and memory of the CUDA device that would be sampled, or why there is none.
pub fn device() -> Result<String, String> {
    Device::open("cuda").describe()
}

/// Processor packages whose energy can be read, or why there is none.
pub fn energy() -> Result<usize, String> {
    match Energy::open() {
        Energy::Packages(packages) => Ok(packages.len()),
        Energy::Missing(why) => Err(why),
    }
}

/// Processes and all that they started, each once.
pub fn trees(roots: &[u32]) -> Vec<u32> {
    let mut all = roots.to_vec();
    let mut at = 0;
    while at < all.len() {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", all[at]));
        for task in tasks.into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        at += 1;
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn rss(roots: &[u32]) -> Option<u64> {
    trees(roots).into_iter().filter_map(|id| status_bytes(id, "VmRSS:")).reduce(|sum, bytes| sum + bytes)
}

fn status_bytes(process: u32, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn trees_cpu_s(roots: &[u32]) -> Option<f64> {
    trees(roots).into_iter().filter_map(cpu_s).reduce(|sum, seconds| sum + seconds)
}

/// Processor time of a process: user and system, in seconds.
fn cpu_s(process: u32) -> Option<f64> {
    Some(contention::ticks(process)? as f64 / contention::TICKS)
}

/// Counters of energy of the processor packages.
enum Energy {
    /// Files with microjoules.
    Packages(Vec<PathBuf>),
    /// Why there is none.
    Missing(String),
}

impl Energy {
    fn open() -> Self {
        let Ok(entries) = std::fs::read_dir("/sys/class/powercap") else {
            return Energy::Missing("this system has no counters of energy (/sys/class/powercap)".into());
        };
        // Packages are `intel-rapl:0`; parts of them have a second colon.
        let is_package = |name: &str| name.starts_with("intel-rapl:") && name.matches(':').count() == 1;
        let packages = entries
            .flatten()
            .filter(|entry| is_package(&entry.file_name().to_string_lossy()))
            .map(|entry| entry.path().join("energy_uj"));
        let packages: Vec<PathBuf> = packages.collect();
        match packages.iter().map(std::fs::read_to_string).find_map(Result::err) {
            Some(error) => Energy::Missing(format!("counters of energy cannot be read: {error}")),
            None if packages.is_empty() => {
                Energy::Missing("the processor's counters of energy are hidden".into())
            }
            None => Energy::Packages(packages),
        }
    }

    /// All packages together.
    fn joules(&self) -> Option<f64> {
        let Energy::Packages(packages) = self else { return None };
        let each = packages.iter().map(|path| {
            let text = std::fs::read_to_string(path).ok()?;
            text.trim().parse::<f64>().ok()
        });
        Some(each.sum::<Option<f64>>()? / 1e6)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// A shell and its children, until they are ended.
    struct Spinning(std::process::Child);

    impl Drop for Spinning {
        fn drop(&mut self) {
            use rustix::process::{Pid, Signal, kill_process_group};
            let group = Pid::from_raw(self.0.id().cast_signed()).expect("a process");
            kill_process_group(group, Signal::KILL).expect("its own group, which is not waited for yet");
            self.0.wait().expect("it ends");
        }
    }

    #[test]
    fn processes_and_their_children_are_seen() {
        use std::os::unix::process::CommandExt;
        // An engine that rests while another process, which starts a third, computes for it.
        let mut engine = std::process::Command::new("sh");
        engine.args(["-c", "read line"]).stdin(std::process::Stdio::piped()).process_group(0);
        let resting = Spinning(engine.spawn().unwrap());
        let mut shell = std::process::Command::new("sh");
        let shell = shell.args(["-c", "(while :; do :; done) & wait"]).process_group(0).spawn().unwrap();
        let spinning = Spinning(shell);
        let id = spinning.0.id();
        let roots = [resting.0.id(), id];
        let sampler = Sampler::begin(roots.to_vec(), "cpu");
        // By the accounts of the tree itself: how long that takes depends on who else works.
        let used = || trees_cpu_s(&[id]).unwrap();
        let (begun, before) = (Instant::now(), used());
        while used() < before + 0.05 && begun.elapsed().as_secs() < 60 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let telemetry = sampler.end();
        // By now the child is there.
        let all = trees(&[id, roots[0], id]);
        assert!(all.len() == 3 && roots.iter().all(|root| all.contains(root)), "{all:?}");
        drop(spinning);
        assert!(telemetry.cpu_s > Some(0.02), "{telemetry:?}");
        assert!(telemetry.peak_rss > Some(100_000) && !telemetry.rss.is_empty(), "{telemetry:?}");
        assert!(
            telemetry.package_j.is_some() != telemetry.missing.contains_key("package_j"),
            "{telemetry:?}"
        );
    }
}
